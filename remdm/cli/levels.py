"""Flags and names of the levels that commands play: ids, groups and level files."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remdm.cli.commands import env_groups

if TYPE_CHECKING:
    from remdm.evaluation.rollout import EvalRow

LEVEL_FILE = ".des"
LEVELS = "levels"  # the group of level files in tables


def add_cap_flag(parser: argparse.ArgumentParser) -> None:
    """`--max_steps`."""
    parser.add_argument("--max_steps", type=int, help="cap of an episode; the game's own")


def add_level_flag(parser: argparse.ArgumentParser) -> None:
    """`--des`."""
    parser.add_argument(
        "--des",
        nargs="+",
        default=[],
        metavar="FILE",
        help="level files of NetHack; rows are named by the file's stem",
    )


def chosen_groups(
    envs: Sequence[str] | None, levels: Sequence[str], default: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Environments to play, by the group that tables show them in.

    Args:
        envs: What `--envs` says; see `env_groups`.
        levels: What `--des` says.
        default: What to play where neither says anything.

    Raises:
        ValueError: If a name is unknown, or a file is no level file.
    """
    for level in levels:
        if not level.endswith(LEVEL_FILE) or not Path(level).is_file():
            raise ValueError(
                f"--des takes level files of NetHack ({LEVEL_FILE}), and {level!r} is none; name "
                "registered environments with --envs."
            )
    if not envs and not levels:
        return {name: list(group) for name, group in default.items()}
    found = env_groups([*(envs or ()), *levels])
    others = found.pop("selected", [])
    files = [env for env in others if env.endswith(LEVEL_FILE)]
    groups = found | {"selected": [e for e in others if e not in files], LEVELS: files}
    return {name: group for name, group in groups.items() if group}


def row_names(envs: Sequence[str]) -> dict[str, str]:
    """What tables call environments: ids as they are, level files by their stems.

    Raises:
        ValueError: If two would have one name.
    """
    names: dict[str, str] = {}
    for env in envs:
        name = Path(env).stem if env.endswith(LEVEL_FILE) else env
        if name in names.values():
            raise ValueError(f"two environments would be called {name!r} in the table; rename one.")
        names[env] = name
    return names


def named_rows(
    rows: "Sequence[EvalRow]", groups: Mapping[str, Sequence[str]]
) -> "tuple[list[EvalRow], dict[str, list[str]]]":
    """Rows and groups as tables call their environments."""
    names = row_names([env for group in groups.values() for env in group])
    named = {group: [names[env] for env in envs] for group, envs in groups.items()}
    return [replace(row, env=names[row.env]) for row in rows], named


def levels_played(names: Mapping[str, str], args: argparse.Namespace) -> dict[str, Any]:
    """Which levels were played, for a JSON file; their caps are in the rows."""
    return {
        "level_seeds": {"first": args.seed, "episodes": args.episodes},
        "level_files": {name: env for env, name in names.items() if name != env},
    }
