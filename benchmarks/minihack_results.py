"""The table of the README: everybody on the same MiniHack levels, three training seeds each.

    python -m benchmarks.minihack_results --out runs/results       # hours; `make results`
    python -m benchmarks.minihack_results --out runs/results --table

Every cell is one command of `remdm`, run as a process of its own, whose rows end up in a JSON file
of `--out`. A cell whose file is there is not run again, and one that was stopped goes on, so the
same command may be started as often as one likes. `--table` runs nothing and prints what is there.
All play the same levels at the native step limits; checkpoints are chosen on validation levels.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.inputs.results_cells import Cell, cells_of
from benchmarks.inputs.results_table import Row, read_rows, table_text, to_json, together

FILE = "results.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    args = _parser().parse_args(argv)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    cells = cells_of(out, args.seeds, args.episodes, quick=args.quick)
    names = [cell.name for cell in cells]
    unknown = [name for name in args.only if not any(n.startswith(name) for n in names)]
    if unknown:
        raise SystemExit(f"--only must be the beginning of {', '.join(names)}, got {unknown}")
    chosen = [c for c in cells if not args.only or c.name.startswith(tuple(args.only))]
    if not args.table:
        for index, cell in enumerate(chosen):
            if not _run(cell, f"{index + 1}/{len(chosen)}"):
                return 1
    rows = together(row for cell in cells for row in read_rows(cell.rows_file, cell.shown))
    print(table_text(rows))
    (out / "table.md").write_text(table_text(rows) + "\n", encoding="utf-8")
    document = to_json(rows)
    (out / FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({**_headline(rows), "machine": machine()}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/results"), help="where all of it goes"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds")
    parser.add_argument("--episodes", type=int, default=400, help="test levels per environment")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cells to run")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--quick", action="store_true", help="tiny runs: whether all of it works")
    return parser


def _run(cell: Cell, place: str) -> bool:
    """Run the commands of a cell that has no rows yet; False if one of them failed."""
    if cell.done_file.exists():
        print(f"[{place}] {cell.name}: there already", flush=True)
        return True
    for command in cell.commands:
        words = [sys.executable, "-m", "remdm", *command]
        print(f"[{place}] {cell.name}: remdm {' '.join(command)}", flush=True)
        log = cell.done_file.with_suffix(".log")
        with log.open("a", encoding="utf-8") as stream:
            code = subprocess.call(words, stdout=stream, stderr=subprocess.STDOUT)
        if code:
            print(f"{cell.name} ended with code {code}; see {log}", flush=True)
            return False
    if not cell.done_file.exists():
        cell.done_file.write_text("{}\n", encoding="utf-8")
    return True


def _headline(rows: Sequence[Row]) -> dict[str, object]:
    """The planner's held-out win rate beside the oracle's."""
    found = {row.name: row.group_rate("held-out") for row in rows}
    ours, oracle = found.get("planner"), found.get("memory oracle")
    return {
        "name": "minihack_results",
        "value": ours,
        "unit": "held-out win rate",
        "reference": "memory oracle",
        "reference_value": oracle,
        "ratio": ours / oracle if ours is not None and oracle else None,
    }


if __name__ == "__main__":
    raise SystemExit(main())
