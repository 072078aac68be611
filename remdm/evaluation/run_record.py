"""What a run folder tells about a run, read without running anything of it.

Nothing in the folder is believed: configuration is read as text and never imports a module, rows
of results are checked one by one, and what cannot be used is named in `RunRecord.notes`.
"""

import io
import math
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gin import config_parser

from remdm.data.plain_json import counted, one_line, parsed_object, typed
from remdm.evaluation.curves import metric_series
from remdm.evaluation.rollout import EvalRow
from remdm.evaluation.statistics import wilson_interval
from remdm.training.run_folder import RunFolder
from remdm.training.tracking import TIME, read_all

_WRITTEN_BY = "# Written by remdm "
_GIF_MAGIC = (b"GIF87a", b"GIF89a")
_WORD = 200  # characters of a name or value that are kept


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run.

    Attributes:
        name: Of its folder.
        root: Its folder.
        config: Bindings as text, by `Class.argument` or the name of a macro.
        version: Version of remdm that wrote the configuration; "" if it does not say.
        metrics: Lines of all its processes, each with `seconds` where it can be known.
        rows: Of its final table; empty without one.
        groups: Environments by "training" and "held-out", as far as the configuration names them.
        gifs: Pictures of episodes, by the name of the environment's file.
        notes: What could not be read, and what is not there, as sentences.
    """

    name: str
    root: Path
    config: dict[str, str]
    version: str
    metrics: list[dict[str, Any]]
    rows: list[EvalRow]
    groups: dict[str, list[str]]
    gifs: dict[str, Path]
    notes: list[str] = field(default_factory=list)

    @property
    def seed(self) -> str:
        """Its seed as text; that of an unbound one is 0."""
        return self.config.get("Experiment.seed", "0")

    def last(self, name: str) -> float | None:
        """The highest value of a counter such as `env_steps`; None if no line has it."""
        series = metric_series(self.metrics, [name], name)
        return float(series[0].x[-1]) if series else None

    @property
    def epochs(self) -> int:
        """Whole epochs behind it: those with a line of their own."""
        done = [line for line in self.metrics if "train/seconds_per_batch" in line]
        series = metric_series(done, ["epoch"], "epoch")
        return int(series[0].x[-1]) + 1 if series else 0

    @property
    def finished(self) -> str:
        """Whether it used up its budget, in words."""
        if RunFolder(self.root).done.is_file():
            return "yes (DONE)"
        if RunFolder(self.root).last.is_dir():
            return "yes"
        wanted = self.config.get("Experiment.epochs", "")
        if not wanted.isdecimal():
            return "not known"
        return "yes" if self.epochs >= int(wanted) else f"no: epoch {self.epochs} of {wanted}"


def read_run(root: Path) -> RunRecord:
    """Read one run folder.

    Raises:
        ValueError: If it holds no run, or a configuration that cannot be read.
    """
    folder = RunFolder(root.resolve())
    if not folder.config.is_file():
        raise ValueError(
            f"{root} must be a run folder, and holds no config.gin; name the folder that "
            "`remdm train` said everything is in."
        )
    text = folder.config.read_text(encoding="utf-8", errors="replace")
    config = config_values(text, str(folder.config))
    notes: list[str] = []
    metrics = timed_lines(read_all(folder.root))
    if not metrics:
        notes.append("It has no metrics yet.")
    return RunRecord(
        one_line(folder.root.name, _WORD),
        folder.root,
        {name: one_line(repr(value)) for name, value in config.items()},
        _version(text),
        metrics,
        _read_rows(folder.report / "results.json", notes),
        _env_groups(config),
        _find_gifs(folder.report / "gifs", folder.root, notes),
        notes,
    )


class _AsText(config_parser.ParserDelegate):
    """References stay the text they are: nothing is looked up."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> "_Word":
        return _Word(f"@{scoped_selector}{'()' * evaluate}")

    def macro(self, name: str) -> "_Word":
        return _Word(f"%{name}")


class _Word(str):
    """Text that stands without quotes in a config file."""

    def __repr__(self) -> str:
        return str(self)


def config_values(text: str, origin: str = "config.gin") -> dict[str, Any]:
    """The bindings of a saved config file, macros put in; imports are not done.

    Args:
        text: Of the file.
        origin: For errors.

    Returns:
        Literals by `Class.argument`; what refers to a class is text.

    Raises:
        ValueError: If it is no gin text.
    """
    values: dict[str, Any] = {}
    try:
        for statement in config_parser.ConfigParser(io.StringIO(text), _AsText()):
            if isinstance(statement, config_parser.BindingStatement):
                scope, selector, argument, value, _ = statement
                name = f"{selector}.{argument}" if argument else selector
                values[f"{scope}/{name}" if scope else name] = value
        return {name: _resolved(value, values) for name, value in values.items() if "." in name}
    except (SyntaxError, tokenize.TokenError, ValueError, RecursionError) as error:
        raise ValueError(f"{origin} must be gin text; {one_line(str(error), _WORD)}") from None


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    """A value with what its macros stand for.

    Raises:
        RecursionError: If a macro stands for itself.
    """
    if isinstance(value, _Word):
        macro = value[1:] if value.startswith("%") else ""
        return _resolved(values[macro], values) if macro in values else value
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(item, values) for item in value)
    if isinstance(value, dict):
        return {name: _resolved(item, values) for name, item in value.items()}
    return value


