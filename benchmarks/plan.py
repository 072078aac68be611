"""Milliseconds per plan: our nets with the default sampler, and the seed's net with the seed's.

One plan is what an agent makes of one observation: features, encoding, every denoising call and
the sampling between them. Nets are fresh, so their plans are as undecided as plans can be and every
token in the window takes a net call of its own. `--run runs/minihack_quick` adds the planner of a
run on states that it meets itself, and makes it the figure of the JSON line. Threads are torch's
own choice: set OMP_NUM_THREADS to measure one core. `--device cuda` plans on an accelerator,
`--compile 1` adds the default planner with compiled denoising calls.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import options, report
from benchmarks.inputs.observations import as_tensors, make_observations
from remdm.agent import BaseAgent, DiffusionPlannerAgent
from remdm.cli.runs import open_run
from remdm.diffusion import BernoulliMasking, PlanSample
from remdm.envs.making import make_vec_env
from remdm.envs.minihack import HELD_OUT_ENVS
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.nets.ego import EgoDenoiser
from remdm.nets.reach import ReachEncoder
from remdm.policy_agent import PolicyAgent

BATCHES = (1, 8, 64, 256)
SPEC = map_observation_spec(21, 79)


def default_planner() -> BaseAgent:
    """The planner as it is trained by default."""
    return DiffusionPlannerAgent(SPEC, NUM_ACTIONS)


def recipe_planner() -> BaseAgent:
    """The planner of the MiniHack recipes, whose encoder sees over the whole map."""
    denoiser = partial(EgoDenoiser, encoder_type=ReachEncoder)
    return DiffusionPlannerAgent(SPEC, NUM_ACTIONS, denoiser_type=denoiser)


def compiled_planner() -> BaseAgent:
    """The default planner whose denoising calls go through `torch.compile`."""
    return DiffusionPlannerAgent(SPEC, NUM_ACTIONS, compile_denoise=True)


def seed_planner() -> BaseAgent:
    """The seed's net, sampler and masking: 64 tokens in 10 calls, one draw per label."""
    return DiffusionPlannerAgent(
        SPEC,
        NUM_ACTIONS,
        plan_horizon=64,
        replan_every=16,
        denoiser_type=DualStreamDenoiser,
        corruption_type=BernoulliMasking,
        sampler="readme_minihack",
        sampler_options={"early_exit": False},
    )


def single_step() -> BaseAgent:
    """The single-step head on the default encoder."""
    return PolicyAgent(SPEC, NUM_ACTIONS)


AGENTS: dict[str, Callable[[], BaseAgent]] = {
    "default": default_planner,
    "recipe": recipe_planner,
    "single_step": single_step,
    "seed": seed_planner,
}


def met_states(agent: BaseAgent, env: str, count: int) -> dict[str, np.ndarray]:
    """Observations of `count` episodes of `env`, each after 1 to 40 plans of `agent`."""
    generator = torch.Generator().manual_seed(0)
    envs = make_vec_env([env] * count)
    seen = envs.reset(range(count))
    states = {name: array.copy() for name, array in seen.items()}
    for turn in range(40):
        plans = agent.plan(seen, generator).tokens.numpy()
        chunk = envs.execute(plans, agent.replan_every, stop_when_blocked=True)
        seen = chunk.final_observations
        rows = ~chunk.done & (np.arange(count) % 40 >= turn)
        for name, array in seen.items():
            states[name][rows] = array[rows]
        over = np.flatnonzero(chunk.done).tolist()
        seen = envs.reset([count * (turn + 1) + row for row in over], over)
    envs.close()
    return states


def time_plans(
    agent: BaseAgent, observations: dict[str, np.ndarray], batch: int, seconds: float
) -> dict[str, Any]:
    """Plan for `batch` observations again and again; times are milliseconds per call."""
    device = next(agent.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    tensors = {name: array.to(device) for name, array in as_tensors(observations, batch).items()}

    def plan() -> PlanSample:
        sample = agent.plan(tensors, generator)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return sample

    plan()
    times, calls = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        sample = plan()
        times.append((time.perf_counter() - start) * 1e3)
        calls.append(float(sample.nfe.float().mean()))
    return {
        "p50_ms": float(np.percentile(times, 50)),
        "p95_ms": float(np.percentile(times, 95)),
        "ms_per_plan": float(np.percentile(times, 50)) / batch,
        "net_calls": float(np.mean(calls)),
    }


def main() -> None:
    arguments = options(__doc__, run="", device="cpu", compile=0)
    seconds = 0.3 if arguments.quick else 3.0
    batches = BATCHES[:2] if arguments.quick else BATCHES
    observations = make_observations(max(batches))
    rows = []
    agents = {**AGENTS, **({"compiled": compiled_planner} if arguments.compile else {})}
    for name, make in agents.items():
        torch.manual_seed(0)
        agent = make().eval().requires_grad_(False).to(arguments.device)
        for batch in batches:
            result = time_plans(agent, observations, batch, seconds)
            rows.append({"agent": name, "batch": batch, **result})
    ours = "default"
    if arguments.run:
        ours = "trained"
        planner = open_run(Path(arguments.run), [], []).agents["planner"]
        planner.to("cpu")
        states = met_states(planner, HELD_OUT_ENVS[-1], max(batches))
        planner.to(arguments.device)
        for batch in batches:
            result = time_plans(planner, states, batch, seconds)
            rows.append({"agent": ours, "batch": batch, **result})
    found = {(row["agent"], row["batch"]): row for row in rows}
    alone, reference = found[ours, 1], found["seed", 1]
    many = 8 if arguments.quick else 64
    batched = found[ours, many]["ms_per_plan"]
    line = {
        "name": "plan",
        "agent": ours,
        "device": arguments.device,
        "value": alone["p50_ms"],
        "unit": "ms per plan alone",
        "reference": "seed's net, readme sampler, alone",
        "reference_value": reference["p50_ms"],
        "ratio": reference["p50_ms"] / alone["p50_ms"],
        "p95_ms": alone["p95_ms"],
        "net_calls": alone["net_calls"],
        "batch": many,
        "batched_ms_per_plan": batched,
        "batched_ratio": found["seed", many]["ms_per_plan"] / batched,
        "rows": rows,
    }
    report(rows, line, arguments.json)


if __name__ == "__main__":
    main()
