"""What the rows of batches remember, kept with the weights that wrote it: in memory and on disk.

Each agent has a memory of its own. It is only carried on where rows of the dataset walk through
episodes: stretches drawn at random have nothing to do with those of the batch before.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from remdm.ranks import Ranks
from remdm.training.checkpoint import CheckpointError, load_weights, save_weights

if TYPE_CHECKING:
    from remdm.training.assembly import AssembledRun

logger = logging.getLogger(__name__)

_STATE = "state"


def memory_file(name: str) -> str:
    """Name of the file in a checkpoint that holds what agent `name` remembers."""
    return f"{name}_memory.safetensors"


def held_memories(run: "AssembledRun") -> dict[str, Tensor]:
    """By agent what the rows of this process remember, on the CPU; without those of no memory."""
    states = {name: trainer.memory.state for name, trainer in run.trainers.items()}
    return {name: state.cpu() for name, state in states.items() if state is not None}


def save_memories(folder: Path, of_ranks: list[dict[str, Tensor]]) -> None:
    """Write what all rows remember, one file for each agent.

    Args:
        folder: A checkpoint that is being written.
        of_ranks: `held_memories` of all processes, in their order.
    """
    for name in of_ranks[0]:
        rows = torch.cat([held[name] for held in of_ranks])
        save_weights(folder / memory_file(name), {_STATE: rows})


def load_memories(run: "AssembledRun", folder: Path) -> None:
    """Take up what this process's rows remembered; nothing where there is no file, or of others.

    Raises:
        CheckpointError: If a file is damaged, or no memory.
    """
    ranks, steps = Ranks.of(run.accelerator), run.dataset.stretch_steps
    for name, trainer in run.trainers.items():
        trainer.memory.state = None
        path, size = folder / memory_file(name), trainer.agent.memory_size
        if not (run.dataset.walks and steps and size and path.is_file()):
            continue
        state = _checked(load_weights(path), path)
        rows = ranks.whole(run.batch_size) // steps
        if state.shape != (rows, size):
            logger.warning(
                "%s is of %s rows and numbers, here there are %s; rows begin without a memory",
                path,
                tuple(state.shape),
                (rows, size),
            )
            continue
        trainer.memory.state = ranks.own(state).clone().to(run.DEVICE)


def _checked(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """Raises: CheckpointError: If a file holds anything else than one memory."""
    state = tensors.get(_STATE)
    if len(tensors) != 1 or state is None or state.ndim != 2 or not state.is_floating_point():
        raise CheckpointError(
            f"{path} is damaged (it must hold floating numbers [rows, size] as {_STATE!r} alone); "
            "move that file away to begin without a memory"
        )
    return state
