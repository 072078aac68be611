"""The knobs that change no data: what is refused, and that they may change when a run goes on."""

import inspect
from pathlib import Path

import pytest

from remdm.training import settings
from remdm.training.comfort_settings import MAY_CHANGE, ComfortSettings
from remdm.training.compiled_loss import CompiledLoss
from tests.tiny_runs import learnt, started

OWN = set(MAY_CHANGE) - set(settings.MAY_CHANGE)


def made(**values: object) -> ComfortSettings:
    return ComfortSettings("run", **{"train_envs": ("a",), "heldout_envs": ("b",), **values})


def test_every_knob_is_kept_under_its_name_and_may_change() -> None:
    knobs = {
        name
        for name, parameter in inspect.signature(ComfortSettings.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert knobs == OWN
    assert {name for name in knobs if not hasattr(made(), name)} == set()


@pytest.mark.parametrize("name", ["heldout_val_every", "artifact_interval"])
def test_an_interval_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be at least 1, got 0; set Experiment\."):
        made(**{name: 0})


def test_without_held_out_environments_there_is_nothing_to_play() -> None:
    with pytest.raises(ValueError, match=r"needs environments.*Experiment\.heldout_envs"):
        made(heldout_envs=(), heldout_val_every=1)


def test_unknown_metric_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown Experiment.metric_names 'sead'.*'seed'"):
        made(metric_names="sead")


def test_a_run_may_go_on_with_all_of_them_changed(tmp_path: Path) -> None:
    tiny = {"baseline_agent_type": "None", "augmentation_type": "None", "val_interval": "None"}
    learnt(tmp_path, epochs="1", **tiny)
    changed = {
        "compile_model": "True",
        "heldout_val_every": "3",
        "metric_names": "'both'",
        "artifact_interval": "None",
        "wandb_run_id": "'abc'",
    }
    # The loss of levels that are kept back needs some; see test_walking_runs.
    assert changed.keys() == OWN - {"val_loss_batches"}
    run = started(tmp_path, epochs="1", **tiny, **changed)
    run.close()
    assert run.progress.epoch == 1
    assert isinstance(run.trainers["planner"].model, CompiledLoss)
