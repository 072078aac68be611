"""Env steps to epochs and updates: the formulas, and the numbers of the published planner."""

import re

import pytest

from remdm.training.beta import decay_between
from remdm.training.frames import (
    Budget,
    Frames,
    interval_epochs,
    interval_note,
    total_note,
    warmup_note,
    warmup_updates,
)
from remdm.training.settings import ExperimentSettings

# Actors; epochs, warm-up and updates of the run, and what is kept, of its four final presets.
FINALS = {
    "classic_ucl": (512, 1525, 1600, 97_600, 1.90735, 125_000),
    "classic_qmul": (96, 8138, 8512, 520_832, 1.90735, 23_438),
    "full_ucl": (448, 1743, 1792, 111_552, 0.76294, 43_750),
    "full_qmul": (64, 12_207, 12_800, 781_248, 0.76294, 6_250),
}
DECAYS = {
    "classic_ucl": (0.344, 0.9993005),
    "classic_qmul": (0.344, 0.9998689),
    "full_ucl": (0.385, 0.9994525),
    "full_qmul": (0.385, 0.9999218),
}


def settings(**values: object) -> ExperimentSettings:
    return ExperimentSettings("run", **{"train_envs": ("Gridworld-Room-9x9-v0",), **values})


def published(actors: int, **changed: object) -> Budget:
    """The budget of a final preset: 128 steps an epoch, 8 passes over 8 parts."""
    knobs = {
        "epochs": None,
        "total_timesteps": 1e8,
        "train_timesteps_per_epoch": 128,
        "train_batches_per_epoch": 64,
        "lr_warmup_timesteps": 1.6384e6,
        "val_interval_timesteps": 1e6,
    }
    return settings(**{**knobs, **changed}).budget_of(actors)


@pytest.mark.parametrize(
    ("actors", "epochs", "warmup", "updates", "cycles", "kept"), FINALS.values(), ids=FINALS
)
def test_finals_come_to_the_published_numbers(
    actors: int, epochs: int, warmup: int, updates: int, cycles: float, kept: int
) -> None:
    budget = published(actors)
    assert (budget.epochs, budget.lr_warmup_steps, budget.total_updates) == (
        epochs,
        warmup,
        updates,
    )
    assert budget.frames.steps_in(cycles) == kept
    assert budget.val_interval == 10**6 // (actors * 128)
    assert budget.frames.through(budget.epochs) == epochs * actors * 128 <= 10**8


@pytest.mark.parametrize("name", FINALS)
def test_decay_of_beta_per_epoch_is_the_published_one(name: str) -> None:
    last, decay = DECAYS[name]
    assert decay_between(1.0, last, FINALS[name][1]) == pytest.approx(decay, abs=5e-8)


def test_classic_budget_is_snapped_to_whole_epochs() -> None:
    budget = published(512)
    assert budget.frames.through(budget.epochs) == 99_942_400
    again = published(512, total_timesteps=99_942_400)
    assert (again.epochs, again.lr_warmup_steps) == (budget.epochs, budget.lr_warmup_steps)
    assert again.notes[0].endswith("exactly 99,942,400")


