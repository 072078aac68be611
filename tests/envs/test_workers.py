"""Worker processes: bindings reach them, their failures are told, and they leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import gin
import numpy as np
import pytest

from remdm import config
from remdm.envs import sharing
from remdm.envs.contract import EnvError
from remdm.envs.making import EnvMaker
from remdm.envs.workers import CONTEXTS, AsyncPlanVecEnv
from tests.envs.probe import MODES, ROOM, WAIT, copied, make, same_chunks

# Python 3.12 warns of what the documentation of `context` says, too.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
# Far below the 300 s after which a silent worker counts as dead, far above any scheduling delay.
NO_WAIT_S = 60


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
    assert time.monotonic() - start < NO_WAIT_S
    assert "restart_dead_workers" in str(caught.value)


def test_a_worker_killed_in_the_middle_of_a_chunk_is_reported_at_once(tmp_path):
    (tmp_path / "marker").touch()
    makers = [EnvMaker("Probe-v0", {"marker": str(tmp_path / "marker")})] * 2
    envs = AsyncPlanVecEnv(makers)
    envs.reset([1, 2])
    start = time.monotonic()
    with pytest.raises(EnvError, match="killed by signal 9"):
        envs.execute(np.array([[0, 2, 0], [0, 0, 0]]), 3)
    assert time.monotonic() - start < NO_WAIT_S


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


def test_nothing_is_left_behind_in_shared_memory(monkeypatch, tmp_path):
    # A folder of its own, because other processes have blocks in /dev/shm.
    monkeypatch.setattr(sharing, "_IN_MEMORY", str(tmp_path))
    with closing(make([ROOM] * 2, "async")) as envs:
        envs.reset([1, 2])
        envs.execute(np.full((2, 2), WAIT), 2)
        assert f"{tmp_path}/remdm-" in Path("/proc/self/maps").read_text()  # in use,
        assert list(tmp_path.iterdir()) == []  # and its name already gone
