"""What samplers are compared on: two exact models, with and without errors, and a trained run."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.inputs.sampler_points import Point
from remdm.agent import DiffusionPlannerAgent
from remdm.cli.runs import OpenRun, find_checkpoint, open_run
from remdm.diffusion import PlanSample, Sampler, sampler_preset
from remdm.diffusion.candidates import best_of
from remdm.diffusion.exact import ExactDenoiser, room_paths, small_sudokus
from remdm.diffusion.scorers import LeaveOneOutScorer
from remdm.envs.contract import PlanVecEnv
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.rollout import evaluate_in
from remdm.evaluation.statistics import Rate, mean_rate
from remdm.seeding import TEST_SEEDS, torch_generator
from remdm.training.checkpoint import STATE_FILE

NOISE = 0.08  # share of the uniform distribution in a noisy model's answers
MODELS: dict[str, tuple[Callable[[], Tensor], int, float]] = {
    "room": (room_paths, 2, 0.0),
    "room, noisy": (room_paths, 2, NOISE),
    "sudoku": (small_sudokus, 4, 0.0),
    "sudoku, noisy": (small_sudokus, 4, NOISE),
}
RUN = "trained planner"
# Episodes of one map played side by side.
ROWS = 10


@dataclass(frozen=True, slots=True)
class Task:
    """Something to plan for.

    Attributes:
        name: A key of `MODELS`, or `RUN`.
        horizon: Tokens per plan.
        samples: Plans of a model, or episodes of a run over all its maps, per point.
        run: The run's folder.
    """

    name: str
    horizon: int
    samples: int
    run: str = ""

    def identity(self) -> str:
        """Text that changes when old results would no longer be this task's."""
        checkpoint = ""
        if self.run:
            state = find_checkpoint(Path(self.run))[1] / STATE_FILE
            checkpoint = hashlib.sha256(state.read_bytes()).hexdigest()
        return f"{self.name}|{self.samples}|{checkpoint}"


def model_tasks(samples: int) -> list[Task]:
    """The exact models."""
    return [Task(name, make().shape[1], samples) for name, (make, _, _) in MODELS.items()]


def run_task(run: str, agent: DiffusionPlannerAgent, episodes: int) -> Task:
    """A trained run's planner on all maps of its training."""
    return Task(RUN, agent.plan_horizon, episodes, run)


def trained_planner(run: OpenRun) -> DiffusionPlannerAgent:
    """The planner of a run.

    Raises:
        ValueError: If it has none that denoises.
    """
    agent = run.agents.get("planner")
    if not isinstance(agent, DiffusionPlannerAgent):
        raise ValueError(f"the run must have a diffusion planner, got {type(agent).__name__}")
    return agent


def measure(task: Task, point: Point) -> dict[str, Any]:
    """How often plans of one sampler succeed, and what they cost.

    Returns:
        `calls` (mean net calls per plan), `rate`, `low`, `high` (Wilson 95 %), `wins`, `samples`;
        for models `distinct` (different right plans, over what as many uniform draws would give)
        and `always_same` (all plans were one and the same); for runs `won`, by map a text of 0 and
        1 in order of level seeds.
    """
    torch.set_num_threads(1)  # points are measured side by side
    measured = _measure_run(task, point) if task.run else _measure_model(task, point)
    named = {"task": task.name, "sampler": point.label, "default": point.is_default}
    return named | measured


def _measure_model(task: Task, point: Point) -> dict[str, Any]:
    make, num_actions, noise = MODELS[task.name]
    plans = make()
    denoise = ExactDenoiser(None, plans, num_actions, noise=noise)
    sampler = sampler_preset(point.preset, num_actions, **point.knobs)
    generator = torch_generator(0, task.name, point.key())
    sample = _draw(sampler, denoise, task, point.candidates, generator)
    right = denoise.contains(sample.tokens)
    wins = int(right.sum())
    rate = Rate.of(wins, task.samples)
    different = len(sample.tokens[right].unique(dim=0))
    expected = len(plans) * (1 - (1 - 1 / len(plans)) ** wins)
    return {
        "calls": float(sample.nfe.double().mean()),
        "rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
        "wins": wins,
        "samples": task.samples,
        "distinct": different / expected if wins else 0.0,
        "always_same": bool((sample.tokens == sample.tokens[0]).all()),
    }


def _draw(
    sampler: Sampler,
    denoise: ExactDenoiser,
    task: Task,
    candidates: int,
    generator: torch.Generator,
) -> PlanSample:
    call = denoise, task.samples, task.horizon, generator
    if candidates == 1:
        return sampler.sample(*call, allow_end=False)
    scorer = LeaveOneOutScorer()
    return best_of(sampler, *call, candidates=candidates, scorer=scorer, allow_end=False)


@functools.lru_cache(maxsize=1)
def _opened(run: str) -> tuple[DiffusionPlannerAgent, PlanVecEnv]:
    """The planner and its maps; kept, since making them takes longer than playing."""
    opened = open_run(Path(run), [], [])
    maps = [env for group in opened.groups.values() for env in group]
    return trained_planner(opened), make_vec_env([env for env in maps for _ in range(ROWS)])


def _measure_run(task: Task, point: Point) -> dict[str, Any]:
    agent, maps = _opened(task.run)
    agent.sampler = sampler_preset(point.preset, agent.num_actions, **point.knobs)
    agent.candidates = point.candidates
    agent.scorer = LeaveOneOutScorer() if point.candidates > 1 else None
    policy = AgentPolicy(agent, torch_generator(0, task.name, point.key()))
    per_map = -(-task.samples // len(set(maps.env_names)))
    played = evaluate_in(policy, maps, episodes=per_map, first_seed=TEST_SEEDS.start)
    rate = mean_rate([Rate.of(row.wins, row.episodes) for row in played.rows])
    plans = sum(record.plans for record in played.records)
    return {
        "calls": sum(record.nfe for record in played.records) / max(plans, 1),
        "rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
        "wins": rate.wins,
        "samples": rate.episodes,
        "plans": plans,
        "won": {env: _digits(won) for env, won in played.won_by_env().items()},
    }


def _digits(won: np.ndarray) -> str:
    return "".join("1" if value else "0" for value in won)