def _version(text: str) -> str:
    first = text.split("\n", 1)[0]
    if not first.startswith(_WRITTEN_BY):
        return ""
    return one_line(first.removeprefix(_WRITTEN_BY).split(". ")[0], 40)


def _env_groups(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Environments trained on and held out, as far as the bindings name them."""
    names = {"training": "Experiment.train_envs", "held-out": "Experiment.heldout_envs"}
    found = {}
    for group, name in names.items():
        envs = config.get(name, ())
        envs = [envs] if isinstance(envs, str) else envs
        if isinstance(envs, (list, tuple)):
            found[group] = [one_line(env, _WORD) for env in envs if isinstance(env, str)]
    return found


def timed_lines(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines with `seconds` since the run began, where the clock or the learner tells.

    The learner's own `seconds` leave out the time in which the run was stopped; other lines, those
    of separate processes among them, have the clock.
    """
    clocks = [line[TIME] for line in lines if _is_clock(line.get(TIME))]
    if not clocks:
        return lines
    learner = [line for line in lines if "seconds" in line]
    if learner and all("role" not in line for line in lines):
        return lines
    first = min(clocks)
    return [
        {**line, "seconds": line[TIME] - first} if _is_clock(line.get(TIME)) else line
        for line in lines
    ]


def _is_clock(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < 1e12


def _read_rows(path: Path, notes: list[str]) -> list[EvalRow]:
    """The rows of a results file that are whole; says what is wrong with the others."""
    if not path.is_file():
        notes.append("It has no final table yet.")
        return []
    try:
        rows = typed(parsed_object(path.read_bytes()), "rows", list)
    except ValueError as error:
        notes.append(f"Its results.json cannot be read: {error}.")
        return []
    kept: dict[tuple[str, str], EvalRow] = {}
    for number, row in enumerate(rows):
        try:
            checked = _checked_row(row)
        except ValueError as error:
            notes.append(f"Row {number} of its results.json is left out: {error}.")
        else:
            kept[checked.env, checked.policy] = checked
    return list(kept.values())


def _checked_row(row: Any) -> EvalRow:
    """One row of a results file.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(row, dict):
        raise ValueError("it must be an object")
    episodes, wins = counted(row, "episodes", 1), counted(row, "wins")
    if wins > episodes:
        raise ValueError(f"wins must be in 0..episodes={episodes}, got {wins}")
    low, high = wilson_interval(wins, episodes)
    won_steps = row.get("mean_steps_won")
    lives = row.get("lives")
    return EvalRow(
        one_line(typed(row, "env", str), _WORD),
        episodes,
        wins,
        wins / episodes,
        float(low),
        float(high),
        None if won_steps is None else _number(row, "mean_steps_won"),
        one_line(typed(row, "policy", str), _WORD),
        _number(row, "mean_steps"),
        _number(row, "plans_per_episode"),
        _number(row, "nfe_per_plan"),
        int(_number(row, "first_seed")),
        _number(row, "mean_return"),
        _number(row, "return_low"),
        _number(row, "return_high"),
        lives if isinstance(lives, dict) else None,
        counted(row, "max_steps", 1) if row.get("max_steps") is not None else None,
        _number(row, "nfe_per_step"),
    )


def _number(row: Mapping[str, Any], name: str) -> float:
    """A finite number; 0 where an older version wrote none.

    Raises:
        ValueError: If it is none.
    """
    value = float(typed(row, name, int, float)) if name in row else 0.0
    if not math.isfinite(value) or abs(value) > 1e300:
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def _find_gifs(folder: Path, root: Path, notes: list[str]) -> dict[str, Path]:
    """The GIFs of a run that are files of its own."""
    found = {}
    for path in sorted(folder.glob("*.gif")) if folder.is_dir() else ():
        inside = path.resolve().is_relative_to(root)
        if inside and path.is_file() and _begins_as_gif(path):
            found[one_line(path.stem, _WORD)] = path
        else:
            notes.append(f"{one_line(path.name, _WORD)} is left out: it is no GIF of this folder.")
    return found


def _begins_as_gif(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) in _GIF_MAGIC
