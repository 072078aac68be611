"""A planner for Craftax that learns from a trained expert (DAgger).

In every state that is labelled, the expert lives on in a copy of the world, with a copy of its
memory, and what it does there is the plan to learn. The planner sees what the player sees and no
more; it writes plans of eight actions and carries out four.

    python examples/05_craftax_dagger.py
    python examples/05_craftax_dagger.py --run_name sliding --configs craftax_classic_sliding.gin

The second one learns the labels of the published planner instead: the expert's actions along the
lives that the planner led, strung together.

What you should see: first the expert is trained, unless it is there from `04_craftax_expert.py` or
an earlier start; then the return of validation lives climbs towards its own. The table at the end
holds chance, the expert, the planner and a single-step head over the first lives in the same
worlds, with the share of the expert's return that each reaches. `report/gifs/` in the run folder
shows a life with the plan written beside it.

Time: about an hour on two CPU cores.
Needs the extra `craftax`: pip install -e '.[craftax]' -c constraints.txt
"""

import argparse
import logging

from remdm import Experiment
from remdm.cli.commands import run_experiment
from remdm.cli.flags import add_common_flags, load_from_flags, role_from, run_name_of


def main() -> int:
    parser = argparse.ArgumentParser(description="Learn to plan in Craftax from an expert.")
    add_common_flags(parser)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)
    load_from_flags(args, default_configs=["craftax_classic_quick.gin"])
    return run_experiment(Experiment(run_name_of(args)), args.json, role_from(args))


if __name__ == "__main__":
    raise SystemExit(main())
