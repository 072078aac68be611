"""Learning from long episodes with carried memory, in a world that asks for it.

A corridor begins with a sign and ends with four doors, of which the sign names the right one; at
the end nothing of it can be seen any more. Episodes are longer than what a batch shows of them, so
each row of the batches walks through an episode, four steps at a time, and what the net remembers
is carried from batch to batch. In the longest corridors of the training the sign is in the first
stretch of four steps and the doors are in the fourth; in those held out they are in the eighth.

    python examples/07_long_trajectories.py
    python examples/07_long_trajectories.py --run_name looking_back \
        --bind "SequenceDenoiser.memory_type = @TransformerXLMemory"

What you should see: the planner wins almost all corridors. The last lines set it beside itself
without its memory, which knows no better than chance, 0.25. The recipe is long_trajectories.gin.

Time: half a minute on one CPU core, and a minute looking back.
"""

import argparse
import logging
from pathlib import Path

from remdm import Experiment
from remdm.cli.commands import run_experiment
from remdm.cli.flags import add_common_flags, load_from_flags, role_from, run_name_of
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.rollout import EvalRow, evaluate_policy
from remdm.oracles.cue_oracle import CueOracle
from remdm.seeding import TEST_SEEDS, torch_generator
from remdm.training.demonstration_pieces import Manner
from remdm.training.demonstrations import Demonstrations

# Corridors, and their share of the demonstrations. No gradient reaches from one batch back into
# another, so what is worth keeping is learnt in the shortest ones, of which there are most.
SHARES = {"CueCorridor-4x2-v0": 4, "CueCorridor-4x6-v0": 1, "CueCorridor-4x14-v0": 1}


def collect(folder: Path, episodes: int) -> None:
    """Let the oracle walk through corridors; what is there already is not played again."""
    with Demonstrations(folder, CueOracle(), 0, Manner()) as demonstrations:
        for env, share in SHARES.items():
            demonstrations.collect(env, share * episodes, lambda ended, won: False)


def played(experiment: Experiment, *, remembers: bool) -> list[EvalRow]:
    """All corridors of the run with its planner; carrying its memory along, or not."""
    chance = torch_generator(experiment.seed, "memory")
    return evaluate_policy(
        AgentPolicy(experiment.policy, chance, remembers=remembers),
        [*experiment.train_envs, *experiment.heldout_envs],
        episodes=experiment.test_episodes,
        first_seed=TEST_SEEDS.start,
        make_vec_env=make_vec_env,
        rows=64,
    ).rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Remember a sign to the end of a corridor.")
    parser.add_argument(
        "--demonstrations", type=int, default=500, help="episodes of the longest (500)"
    )
    add_common_flags(parser)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)
    args.buffer_dir = getattr(args, "buffer_dir", "runs/cue_corridors")
    collect(Path(args.buffer_dir), args.demonstrations)
    load_from_flags(args, default_configs=["long_trajectories.gin"])
    experiment, role = Experiment(run_name_of(args)), role_from(args)
    code = run_experiment(experiment, args.json, role)
    if code == 0 and role.alone:  # nobody stopped it
        rows = [played(experiment, remembers=remembers) for remembers in (True, False)]
        for row, without in zip(*rows, strict=True):
            told = (f"{r.win_rate:.3f} [{r.ci_low:.3f}, {r.ci_high:.3f}]" for r in (row, without))
            print(f"{row.env}: won {' with its memory, '.join(told)} without")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
