"""What a checkpoint of a run holds, and how a run takes it up again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from remdm._version import __version__
from remdm.training.checkpoint import (
    CheckpointError,
    load_into,
    load_weights,
    random_states,
    read_state,
    save_weights,
    set_random_states,
    write_checkpoint,
)
from remdm.training.progress import Progress

if TYPE_CHECKING:
    from remdm.experiment import Experiment

_COLLECTOR = "collector.safetensors"
_RANDOM = "random.pt"


def _facts(run: "Experiment") -> dict[str, Any]:
    """What identifies a checkpoint, and must fit whatever loads it."""
    return {
        "remdm_version": __version__,
        "progress": run.progress.to_dict(),
        "action_names": list(run.envs.action_names),
        "plan_horizon": run.agent.plan_horizon,
    }


def check_facts(state: dict[str, Any], run: "Experiment", folder: Path) -> None:
    """See that a checkpoint speaks the language of this run.

    Raises:
        CheckpointError: If action set or plan horizon differ; says how.
    """
    own = _facts(run)
    for fact in ("action_names", "plan_horizon"):
        if state.get(fact) != own[fact]:
            raise CheckpointError(
                f"{folder} was written with {fact} {state.get(fact)}, this run has {own[fact]}; "
                "load it with the config.gin of its own run folder"
            )


def save_run(run: "Experiment", root: Path, name: str) -> None:
    """Write everything that `load_run` needs."""

    def fill(folder: Path) -> None:
        for trainer in run.trainers.values():
            trainer.save(folder)
        save_file(run.collector.state(), folder / _COLLECTOR)
        torch.save(random_states(), folder / _RANDOM)

    write_checkpoint(root, name, {**_facts(run), "dataset": run.dataset.state()}, fill)


def load_run(run: "Experiment", folder: Path, *, resume: bool) -> None:
    """Take up a run where a checkpoint left it, or only its averaged weights."""
    state = read_state(folder)
    check_facts(state, run, folder)
    for trainer in run.trainers.values():
        trainer.load(folder, resume=resume)
    if not resume:
        return
    run.progress = Progress(**state["progress"])
    run.dataset.restore(state["dataset"])
    arrays: dict[str, np.ndarray] = load_file(folder / _COLLECTOR)
    if len(arrays["episodes"]) != run.envs.num_envs:
        raise CheckpointError(
            f"{folder} has {len(arrays['episodes'])} actors, this run {run.envs.num_envs}; "
            "set Experiment.parallel_actors back"
        )
    run.collector.restore(arrays)
    set_random_states(torch.load(folder / _RANDOM, weights_only=True))


def save_weights_only(run: "Experiment", folder: Path) -> None:
    """Write the averaged weights of all agents to `folder`, at once."""

    def fill(partial: Path) -> None:
        for name, trainer in run.trainers.items():
            weights = trainer.sync_ema_agent().state_dict()
            save_weights(partial / f"{name}_ema.safetensors", weights)

    write_checkpoint(folder.parent, folder.name, _facts(run), fill)


def load_weights_only(run: "Experiment", folder: Path) -> None:
    """Read averaged weights into the averaged agents.

    Raises:
        CheckpointError: If they are missing, damaged, or of another agent.
    """
    check_facts(read_state(folder), run, folder)
    for name, trainer in run.trainers.items():
        path = folder / f"{name}_ema.safetensors"
        load_into(trainer.ema_agent, load_weights(path), path)
