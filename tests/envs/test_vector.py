"""Sync and async sets of environments: one contract, and what goes wrong in workers."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import gin
import numpy as np
import pytest

from remdm import config
from remdm.envs import making
from remdm.envs.contract import Chunk, EnvError, PlannerEnv, PlanVecEnv, StepResult
from remdm.envs.gridworld import GridworldEnv
from remdm.envs.making import EnvMaker, make_env, make_vec_env, register_env
from remdm.envs.sync import SyncPlanVecEnv
from remdm.envs.workers import CONTEXTS, AsyncPlanVecEnv
from remdm.maps import NUM_ACTIONS, Action, ArraySpec, Terrain
from remdm.tokens import end_token, mask_token

ROOM, DOORS = "Gridworld-Room-9x9-v0", "Gridworld-Doors-9x13-v0"
END, MASK = end_token(NUM_ACTIONS), mask_token(NUM_ACTIONS)
WAIT, KICK, EAST = int(Action.WAIT), int(Action.KICK), int(Action.EAST)
STEP_ARRAYS = ("actions", "rewards", "terminated", "truncated", "valid", "won", "blocked")
MODES = ("sync", "async")
# Python 3.12 warns of what the documentation of `context` says, too.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@gin.configurable(module="tests", denylist=["name"])
class ProbeEnv(PlannerEnv):
    """Shows what its process knows, and misbehaves on command."""

    def __init__(self, name: str, *, knob: float = 0.0, marker: str = "", steps: int = 9) -> None:
        if knob < 0:
            raise ValueError("knob must be positive; set ProbeEnv.knob")
        if steps < 1:
            raise OSError("out of steps")
        self.name, self.knob, self.marker, self.max_episode_steps = name, knob, marker, steps
        self.action_names = ("STAY", "RAISE", "DIE", "SLEEP")
        self.num_actions = 4
        self.observation_spec = {"facts": ArraySpec((5,), np.dtype(np.float64))}

    def reset(self, seed: int) -> None:
        if seed == 13:
            raise KeyError("unlucky")
        self.seed, self.count = seed, 0

    def step(self, action: int) -> StepResult:
        if action == 1:
            raise FloatingPointError("asked to fail")
        if action == 2:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.marker)  # the next attempt survives
                os.kill(os.getpid(), signal.SIGKILL)
        if action == 3:
            time.sleep(0.6)
        self.count += 1
        return StepResult(self.count, False, self.count >= self.max_episode_steps, False, False)

    def observe(self, out: dict[str, np.ndarray]) -> None:
        torch = "torch" in sys.modules
        out["facts"][:] = self.knob, torch, os.getpid(), self.seed, self.count


register_env("Probe-", f"{__name__}:ProbeEnv", ("Probe-v0",))


def make(names: list[str], mode: str, **arguments) -> PlanVecEnv:
    return make_vec_env(names, env_mode=mode, **arguments)


@pytest.fixture(params=MODES, scope="module")
def rooms(request) -> Iterator[PlanVecEnv]:
    """Three lit rooms of 9x9, episodes of 50 steps."""
    with closing(make([ROOM] * 3, request.param)) as envs:
        yield envs


@pytest.fixture(params=MODES, scope="module")
def doors(request) -> Iterator[PlanVecEnv]:
    with closing(make([DOORS], request.param)) as envs:
        yield envs


def same_chunks(first: Chunk, second: Chunk) -> None:
    for name in STEP_ARRAYS:
        mine, other = getattr(first, name), getattr(second, name)
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other, err_msg=name)
    for name in first.observations:
        np.testing.assert_array_equal(
            first.observations[name][first.valid], second.observations[name][second.valid]
        )
        np.testing.assert_array_equal(
            first.final_observations[name], second.final_observations[name]
        )


def copied(chunk: Chunk) -> Chunk:
    return pickle.loads(pickle.dumps(chunk))


def drive(envs: PlanVecEnv, num_chunks: int, stop_when_blocked: bool) -> list[Chunk]:
    """Random plans, END and MASK among them; finished rows start again."""
    rng = np.random.default_rng(1)
    envs.reset(list(range(envs.num_envs)))
    chunks = []
    for _ in range(num_chunks):
        plans = rng.integers(NUM_ACTIONS + 2, size=(envs.num_envs, 8))
        num_steps = int(rng.integers(5, 9))
        chunk = envs.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)
        chunks.append(copied(chunk))
        rows = np.flatnonzero(chunk.done).tolist()
        envs.reset(rng.integers(1000, size=len(rows)).tolist(), rows)
    return chunks


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


# ---- Worker processes --------------------------------------------------------------------------


@pytest.mark.parametrize("context", CONTEXTS)
def test_gin_bindings_reach_workers_and_count_as_used(context):
    config.load_config(bindings=["ProbeEnv.knob = 2.5", "ProbeEnv.steps = %LIMIT", "LIMIT = 4"])
    with closing(make(["Probe-v0"] * 2, "async", context=context)) as envs:
        assert envs.max_episode_steps == (4, 4)
        facts = envs.reset([1, 2])["facts"]
        assert facts[:, 0].tolist() == [2.5, 2.5]
        assert os.getpid() not in facts[:, 2]
        assert len(set(facts[:, 2])) == 2
        if context != "fork":  # a forked worker has all that its parent imported
            assert not facts[:, 1].any()
    assert config.unused_bindings() == []


@pytest.mark.parametrize("mode", MODES)
def test_scoped_bindings_apply_where_the_set_is_made(mode):
    config.load_config(bindings=["ProbeEnv.knob = 1.0", "eval/ProbeEnv.knob = 2.0"])
    with gin.config_scope("eval"), closing(make(["Probe-v0"], mode)) as envs:
        assert envs.reset([1])["facts"][0, 0] == 2.0


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_env_is_named_with_seed_and_step(mode):
    with closing(make(["Probe-v0"] * 3, mode)) as envs:
        envs.reset([41, 42, 43])
        envs.execute(np.zeros((3, 2), int), 2)
        plans = np.zeros((3, 4), int)
        plans[1, 3] = 1
        with pytest.raises(EnvError) as caught:
            envs.execute(plans, 4)
    for words in ("'Probe-v0'", "seed 42", "env_step 5", "FloatingPointError", "asked to fail"):
        assert words in str(caught.value)
    if mode == "async":
        assert "in step\n    raise FloatingPointError" in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_reset_is_named_with_its_seed(mode):
    with (
        closing(make(["Probe-v0"] * 3, mode)) as envs,
        pytest.raises(EnvError, match=r"reset: KeyError.*seed 13, env_step 0"),
    ):
        envs.reset([1, 13, 2])


def test_an_error_closes_the_workers():
    envs = make(["Probe-v0"] * 2, "async")
    envs.reset([1, 2])
    processes = [worker.process for worker in envs._workers]
    with pytest.raises(EnvError):
        envs.execute(np.ones((2, 1), int), 1)
    assert not any(process.is_alive() for process in processes)
    with pytest.raises(RuntimeError, match="closed"):
        envs.reset([1, 2])


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_worker_killed_between_calls_is_reported_at_once(context):
    envs = make([ROOM] * 4, "async", context=context)
    envs.reset([10, 11, 12, 13])
    os.kill(envs._workers[1].process.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(EnvError, match=f"signal 9.*row 1: '{ROOM}', seed 11; row 3") as caught:
        envs.execute(np.full((4, 2), WAIT), 2)
    assert time.monotonic() - start < 5
    assert "restart_dead_workers" in str(caught.value)


def test_a_worker_killed_in_the_middle_of_a_chunk_is_reported_at_once(tmp_path):
    (tmp_path / "marker").touch()
    makers = [EnvMaker("Probe-v0", {"marker": str(tmp_path / "marker")})] * 2
    envs = AsyncPlanVecEnv(makers)
    envs.reset([1, 2])
    start = time.monotonic()
    with pytest.raises(EnvError, match="killed by signal 9"):
        envs.execute(np.array([[0, 2, 0], [0, 0, 0]]), 3)
    assert time.monotonic() - start < 5


def test_a_worker_that_does_not_answer_counts_as_dead():
    envs = AsyncPlanVecEnv(["Probe-v0"] * 2)
    envs.reset([1, 2])
    envs._timeout_s = 0.25  # only now, since starting takes longer
    with pytest.raises(EnvError, match=r"no answer within 0\.25 s"):
        envs.execute(np.array([[3], [0]]), 1)


def test_a_replaced_worker_goes_on_as_if_nothing_had_happened(tmp_path):
    marker = tmp_path / "marker"
    overrides = {"marker": str(marker), "steps": 6}
    makers = [EnvMaker("Probe-v0", overrides)] * 4
    plans = np.random.default_rng(0).integers(3, size=(8, 4, 4))
    plans[plans == 1] = 0
    runs = []
    for kill in (False, True):
        with closing(AsyncPlanVecEnv(makers, restart_dead_workers=9)) as envs:
            envs.reset([1, 2, 3, 4])
            chunks = []
            for number, plan in enumerate(plans):
                if kill and number in (3, 6):
                    marker.touch()
                chunks.append(copied(envs.execute(plan, 4)))
                rows = np.flatnonzero(chunks[-1].done).tolist()
                if kill and number == 5:
                    marker.unlink(missing_ok=True)
                    os.kill(envs._workers[0].process.pid, signal.SIGKILL)
                envs.reset([100 * number + row for row in rows], rows)
            runs.append(chunks)
            assert (envs._restarts_left < 8) == kill
    for undisturbed, disturbed in zip(*runs, strict=True):
        for chunk in (undisturbed, disturbed):
            chunk.observations["facts"][..., 2] = 0  # the process id
            chunk.final_observations["facts"][..., 2] = 0
        same_chunks(undisturbed, disturbed)


def test_restarts_run_out():
    envs = AsyncPlanVecEnv([ROOM], restart_dead_workers=1)
    envs.reset([1])
    os.kill(envs._workers[0].process.pid, signal.SIGKILL)
    assert envs.execute(np.full((1, 2), WAIT), 2).lengths == [2]
    os.kill(envs._workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(EnvError, match="killed by signal 9"):
        envs.execute(np.full((1, 2), WAIT), 2)


def test_workers_leave_ctrl_c_to_the_parent():
    with closing(make([ROOM] * 2, "async")) as envs:
        envs.reset([1, 2])
        for worker in envs._workers:
            os.kill(worker.process.pid, signal.SIGINT)
        assert envs.execute(np.full((2, 2), WAIT), 2).lengths.tolist() == [2, 2]


def test_an_interrupted_call_does_not_mix_its_answers_with_the_next():
    def interrupt(*_):
        raise KeyboardInterrupt

    with closing(make(["Probe-v0"] * 2, "async")) as envs:
        envs.reset([1, 2])
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                envs.execute(np.array([[3, 0], [3, 0]]), 2)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert envs.reset([8, 9])["facts"][:, 3].tolist() == [8, 9]
        chunk = envs.execute(np.zeros((2, 3), int), 3)
        assert chunk.final_observations["facts"][:, 4].tolist() == [3, 3]


ORPHANS = """
import sys, time
import torch
from remdm.envs.making import make_vec_env
envs = make_vec_env([{room!r}] * 2, env_mode="async", context={context!r}, num_workers=2)
envs.reset([1, 2])
print(*(worker.process.pid for worker in envs._workers), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("context", CONTEXTS)
def test_workers_end_when_their_parent_is_killed(context):
    # The script has no `__main__` guard: workers must not run it again.
    script = ORPHANS.format(room=ROOM, context=context)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_is_left_behind_in_shared_memory():
    def ours() -> set[str]:
        folder = "/dev/shm"
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return {name for name in names if name.startswith("remdm-")}

    before = ours()
    with closing(make([ROOM] * 2, "async")) as envs:
        envs.reset([1, 2])
        envs.execute(np.full((2, 2), WAIT), 2)
        assert ours() == before  # in use, and its name already gone
