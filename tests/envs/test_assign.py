"""Rows that get other environments from one episode to the next."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from remdm.envs.contract import PlanVecEnv
from remdm.envs.making import EnvMaker
from remdm.envs.sync import SyncPlanVecEnv
from remdm.envs.workers import AsyncPlanVecEnv
from remdm.envs.wrapper import PlanVecEnvWrapper
from tests.envs.probe import END, MODES, ROOM, WAIT, copied, make, same_chunks

MAZE, DARK = "Gridworld-Maze-9x9-v0", "Gridworld-DarkRoom-9x9-v0"
NAMES = [ROOM, MAZE, DARK, ROOM]
# Python 3.12 warns of what the documentation of `context` says, too.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def plans(rng: np.random.Generator, rows: int = 4) -> np.ndarray:
    return rng.integers(8, size=(rows, 6))


def played(envs: Any, seeds: list[int], rng: np.random.Generator) -> list[Any]:
    envs.reset(seeds)
    return [copied(envs.execute(plans(rng), 5)) for _ in range(3)]


@pytest.fixture(params=MODES, scope="module")
def envs(request: Any) -> Iterator[PlanVecEnv]:
    with closing(make(NAMES, request.param, num_workers=2)) as made:
        yield made


def test_rows_play_what_they_are_given_as_if_they_had_never_played_anything_else(
    envs: PlanVecEnv,
) -> None:
    rng = np.random.default_rng(0)
    for turn in range(5):
        names = [NAMES[i] for i in rng.permutation(4)] if turn < 3 else [MAZE] * 4
        seeds = rng.integers(1000, size=4).tolist()
        envs.assign(names, [0, 1, 2, 3])
        assert list(envs.env_names) == names
        assert envs.max_episode_steps == tuple(100 if n != ROOM else 50 for n in names)
        mine = played(envs, seeds, np.random.default_rng(turn))
        with closing(make(names, "sync")) as fresh:
            others = played(fresh, seeds, np.random.default_rng(turn))
        for chunk, other in zip(mine, others, strict=True):
            same_chunks(chunk, other)


def test_only_a_row_that_changes_is_interrupted(envs: PlanVecEnv) -> None:
    waiting = np.full((4, 6), WAIT)
    envs.assign(NAMES, [0, 1, 2, 3])
    envs.reset([1, 2, 3, 4])
    envs.assign([MAZE, MAZE], [0, 1])
    assert envs.execute(waiting, 2).lengths.tolist() == [0, 2, 2, 2]
    envs.reset([9], [0])
    assert envs.execute(waiting, 2).lengths.tolist() == [2, 2, 2, 2]


def test_environments_are_used_again_rather_than_made_anew() -> None:
    with closing(make([ROOM, MAZE], "sync")) as envs:
        for _ in range(4):
            for names in ([MAZE, MAZE], [ROOM, ROOM], [MAZE, ROOM]):
                envs.assign(names, [0, 1])
        made = [row.env for row in envs._rows]
        made += [env for idle in envs._spare._idle.values() for env in idle]
        assert sorted(env.name for env in made) == [MAZE, MAZE, ROOM, ROOM]


def test_what_cannot_be_assigned_is_refused_and_changes_nothing(envs: PlanVecEnv) -> None:
    envs.assign(NAMES, [0, 1, 2, 3])
    with pytest.raises(ValueError, match=f"made with.*{MAZE}.*got.*Gridworld-Maze-15x15-v0"):
        envs.assign(["Gridworld-Maze-15x15-v0"], [0])
    with pytest.raises(ValueError, match=r"distinct numbers in 0\.\.3, got \[0, 0\]"):
        envs.assign([MAZE, ROOM], [0, 0])
    with pytest.raises(ValueError, match="one name per row: 2 rows, 1 names"):
        envs.assign([MAZE], [0, 1])
    assert list(envs.env_names) == NAMES


def test_a_failure_to_make_one_leaves_all_rows_as_they_were() -> None:
    makers = [EnvMaker("Probe-v0", {"steps": 3}), EnvMaker("Probe-other", {"steps": 5})]
    with closing(SyncPlanVecEnv(makers)) as envs:
        envs.reset([1, 2])
        makers[0].overrides["steps"] = 0  # it cannot be made any more
        with pytest.raises(OSError, match="out of steps"):
            envs.assign(["Probe-v0"], [1])
        assert envs.env_names == ("Probe-v0", "Probe-other")
        assert envs.execute(np.zeros((2, 4), int), 4).lengths.tolist() == [3, 4]


class Plain(PlanVecEnvWrapper):
    """Alters nothing."""

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return observations

    def execute(self, plans: np.ndarray, num_steps: int, **how: Any) -> Any:
        return self.vec_env.execute(plans, num_steps, **how)


def test_a_wrapper_tells_the_environments_of_now() -> None:
    with closing(Plain(make([ROOM, MAZE], "sync"))) as envs:
        envs.assign([MAZE], [0])
        assert envs.env_names == (MAZE, MAZE)
        assert envs.max_episode_steps == (100, 100)


def test_who_replaces_a_dead_worker_has_the_environments_of_now() -> None:
    envs = AsyncPlanVecEnv([ROOM, MAZE, DARK], num_workers=2, restart_dead_workers=1)
    with closing(envs), closing(make([MAZE, ROOM, MAZE], "sync")) as undisturbed:
        envs.assign([MAZE, ROOM, MAZE], [0, 1, 2])
        for each in (envs, undisturbed):
            each.reset([5, 6, 7])
            each.execute(plans(np.random.default_rng(1), 3), 5)
        os.kill(envs._workers[0].process.pid, signal.SIGKILL)
        chunks = [
            copied(each.execute(plans(np.random.default_rng(2), 3), 5))
            for each in (envs, undisturbed)
        ]
        same_chunks(*chunks)
        assert (chunks[0].actions != END).any()


@pytest.mark.minihack
def test_rows_change_between_games_of_nethack() -> None:
    pytest.importorskip("nle")
    rooms, mazes = "MiniHack-Room-Random-5x5-v0", "MiniHack-MazeWalk-9x9-v0"
    with closing(make([rooms, mazes], "sync")) as envs, closing(make([mazes], "sync")) as fresh:
        for names in ([mazes, rooms], [mazes, mazes]):
            envs.reset([1, 2])
            envs.execute(plans(np.random.default_rng(0), 2), 5)
            envs.assign(names, [0, 1])
            seen = envs.reset([77, 78])
            expected = fresh.reset([77])
            for name, array in expected.items():
                np.testing.assert_array_equal(seen[name][0], array[0], err_msg=name)
