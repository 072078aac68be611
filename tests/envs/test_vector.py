"""Sync and async sets of environments: one contract, and the same steps bit for bit."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from remdm.envs import making
from remdm.envs.contract import EnvError, PlanVecEnv
from remdm.envs.gridworld import GridworldEnv
from remdm.envs.making import EnvMaker, make_env, make_vec_env
from remdm.envs.sync import SyncPlanVecEnv
from remdm.envs.workers import AsyncPlanVecEnv
from remdm.maps import NUM_ACTIONS, Action, Terrain
from tests.envs.probe import (
    DOORS,
    EAST,
    END,
    KICK,
    MASK,
    MODES,
    ROOM,
    WAIT,
    drive,
    make,
    same_chunks,
)

# Python 3.12 warns of what the documentation of `context` says, too.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@pytest.fixture(params=MODES, scope="module")
def rooms(request) -> Iterator[PlanVecEnv]:
    """Three lit rooms of 9x9, episodes of 50 steps."""
    with closing(make([ROOM] * 3, request.param)) as envs:
        yield envs


@pytest.fixture(params=MODES, scope="module")
def doors(request) -> Iterator[PlanVecEnv]:
    with closing(make([DOORS], request.param)) as envs:
        yield envs


# ---- The contract, sync and async --------------------------------------------------------------


def test_attributes_describe_the_rows(rooms):
    env = GridworldEnv(ROOM)
    assert rooms.env_names == (ROOM,) * 3
    assert rooms.num_envs == 3
    assert rooms.num_actions == NUM_ACTIONS
    assert rooms.action_names == env.action_names
    assert rooms.observation_spec == env.observation_spec
    assert rooms.max_episode_steps == (50, 50, 50)


def test_a_chunk_holds_what_one_env_would_have_done(rooms):
    rooms.reset([4, 5, 6])
    plans = np.random.default_rng(0).integers(8, size=(3, 6))
    chunk = rooms.execute(plans, 5)
    for row, seed in enumerate([4, 5, 6]):
        env = make_env(ROOM)
        env.reset(seed)
        out = {name: np.zeros_like(a[0, 0]) for name, a in chunk.observations.items()}
        for slot in range(chunk.lengths[row]):
            env.observe(out)
            for name, array in out.items():
                np.testing.assert_array_equal(chunk.observations[name][row, slot], array)
            result = env.step(int(plans[row, slot]))
            assert chunk.actions[row, slot] == plans[row, slot]
            assert chunk.rewards[row, slot] == result.reward
            assert chunk.terminated[row, slot] == result.terminated
        env.observe(out)
        for name, array in out.items():
            np.testing.assert_array_equal(chunk.final_observations[name][row], array)


def test_shapes_have_one_slot_more_than_steps(rooms):
    rooms.reset([1, 2, 3])
    for num_steps in (4, 2, 4):
        chunk = rooms.execute(np.full((3, 4), WAIT), num_steps)
        assert chunk.valid.shape == (3, num_steps + 1)
        assert chunk.observations["glyphs"].shape == (3, num_steps + 1, 9, 9)
        assert chunk.observations["step"].shape == (3, num_steps + 1)
        assert chunk.lengths.tolist() == [num_steps] * 3
        assert (chunk.actions.dtype, chunk.rewards.dtype) == (np.int64, np.float32)


def test_a_row_stops_at_end_and_at_mask_and_runs_nothing_when_they_come_first(rooms):
    before = {name: array.copy() for name, array in rooms.reset([1, 2, 3]).items()}
    plans = [[WAIT, WAIT, END, WAIT], [END, WAIT, WAIT, WAIT], [WAIT, MASK, WAIT, WAIT]]
    chunk = rooms.execute(np.array(plans, np.int8), 4)
    assert chunk.lengths.tolist() == [2, 0, 1]
    assert not chunk.done.any()
    for name, array in before.items():
        np.testing.assert_array_equal(chunk.final_observations[name][1], array[1])
    # The episode goes on: the row's steps are counted on from where they were.
    assert rooms.execute(np.full((3, 1), WAIT), 1).final_observations["step"].tolist() == [3, 1, 2]


def test_finished_rows_run_nothing_until_they_are_reset(rooms):
    rooms.reset([1, 2, 3])
    chunk = rooms.execute(np.full((3, 60), WAIT), 60)
    assert chunk.lengths.tolist() == [50, 50, 50]
    assert chunk.truncated.sum(1).tolist() == [1, 1, 1]
    assert chunk.truncated[:, 49].all()
    assert chunk.done.all()
    assert not chunk.won.any()
    now = rooms.reset([7], rows=[1])
    assert now["step"].tolist() == [50, 0, 50]
    chunk = rooms.execute(np.full((3, 60), WAIT), 2)
    assert chunk.lengths.tolist() == [0, 2, 0]
    assert not chunk.done.any()
    assert not chunk.rewards.any()


@pytest.mark.parametrize("mode", MODES)
def test_rows_never_started_run_nothing(mode):
    with closing(make([ROOM] * 3, mode)) as envs:
        envs.reset([5], rows=[2])
        assert envs.execute(np.full((3, 3), WAIT), 3).lengths.tolist() == [0, 0, 3]


def test_winning_ends_the_row_and_is_told_once(rooms):
    observations = rooms.reset([1, 2, 3])
    goals = np.argwhere(observations["terrain"] == Terrain.GOAL)[:, 1:]
    away = goals - observations["position"]
    plans = np.full((3, 16), END)
    for row, (down, right) in enumerate(away.tolist()):
        walk = [Action.SOUTH if down > 0 else Action.NORTH] * abs(down)
        walk += [Action.EAST if right > 0 else Action.WEST] * abs(right)
        plans[row, : len(walk)] = walk
        plans[row, len(walk)] = WAIT  # must not run
    chunk = rooms.execute(plans, 16)
    assert chunk.won.all()
    assert chunk.lengths.tolist() == np.abs(away).sum(1).tolist()
    assert chunk.terminated.sum(1).tolist() == [1, 1, 1]
    assert chunk.rewards.sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("stop", [False, True])
def test_stop_when_blocked_ends_the_chunk_after_the_failed_move(rooms, stop):
    # Levels whose goal is in another column than the start: no walk north or south ends there.
    rooms.reset([1, 4, 3])
    plans = np.array([[Action.NORTH] * 8, [Action.SOUTH] * 8, [WAIT] * 8])
    chunk = rooms.execute(plans, 8, stop_when_blocked=stop)
    assert chunk.blocked.tolist() == [True, True, False]
    for row, edge in ((0, 1), (1, 7)):
        rows = chunk.observations["position"][row, : chunk.lengths[row], 0]
        assert chunk.lengths[row] == (1 + (rows != edge).sum() if stop else 8)
    assert chunk.lengths[2] == 8


def test_a_direction_is_taken_from_past_num_steps(doors):
    doors.reset([0])
    chunk = doors.execute(np.array([[WAIT, KICK, EAST, WAIT]]), 2)
    assert chunk.actions[0].tolist() == [WAIT, KICK, EAST]
    assert chunk.valid[0].all()
    assert chunk.final_observations["step"] == 3
    # The waiting state is never observed: the slot shows what was seen before the kick.
    assert chunk.observations["step"][0].tolist() == [0, 1, 1]
    assert doors.execute(np.array([[WAIT]]), 1).final_observations["step"] == 4


@pytest.mark.parametrize("plan", [[WAIT, KICK], [WAIT, KICK, END], [WAIT, KICK, MASK, EAST]])
def test_an_action_without_its_direction_is_cancelled(doors, plan):
    doors.reset([0])
    chunk = doors.execute(np.array([plan]), 2)
    assert chunk.lengths.tolist() == [2]
    assert chunk.final_observations["step"] == 2
    position = chunk.final_observations["position"].copy()
    # EAST is a move again, not the direction of the kick.
    chunk = doors.execute(np.array([[EAST]]), 1)
    assert chunk.blocked[0] or (chunk.final_observations["position"] != position).any()


def test_arguments_that_do_not_fit_are_refused(rooms):
    rooms.reset([1, 2, 3])
    for plans, num_steps, words in (
        (np.zeros((2, 4), int), 4, r"\[3, horizon\]"),
        (np.zeros((3, 4)), 4, "integers"),
        (np.zeros((3, 4), int), 5, "replan_every"),
        (np.zeros((3, 4), int), 0, "num_steps"),
    ):
        with pytest.raises(ValueError, match=words):
            rooms.execute(plans, num_steps)
    for seeds, rows in (([1], None), ([1, 2], [0]), ([1, 2], [0, 0]), ([1], [3])):
        with pytest.raises(ValueError, match="row"):
            rooms.reset(seeds, rows)


def test_rows_of_one_set_must_have_the_same_arrays():
    for mode in MODES:
        with pytest.raises(ValueError, match="same observation arrays"):
            make([ROOM, DOORS], mode)


def test_arrays_stay_valid_after_close():
    envs = make([ROOM], "async")
    seen = envs.reset([3])["glyphs"]
    before = seen.copy()
    envs.close()
    np.testing.assert_array_equal(seen, before)
    with pytest.raises(RuntimeError, match="closed"):
        envs.reset([3])


# ---- Sync and async agree ----------------------------------------------------------------------


@pytest.mark.parametrize("stop_when_blocked", [False, True])
def test_async_equals_sync_bit_for_bit(stop_when_blocked):
    names = [DOORS] * 5
    limits = [20, 25, 30, 35, None]
    with (
        closing(make(names, "sync", max_episode_steps=limits)) as sync,
        closing(make(names, "async", max_episode_steps=limits)) as workers,
    ):
        expected = drive(sync, 30, stop_when_blocked)
        for mine, theirs in zip(expected, drive(workers, 30, stop_when_blocked), strict=True):
            same_chunks(mine, theirs)
    assert any(chunk.done.any() for chunk in expected)


@pytest.mark.minihack
def test_async_equals_sync_in_minihack():
    pytest.importorskip("nle")
    names = ["MiniHack-Corridor-R2-v0", "MiniHack-MazeWalk-9x9-v0"] * 2
    limits = [40, None, 30, 20]
    with (
        closing(make(names, "sync", max_episode_steps=limits)) as sync,
        closing(make(names, "async", max_episode_steps=limits)) as workers,
    ):
        assert workers.max_episode_steps == sync.max_episode_steps
        assert workers.max_episode_steps[0] == 40
        expected = drive(sync, 12, False)
        for mine, theirs in zip(expected, drive(workers, 12, False), strict=True):
            same_chunks(mine, theirs)
    assert any(chunk.done.any() for chunk in expected)


# ---- Making ------------------------------------------------------------------------------------


def test_unknown_names_and_modes_show_the_nearest():
    for mode in MODES:
        with pytest.raises(ValueError, match="did you mean 'MiniHack-Corridor-R2-v0'"):
            make(["MiniHak-Corridor-R2-v0"], mode)
    with pytest.raises(ValueError, match="did you mean 'async'"):
        make([ROOM], "asinc")
    with pytest.raises(ValueError, match="did you mean 'forkserver'"):
        make([ROOM], "async", context="forkserve")
    with pytest.raises(ValueError, match="2 environments, 3 limits"):
        make([ROOM] * 2, "sync", max_episode_steps=[1, 2, 3])
    with pytest.raises(ValueError, match=r"AsyncPlanVecEnv\.num_workers"):
        make([ROOM] * 2, "async", num_workers=0)


def test_the_minihack_names_offered_are_those_of_the_recipes():
    minihack = pytest.importorskip("remdm.envs.minihack")
    offered = {name for name in making.known_env_names() if name.startswith("MiniHack-")}
    assert offered == {*minihack.TRAINING_ENVS, *minihack.HELD_OUT_ENVS}


def test_already_vectorized_takes_a_function_that_makes_the_set():
    envs = make_vec_env(lambda: make([ROOM], "sync"), env_mode="already_vectorized")
    assert isinstance(envs, SyncPlanVecEnv)
    with pytest.raises(ValueError, match="already_vectorized"):
        make_vec_env([ROOM], env_mode="already_vectorized")


def test_makers_that_cannot_be_sent_are_refused():
    with pytest.raises(ValueError, match="picklable"):
        AsyncPlanVecEnv([lambda: make_env(ROOM)])


def test_user_errors_while_making_keep_their_type_and_text():
    with pytest.raises(ValueError, match=r"^knob must be positive; set ProbeEnv\.knob"):
        AsyncPlanVecEnv([EnvMaker("Probe-v0", {"knob": -1.0})])
    with pytest.raises(EnvError, match="out of steps"):
        AsyncPlanVecEnv([EnvMaker("Probe-v0", {"steps": 0})])
