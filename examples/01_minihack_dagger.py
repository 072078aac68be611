"""The MiniHack recipe as a script: what `remdm train` does, in the open.

A planner learns to reach the stairs in rooms, corridors and mazes of NetHack, and is tested on
the levels it trained on as well as on kinds of level that it never met.

    python examples/01_minihack_dagger.py
    python examples/01_minihack_dagger.py --configs minihack_dagger.gin       (the full recipe)
    python examples/01_minihack_dagger.py --configs minihack_quick.gin smoke.gin --run_name tiny

What you should see: after the first epoch, which the oracle plays alone, the win rates on the
training levels climb to 1 within a few minutes. The table at the end holds chance, the oracle, the
planner, a single-step head, and the planner under rules of thumb that it has not learnt
(`remdm/planning_constraints.py`). Ctrl-C stops at the next batch, with a checkpoint, and the same
command goes on from there.

Time: about a quarter of an hour on two CPU cores (minihack_quick.gin), an hour for the full recipe.
Needs the extra `minihack`: pip install -e '.[minihack]' -c constraints.txt
"""

import argparse
import logging

from remdm import Experiment
from remdm.allocator import keep_allocations
from remdm.cli.commands import print_rows, write_rows
from remdm.cli.flags import add_common_flags, load_from_flags, role_from, run_name_of
from remdm.evaluation.report import env_groups


def main() -> int:
    parser = argparse.ArgumentParser(description="Learn MiniHack from the memory oracle.")
    add_common_flags(parser)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)

    # Files, then --bind, then the flags that were typed; all of it is saved as config.gin.
    load_from_flags(args, default_configs=["minihack_quick.gin"])
    keep_allocations()  # glibc would give every activation back to the kernel

    experiment = Experiment(run_name_of(args))
    role = role_from(args)  # --mode: everything, or one part of it beside other processes
    experiment.start(role)  # builds it, and takes up the run that is in the folder, if any
    try:
        experiment.learn()
        if not experiment.progress.finished:  # somebody pressed Ctrl-C
            return 130
        if not role.validates:
            return 0
        policies = ["random", experiment.oracle.name, *experiment.policies, "planner+constraints"]
        rows = experiment.evaluate_test(policies)  # also writes the report: curves and GIFs
    finally:
        experiment.close()

    groups = env_groups(experiment.train_envs, experiment.heldout_envs)
    print_rows(rows, groups)
    write_rows(args.json, rows, groups)
    print(f"everything is in {experiment.folder.root}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