@pytest.mark.parametrize("actors", [1, 7, 64, 96, 448, 512, 1000])
@pytest.mark.parametrize("total", [1, 127, 10**5, 10**8])
def test_snapping_twice_is_snapping_once(actors: int, total: int) -> None:
    frames = Frames.of(128, actors)
    epochs = frames.epochs_within(total)
    assert epochs == max(1, total // (128 * actors))
    assert frames.epochs_within(frames.through(epochs)) == epochs


def test_processes_count_as_actors_do() -> None:
    assert published(4 * 128) == published(512)
    made = settings(
        epochs=None, total_timesteps=10_000, train_timesteps_per_epoch=10, parallel_actors=5
    )
    assert [made.budget_of(actors).epochs for actors in (5, 10, 20)] == [200, 100, 50]


def test_warm_start_and_idle_epochs_are_counted() -> None:
    # Ten actors: two epochs of nothing, 300 steps of the oracle, then 40 an epoch.
    frames = Frames.of(4, 10, warm_start=30, idle=2)
    assert [frames.through(n) for n in range(6)] == [0, 0, 0, 300, 340, 380]
    assert [frames.epochs_within(t) for t in (1, 300, 339, 340, 379, 380)] == [3, 3, 3, 4, 4, 5]
    assert [frames.epochs_to_reach(t) for t in (1, 300, 301, 340, 341, 380)] == [3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize(("timesteps", "epochs"), [(1, 1), (39, 1), (40, 1), (79, 1), (80, 2)])
def test_interval_is_rounded_down_and_at_least_an_epoch(timesteps: int, epochs: int) -> None:
    assert interval_epochs(timesteps, Frames.of(4, 10)) == epochs


@pytest.mark.parametrize(("timesteps", "updates"), [(0, 0), (39, 0), (40, 3), (119, 6)])
def test_warm_up_is_whole_epochs_of_updates(timesteps: int, updates: int) -> None:
    assert warmup_updates(timesteps, Frames.of(4, 10), 3, 30) == updates


def test_warm_up_as_long_as_the_run_is_refused() -> None:
    message = "must end before the run does, and lr_warmup_timesteps=400 comes to 30 of 30 updates"
    with pytest.raises(ValueError, match=message + r"; lower Experiment\.lr_warmup_timesteps"):
        warmup_updates(400, Frames.of(4, 10), 3, 30)
    assert warmup_updates(399, Frames.of(4, 10), 3, 30) == 27


@pytest.mark.parametrize(("cycles", "kept"), [(1e-9, 1), (0.5, 20), (0.764, 31), (2.0, 80)])
def test_cycles_are_rounded_to_steps(cycles: float, kept: int) -> None:
    assert Frames.of(4, 10).steps_in(cycles) == kept


@pytest.mark.parametrize(
    "name", ["total_timesteps", "lr_warmup_timesteps", "val_interval_timesteps"]
)
def test_env_steps_need_epochs_that_collect(name: str) -> None:
    epochs = None if name == "total_timesteps" else 5
    made = settings(**{"train_timesteps_per_epoch": 0, "epochs": epochs, name: 100})
    with pytest.raises(ValueError, match=f"{name} is counted in env steps, and epochs collect"):
        made.budget_of(3)
    with pytest.raises(ValueError, match=r"set Experiment.*or DiskTrajDataset.dset_max_cycles ="):
        made.frames_of(3).steps_in(2.0)


def test_what_an_epoch_collects_too_much_is_left_out_of_the_next() -> None:
    budget = published(512)
    share = budget.frames.per_epoch
    assert budget.steps_to_collect(0, 0) == share == 65_536
    assert budget.steps_to_collect(1, share + 16_000) == share - 16_000
    assert budget.steps_to_collect(1, 2 * share + 5) == 0
    assert budget.steps_to_collect(1, share + 1, processes=4) == -(-(share - 1) // 4)


def test_surpluses_do_not_add_up() -> None:
    """Whatever the last plan of an epoch adds, the run collects what it should and a plan more."""
    budget = published(96, total_timesteps=100 * 96 * 128, lr_warmup_timesteps=0)
    collected = 0
    for epoch in range(budget.epochs):
        due = budget.steps_to_collect(epoch, collected)
        collected += -(-due // 3000) * 3000  # plans of 3000 steps over all actors
    assert budget.epochs == 100
    assert 100 * 96 * 128 <= collected < 100 * 96 * 128 + 3000


def test_epochs_collect_alike_where_they_are_what_is_counted() -> None:
    budget = settings(
        epochs=9, train_timesteps_per_epoch=4, warm_start_timesteps=30, start_collecting_at_epoch=1
    ).budget_of(10)
    due = [budget.steps_to_collect(epoch, 10_000, processes=2) for epoch in range(4)]
    assert due == [0, 150, 20, 20]


@pytest.mark.parametrize(
    ("epoch", "env_steps", "spent"), [(0, 99, False), (0, 100, True), (4, 0, False), (5, 0, True)]
)
def test_a_run_with_both_limits_ends_at_the_first(
    epoch: int, env_steps: int, *, spent: bool
) -> None:
    budget = settings(epochs=5, total_timesteps=100, train_timesteps_per_epoch=1).budget_of(1)
    assert budget.spent(epoch, env_steps) is spent


def test_a_run_of_env_steps_ends_by_its_epochs_alone() -> None:
    """Otherwise it would end before learning rate and beta have come to their ends."""
    budget = published(512)
    assert not budget.spent(1524, 10**9)
    assert budget.spent(1525, 0)


@pytest.mark.parametrize(
    ("knobs", "epochs"),
    [
        ({"val_interval": 3}, [2, 5, 8]),
        ({"val_interval": None}, []),
        ({"val_interval_timesteps": 8}, [1, 3, 5, 7, 9]),
        ({"val_interval_timesteps": 1}, list(range(10))),
    ],
)
def test_validations_follow_every_so_many_epochs(
    knobs: dict[str, object], epochs: list[int]
) -> None:
    budget = settings(epochs=10, train_timesteps_per_epoch=2, **knobs).budget_of(2)
    assert [epoch for epoch in range(10) if budget.validates_after(epoch)] == epochs


def test_notes_say_how_budgets_were_rounded() -> None:
    assert published(512).notes == (
        "total_timesteps 100,000,000 is 1,525 epochs of 65,536 env steps by 512 actors, rounded "
        "down to 99,942,400",
        "lr_warmup_timesteps 1,638,400 is 25 epochs, 1,600 updates",
        "val_interval_timesteps 1,000,000 is 15 epochs, 983,040 env steps",
    )
    assert re.search("rounded up to 40$", total_note(7, Frames.of(4, 10), 10))
    assert warmup_note(7, 0, 0) == "lr_warmup_timesteps 7 is 0 epochs, 0 updates"
    assert interval_note(7, 1, Frames.of(4, 10)).endswith("7 is 1 epoch, 40 env steps")
    assert settings(lr_warmup_timesteps=0).budget_of(4).notes == ()
