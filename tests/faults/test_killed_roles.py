"""Killed at random moments, a run in roles goes on as if nothing had happened.

Few kills with every run of the suite. Two hundred in one MiniHack run, which take most of an hour:

    REMDM_LONG_FAULTS=1 python -m pytest tests/faults -k two_hundred -s
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remdm.data.folder import listed
from remdm.evaluation.statistics import wilson_interval
from tests.faults.accounts import left_behind
from tests.faults.folder_watch import FolderWatch
from tests.faults.fork_server import ForkServer
from tests.faults.killing import Killing, all_faults, minihack
from tests.faults.role_processes import Life, Part, Roles, tiny_roles, wait_until

LONG = "REMDM_LONG_FAULTS"
PARTS = (
    Part("learn"), Part("collect", 0), Part("collect", 1), Part("label", 0), Part("label", 1),
    Part("validate"),
)  # fmt: skip
ALL = len(PARTS)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as started:
        yield started


@pytest.mark.slow
def test_killed_roles_lose_nothing_and_do_nothing_twice(tmp_path: Path, server: ForkServer) -> None:
    """One by one, two at once, and twice the whole run; old shards are evicted meanwhile."""
    values = {
        "Experiment.epochs": "12",
        "Experiment.train_timesteps_per_epoch": "20",
        "Experiment.train_batches_per_epoch": "8",
        "Experiment.val_interval": "3",
        "DiskTrajDataset.dset_max_timesteps": "600",
    }
    with tiny_roles(tmp_path, server, values) as roles, FolderWatch(roles.run) as watch:
        killing = Killing(roles, PARTS, np.random.default_rng(0), mean_pause=0.3)
        killing.play([1, 2, 1, ALL, 1, 2, 1, 1, ALL, 2, 1, 1], epochs=12)
    for r in killing.restarts:
        print(r)
    assert killing.faults == []
    assert len(killing.restarts) > ALL
    assert max(watch.manifests.values(), key=lambda m: m.generation).evicted_steps > 0
    assert all_faults(roles, watch, actors=5, collectors=2) == []
    assert left_behind(roles.run) == []


def wait_for_shards(roles: Roles, life: Life, more: int) -> None:
    """Wait until there are so many more shards, or their collector has ended."""
    wanted = len(listed(roles.run / "shards")) + more
    wait_until(
        lambda: life.code is not None or len(listed(roles.run / "shards")) >= wanted,
        "more shards are there",
        poll_s=0.002,
    )


def test_a_killed_collector_writes_the_same_bytes_as_one_that_was_left_alone(
    tmp_path: Path, server: ForkServer
) -> None:
    values = {
        "Experiment.warm_start_timesteps": "120",
        "Experiment.shard_timesteps": "10",
        "Experiment.max_wait_seconds": "0",
        "Experiment.max_epochs_ahead": "0",
    }
    with tiny_roles(tmp_path / "alone", server, values) as alone:
        assert alone.start("collect", 0).wait_for_end() == 1
    written = {path.name: path.read_bytes() for path in listed(alone.run / "shards")}
    rng, kills = np.random.default_rng(1), 0
    with tiny_roles(tmp_path / "killed", server, values) as killed:
        ended = False
        while not ended:
            life = killed.start("collect", 0)
            wait_for_shards(killed, life, int(rng.integers(1, 6)))
            ended = life.code is not None
            kills += not ended
            life.kill()
    assert kills >= 5
    assert {path.name: path.read_bytes() for path in listed(killed.run / "shards")} == written


@pytest.mark.slow
@pytest.mark.minihack
@pytest.mark.skipif(os.environ.get(LONG) != "1", reason=f"only with {LONG}=1")
def test_two_hundred_kills_change_nothing_about_a_minihack_run(tmp_path: Path) -> None:
    """Its planner wins as often as that of a run that was left alone.

    Two intervals of 95 % of the same win rate, 400 episodes each, lie apart with a probability of
    0.6 %.
    """
    alone = minihack(tmp_path / "alone", 0, seed=0, mean_pause=0.0)
    killed = minihack(tmp_path / "killed", 200, seed=0, mean_pause=4.0)
    for found in (alone, killed):
        print(json.dumps(found))
        assert found["ended"] == found["faults"] == found["left_behind"] == []
    assert killed["kills"] == 200
    assert max(seconds for _, _, seconds, *_ in killed["restarts"] if seconds) < 30
    low, high = zip(interval(alone), interval(killed), strict=True)
    assert max(low) <= min(high)


def interval(found: dict[str, Any]) -> tuple[float, float]:
    """Of the last validation's win rate, over all environments."""
    row = found["validation"]
    rates = [value for name, value in row.items() if name.startswith("val/win_rate/")]
    episodes = int(row["val/episodes"])
    wins = round(sum(rates) * episodes)
    low, high = wilson_interval(wins, len(rates) * episodes)
    return float(low), float(high)
