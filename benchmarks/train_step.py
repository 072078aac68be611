"""Milliseconds per update: loss, gradient, clipping, AdamW and moving average.

The nets and the single-step head, in float32 and under bfloat16 autocast. Freed memory is kept
(remdm/allocator.py) as in training; `--keep 0` shows what that is worth. Threads are torch's own
choice: set OMP_NUM_THREADS to measure one core. `--device cuda` measures an accelerator, with
float16 and its gradient scaler beside the others, and the memory that an update takes at most;
`--compile 1` adds the default net's losses through `torch.compile`.
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
from remdm.training.compiled_loss import CompiledLoss

BATCHES = (1, 8, 64, 128, 256)
# An accelerator is hardly busy with less.
LARGE_BATCHES = (8, 128, 256, 2048)
DEFAULT_BATCH = 128
PRECISIONS = ("float32", "bfloat16")
HALF = "float16"
Row = dict[str, Any]


def make_batch(agent: BaseAgent, size: int) -> Batch:
    """Made-up observations and plans."""
    return Batch(
        as_tensors(make_observations(size), size),
        torch.from_numpy(make_plans(size, agent.plan_horizon)).to(torch.int64),
        torch.ones(size),
        torch.zeros(size, dtype=torch.int64),
    )


def make_update(
    agent: BaseAgent, batch: Batch, precision: str, compiled: bool = False
) -> Callable[[], object]:
    """One update of `agent` where its parameters are, to be called again and again."""
    device = next(agent.parameters()).device.type
    batch = batch.to(device)
    optimiser = torch.optim.AdamW(agent.parameters(), 1e-4, fused=True)
    average = EMA(agent)
    generator = torch.Generator(device).manual_seed(0)
    scaler = torch.amp.GradScaler(device, enabled=precision == HALF)
    dtype = torch.float16 if precision == HALF else torch.bfloat16
    loss_of = CompiledLoss(agent) if compiled else agent

    def update() -> None:
        with torch.autocast(device, dtype, enabled=precision != "float32"):
            loss, _ = loss_of(batch, generator)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        average.update(agent)
        if device == "cuda":
            torch.cuda.synchronize()

    return update


def measured(arguments: Any, name: str, precision: str, size: int, compiled: bool) -> Row:
    """The row of one agent; its memory is that of the device, where it has its own."""
    on_device = torch.device(arguments.device).type == "cuda"
    seconds = 0.1 if arguments.quick or on_device else 1.0
    torch.manual_seed(0)
    agent = AGENTS[name]().to(arguments.device)
    update = make_update(agent, make_batch(agent, size), precision, compiled)
    if on_device:
        torch.cuda.reset_peak_memory_stats()
    timing = measure(update, repeats=1 if arguments.quick else 5, min_time_s=seconds)
    return {
        "agent": name,
        "precision": precision,
        "compiled": compiled,
        "batch": size,
        "ms": timing.median * 1e3,
        "states_per_s": size / timing.median,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_device else None,
    }


def main() -> None:
    arguments = options(__doc__, keep=1, device="cpu", compile=0)
    if arguments.keep:
        keep_allocations()
    on_cpu = arguments.device == "cpu"
    batches = BATCHES if on_cpu else LARGE_BATCHES
    if arguments.quick:
        batches = (1, 8, DEFAULT_BATCH)
    precisions = PRECISIONS if on_cpu else (*PRECISIONS, HALF)
    cases = [
        (name, precision, size, False)
        for name in AGENTS
        for precision in precisions
        for size in batches
        if not (arguments.quick and name == "seed" and size > 8)
    ]
    if arguments.compile:
        cases += [("default", "bfloat16", size, True) for size in batches]
    rows = [measured(arguments, *case) for case in cases]
    found = {
        (row["agent"], row["precision"], row["batch"]): row for row in rows if not row["compiled"]
    }
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
        "device": arguments.device,
        "rows": rows,
    }
    report(rows, line, arguments.json)


if __name__ == "__main__":
    main()
