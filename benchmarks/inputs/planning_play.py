"""How a trained cell of "where planning pays" is played: same levels, same temperature for all."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.inputs.planning_cells import Pace
from remdm.agent import DiffusionPlannerAgent
from remdm.autoregressive_agent import AutoregressiveAgent
from remdm.base_agent import BaseAgent
from remdm.diffusion import make_sampler
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.rollout import EpisodeRecord, evaluate_policy
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.policy_agent import PolicyAgent
from remdm.seeding import TEST_SEEDS, torch_generator

ROWS = 32  # episodes of one map played side by side
TRIES, WARM_UP = 3, 5  # plans of one state that are timed, and more of the first one


@dataclass(frozen=True, slots=True)
class Play:
    """How cells are played.

    Attributes:
        episodes: Levels of each map.
        temperature: Of every agent.
    """

    episodes: int
    temperature: float


def tuned(agent: BaseAgent, pace: Pace, temperature: float) -> BaseAgent:
    """The same weights at a temperature and a pace.

    Raises:
        TypeError: If the agent is of another kind.
    """
    other = copy.copy(agent)  # shares all weights
    if isinstance(other, DiffusionPlannerAgent):
        knobs = {"temperature": temperature}
        if pace.gamma is not None:
            knobs["gamma"] = pace.gamma
        other.sampler = make_sampler("default", other.num_actions, knobs)
    elif isinstance(other, (AutoregressiveAgent, PolicyAgent)):
        other.temperature = temperature
    else:
        raise TypeError(f"a diffusion planner, its twin or a head was expected, got {agent!r}")
    if isinstance(other, (DiffusionPlannerAgent, AutoregressiveAgent)):
        other.replans_after(pace.replan)
    return other


def played(
    agent: BaseAgent, maps: Sequence[str], pace: Pace, play: Play, seed: int
) -> dict[str, Any]:
    """Play all maps.

    Args:
        agent: Of a trained cell.
        maps: Environment ids.
        pace: How plans are written, and how much of one is played.
        play: How.
        seed: Of the training; the sampler's chance follows from it.

    Returns:
        By map `won` (text of 0 and 1 in order of level seeds), `steps` (of each episode), `plans`
        and `nfe` (sums), as JSON has them.
    """
    agent = tuned(agent, pace, play.temperature)
    chance = torch_generator(seed, "planning", pace.replan)
    policy = AgentPolicy(agent, chance, replan_every=pace.replan)
    found = evaluate_policy(
        policy,
        maps,
        episodes=play.episodes,
        first_seed=TEST_SEEDS.start,
        make_vec_env=make_vec_env,
        rows=ROWS,
    )
    return {env: _summed([r for r in found.records if r.env == env]) for env in maps}


def _summed(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    return {
        "won": "".join("1" if r.won else "0" for r in records),
        "steps": [r.steps for r in records],
        "plans": sum(r.plans for r in records),
        "nfe": sum(r.nfe for r in records),
    }


def states_on_the_way(maps: Sequence[str], count: int) -> dict[str, np.ndarray]:
    """States that the oracle meets, the same for all agents whose plans are timed.

    Args:
        maps: Environment ids; each gives equally many states.
        count: Of each map.

    Returns:
        By name [states, ...].
    """
    oracle, found = MemoryOracle(), []
    for env in maps:
        envs = make_vec_env([env] * count)
        seen = envs.reset(range(TEST_SEEDS.start, TEST_SEEDS.start + count))
        states = {name: array.copy() for name, array in seen.items()}
        # Row i is looked at after about i plans, or where its episode ends before.
        for turn in range(count):
            going_on = np.arange(count) >= turn
            plans = oracle.label(seen, 16)[0]
            chunk = envs.execute(plans, 16, stop_when_blocked=True)
            seen = chunk.final_observations
            rows = going_on & ~chunk.done
            for name, array in seen.items():
                states[name][rows] = array[rows]
            over = np.flatnonzero(chunk.done).tolist()
            if over:
                seen = envs.reset([TEST_SEEDS.start + row for row in over], over)
        envs.close()
        found.append(states)
    return {name: np.concatenate([states[name] for states in found]) for name in found[0]}


def milliseconds_per_plan(
    agent: BaseAgent, states: dict[str, np.ndarray], pace: Pace, temperature: float
) -> float:
    """Mean time of a plan made alone; the best of some equal tries for each state counts."""
    agent = tuned(agent, pace, temperature)
    spent = []
    for row in range(len(states["position"])):
        seen = {name: torch.from_numpy(array[row : row + 1]) for name, array in states.items()}
        tries = []
        for _ in range(TRIES if row else TRIES + WARM_UP):
            generator = torch.Generator().manual_seed(row)
            start = time.perf_counter()
            agent.plan(seen, generator)
            tries.append(time.perf_counter() - start)
        spent.append(min(tries) * 1e3)
    return float(np.mean(spent))
