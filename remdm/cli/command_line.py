"""The command line: `remdm train`, `remdm eval` and the other `COMMANDS`.

Examples share its flags through `remdm.cli.flags`. What went wrong in the user's own hands is told
in one line and ends with code 2; `--debug` shows the traceback.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from remdm._version import __version__
from remdm.cli import (
    baseline,
    collect,
    commands,
    evaluate,
    expert,
    launch,
    minari,
    profile,
    report,
    scan,
    watch,
)
from remdm.cli.flags import (
    add_common_flags,
    add_config_flags,
    add_download_flag,
    add_run_flags,
    load_from_flags,
    role_from,
    run_name_of,
)
from remdm.registry import nearest, unknown_name_message

USER_ERROR, BROKEN, INTERRUPTED = 2, 1, 128 + signal.SIGINT


def _launch(parser: argparse.ArgumentParser) -> None:
    launch.add_flags(parser)
    add_common_flags(parser)


def _collect(parser: argparse.ArgumentParser) -> None:
    collect.add_flags(parser)
    add_config_flags(parser)


def _minari(parser: argparse.ArgumentParser) -> None:
    minari.add_flags(parser)
    add_config_flags(parser)


def _watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN_OR_ORACLE", help="a run folder, a checkpoint, wandb:..., or an oracle"
    )
    parser.add_argument("--env", help="environment id (the run's first)")
    parser.add_argument("--policy", default="planner", help="who plays (planner)")
    parser.add_argument("--seed", type=int, default=0, help="level seed")
    parser.add_argument("--gif", metavar="FILE", type=Path, help="draw the episode here")
    parser.add_argument("--fps", type=float, default=8.0, help="steps a second in the terminal")
    parser.add_argument(
        "--denoise", action="store_true", help="show how a plan came to be, net call by net call"
    )
    parser.add_argument("--plan", type=int, default=1, help="which plan of the episode (1)")
    parser.add_argument("--png", metavar="FILE", type=Path, help="draw that plan's calls here")
    add_run_flags(parser)
    add_config_flags(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the findings here too")
    parser.add_argument("--quick", action="store_true", help="leave the speed out")


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="gin files, as with --configs")
    parser.add_argument("--defaults", action="store_true", help="show what is not bound, too")
    parser.add_argument("--text", action="store_true", help="print one config file instead")
    add_common_flags(parser)


def _expert(parser: argparse.ArgumentParser) -> None:
    expert.add_flags(parser)
    add_download_flag(parser)
    add_config_flags(parser)


class Command(NamedTuple):
    """A subcommand: what it is for, its flags, and the function that runs it."""

    help: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _run_train(args: argparse.Namespace) -> int:
    load_from_flags(args)
    return commands.train(run_name_of(args), args.json, role_from(args))


def _run_launch(args: argparse.Namespace) -> int:
    if args.script is None:  # otherwise the names in it may be the script's own
        load_from_flags(args)
    return launch.launch(args, run_name_of(args))


def _run_config(args: argparse.Namespace) -> int:
    args.configs = [*args.files, *args.configs]
    load_from_flags(args)
    return commands.show_config(defaults=args.defaults, text=args.text, json_file=args.json)


COMMANDS = {
    "train": Command("train a planner, or go on with a run", add_common_flags, _run_train),
    "launch": Command("train as several processes, on one machine or many", _launch, _run_launch),
    "oracle": Command("measure an oracle", evaluate.add_oracle_flags, evaluate.oracle),
    "collect": Command("keep an oracle's episodes as demonstrations", _collect, collect.collect),
    "minari": Command("exchange datasets with Minari", _minari, minari.minari),
    "eval": Command("measure a trained run", evaluate.add_eval_flags, evaluate.evaluate),
    "scan": Command("look at all MiniHack tasks", scan.add_flags, scan.scan),
    "watch": Command("play one episode and draw it", _watch, watch.watch),
    "report": Command("write a page about runs", report.add_flags, report.report),
    "baseline": Command(
        "train or measure another way to learn", baseline.add_flags, baseline.baseline
    ),
    "expert": Command("train or measure a Craftax expert", _expert, expert.expert),
    "doctor": Command("check this machine and installation", _doctor, commands.doctor),
    "profile": Command("see where an epoch's time goes", profile.add_flags, profile.profile),
    "config": Command("check config files and print what they say", _config, _run_config),
}


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and those of its commands by name."""
    parser = argparse.ArgumentParser(
        prog="remdm",
        description="Diffusion planners that learn from an oracle.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"remdm {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    by_name = {}
    for name, command in COMMANDS.items():
        by_name[name] = subparsers.add_parser(
            name, help=command.help, description=command.help, allow_abbrev=False
        )
        by_name[name].add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        command.add_flags(by_name[name])
    return parser, by_name


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; names nobody knows are answered with the nearest ones.

    Raises:
        ValueError: If a command or flag is unknown.
        SystemExit: If argparse has answered itself, as for `--help`.
    """
    parser, by_name = parsers()
    words = [word for word in argv if not word.startswith("-")]
    if words and words[0] not in COMMANDS:
        raise ValueError(unknown_name_message("command", words[0], COMMANDS))
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [text for a in by_name[args.command]._actions for text in a.option_strings]
        close = nearest(unknown[0].split("=")[0], known)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(
            f"remdm {args.command} does not know {unknown[0]!r}{hint} "
            f"(remdm {args.command} --help lists all flags)"
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Config files may import modules that lie in the working folder.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # minihack imports it
    with _logging_to_terminal(), user_errors(debug="--debug" in argv) as outcome:
        args = parse(argv)
        outcome.code = COMMANDS[args.command].run(args)
    return outcome.code


class Outcome:
    """The exit code of what ran in `user_errors`."""

    code = 0


@contextlib.contextmanager
def user_errors(debug: bool = False) -> Iterator[Outcome]:
    """Tell errors that a user can mend in one line instead of a traceback.

    Args:
        debug: Show the traceback as well.
    """
    outcome = Outcome()
    try:
        yield outcome
    except KeyboardInterrupt:
        _complain("interrupted")
        outcome.code = INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        outcome.code = BROKEN
    except Exception as error:
        code = commands.exit_code_of(error)
        if code is None:
            raise
        if debug:
            traceback.print_exc()
        _complain(commands.message_of(error))
        outcome.code = code


def _complain(message: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]remdm:[/] {escape(message)}")


@contextlib.contextmanager
def _logging_to_terminal() -> Iterator[None]:
    """Show this package's messages while a command runs."""
    logger = logging.getLogger("remdm")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
