"""What the commands of `remdm` do. Heavy modules are imported by the command that needs them."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gin
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from remdm import config, gin_names, gin_text
from remdm.distributed.restarting import going_on
from remdm.training.roles import BOTH, Role

if TYPE_CHECKING:
    from remdm.evaluation.rollout import EvalRow
    from remdm.experiment import Experiment

INTERRUPTED = 130
# Words for groups of environments, beside the ids themselves.
ENV_GROUPS = ("training", "heldout", "all", "gridworld")


def exit_code_of(error: Exception) -> int | None:
    """2 for what the user can mend, 1 for what the machine did, None for our own mistakes."""
    from remdm.data.tensor_file import DamagedFileError
    from remdm.distributed.lease import LeaseLost
    from remdm.envs.contract import EnvError

    mendable = (ValueError, ImportError, DamagedFileError, FloatingPointError)
    if isinstance(error, mendable):
        return 2
    # With a number it comes from the system: a file of others has gone, say.
    if isinstance(error, FileNotFoundError) and error.errno is None:
        return 2
    if isinstance(error, RuntimeError) and str(error).startswith("Required bindings for"):
        return 2
    return 1 if isinstance(error, (OSError, EnvError, LeaseLost)) else None


def message_of(error: Exception) -> str:
    """The error's words without the lines that gin adds."""
    lines = [
        line for line in str(error).splitlines() if not line.startswith("  In call to configurable")
    ]
    text = "\n".join(lines).strip() or type(error).__name__
    if text.startswith("Required bindings for"):
        return f"{text}; name a config that has them (--configs gin_configs/...) or --bind them."
    return text


# ------------------------------------------------------------------------------------- train


def train(run_name: str, json_file: Path | None = None, role: Role = BOTH) -> int:
    """Train by the loaded configuration, then measure and print."""
    from remdm.experiment import Experiment

    return run_experiment(Experiment(run_name), json_file, role)


def run_experiment(
    experiment: "Experiment", json_file: Path | None = None, role: Role = BOTH
) -> int:
    """Start, learn, test and report; for `remdm train` and for examples.

    Args:
        experiment: Not started.
        json_file: Where to write the final table as well; by the role that validates.
        role: What this process does of it, from `remdm.cli.flags.role_from`.

    Returns:
        0, or 130 where somebody asked to stop before the budget was used up.
    """
    from remdm.allocator import keep_allocations

    keep_allocations()
    experiment.start(role)
    try:
        experiment.learn()
        if not experiment.progress.finished:
            if role.alone and experiment.accelerator.is_main_process:
                Console(soft_wrap=True, highlight=False).print(
                    f"go on with: {escape(command_line())}"
                )
            return INTERRUPTED
        if not role.validates:
            return 0
        rows = experiment.evaluate_test()
        if experiment.accelerator.is_main_process:
            print_rows(rows, _groups_of(experiment))
            write_rows(json_file, rows, _groups_of(experiment))
            Console().print(f"everything is in {experiment.folder.root}", highlight=False)
    finally:
        experiment.close()
    return 0


def command_line() -> str:
    """What to type to go on with the present command."""
    program = Path(sys.argv[0])
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    if program.name == "__main__.py":
        typed = [str(python), "-m", program.parent.name]
    else:
        typed = [program.name] if program.suffix != ".py" else [str(python), str(program)]
    return shlex.join([*typed, *going_on(sys.argv[1:])])


def _groups_of(experiment: "Experiment") -> dict[str, Sequence[str]]:
    return {"training": experiment.train_envs, "held-out": experiment.heldout_envs}


# ------------------------------------------------------------------------------------- tables


def print_rows(rows: "Sequence[EvalRow]", groups: Mapping[str, Sequence[str]]) -> None:
    """Print evaluation rows as a table."""
    from remdm.evaluation.tables import report_table

    Console().print(report_table(rows, groups))


