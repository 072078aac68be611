"""What an expert beside the actors costs: Craftax steps and labels per second, with and without.

All rows run random plans in chunks of four actions in as many worlds. The reference asks nobody;
the others ask a PPO-RNN expert (128 channels; what it has learnt does not matter for the speed) for
its action at every step, or for one branched plan of eight actions per chunk, or for two.
"""

import time
from contextlib import closing
from typing import Any

import numpy as np

from benchmarks.harness import options, report, summarize
from remdm.envs.contract import PlanVecEnv
from remdm.envs.craftax.game import CLASSIC, load_game
from remdm.envs.craftax.vec_env import CraftaxVecEnv
from remdm.envs.craftax.worlds import runner_of
from remdm.experts.advised import ACTIONS, BRANCHED, WEIGHT, AdvisedVecEnv
from remdm.experts.labels import Tutor
from remdm.experts.nets import POLICIES
from remdm.experts.policy import Expert, blank_params

WIDTH = 128


def blank_expert() -> Expert:
    """A PPO-RNN expert as it begins."""
    game = load_game(CLASSIC)
    net = POLICIES["ppo_rnn"](len(game.action_names), WIDTH)
    params = blank_params(net, WIDTH, game.codec.flat_size)
    return Expert(net, params, runner_of(CLASSIC), WIDTH, {})


def measured(name: str, envs: PlanVecEnv, num_steps: int, chunks: int) -> dict[str, Any]:
    """One row: medians over chunks, after some that compile; resets are part of a chunk."""
    envs.reset(list(range(envs.num_envs)))
    seconds, labels = [], 0
    for turn in range(chunks + 3):
        plans = np.random.default_rng(turn).integers(17, size=(envs.num_envs, 8))
        start = time.perf_counter()
        chunk = envs.execute(plans, num_steps)
        over = np.flatnonzero(chunk.done)
        if len(over):
            envs.reset((1000 + over).tolist(), over.tolist())
        if turn >= 3:
            seconds.append(time.perf_counter() - start)
        labels = int((chunk.observations.get(WEIGHT, np.zeros(1)) > 0).sum())
    median = summarize(seconds).median
    return {
        "expert": name,
        "steps/s": envs.num_envs * num_steps / median,
        "labels/s": labels / median,
    }


def main() -> None:
    args = options(__doc__, worlds=64, num_steps=4, plan_horizon=8)
    chunks = 10 if args.quick else 100
    tutor, rows = Tutor(blank_expert(), temperature=1.0), []
    kinds: dict[str, dict[str, Any] | None] = {
        "none": None,
        "actions": {"kind": ACTIONS},
        "a branched plan per chunk": {"kind": BRANCHED},
        "two": {"kind": BRANCHED, "label_every": max(1, args.num_steps // 2)},
    }
    for name, asked in kinds.items():
        plain = CraftaxVecEnv([CLASSIC] * args.worlds)
        envs = plain if asked is None else AdvisedVecEnv(plain, tutor, args.plan_horizon, **asked)
        with closing(envs):
            rows.append(measured(name, envs, args.num_steps, chunks))
    for row in rows:
        row["of none"] = row["steps/s"] / rows[0]["steps/s"]
    line = {
        "name": "craftax_labels",
        "value": round(rows[2]["labels/s"]),
        "unit": "branched plans/s",
        "reference": "the same steps without an expert, steps/s",
        "reference_value": round(rows[0]["steps/s"]),
        "ratio": round(rows[2]["of none"], 2),
    }
    report(rows, line, args.json)


if __name__ == "__main__":
    main()
