"""Timing and printing shared by all benchmarks.

Every benchmark prints a table and then one JSON line with at least `name`, `value`, `unit`,
`reference`, `reference_value` and `ratio` (ours over the reference; larger is better).
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Timing(NamedTuple):
    """Seconds per call over several repeats: median and quartiles."""

    median: float
    lower: float
    upper: float
    calls: int


def measure(fn: Callable[[], object], *, repeats: int = 5, min_time_s: float = 0.2) -> Timing:
    """Time `fn`, after one call outside the clock that pays for compiling and caches.

    Args:
        fn: What to time.
        repeats: Number of timed repeats.
        min_time_s: Each repeat calls `fn` as often as it takes to last this long.

    Returns:
        Median and quartiles of the seconds per call; `calls` is the number of calls per repeat.
    """
    fn()
    start = time.perf_counter()
    fn()
    once = max(time.perf_counter() - start, 1e-9)
    calls = max(1, round(min_time_s / once))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            fn()
        seconds.append((time.perf_counter() - start) / calls)
    return summarize(seconds, calls)


def summarize(seconds: Sequence[float], calls: int = 1) -> Timing:
    """Median and quartiles of measured seconds per call."""
    if len(seconds) < 2:
        return Timing(seconds[0], seconds[0], seconds[0], calls)
    lower, middle, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(middle, lower, upper, calls)


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean, the fair mean of ratios."""
    return statistics.geometric_mean(values)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch"] = torch.__version__
        facts["torch_threads"] = torch.get_num_threads()
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def options(description: str | None, **extra: Any) -> argparse.Namespace:
    """Parse the flags every benchmark has: `--json` and `--quick`.

    Args:
        description: Shown by `--help`.
        **extra: Further flags, `name=default`; the type is the default's.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--quick", action="store_true", help="a rough figure in a few seconds")
    for name, default in extra.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def report(rows: Sequence[dict[str, Any]], line: dict[str, Any], json_only: bool) -> None:
    """Print a table of `rows`, the machine, and last `line` as one line of JSON.

    Args:
        rows: Table rows; the first row's keys are the columns.
        line: The result; the machine's facts are added under "machine".
        json_only: Print nothing but the JSON line.
    """
    facts = machine()
    if not json_only:
        show_table(rows)
        print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(json.dumps({**line, "machine": facts}))


def show_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows; the first one's keys are the columns."""
    if not rows:
        return
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(c)) for c in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        first, *others = row
        numbers = [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *numbers]))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
