"""What moves the held-out win rate: the quick recipe with one thing changed at a time.

    python -m benchmarks.minihack_ablations --seeds 0 --episodes 200    # about 15 minutes a row
    python -m benchmarks.minihack_ablations --table                     # what is there by now

It is resumed like `benchmarks.minihack_results`.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.inputs.ablation_cells import FULL, cells_of
from benchmarks.inputs.cells import run_cells
from benchmarks.inputs.results_table import Row


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    description = "The quick recipe with one thing changed at a time."
    return run_cells(description, "runs/ablations", cells_of, headline, argv)


def headline(rows: Sequence[Row]) -> dict[str, Any]:
    """The recipe beside the ego encoder."""
    found = {row.name: row.group_rate("held-out") for row in rows}
    ours, ego = found.get(FULL), found.get("ego encoder")
    return {
        "name": "minihack_ablations",
        "value": ours,
        "unit": "held-out win rate",
        "reference": "ego encoder",
        "reference_value": ego,
        "ratio": ours / ego if ours is not None and ego else None,
    }


if __name__ == "__main__":
    raise SystemExit(main())