def write_rows(
    path: Path | None,
    rows: "Sequence[EvalRow]",
    groups: Mapping[str, Sequence[str]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write evaluation rows, and whatever `extra` adds, as JSON, if a file was asked for."""
    from remdm.evaluation.tables import results_document, write_json

    if path is not None:
        write_json(path, results_document(rows, groups, extra=extra))


def env_groups(wanted: Sequence[str] | None) -> dict[str, list[str]]:
    """Environments to play, by the group that tables show them in.

    Args:
        wanted: Ids and words of `ENV_GROUPS`; the MiniHack suite when None.

    Raises:
        ValueError: If a name is unknown; offers the nearest ones.
    """
    from remdm.envs.making import env_target, known_env_names
    from remdm.envs.minihack import HELD_OUT_ENVS, TRAINING_ENVS

    gridworlds = tuple(name for name in known_env_names() if name.startswith("Gridworld-"))
    members = {
        "training": TRAINING_ENVS,
        "heldout": HELD_OUT_ENVS,
        "all": TRAINING_ENVS + HELD_OUT_ENVS,
        "gridworld": gridworlds,
    }
    names = [env for word in wanted or ["all"] for env in members.get(word, (word,))]
    names = list(dict.fromkeys(names))
    for name in names:
        env_target(name)
    groups = {
        "training": [env for env in names if env in TRAINING_ENVS],
        "held-out": [env for env in names if env in HELD_OUT_ENVS],
    }
    known = {env for group in groups.values() for env in group}
    groups["selected"] = [env for env in names if env not in known]
    return {name: group for name, group in groups.items() if group}


# ------------------------------------------------------------------------------------- doctor


def doctor(args: argparse.Namespace) -> int:
    """Check this machine; 1 if something is broken."""
    from remdm import doctor as checks

    findings = checks.examine(speed=not args.quick)
    checks.print_findings(findings)
    if args.json is not None:
        args.json.write_text(json.dumps([finding.to_dict() for finding in findings], indent=2))
    return 1 if any(finding.status == "broken" for finding in findings) else 0


# ------------------------------------------------------------------------------------- config


def show_config(*, defaults: bool, text: bool, json_file: Path | None) -> int:
    """Print the loaded configuration with where each value comes from."""
    check_env_names()
    if json_file is not None:
        json_file.write_text(json.dumps(config.config_dict(), indent=2) + "\n")
    if text:
        Console(soft_wrap=True, highlight=False).print(escape(config.config_text()), end="")
        return 0
    table = Table("name", "value", "from", box=None, header_style="bold", pad_edge=False)
    rows = [
        (b.name, b.text, b.origin + "".join(f" (over {o})" for o in reversed(b.overruled)))
        for b in config.current_bindings()
    ]
    for name, value, origin in sorted(rows + (default_rows() if defaults else [])):
        style = "dim" if origin == DEFAULT else ""
        table.add_row(escape(name), escape(value), escape(origin), style=style)
    Console(highlight=False).print(table)
    return 0


DEFAULT = "default"


def default_rows() -> list[tuple[str, str, str]]:
    """What is not bound, of every configurable that is bound or referred to."""
    bound = {binding.name for binding in config.current_bindings()}
    rows = []
    for configurable in config.mentioned_configurables():
        owner = gin_names.short_name(configurable)
        for argument, value in gin_names.defaults(configurable).items():
            name = f"{owner}.{argument}"
            if name not in bound:
                rows.append((name, _default_text(value), DEFAULT))
    return rows


def _default_text(value: Any) -> str:
    if value is gin.REQUIRED:
        return "(required)"
    try:
        return gin_text.format_value(value)
    except ValueError:
        return repr(value)


def check_env_names() -> None:
    """See that the environments which a config names exist.

    Raises:
        ValueError: If one does not.
    """
    from remdm.envs.making import env_target

    for key in ("Experiment.train_envs", "Experiment.heldout_envs"):
        for name in config.bound_value(key) or ():
            env_target(name)
