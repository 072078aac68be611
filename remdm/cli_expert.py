"""`remdm expert train | eval | import`: the experts that planners learn from in Craftax."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from remdm import config
from remdm.artifacts import local_folder


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm expert`, without those of the configuration."""
    parser.add_argument("action", choices=tuple(ACTIONS), help="what to do")
    parser.add_argument(
        "run",
        nargs="?",
        help="eval: folder of a training, or of an expert in it; "
        "import: folder of Orbax checkpoints of Craftax_Baselines; or wandb:... for an artifact",
    )
    parser.add_argument("--run_name", default="expert", help="train, import: name of the folder")
    parser.add_argument(
        "--base_dir", type=Path, default=Path("runs"), help="train, import: its place"
    )
    parser.add_argument("--algorithm", default="ppo_rnn", help="import: ppo, ppo_rnn or ppo_rnd")
    parser.add_argument(
        "--env_name", default="Craftax-Classic-Symbolic-v1", help="import: game of the expert"
    )
    parser.add_argument("--width", type=int, default=512, help="import: its layer_size")
    parser.add_argument("--episodes", type=int, default=256, help="eval: worlds, one life in each")
    parser.add_argument("--seed", type=int, default=0, help="eval: seed of the first level")
    parser.add_argument("--max_steps", type=int, help="eval: cap of a life; the game's own")
    parser.add_argument("--temperature", type=float, default=1.0, help="eval: 0 is the likeliest")
    parser.add_argument("--json", metavar="FILE", type=Path, help="eval: write the figures here")


def expert(args: argparse.Namespace) -> int:
    """Train, measure or import an expert.

    Raises:
        ValueError: If an argument is missing or makes no sense.
    """
    return ACTIONS[args.action](args)


def _train(args: argparse.Namespace) -> int:
    from remdm.experts.training import train_expert

    config.load_config(args.configs, args.bind)
    folder = args.base_dir / args.run_name
    made = train_expert(folder)
    Console().print(f"the expert is in {made}; measure it: remdm expert eval {folder}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    import numpy as np

    from remdm.evaluation.lives import lives_table
    from remdm.evaluation.tables import write_json
    from remdm.experts.policy import Expert, play_first_lives
    from remdm.experts.training import EXPERT_FOLDER

    if args.run is None or args.episodes < 1:
        raise ValueError(
            "remdm expert eval needs the folder of a training and at least one episode, got "
            f"{args.run} and {args.episodes}."
        )
    folder = local_folder(args.run, download_dir=args.wandb_download_dir)
    inside = folder / EXPERT_FOLDER
    trained = Expert.load(inside if inside.is_dir() else folder)
    game = trained.runner.game
    cap = args.max_steps or game.max_episode_steps
    seeds = args.seed + np.arange(args.episodes)
    summaries: dict[str, dict[str, Any]] = {}
    # Even logits are chance.
    for name, temperature in (("random", 1e9), ("expert", args.temperature)):
        lives = play_first_lives(trained, seeds, max_steps=cap, temperature=temperature)
        summaries[name] = lives.summary(game.achievement_names, game.max_return)
    Console().print(lives_table(summaries, f"{game.name}, first lives of at most {cap} steps"))
    if args.json is not None:
        write_json(args.json, {"env_name": game.name, "max_steps": cap, "rows": summaries})
    return 0


def _import(args: argparse.Namespace) -> int:
    from remdm.experts.orbax_import import import_expert
    from remdm.experts.training import EXPERT_FOLDER

    if args.run is None:
        raise ValueError("remdm expert import needs the folder of the Orbax checkpoints, got none.")
    folder = args.base_dir / args.run_name
    made = import_expert(
        local_folder(args.run, download_dir=args.wandb_download_dir),
        folder / EXPERT_FOLDER,
        algorithm=args.algorithm,
        env_name=args.env_name,
        width=args.width,
    )
    Console().print(f"the expert is in {made}; measure it: remdm expert eval {folder}")
    return 0


ACTIONS = {"train": _train, "eval": _evaluate, "import": _import}
