"""Milliseconds to publish the weights of a net and to read them, 5 million parameters.

Publishing writes the weights and `LATEST.json`, each fsynced and renamed; reading checks sums and
shapes. The reference is `torch.save` and `torch.load` of the same tensors: as they come, without
fsync or sum, and once with the fsync and the rename that a reader beside the writer needs. The disk
decides much of this: `--folder` says where to write, the system's temporary folder by default.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import options, report
from remdm.distributed.publication import Publisher, Subscriber

LAYERS, WIDTH = 20, 500
FACTS = {"action_names": [f"action {i}" for i in range(12)], "epoch": 7, "env_steps": 1_000_000}


def _weights() -> dict[str, dict[str, torch.Tensor]]:
    """One net of 5 million float32 parameters: square matrices and their biases."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for i in range(LAYERS):
        tensors[f"layers.{i}.weight"] = torch.randn(WIDTH, WIDTH, generator=generator)
        tensors[f"layers.{i}.bias"] = torch.randn(WIDTH, generator=generator)
    return {"planner": tensors}


def _save_atomically(weights: dict[str, dict[str, torch.Tensor]], path: Path) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        torch.save(weights, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _milliseconds(fn: Callable[[], object], calls: int) -> list[float]:
    """Time of each call after two that pay for caches."""
    times = []
    for _ in range(calls + 2):
        start = time.perf_counter()
        fn()
        times.append(1e3 * (time.perf_counter() - start))
    return times[2:]


def main() -> None:
    args = options(__doc__, folder="")
    calls = 20 if args.quick else 200
    weights = _weights()
    num_parameters = sum(t.numel() for t in weights["planner"].values())
    with tempfile.TemporaryDirectory(dir=args.folder or None) as name:
        root = Path(name)
        plain, safe = root / "plain.pt", root / "safe.pt"
        publisher, subscriber = Publisher(root / "latest"), Subscriber(root / "latest")
        kinds: dict[str, Callable[[], object]] = {
            "publish": lambda: publisher.publish(weights, FACTS),
            "read": lambda: subscriber.read(weights),
            "version, nothing new": subscriber.version,
            "torch.save": lambda: torch.save(weights, plain),
            "torch.load": lambda: torch.load(plain, weights_only=True),
            "torch.save, fsync, rename": lambda: _save_atomically(weights, safe),
        }
        rows, middle = [], {}
        for what, fn in kinds.items():
            times = _milliseconds(fn, calls)
            middle[what] = float(np.median(times))
            rows.append(
                {
                    "what": what,
                    "p50 ms": middle[what],
                    "p95 ms": float(np.percentile(times, 95)),
                    "calls": calls,
                }
            )
    ours = 1e3 / (middle["publish"] + middle["read"])
    reference = 1e3 / (middle["torch.save, fsync, rename"] + middle["torch.load"])
    line = {
        "name": "publication",
        "value": ours,
        "unit": "publish and read/s",
        "reference": "torch.save, fsync, rename and torch.load",
        "reference_value": reference,
        "ratio": ours / reference,
        "parameters": num_parameters,
        "p50_ms": {row["what"]: row["p50 ms"] for row in rows},
        "p95_ms": {row["what"]: row["p95 ms"] for row in rows},
    }
    report(rows, line, args.json)


if __name__ == "__main__":
    main()
