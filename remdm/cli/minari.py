"""`remdm minari export | import`: datasets on their way to and from other offline learners."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from remdm import config

if TYPE_CHECKING:
    from remdm.data.minari_import import Kind


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm minari`, without those of the configuration."""
    parser.add_argument(
        "action", choices=("export", "import"), help="to Minari, or from Minari to demonstrations"
    )
    parser.add_argument(
        "source", metavar="FROM", help="export: a run folder or a folder of demonstrations; "
        "import: name of a Minari dataset",
    )  # fmt: skip
    parser.add_argument(
        "target", metavar="TO", help="export: name of the new Minari dataset, like "
        "remdm/minihack/memory-v0; import: folder of demonstrations",
    )  # fmt: skip
    parser.add_argument("--algorithm", help="export: who played, as Minari tells it")
    parser.add_argument("--env", help="import: environment of ours that the episodes are of")


def minari(args: argparse.Namespace) -> int:
    """Export or import.

    Raises:
        ValueError: If something does not fit.
        ImportError: If minari is missing.
    """
    config.load_config(args.configs, args.bind)
    return _export(args) if args.action == "export" else _import(args)


def _export(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from remdm.data.folder import DatasetFolder
    from remdm.data.minari_export import export_minari

    with tqdm(desc="exporting", unit="step", disable=None, leave=False) as bar:
        done = export_minari(
            DatasetFolder(Path(args.source)), args.target, args.algorithm, bar.update
        )
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{done.episodes:,} episodes, {done.steps:,} steps: {escape(args.target)}")
    console.print(f"the dataset is in {escape(str(done.path))}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from remdm.data.folder import DatasetFolder
    from remdm.data.minari_import import MinariSource, import_minari
    from remdm.distributed.ownership import Ownership, role_folder
    from remdm.training.demonstrations import ROLE, announce

    source = MinariSource(args.source, args.env)
    kind = _kind(source.envs)
    source.check(kind)
    folder = DatasetFolder(Path(args.target))
    folder.make()
    with (
        Ownership([role_folder(folder.root, ROLE)], ROLE),
        tqdm(desc="importing", unit="step", disable=None, leave=False) as bar,
    ):
        done = import_minari(source, folder, kind, bar.update)
        announce(folder)
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{done.episodes:,} episodes of {escape(', '.join(source.envs))}, {done.won:,} won, "
        f"{done.steps:,} steps"
    )
    console.print(f"the demonstrations are in {escape(str(folder.root))}")
    return 0


def _kind(envs: list[str]) -> "Kind":
    """What the environments show and do.

    Raises:
        ValueError: If one is not known, or they differ.
    """
    from remdm.data.minari_import import Kind
    from remdm.envs.making import make_env
    from remdm.envs.sync import check_same_kind

    kinds = []
    for env in envs:
        made = make_env(env)
        kinds.append(Kind(tuple(made.action_names), dict(made.observation_spec)))
        made.close()
    check_same_kind(envs, [k.action_names for k in kinds], [k.observation_spec for k in kinds])
    return kinds[0]
