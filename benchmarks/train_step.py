"""Milliseconds per update: loss, gradient, clipping, AdamW and moving average.

Both nets and the single-step head, in float32 and under bfloat16 autocast. Freed memory is kept
(remdm/allocator.py) as in training; `--keep 0` shows what that is worth. Threads are torch's own
choice: set OMP_NUM_THREADS to measure one core.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness import measure, options, report
from benchmarks.inputs.observations import as_tensors, make_observations, make_plans
from benchmarks.plan import AGENTS
from remdm.agent import BaseAgent
from remdm.allocator import keep_allocations
from remdm.data.batch import Batch
from remdm.nets.ema import EMA

BATCHES = (1, 8, 64, 128, 256)
DEFAULT_BATCH = 128
PRECISIONS = ("float32", "bfloat16")


def make_batch(agent: BaseAgent, size: int) -> Batch:
    """Made-up observations and plans."""
    return Batch(
        as_tensors(make_observations(size), size),
        torch.from_numpy(make_plans(size, agent.plan_horizon)).to(torch.int64),
        torch.ones(size),
        torch.zeros(size, dtype=torch.int64),
    )


def make_update(agent: BaseAgent, batch: Batch, precision: str) -> Callable[[], object]:
    """One update of `agent`, to be called again and again."""
    optimiser = torch.optim.AdamW(agent.parameters(), 1e-4, fused=True)
    average = EMA(agent)
    generator = torch.Generator().manual_seed(0)

    def update() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss, _ = agent(batch, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        average.update(agent)

    return update


def main() -> None:
    arguments = options(__doc__, keep=1)
    if arguments.keep:
        keep_allocations()
    batches = (1, 8, DEFAULT_BATCH) if arguments.quick else BATCHES
    repeats, seconds = (1, 0.1) if arguments.quick else (5, 1.0)
    rows: list[dict[str, Any]] = []
    for name, make in AGENTS.items():
        for precision in PRECISIONS:
            for size in batches:
                if arguments.quick and name == "seed" and size > 8:
                    continue
                torch.manual_seed(0)
                agent = make()
                update = make_update(agent, make_batch(agent, size), precision)
                timing = measure(update, repeats=repeats, min_time_s=seconds)
                row = {"agent": name, "precision": precision, "batch": size}
                row["ms"] = timing.median * 1e3
                row["states_per_s"] = size / timing.median
                rows.append(row)
    found = {(row["agent"], row["precision"], row["batch"]): row for row in rows}
    compared = 8 if arguments.quick else 256
    ours = found["default", "bfloat16", compared]["ms"]
    seeds = found["seed", "float32", compared]["ms"]
    line = {
        "name": "train_step",
        "value": ours,
        "unit": f"ms per update at batch {compared}",
        "reference": "seed's net, float32, same batch",
        "reference_value": seeds,
        "ratio": seeds / ours,
        "default_batch_ms": found["default", "bfloat16", DEFAULT_BATCH]["ms"],
        "kept_allocations": bool(arguments.keep),
        "rows": rows,
    }
    report(rows, line, arguments.json)


if __name__ == "__main__":
    main()
