"""Experts on disk: safetensors with the names of their parameters, and facts as JSON.

A folder holds `state.json`, `policy.safetensors` and, to go on training, `training.safetensors`.
Nothing in it is a pickle.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from remdm.data.plain_json import counted, one_line, typed
from remdm.training.checkpoint import (
    BLANK_SUM,
    STATE_FILE,
    CheckpointError,
    check_sum,
    read_state,
    write_checkpoint,
    write_summed,
)

POLICY_FILE, TRAINING_FILE = "policy.safetensors", "training.safetensors"


def named_leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their place in it, as `params/Dense_0/kernel`."""
    import jax

    return {
        "/".join(_word(step) for step in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _word(step: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(step, attribute):
            return str(getattr(step, attribute))
    return str(step)


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree of arrays as safetensors.

    Raises:
        OSError: If the disk is full.
    """
    arrays = {name: np.array(leaf, order="C") for name, leaf in named_leaves(tree).items()}
    write_summed(path, save(arrays, metadata=BLANK_SUM))


def load_tree(path: Path, like: Any) -> Any:
    """Read a tree that `save_tree` wrote.

    Args:
        path: The file.
        like: A tree of the same structure, of arrays or of their shapes and dtypes.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds other arrays; says which.
    """
    import jax

    if not path.is_file():
        raise CheckpointError(f"{path} is missing, the checkpoint is not complete")
    try:
        check_sum(path)
        found = load_file(path)
    except Exception as error:  # safetensors raises its own untyped error
        raise CheckpointError(f"{path} is damaged ({one_line(str(error), 300)})") from error
    wanted = named_leaves(like)
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shapes = [
        f"{name} is {found[name].shape} in the file and {leaf.shape} here"
        for name, leaf in wanted.items()
        if name in found and found[name].shape != leaf.shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{path} is of another expert: missing {missing[:3]}, unknown {extra[:3]}, shapes "
            f"{shapes[:3]}; its game, algorithm and width must be those of state.json"
        )
    leaves = [jax.numpy.asarray(found[name], leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def save_expert(folder: Path, facts: dict[str, Any], params: Any, training: Any = None) -> Path:
    """Write an expert as one folder that appears whole or not at all.

    Args:
        folder: Where; an older one of that name is replaced.
        facts: What it is: `algorithm`, `env_name`, `width` and whatever else is of interest.
        params: Of its policy.
        training: What it takes to go on training; None leaves that out.

    Raises:
        OSError: If the disk is full or read-only; what stood there is untouched.
    """

    def fill(partial: Path) -> None:
        save_tree(partial / POLICY_FILE, params)
        if training is not None:
            save_tree(partial / TRAINING_FILE, training)

    return write_checkpoint(folder.parent, folder.name, {"kind": "expert", **facts}, fill)


def expert_facts(folder: Path) -> dict[str, Any]:
    """What the expert in `folder` is.

    Raises:
        CheckpointError: If there is none, or it lacks what names its net.
    """
    facts = read_state(folder)
    missing = [name for name in ("algorithm", "env_name", "width") if name not in facts]
    if facts.get("kind") != "expert" or missing:
        raise CheckpointError(
            f"{folder} holds no expert: its state.json lacks {', '.join(missing) or 'the kind'}"
        )
    try:
        for name in ("algorithm", "env_name"):
            typed(facts, name, str)
        counted(facts, "width", least=1)
    except ValueError as error:
        raise CheckpointError(f"{folder / STATE_FILE} is damaged ({error})") from error
    return facts
