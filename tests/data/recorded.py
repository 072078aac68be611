"""Small recordings whose every step can be recognised, and an oracle for them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.datasets import DiskTrajDataset, RLDataset
from remdm.data.generation import Manifest
from remdm.data.records import Segment, StepArrays
from remdm.data.shards import Shard, shard_name, write_shard
from remdm.data.tensor_file import write_tensor_file

ACTIONS = ("LEFT", "RIGHT", "JUMP")
END = len(ACTIONS) + 1
HORIZON = 4


def steps(seed: int, first: int, length: int, *, ends: bool) -> StepArrays:
    """Steps `first` to `first + length` of level `seed`; every array is a function of both."""
    number = np.arange(first, first + length)
    observations = {
        "trace": np.stack([np.full(length, seed), number], 1).astype(np.int32),
        "map": (np.arange(15).reshape(3, 5) + number[:, None, None] + seed).astype(np.uint8),
        "step": number.astype(np.int16),
    }
    last = np.arange(length) == length - 1
    return StepArrays(
        observations,
        ((seed + number) % len(ACTIONS)).astype(np.int8),
        (number / 8).astype(np.float32),
        last & ends,
        np.zeros(length, np.bool_),
    )


def piece(
    env: str,
    seed: int,
    first: int,
    length: int,
    *,
    won: bool | None = True,
    collector: str = "main",
) -> tuple[Segment, StepArrays]:
    """A segment and its steps; `won=None` for a piece whose episode goes on."""
    final = won is not None
    segment = Segment(env, seed, first, length, won, final, 0, collector)
    return segment, steps(seed, first, length, ends=final)


def put_shard(
    folder: Path,
    pieces: Sequence[tuple[Segment, StepArrays]],
    *,
    epoch: int = 0,
    sequence: int = 0,
    collector: str = "main",
    actions: Sequence[str] = ACTIONS,
    state: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write pieces as one shard."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(s.length for s, _ in pieces)
    path = folder / shard_name(epoch, collector, sequence, total)
    write_shard(path, [s for s, _ in pieces], [a for _, a in pieces], actions, state=state)
    return path


def as_version_1(path: Path) -> Path:
    """Write a shard as the first version of the format had it."""
    shard = Shard.open(path)
    facts = {
        "kind": "shard",
        "schema_version": 1,
        "action_names": list(shard.action_names),
        "segments": [asdict(segment) for segment in shard.segments],
    }
    arrays = {n: [a.copy()] for n, a in shard.file.tensors.items() if n != "segments"}
    write_tensor_file(path, arrays, facts, "an old shard")
    return path


def manifest_as_version_1(manifest: Manifest) -> dict[str, Any]:
    """A manifest as the first version of the format had it."""
    values = json.loads(json.dumps(asdict(manifest)))
    for shard in values["shards"]:
        del shard["verified"]
        shard["env_steps"] = {"a": shard["steps"]}
        if shard["labels"]:
            del shard["labels"]["verified"]
    return {"schema_version": 1, **values}


class TraceOracle:
    """Plans `seed % 3` as often as the step number says, then END; none at every fifth step."""

    def __init__(self, version: int = 1) -> None:
        self.name, self.version, self.gives_plans = "trace", version, True

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        seed, step = observations["trace"].T
        plans = np.full((len(step), plan_horizon), END, np.int8)
        length = step % (plan_horizon + 1)
        action = (seed + self.version) % len(ACTIONS)
        inside = np.arange(plan_horizon) < length[:, None]
        plans = np.where(inside, action[:, None], END).astype(np.int8)
        return plans, np.where(step % 5 == 4, 0, 1).astype(np.float32)


def dataset(root: Path, oracle: TraceOracle | None = None, **knobs) -> DiskTrajDataset:
    """A configured dataset in `root/buffer`."""
    made = DiskTrajDataset(root, **knobs)
    made.configure(HORIZON, oracle=oracle or TraceOracle(), action_names=ACTIONS)
    return made


def filled(root: Path, *seeds: int, env: str = "a", **knobs) -> DiskTrajDataset:
    """A dataset with one labelled shard of ten steps for each seed."""
    made = dataset(root, **knobs)
    for seed in seeds:
        put_shard(made.folder.shards, [piece(env, seed, 0, 10)], epoch=seed)
    made.label_new(TraceOracle(), HORIZON)
    made.refresh()
    return made


def traces(data: RLDataset, count: int = 300) -> set[int]:
    """Seeds of the episodes that are drawn from."""
    return set(data.sample(count, np.random.default_rng(0)).observations["trace"][:, 0])
