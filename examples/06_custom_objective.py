"""An objective of your own: one function and one line of gin.

The oracle's ways are shortest, and often there are several. The function below asks for those that
turn seldom: it adds the chance that two neighbouring moves of a plan differ. The line puts it
beside the agent's own loss, with a weight:

    Experiment.objectives = (@OwnLoss, (@turning, 1.0))

    python examples/06_custom_objective.py
    python examples/06_custom_objective.py --bind "Experiment.objectives = None"   (without it)

What you should see: as in 00_gridworld.py, and `train/planner/turning/loss` in metrics.jsonl. The
last line says how many turns a plan has; without the objective there are more.
Time: two minutes on one CPU core.
"""

import argparse
import logging

import gin
import torch

from remdm import Experiment
from remdm.base_agent import DenoiserAgent
from remdm.cli.commands import run_experiment
from remdm.cli.flags import add_common_flags, load_from_flags, role_from
from remdm.data.batch import Batch
from remdm.maps import NUM_DIRECTIONS
from remdm.outputs import Outputs
from remdm.ranks import weighted_mean
from remdm.seeding import numpy_generator, torch_generator

LINE = "Experiment.objectives = (@OwnLoss, (@turning, 1.0))"


@gin.configurable
def turning(
    batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int
) -> dict[str, torch.Tensor]:
    """The chance that a move is followed by another one, over pairs that both were asked for."""
    moves = outputs.logits.softmax(-1)[..., :NUM_DIRECTIONS]
    both = outputs.real[..., 1:] & outputs.real[..., :-1]
    walking = moves[..., 1:, :].sum(-1) * moves[..., :-1, :].sum(-1)
    straight = (moves[..., 1:, :] * moves[..., :-1, :]).sum(-1)
    weights = both * batch.weights[:, None]
    return {"loss": weighted_mean(walking - straight, weights, batch.ranks)}


def turns_of(plans: torch.Tensor) -> float:
    """Changes of direction per plan, of int64 [N, plan_horizon] tokens."""
    walking = (plans[:, 1:] < NUM_DIRECTIONS) & (plans[:, :-1] < NUM_DIRECTIONS)
    return float(((plans[:, 1:] != plans[:, :-1]) & walking).sum(1).float().mean())


def main() -> int:
    parser = argparse.ArgumentParser(description="Learn with an objective of your own.")
    add_common_flags(parser)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)
    args.bind.insert(0, LINE)  # first: the user's --bind wins
    load_from_flags(args, default_configs=["gridworld.gin"])
    experiment = Experiment(args.run_name or "custom_objective")
    role = role_from(args)
    code = run_experiment(experiment, args.json, role)
    if code == 0 and role.alone:  # nobody stopped it
        seen = experiment.dataset.sample(500, numpy_generator(0, "states"))
        plans = experiment.policy.plan(seen.observations, torch_generator(0, "plans")).tokens
        own, teacher = turns_of(plans), turns_of(torch.from_numpy(seen.plans).long())
        print(f"{own:.2f} turns in a plan; its teacher's have {teacher:.2f}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
