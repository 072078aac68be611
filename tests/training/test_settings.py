"""The knobs of an experiment: what is refused, what may change, how long a run gets."""

import inspect

import pytest

from remdm.training.settings import LEAST, MAY_CHANGE, ExperimentSettings

ENVS = ("Gridworld-Room-9x9-v0",)


def settings(**values: object) -> ExperimentSettings:
    return ExperimentSettings("run", **{"train_envs": ENVS, **values})


def knobs() -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(ExperimentSettings.__init__).parameters)
    del parameters["self"], parameters["run_name"]
    return parameters


def test_every_knob_is_kept_under_its_name() -> None:
    made = settings()
    assert {name for name in knobs() if not hasattr(made, name)} == set()


def test_tables_of_knobs_name_knobs() -> None:
    assert set(LEAST) <= set(knobs())
    assert set(MAY_CHANGE) <= set(knobs())


@pytest.mark.parametrize("name", LEAST)
def test_number_below_its_least_value_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be at least {LEAST[name]}.*Experiment\."):
        settings(**{name: LEAST[name] - 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"oracle_noise": 1.5}, r"oracle_noise must be in \[0, 1\], got 1.5"),
        ({"lr_final_fraction": -0.1}, "Experiment.lr_final_fraction"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0, got nan"),
        ({"grad_clip": 0.0}, "grad_clip must be above 0"),
        ({"resume": "mus"}, "unknown Experiment.resume 'mus': did you mean 'must'"),
        ({"mixed_precision": "fp8"}, "unknown Experiment.mixed_precision 'fp8'"),
        ({"train_envs": ()}, "train_envs must be different names, at least one"),
        ({"train_envs": ("a", "a")}, "train_envs must be different names"),
        (
            {"train_batches_per_epoch": 5, "batches_per_update": 2},
            "train_batches_per_epoch must be a multiple of batches_per_update=2",
        ),
    ],
)
def test_value_that_makes_no_sense_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**values)


@pytest.mark.parametrize("name", ["total_timesteps", "val_interval", "ckpt_interval"])
def test_limits_and_intervals_may_be_absent(name: str) -> None:
    assert getattr(settings(**{name: None}), name) is None


@pytest.mark.parametrize(
    ("total", "epochs"), [(None, 50), (1, 1), (100, 1), (101, 2), (300, 6), (10_000, 50)]
)
def test_planned_epochs_follow_the_step_budget(total: int | None, epochs: int) -> None:
    # Ten actors: 100 steps of the oracle first, then 40 an epoch.
    made = settings(
        epochs=50, total_timesteps=total, warm_start_timesteps=10, train_timesteps_per_epoch=4
    )
    assert made.planned_epochs(10) == epochs


def test_planned_epochs_count_those_without_collecting() -> None:
    made = settings(
        epochs=50,
        total_timesteps=80,
        train_timesteps_per_epoch=4,
        start_collecting_at_epoch=7,
    )
    assert made.planned_epochs(10) == 9
    assert (
        settings(epochs=50, total_timesteps=9, train_timesteps_per_epoch=0).planned_epochs(1) == 50
    )
