"""Checkpoints on disk: whole folders that appear at once, without pickled code.

A checkpoint is a folder below `ckpts/`. Weights are safetensors; what only a resumed training
needs is a torch file that is read with `weights_only`; counters are in `state.json`, written
first and read first. A folder is filled under a temporary name and renamed when complete, so a
reader never sees half of one.
"""

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

FORMAT_VERSION = 1
STATE_FILE = "state.json"


# What to do about a damaged one.
_MOVE = "move that folder away to go on without it"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or does not fit what is to be loaded."""


def write_checkpoint(
    root: Path, name: str, state: dict[str, Any], fill: Callable[[Path], None]
) -> Path:
    """Write one checkpoint folder; on any failure nothing is left behind.

    Args:
        root: Folder of all checkpoints.
        name: Name of the new one; an older one of that name is replaced.
        state: Counters and facts, JSON-able; the format version is added.
        fill: Writes the other files into the folder it is given.

    Raises:
        OSError: If the disk is full or read-only; older checkpoints are untouched.
    """
    target, partial = root / name, root / f".partial-{os.getpid()}-{name}"
    root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        text = json.dumps({"format_version": FORMAT_VERSION, **state}, indent=1)
        (partial / STATE_FILE).write_text(text)
        fill(partial)
        _to_disk([*partial.iterdir(), partial])
        _put_in_place(partial, target)
    except OSError as error:
        raise OSError(
            error.errno,
            f"checkpoint {name} could not be written ({error.strerror}); earlier ones are intact",
            str(root),
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _to_disk(paths: Iterable[Path]) -> None:
    """Have the kernel write files and folders out, so that a power cut leaves them whole."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename a full folder to its final name; what bore it before goes last."""
    replaced = partial.with_name(f".replaced-{partial.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    """The counters of a checkpoint.

    Raises:
        CheckpointError: If the folder is no checkpoint, or of another format version.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {folder}: {STATE_FILE} is missing")
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        found = state["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); {_MOVE}") from error
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {found}, this version of remdm reads "
            f"{FORMAT_VERSION}; load it with the version that wrote it "
            f"({state.get('remdm_version', 'unknown')})"
        )
    return state


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints below `root`, the newest last (by epoch, then batches done)."""
    found = []
    for folder in root.glob("*/"):
        if folder.name.startswith(".") or not (folder / STATE_FILE).is_file():
            continue
        try:
            state = json.loads((folder / STATE_FILE).read_text())
            progress = state["progress"]
            found.append(((progress["epoch"], progress["collected"], progress["batches"]), folder))
        except (ValueError, KeyError, TypeError):
            continue  # not ours, or damaged: read_state says so to whoever names it
    return [folder for _, folder in sorted(found)]


def remove_old(root: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints; the best one has a folder of its own."""
    for folder in list_checkpoints(root)[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write tensors as safetensors; shared or sliced storage is made contiguous.

    Raises:
        OSError: If the disk is full.
    """
    # Not save_file: it tells of a full disk by an error of its own.
    path.write_bytes(save({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors written by `save_weights`.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, the checkpoint is not complete; {_MOVE}")
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own untyped error
        raise CheckpointError(f"{path} is damaged ({error}); {_MOVE}") from error


def save_plain(path: Path, values: dict[str, Any]) -> None:
    """Write plain values and tensors as a torch file.

    Raises:
        OSError: If the disk is full.
    """
    file = io.BytesIO()
    torch.save(values, file)
    path.write_bytes(file.getbuffer())


def load_plain(path: Path) -> dict[str, Any]:
    """Read what `save_plain` wrote, tensors on the CPU.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, the checkpoint is not complete; {_MOVE}")
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a torn file
        raise CheckpointError(f"{path} is damaged ({error}); {_MOVE}") from error
    return values


def load_into(module: torch.nn.Module, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Load weights into a module, strictly.

    Raises:
        CheckpointError: If names or shapes differ; says which.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(weights[k].shape)} in the file and {tuple(own[k].shape)} in the model"
        for k in sorted(own.keys() & weights.keys())
        if own[k].shape != weights[k].shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{source} does not fit this model: missing {missing[:3]}, unknown {extra[:3]}, "
            f"shapes {shapes[:3]}; load it with the config.gin of its own run folder"
        )
    module.load_state_dict(weights)


def random_states() -> dict[str, Any]:
    """The global random states of Python, NumPy and torch, as plain data and tensors.

    Our own draws come from named streams and need none of these; a user's net may.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    words = torch.from_numpy(np.asarray(keys).astype(np.int64))
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, words, position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in states["cuda"]])
