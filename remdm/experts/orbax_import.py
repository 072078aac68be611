"""Experts of Craftax_Baselines: Orbax checkpoints as its training scripts write them.

They hold a whole training state; what is read is its `params`, onto the CPU, also where the
checkpoint was written on GPUs.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax

from remdm.envs.craftax.game import load_game
from remdm.experts.checkpoint import named_leaves, save_expert
from remdm.experts.nets import POLICIES
from remdm.experts.policy import blank_params
from remdm.registry import import_extra, unknown_name_message
from remdm.training.checkpoint import CheckpointError

ITEM = "default"  # the folder that orbax's manager puts a lone item into


def newest_step(folder: Path) -> Path:
    """The folder of the newest step below `folder`, or `folder` where it is one.

    Raises:
        CheckpointError: If there is none.
    """
    if (folder / ITEM / "_METADATA").is_file():
        return folder
    steps = [path for path in folder.glob("*/") if path.name.isdigit()]
    if not steps:
        raise CheckpointError(
            f"{folder} is no folder of Orbax checkpoints: it needs folders named by their steps, "
            f"each with {ITEM}/_METADATA, as in policies/1000000000/{ITEM}"
        )
    return max(steps, key=lambda path: int(path.name))


def import_expert(
    source: Path, target: Path, *, algorithm: str, env_name: str, width: int = 512
) -> Path:
    """Read an expert of Craftax_Baselines and write it as one of ours.

    Args:
        source: `policies` of its run, or one step in it.
        target: Folder of the expert to be.
        algorithm: A key of `remdm.experts.nets.POLICIES`.
        env_name: Game that it was trained on.
        width: Its `layer_size`.

    Returns:
        `target`.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is of another game, algorithm or
            width; says where they differ.
        ValueError: If a name is unknown.
    """
    if algorithm not in POLICIES:
        raise ValueError(unknown_name_message("algorithm", algorithm, POLICIES))
    game = load_game(env_name)
    net = POLICIES[algorithm](len(game.action_names), width)
    step = newest_step(source)
    like = jax.eval_shape(partial(blank_params, net, width, game.codec.flat_size))
    facts = {
        "algorithm": algorithm,
        "env_name": env_name,
        "width": width,
        "action_names": list(game.action_names),
        "imported_from": f"{source.name}/{step.name}" if step != source else source.name,
    }
    return save_expert(target, facts, _read(step, like))


def _read(step: Path, like: Any) -> Any:
    """The `params` of a training state, of the shapes of `like`."""
    orbax = import_extra("orbax.checkpoint", "craftax")
    path = (step / ITEM).resolve()
    checkpointer = orbax.PyTreeCheckpointer()
    try:
        found = checkpointer.metadata(path)
        tree = getattr(found, "item_metadata", found)
        saved = named_leaves(dict(getattr(tree, "tree", tree))["params"])
    except Exception as error:  # orbax raises many types for what is no checkpoint
        raise CheckpointError(f"{path} cannot be read as an Orbax checkpoint ({error})") from error
    wanted = named_leaves(like)
    differ = [
        f"{name} is {tuple(saved[name].shape) if name in saved else 'missing'} there, "
        f"{leaf.shape} here"
        for name, leaf in wanted.items()
        if name not in saved or tuple(saved[name].shape) != leaf.shape
    ]
    if differ:
        raise CheckpointError(
            f"{step} is of another game, algorithm or width: {'; '.join(differ[:3])}"
        )
    device = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    item = {"params": like}
    how = jax.tree.map(lambda x: orbax.ArrayRestoreArgs(sharding=device, dtype=x.dtype), item)
    asked = orbax.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
    return checkpointer.restore(path, args=asked)["params"]
