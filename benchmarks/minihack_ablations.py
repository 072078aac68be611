"""What moves the held-out win rate: the quick recipe with one thing changed at a time.

    python -m benchmarks.minihack_ablations --seeds 0 --episodes 200    # about 15 minutes a row
    python -m benchmarks.minihack_ablations --table                     # what is there by now

It is resumed like `benchmarks.minihack_results`.
"""

from collections.abc import Sequence

from benchmarks.inputs.ablation_cells import FULL, cells_of
from benchmarks.inputs.cells import run_cells


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    description = "The quick recipe with one thing changed at a time."
    return run_cells(description, "runs/ablations", cells_of, (FULL, "ego encoder"), argv)


if __name__ == "__main__":
    raise SystemExit(main())
