"""`remdm expert train | eval | import`: the experts that planners learn from in Craftax."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from remdm import config
from remdm.artifacts import local_folder
from remdm.cli.commands import INTERRUPTED


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
    from remdm.experts.training import ExpertTraining

    config.load_config(args.configs, args.bind)
    training = ExpertTraining(args.base_dir / args.run_name)
    config.check_bindings()  # before hours are spent on what somebody did not mean
    finished = training.run()
    console = Console()
    if not finished:
        console.print("stopped, and all is saved; the same command goes on from there")
        return INTERRUPTED
    console.print(
        f"the expert is in {training.expert_folder}; measure it: remdm expert eval "
        f"{training.folder}"
    )
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from remdm.experts.training import EXPERT_FOLDER

    if args.run is None or args.episodes < 1:
        raise ValueError(
            "remdm expert eval needs the folder of a training and at least one episode, got "
            f"{args.run} and {args.episodes}."
        )
    folder = local_folder(args.run, download_dir=args.wandb_download_dir)
    inside = folder / EXPERT_FOLDER
    print_first_lives(
        inside if inside.is_dir() else folder,
        lives=args.episodes,
        first_seed=args.seed,
        max_steps=args.max_steps,
        temperature=args.temperature,
        json_file=args.json,
    )
    return 0


def print_first_lives(
    folder: Path,
    *,
    lives: int = 256,
    first_seed: int = 0,
    max_steps: int | None = None,
    temperature: float = 1.0,
    json_file: Path | None = None,
) -> None:
    """Play the first lives in some worlds, by chance and by an expert, and print the table.

    Args:
        folder: Of the expert.
        lives: Worlds.
        first_seed: Level seed of the first; the others follow it.
        max_steps: Steps after which a life is left as it is; the game's own limit when None.
        temperature: Divides the expert's logits; 0 takes the likeliest action.
        json_file: Where the figures are written as well.

    Raises:
        CheckpointError: If there is no expert, or it is damaged.
    """
    import numpy as np

    from remdm.evaluation.lives import lives_table
    from remdm.evaluation.tables import write_json
    from remdm.experts.policy import Expert, play_first_lives

    expert = Expert.load(folder)
    game = expert.runner.game
    cap = max_steps or game.max_episode_steps
    seeds = first_seed + np.arange(lives)
    summaries: dict[str, dict[str, Any]] = {}
    # Even logits are chance.
    for name, heat in (("random", 1e9), ("expert", temperature)):
        played = play_first_lives(expert, seeds, max_steps=cap, temperature=heat)
        summaries[name] = played.summary(game.achievement_names, game.max_return)
    Console().print(lives_table(summaries, f"{game.name}, first lives of at most {cap} steps"))
    if json_file is not None:
        write_json(json_file, {"env_name": game.name, "max_steps": cap, "rows": summaries})


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
