"""The knobs of an experiment: what is refused, what may change, how long a run gets."""

import inspect

import pytest

from remdm.training.settings import FRAME_FORMS, LEAST, MAY_CHANGE, ExperimentSettings

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
        ({"epochs": None}, r"a run must end.*Experiment\.epochs or Experiment\.total_timesteps"),
        ({"total_timesteps": 1.5}, "total_timesteps must be a whole number of env steps, got 1.5"),
        ({"val_interval_timesteps": float("nan")}, "whole number of env steps, got nan"),
        ({"lr_warmup_timesteps": float("inf")}, "set Experiment.lr_warmup_timesteps"),
        (
            {"lr_warmup_timesteps": 10, "lr_warmup_steps": 3},
            r"lr_warmup_timesteps=10 and lr_warmup_steps=3 say the same.*lr_warmup_steps = 50, its",
        ),
        (
            {"val_interval_timesteps": 10, "val_interval": None},
            r"val_interval=None say the same.*Experiment\.val_interval_timesteps = None",
        ),
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


def test_budgets_without_env_steps_are_those_that_were_set() -> None:
    made = settings(
        epochs=50,
        total_timesteps=300,
        warm_start_timesteps=10,
        train_timesteps_per_epoch=4,
        train_batches_per_epoch=6,
        batches_per_update=2,
        start_learning_at_epoch=1,
        lr_warmup_steps=1000,
        val_interval=7,
    ).budget_of(10)
    assert (made.epochs, made.epoch_limit, made.step_limit) == (6, 50, 300)
    assert (made.updates_per_epoch, made.total_updates) == (3, 15)
    assert (made.lr_warmup_steps, made.val_interval) == (1000, 7)
    assert settings(val_interval=None).budget_of(10).val_interval is None


def test_env_steps_may_be_written_with_an_exponent() -> None:
    made = settings(epochs=None, total_timesteps=1e8, lr_warmup_timesteps=1.6384e6)
    assert (made.total_timesteps, made.lr_warmup_timesteps) == (100_000_000, 1_638_400)
    assert isinstance(made.total_timesteps, int)


def test_default_of_what_is_counted_gives_way_to_env_steps() -> None:
    made = settings(lr_warmup_timesteps=0, val_interval_timesteps=1).budget_of(4)
    assert (made.lr_warmup_steps, made.val_interval) == (0, 1)


def test_defaults_in_the_signature_are_those_of_the_table() -> None:
    for name, (other, default) in FRAME_FORMS.items():
        assert knobs()[name].default is None
        assert knobs()[other].default == default


@pytest.mark.parametrize(("start", "updates"), [(0, 30), (4, 18), (10, 0)])
def test_warm_up_is_compared_with_the_epochs_that_train(start: int, updates: int) -> None:
    made = settings(
        epochs=None,
        total_timesteps=400,
        train_timesteps_per_epoch=4,
        train_batches_per_epoch=3,
        start_learning_at_epoch=start,
        lr_warmup_timesteps=200,
    )
    if updates:
        budget = made.budget_of(10)
        assert (budget.total_updates, budget.lr_warmup_steps) == (updates, 15)
    else:
        with pytest.raises(ValueError, match="comes to 15 of 0 updates"):
            made.budget_of(10)
