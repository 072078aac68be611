"""The whole loop on a small gridworld: collect, label, train, validate, test.

A planner of 147 thousand numbers learns from an oracle to find its way through rooms and mazes of
9 x 9 cells. Every epoch it plays, the oracle says what it would have planned at each state that was
visited, and the planner learns from everything on disk (DAgger).

    python examples/00_gridworld.py

What you should see: the share of won episodes rises from chance to above 0.9 within eight epochs.
At the end a table sets the planner beside chance, its oracle and a single-step head with the same
encoder: 0.93 to 1.00 in mazes that chance wins 0.25 of the time, and 0.99 or more in a dark room
that was never trained in. `runs/gridworld/report/` holds curves, and GIFs with the plan drawn.
Started again, the program finds the run finished and only tests it.

Time: about a minute on one CPU core. Needs neither NetHack nor a GPU.

Things to try:

    --bind "DiffusionPlannerAgent.replan_every = 1" --run_name every_step
    --bind "DiffusionPlannerAgent.sampler = 'readme_minihack'" --run_name remasking
    --bind "MemoryAugmentation.explore_probability = 0.0" --run_name lit
"""

import argparse
import logging

from remdm import Experiment
from remdm.cli.commands import run_experiment
from remdm.cli.flags import add_common_flags, load_from_flags, role_from, run_name_of


def main() -> int:
    parser = argparse.ArgumentParser(description="Learn to plan in a gridworld in a minute.")
    add_common_flags(parser)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)
    load_from_flags(args, default_configs=["gridworld.gin"])
    return run_experiment(Experiment(run_name_of(args)), args.json, role_from(args))


if __name__ == "__main__":
    raise SystemExit(main())
