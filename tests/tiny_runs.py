"""Runs of about a second in a gridworld, and what can be compared about two of them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from remdm import config
from remdm.experiment import Experiment
from remdm.training.checkpoint import read_state
from remdm.training.whole_state import newest_checkpoint

BINDINGS = {
    "Experiment.train_envs": "['Gridworld-Room-9x9-v0', 'Gridworld-Maze-9x9-v0']",
    "Experiment.heldout_envs": "['Gridworld-DarkRoom-9x9-v0']",
    "Experiment.parallel_actors": "5",
    "Experiment.train_step_caps": "(30, 40)",
    "Experiment.epochs": "4",
    "Experiment.warm_start_timesteps": "12",
    "Experiment.train_timesteps_per_epoch": "9",
    "Experiment.train_batches_per_epoch": "4",
    "Experiment.batch_size": "6",
    "Experiment.lr_warmup_steps": "3",
    "Experiment.val_interval": "2",
    "Experiment.val_episodes": "2",
    "Experiment.val_rows": "2",
    "Experiment.test_episodes": "1",
    "Experiment.test_step_cap": "12",
    "Experiment.log_interval": "3",
    "Experiment.baseline_agent_type": "@PolicyAgent",
    "Experiment.augmentation_type": "@MemoryAugmentation",
    "LinearBeta.until": "1.0",
    "DiffusionPlannerAgent.plan_horizon": "6",
    "PolicyAgent.plan_horizon": "6",
    "EgoDenoiser.width": "16",
    "EgoDenoiser.num_layers": "1",
    "EgoDenoiser.num_heads": "2",
    "EgoDenoiser.hidden": "16",
    "EgoEncoder.channels": "4",
    "EgoEncoder.cell_dim": "4",
    "EgoEncoder.num_blocks": "0",
}


# An expert, the same wherever one is trained: XLA takes 20 seconds for its update, and it is the
# settings that say what may be shared.
TINY_EXPERT: dict[str, Any] = {
    "num_envs": 8,
    "num_steps": 8,
    "update_epochs": 2,
    "num_minibatches": 2,
    "width": 16,
    "pool_size": 8,
    "max_episode_steps": 12,
    "learning_rate": 1e-2,
}
THREE_UPDATES = 3 * 64 + 10  # env steps, rounded down
TINY_PPO = tuple(
    f"PPO.{name} = {value!r}"
    for name, value in (TINY_EXPERT | {"total_timesteps": THREE_UPDATES}).items()
)


def tiny_bindings(folder: Path, **changed: str) -> list[str]:
    """Bindings of a tiny run below `folder`; `epochs="2"` changes `Experiment.epochs`."""
    values = BINDINGS | {"Experiment.ckpt_base_dir": repr(str(folder))}
    values |= {f"Experiment.{name}": text for name, text in changed.items()}
    if values["Experiment.baseline_agent_type"] == "None":
        del values["PolicyAgent.plan_horizon"]
    return [f"{name} = {text}" for name, text in values.items()]


def started(
    folder: Path, kind: type[Experiment] = Experiment, run_name: str = "run", **changed: str
) -> Experiment:
    """A tiny run after `start()`; see `tiny_bindings`."""
    config.load_config([], tiny_bindings(folder, **changed))
    run = kind(run_name)
    run.start()
    return run


def learnt(
    folder: Path, kind: type[Experiment] = Experiment, run_name: str = "run", **changed: str
) -> Experiment:
    """A tiny run after `learn()`, closed."""
    run = started(folder, kind, run_name, **changed)
    try:
        run.learn()
    finally:
        run.close()
    return run


def is_time(name: str) -> bool:
    """Whether a metric is about the clock."""
    return "second" in name


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run folder's metrics, without what is about the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not is_time(k)} for line in lines]


def files_below(folder: Path) -> dict[str, bytes]:
    """Contents of all files below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "roles" not in path.relative_to(folder).parts
    }


def data_files(folder: Path) -> dict[str, bytes]:
    """Shards, labels and the newest manifest of a run folder."""
    found = {
        f"{name}/{path}": content
        for name in ("shards", "labels")
        for path, content in files_below(folder / name).items()
    }
    newest = max(folder.glob("manifest-*.json"))
    return found | {newest.name: newest.read_bytes()}


def checkpoint_values(folder: Path) -> dict[str, Any]:
    """Everything in the newest checkpoint of a run folder, flat, without the clock."""
    checkpoint = newest_checkpoint(folder / "ckpts")
    assert checkpoint is not None
    found: dict[str, Any] = {"name": checkpoint.name}
    flatten("state", read_state(checkpoint), found)
    for path in sorted(checkpoint.glob("*.safetensors")):
        flatten(path.name, load_file(path), found)
    for path in sorted(checkpoint.glob("*.pt")):
        flatten(path.name, torch.load(path, weights_only=True), found)
    return {k: v for k, v in found.items() if not is_time(k) and k != "state/metrics_bytes"}


def flatten(name: str, value: Any, out: dict[str, Any]) -> None:
    """Put the leaves of nested dicts and lists into `out`; tensors as bytes."""
    if isinstance(value, dict):
        for key, item in value.items():
            flatten(f"{name}/{key}", item, out)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            flatten(f"{name}/{index}", item, out)
    elif isinstance(value, torch.Tensor):
        out[name] = (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    else:
        out[name] = value


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names under which two flat dicts differ."""
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


def assert_same_run(one: Path, other: Path) -> None:
    """Two run folders hold the same weights, optimisers, counters, metrics and data, bit by bit."""
    assert differences(checkpoint_values(one), checkpoint_values(other))[:9] == []
    assert metric_rows(one) == metric_rows(other)
    assert differences(data_files(one), data_files(other))[:9] == []
