"""The table of the README: everybody on the same MiniHack levels, three training seeds each.

    python -m benchmarks.minihack_results                 # hours; `make results`
    python -m benchmarks.minihack_results --table         # what is there by now

Every cell is a command of `remdm`, run as a process of its own, whose rows end up in a JSON file of
`--out`. A cell whose file is there is not run again, and one that was stopped goes on, so the same
command may be started as often as one likes. All play the same levels at the native step limits;
checkpoints are chosen on validation levels.
"""

from collections.abc import Sequence

from benchmarks.inputs.cells import run_cells
from benchmarks.inputs.results_cells import cells_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    compared = ("planner", "memory oracle")
    return run_cells("The table of the README.", "runs/results", cells_of, compared, argv)


if __name__ == "__main__":
    raise SystemExit(main())
