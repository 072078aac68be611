"""A Craftax expert: PPO with a memory, trained from nothing and then measured.

The expert is what planners learn from in `05_craftax_dagger.py`. It is a small PPO-RNN: 64 worlds
side by side, one compiled function per update, worlds made before the update instead of at every
step.

    python examples/04_craftax_expert.py
    python examples/04_craftax_expert.py --bind "PPO.algorithm = 'ppo_rnd'" --run_name curious

What you should see: the return of lives climbs from 0 to about 8 of 22 over four million steps. The
table at the end holds the first life in each of 256 worlds, of chance and of the expert: return
with its interval, and how many lives unlocked each achievement. Ctrl-C stops after the present
update, with a checkpoint, and the same command goes on from there.

Time: about ten minutes on two CPU cores.
Needs the extra `craftax`: pip install -e '.[craftax]' -c constraints.txt
"""

import argparse
import logging
from pathlib import Path

from remdm import config
from remdm.cli.expert import print_first_lives
from remdm.cli.flags import add_config_flags


def main() -> int:
    parser = argparse.ArgumentParser(description="Train and measure a Craftax expert.")
    parser.add_argument("--run_name", default="craftax_expert")
    parser.add_argument("--base_dir", type=Path, default=Path("runs"))
    parser.add_argument("--lives", type=int, default=256, help="worlds of the table")
    parser.add_argument("--max_steps", type=int, default=10_000, help="cap of a life")
    add_config_flags(parser)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)

    from remdm.experts.training import ExpertTraining  # imports jax

    config.load_config(args.configs or ["craftax_classic_expert.gin"], args.bind)
    training = ExpertTraining(args.base_dir / args.run_name)
    config.check_bindings()  # a misspelt one should not be found after ten minutes
    if not training.run():  # somebody pressed Ctrl-C
        return 130
    print_first_lives(training.expert_folder, lives=args.lives, max_steps=args.max_steps)
    print(f"the expert is in {training.expert_folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
