"""Flags that commands and examples share, and how they become gin bindings.

A flag that a user did not type leaves no trace; one that was typed becomes a binding, so that it
wins over the files and is saved with the run.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from remdm import config
from remdm.training.roles import BOTH, MODES, Role, role_of


class Flag(NamedTuple):
    """A flag that stands for one binding.

    Attributes:
        name: As typed.
        binding: `Class.argument`.
        kind: Turns the typed text into the value.
        help: For `--help`.
    """

    name: str
    binding: str
    kind: Callable[[str], Any]
    help: str


def whole(text: str) -> int:
    """A whole number, also where it is typed as 1e8."""
    value = float(text)
    if value % 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text}")
    return int(value)


FLAGS = (
    Flag("--seed", "Experiment.seed", int, "seed that all randomness follows from"),
    Flag("--epochs", "Experiment.epochs", int, "rounds of collect, label, train"),
    Flag("--total_timesteps", "Experiment.total_timesteps", whole, "env steps to stop after"),
    Flag("--batch_size", "Experiment.batch_size", int, "windows per batch"),
    Flag("--learning_rate", "Experiment.learning_rate", float, "peak learning rate"),
    Flag("--parallel_actors", "Experiment.parallel_actors", int, "environments side by side"),
    Flag("--env_mode", "Experiment.env_mode", str, "sync or async"),
    Flag("--mixed_precision", "Experiment.mixed_precision", str, "no, bf16 or fp16"),
    Flag("--ckpt_base_dir", "Experiment.ckpt_base_dir", str, "folder of run folders"),
    Flag("--buffer_dir", "Experiment.buffer_dir", str, "folder of shards and labels"),
    Flag("--resume", "Experiment.resume", str, "auto, must, never, or epochs to go back to"),
    Flag("--test_episodes", "Experiment.test_episodes", int, "test episodes per environment"),
)


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """`--configs` and `--bind`: where values come from."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--configs",
        nargs="+",
        default=[],
        metavar="FILE",
        help="gin files, later ones win; names are also looked for in gin_configs/",
    )
    group.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="'Class.argument = value'",
        help="one binding; wins over files; may be repeated",
    )


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """All flags of a training program: `remdm train` and the examples."""
    add_config_flags(parser)
    parser.set_defaults(binding_flags=FLAGS)
    group = parser.add_argument_group("run")
    group.add_argument(
        "--mode",
        default=BOTH.name,
        metavar="|".join(MODES),
        help="what this process does of the run: everything (both), or one part of it",
    )
    group.add_argument(
        "--index", type=int, help="which of several collectors or labellers this is (a free one)"
    )
    group.add_argument("--run_name", help="name of the run folder; the last config's if not given")
    group.add_argument("--json", metavar="FILE", type=Path, help="write the final table here")
    for flag in FLAGS:
        group.add_argument(
            flag.name,
            type=flag.kind,
            default=argparse.SUPPRESS,
            help=f"{flag.help} (binds {flag.binding})",
        )


def load_from_flags(args: argparse.Namespace, default_configs: Sequence[str] = ()) -> None:
    """Load the configuration that parsed flags describe.

    Args:
        args: From a parser with `add_common_flags` or `add_config_flags`.
        default_configs: Config files to use where the user named none.

    Raises:
        ConfigError: If a file, name or value is wrong.
    """
    args.configs = list(args.configs or default_configs)
    typed = vars(args)
    flags = {
        flag.binding: (flag.name, typed[flag.name.strip("-")])
        for flag in typed.get("binding_flags", ())
        if flag.name.strip("-") in typed
    }
    config.load_config(args.configs, args.bind, flags)


def role_from(args: argparse.Namespace) -> Role:
    """What `--mode` and `--index` ask for.

    Raises:
        ValueError: If there is no such mode, or it has no number.
    """
    return role_of(args.mode, args.index)


def run_name_of(args: argparse.Namespace) -> str:
    """`--run_name`, or the name of the last config file."""
    if args.run_name:
        return str(args.run_name)
    return Path(args.configs[-1]).stem if args.configs else "run"


def add_env_flags(parser: argparse.ArgumentParser, default: str, episodes: int) -> None:
    """`--envs`, `--episodes`, `--seed`, `--rows` and `--json`: what to measure on.

    Args:
        parser: Of a command.
        default: What is measured where the user names nothing; for `--help`.
        episodes: Default of `--episodes`.
    """
    parser.add_argument(
        "--envs",
        nargs="+",
        metavar="ENV",
        help=f"environment ids, or training, heldout, all, gridworld ({default})",
    )
    parser.add_argument("--episodes", type=int, default=episodes, help="levels per environment")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first level")
    parser.add_argument("--rows", type=int, default=25, help="levels of an environment at once")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows here as well")


def add_download_flag(parser: argparse.ArgumentParser) -> None:
    """`--wandb_download_dir`: for whatever may be an artifact."""
    parser.add_argument(
        "--wandb_download_dir",
        metavar="FOLDER",
        type=Path,
        default=Path("artifacts"),
        help="where to put an artifact that is given as wandb:entity/project/name:version",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """`--wandb_download_dir` and `--allow_import`: for whatever is a run with its configuration."""
    add_download_flag(parser)
    parser.add_argument(
        "--allow_import",
        action="append",
        default=[],
        metavar="MODULE",
        help="module that the run's configuration may import, and so run; may be repeated",
    )
