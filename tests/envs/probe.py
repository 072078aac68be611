"""An environment that misbehaves on command, and ways to drive sets of environments."""

import contextlib
import os
import pickle
import signal
import sys
import time

import gin
import numpy as np

from remdm.envs.contract import Chunk, PlannerEnv, PlanVecEnv, StepResult
from remdm.envs.making import make_vec_env, register_env
from remdm.maps import NUM_ACTIONS, Action, ArraySpec
from remdm.tokens import end_token, mask_token

ROOM, DOORS = "Gridworld-Room-9x9-v0", "Gridworld-Doors-9x13-v0"
END, MASK = end_token(NUM_ACTIONS), mask_token(NUM_ACTIONS)
WAIT, KICK, EAST = int(Action.WAIT), int(Action.KICK), int(Action.EAST)
STEP_ARRAYS = ("actions", "rewards", "terminated", "truncated", "valid", "won", "blocked")
MODES = ("sync", "async")


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
