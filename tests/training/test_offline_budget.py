"""Offline budgets: what updates and env steps come to in epochs."""

from pathlib import Path

import pytest

from remdm import config
from remdm.training.offline_budget import offline_epochs, offline_keep_every, offline_val_interval

ROOT = Path(__file__).parent.parent.parent
UPDATES = {"updates_per_epoch": 100}


def test_updates_become_epochs_and_win_over_env_steps() -> None:
    assert offline_epochs(updates=60_000, timesteps=1, batch_size=2048, **UPDATES) == 600
    assert offline_val_interval(updates=5_000, **UPDATES) == 50
    assert offline_keep_every(updates=10_000, **UPDATES) == 100


def test_env_steps_count_drawn_windows_and_are_one_epoch_at_least() -> None:
    assert offline_epochs(timesteps=2_000_000, batch_size=128, **UPDATES) == 156
    assert offline_epochs(timesteps=1, batch_size=128, **UPDATES) == 1


def test_what_makes_no_sense_is_refused_with_the_name_to_set() -> None:
    with pytest.raises(ValueError, match=r"offline_keep_every\.updates must be a multiple of"):
        offline_keep_every(updates=150, **UPDATES)
    with pytest.raises(ValueError, match=r"offline_val_interval\.updates.*got 0"):
        offline_val_interval(updates=0, **UPDATES)
    with pytest.raises(ValueError, match=r"set offline_epochs\.updates or"):
        offline_epochs(batch_size=128, **UPDATES)
    with pytest.raises(ValueError, match="batch_size=0"):
        offline_epochs(timesteps=100, batch_size=0, **UPDATES)


@pytest.mark.parametrize(
    ("recipe", "binds", "wanted"),
    [
        ("minihack_seed_offline", [], (600, 50, 100)),
        ("minihack_offline", [], (100, 10, 50)),
        (
            "minihack_offline",
            ["offline_epochs.updates = None", "offline_epochs.timesteps = 1_000_000"],
            (122, 10, 50),
        ),
        ("minihack_offline", ["UPDATES_PER_EPOCH = 32"], (200, 20, 100)),
    ],
)
def test_recipes_say_budgets_in_updates_or_env_steps(
    recipe: str, binds: list[str], wanted: tuple[int, ...]
) -> None:
    pytest.importorskip("nle")
    config.load_config([ROOT / f"gin_configs/{recipe}.gin"], binds)
    names = ("epochs", "val_interval", "keep_every_ckpts")
    assert tuple(config.bound_value(f"Experiment.{name}") for name in names) == wanted


def test_a_recipe_uses_the_batch_size_that_its_budget_counts_with() -> None:
    pytest.importorskip("nle")
    for recipe in ("minihack_offline", "minihack_seed_offline"):
        config.load_config([ROOT / f"gin_configs/{recipe}.gin"])
        counted = config.bound_value("offline_epochs.batch_size")
        assert config.bound_value("Experiment.batch_size") == counted
        config.clear_config()
