"""Cells of a table that takes hours: commands of `remdm` that run once and leave rows in a file."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.inputs.results_table import Row, read_rows, table_text, to_json, together


@dataclass(frozen=True, slots=True)
class Cell:
    """Commands that run once, and the rows they leave.

    Attributes:
        name: For `--only`, and of the log.
        commands: Words after `remdm`, one command after the other.
        file: Where the last command puts its rows; there once all have ended well.
        shown: Names of the table's rows by the policies' names; others are left out.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    file: Path
    shown: dict[str, str] = field(default_factory=dict)


def run_cells(
    description: str,
    out: str,
    make: Callable[[Path, Sequence[int], int, bool], list[Cell]],
    compared: tuple[str, str],
    argv: Sequence[str] | None,
) -> int:
    """Run the cells that are missing, then print the table and one JSON line.

    Args:
        description: Of the program, for `--help`.
        out: Default of `--out`.
        make: Cells of a folder, training seeds, test levels per environment, and whether tiny.
        compared: Names of two rows, whose held-out win rates are in the JSON line.
        argv: Words of the command line; those that were typed when None.

    Returns:
        0, or 1 where a command failed or nobody knows a name.
    """
    args = _parser(description, out).parse_args(argv)
    folder: Path = args.out
    folder.mkdir(parents=True, exist_ok=True)
    cells = make(folder, args.seeds, args.episodes, args.quick)
    unknown = [name for name in args.only if not any(c.name.startswith(name) for c in cells)]
    if unknown:
        names = ", ".join(cell.name for cell in cells)
        print(f"--only takes beginnings of {names}; got {' '.join(unknown)}", file=sys.stderr)
        return 1
    chosen = [c for c in cells if not args.only or c.name.startswith(tuple(args.only))]
    for index, cell in enumerate(chosen if not args.table else []):
        if not _run(cell, f"{index + 1}/{len(chosen)}"):
            return 1
    rows = together(row for cell in cells for row in read_rows(cell.file, cell.shown))
    text = table_text(rows)
    print(text)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    (folder / "table.json").write_text(json.dumps(to_json(rows), indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"name": Path(out).name, **_headline(rows, *compared), "machine": machine()}))
    return 0


def _headline(rows: Sequence[Row], ours: str, reference: str) -> dict[str, Any]:
    found = {row.name: row.group_rate("held-out") for row in rows}
    value, against = found.get(ours), found.get(reference)
    return {
        "value": value,
        "unit": f"held-out win rate of {ours}",
        "reference": reference,
        "reference_value": against,
        "ratio": value / against if value is not None and against else None,
    }


def _parser(description: str, out: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(out), help=f"where all of it goes ({out})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds")
    parser.add_argument("--episodes", type=int, default=400, help="test levels per environment")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cells to run")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--quick", action="store_true", help="tiny runs: whether all of it works")
    return parser


def _run(cell: Cell, place: str) -> bool:
    """Run the commands of a cell that has no rows yet; False if one of them failed."""
    if cell.file.exists():
        print(f"[{place}] {cell.name}: there already", flush=True)
        return True
    for command in cell.commands:
        print(f"[{place}] {cell.name}: remdm {' '.join(command)}", flush=True)
        log = cell.file.with_suffix(".log")
        with log.open("a", encoding="utf-8") as stream:
            words = [sys.executable, "-m", "remdm", *command]
            code = subprocess.call(words, stdout=stream, stderr=subprocess.STDOUT)
        if code:
            print(f"{cell.name} ended with code {code}; see {log}", flush=True)
            return False
    return True
