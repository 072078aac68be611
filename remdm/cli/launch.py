"""`remdm launch`: a run as several processes, on this machine or on a Ray cluster."""

import argparse
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from remdm import config
from remdm.cli.commands import INTERRUPTED, command_line
from remdm.training.roles import BOTH, role_of

if TYPE_CHECKING:
    from remdm.distributed.launch import Engine, Part
    from remdm.distributed.transport import Transport

ENGINES = ("local", "ray")
TRANSPORTS = ("files", "ray")
DEFAULT_BASE_DIR = "runs"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm launch`, beside those of `remdm train`."""
    group = parser.add_argument_group("processes")
    add = group.add_argument
    add("--engine", choices=ENGINES, default="local", help="where they run (local)")
    add("--collectors", type=int, default=1, metavar="N", help="how many collect (1)")
    add("--labellers", type=int, default=1, metavar="M", help="how many label (1)")
    add("--validators", type=int, default=1, choices=(0, 1), help="whether one validates (1)")
    add(
        "--learners",
        type=int,
        default=1,
        metavar="P",
        help="processes that train as one (1); 0 where the learner runs on another machine",
    )
    add(
        "--first_index",
        type=int,
        default=0,
        metavar="I",
        help="number of the first collector and labeller (0); no two of a run may have the same",
    )
    add(
        "--script",
        type=Path,
        metavar="FILE",
        help="an example to run instead of `remdm train`; it must take the same flags",
    )
    add(
        "--script_flags",
        default="",
        metavar="TEXT",
        help="flags that only the script knows, as in --script_flags='--level 3'",
    )
    group = parser.add_argument_group("restarts")
    add = group.add_argument
    add(
        "--max_restarts",
        type=int,
        default=5,
        metavar="N",
        help="restarts in a row of a process that makes no progress (5)",
    )
    add(
        "--restart_seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="pause before the first restart; doubles with each, up to 30 (1)",
    )
    add(
        "--grace_seconds",
        type=float,
        default=120.0,
        metavar="S",
        help="time to end by itself for a process that should, before it is killed (120)",
    )
    group = parser.add_argument_group("Ray")
    add = group.add_argument
    add("--ray_address", metavar="ADDRESS", help="of a running cluster; a local one if not given")
    add(
        "--transport",
        choices=TRANSPORTS,
        default="files",
        help="files: all machines see the run folder; ray: collectors do not, and shards and "
        "weights travel over the network (files)",
    )
    add("--collector_cpus", type=float, default=1.0, help="cores of each collector (1)")
    add("--collector_gpus", type=float, default=0.0, help="accelerators of each collector (0)")
    add("--learner_cpus", type=float, default=1.0, help="cores of each learner process (1)")
    add("--learner_gpus", type=float, default=0.0, help="accelerators of each learner process (0)")


def launch(args: argparse.Namespace, run_name: str) -> int:
    """Start all processes of a run, and keep them going until it is done.

    Args:
        args: Parsed flags.
        run_name: Of the run; where nothing was typed that names it, a script does.

    Returns:
        The exit code of `remdm.distributed.launch.Supervisor`.

    Raises:
        ValueError: If flags make no sense, or one of the processes runs on this machine already.
        ImportError: If the engine needs a package that is missing.
    """
    from remdm.data.folder import DatasetFolder
    from remdm.distributed.launch import Supervisor
    from remdm.distributed.role_progress import RoleProgress
    from remdm.training.run_folder import RunFolder

    if args.script is not None and not (args.run_name or args.configs):
        run_name = args.script.stem
    run = RunFolder(Path(setting(args, "ckpt_base_dir") or DEFAULT_BASE_DIR) / run_name)
    dataset = DatasetFolder(Path(setting(args, "buffer_dir") or run.root))
    parts = parts_of(args, run_name)
    supervisor = Supervisor(
        _engine(args, run.root, dataset.root, parts),
        parts,
        RoleProgress(run, dataset),
        max_restarts=args.max_restarts,
        restart_seconds=args.restart_seconds,
        grace_seconds=args.grace_seconds,
    )
    code = supervisor.run()
    if code == INTERRUPTED:
        Console(soft_wrap=True, highlight=False).print(f"go on with: {escape(command_line())}")
    return code


def _engine(args: argparse.Namespace, run: Path, dataset: Path, parts: "list[Part]") -> "Engine":
    if args.engine == "local":
        from remdm.distributed.local_engine import LocalEngine

        return LocalEngine(run, sum(part.ranks for part in parts))
    from remdm.distributed.ray_engine import RayEngine

    text = config.config_text() if args.transport == "ray" else None
    return RayEngine(run, parts, address=args.ray_address, config_text=text, dataset=dataset)


def collect_apart(
    transport: "Transport", scratch: Path, run_name: str, number: int, config_text: str
) -> int:
    """Collect on a machine that sees neither the run folder nor the config files.

    Args:
        transport: Connects with the run; not enlisted.
        scratch: Folder for what only this process needs.
        run_name: Of the run.
        number: Which collector this is.
        config_text: The whole configuration.

    Returns:
        The exit code of `remdm train --mode collect`.
    """
    from remdm import cli
    from remdm.experiment import Experiment

    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)
    file = scratch / "config.gin"
    file.write_text(config_text, encoding="utf-8")
    folders = {"ckpt_base_dir": scratch / "runs", "buffer_dir": scratch / "dataset"}
    flags = {f"Experiment.{name}": (f"--{name}", str(path)) for name, path in folders.items()}
    with cli.user_errors() as outcome:
        config.load_config([file], flags=flags)
        experiment = Experiment(run_name)
        experiment.start(role_of("collect", number), transport)
        try:
            experiment.learn()
            outcome.code = 0 if experiment.progress.finished else INTERRUPTED
        finally:
            experiment.close()
    return outcome.code


def parts_of(args: argparse.Namespace, run_name: str) -> "list[Part]":
    """What is to be started, the learner first.

    Raises:
        ValueError: If flags make no sense together, or nothing would be started.
    """
    counts = {"collectors": args.collectors, "labellers": args.labellers}
    counts |= {"learners": args.learners, "first_index": args.first_index}
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"--{name} must be at least 0, got {count}")
    parts = list(_parts(args, (*program(args), *passed_on(args, run_name))))
    if args.mode != BOTH.name or args.index is not None:
        raise ValueError(
            "remdm launch starts processes of all modes and numbers them; leave --mode and --index "
            "out, or use remdm train"
        )
    if args.transport == "ray" and (args.engine != "ray" or args.script is not None):
        raise ValueError(
            "--transport ray carries shards of `remdm train` on a Ray cluster; it needs --engine "
            "ray, and a --script needs a folder that all machines see (--transport files)"
        )
    if args.json is not None and not args.validators:
        raise ValueError("--json needs --validators 1: the validator makes the final table")
    if not parts:
        raise ValueError(
            "remdm launch must start something; raise --collectors, --labellers, --learners or "
            "--validators above 0"
        )
    return parts


def _parts(args: argparse.Namespace, words: tuple[str, ...]) -> "Iterator[Part]":
    from remdm.distributed.launch import Part

    def part(role: str, index: int, own: tuple[str, ...] = (), **placing: Any) -> "Part":
        return Part(role, index, (*words, "--mode", role, *own), **placing)

    if args.learners:
        cpus, gpus = args.learner_cpus, args.learner_gpus
        yield part("learn", 0, ranks=args.learners, cpus=cpus, gpus=gpus)
    for index in range(args.first_index, args.first_index + args.labellers):
        yield part("label", index, ("--index", str(index)))
    for index in range(args.first_index, args.first_index + args.collectors):
        cpus, gpus = args.collector_cpus, args.collector_gpus
        yield part("collect", index, ("--index", str(index)), cpus=cpus, gpus=gpus)
    if args.validators:
        yield part("validate", 0, ("--json", str(args.json)) if args.json is not None else ())


def program(args: argparse.Namespace) -> tuple[str, ...]:
    """What follows the name of the Python program.

    Raises:
        ValueError: If there is no such script.
    """
    if args.script is None:
        if args.script_flags:
            raise ValueError("--script_flags needs a --script that they are for")
        return "-m", "remdm", "train"
    if not args.script.is_file():
        raise ValueError(f"--script must name a Python file, and {args.script} is none")
    return str(args.script), *shlex.split(args.script_flags)


def passed_on(args: argparse.Namespace, run_name: str) -> tuple[str, ...]:
    """The flags that every process gets as they were typed, and the name of the run."""
    words = ["--run_name", run_name]
    if args.configs:
        words += ["--configs", *map(str, args.configs)]
    for text in args.bind:
        words += ["--bind", text]
    typed = vars(args)
    for flag in args.binding_flags:
        name = flag.name.strip("-")
        if name in typed:
            words += [flag.name, str(typed[name])]
    if args.script is not None and "ckpt_base_dir" not in typed:
        # A script may have a config of its own; where the run lies is decided here.
        words += ["--ckpt_base_dir", DEFAULT_BASE_DIR]
    return tuple(words)


def setting(args: argparse.Namespace, name: str) -> str | None:
    """A folder that the processes will use, by its name in `Experiment`; None for the default.

    What only a script's own config says is not known here.
    """
    typed: str | None = vars(args).get(name)
    if typed is not None or args.script is not None:
        return typed
    bound: str | None = config.bound_value(f"Experiment.{name}")
    return bound
