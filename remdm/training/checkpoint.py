"""Checkpoints on disk: whole folders that appear at once, without pickled code.

A checkpoint is a folder below `ckpts/`. Weights are safetensors; what only a resumed training
needs is a torch file that is read with `weights_only`; counters are in `state.json`, written
first and read first. A folder is filled under a temporary name and renamed when complete, so a
reader never sees half of one.

A field that is added to what a checkpoint holds does not make another format: whoever reads it
must do without. `FORMAT_VERSION` changes where an older reader would go wrong.
"""

import contextlib
import io
import json
import os
import pickle
import random
import re
import reprlib
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from remdm.data.plain_json import counted, one_line, parsed_object, typed

FORMAT_VERSION = 1
STATE_FILE = "state.json"
# Metadata of safetensors, to be filled by `write_summed`; they stand at the front.
BLANK_SUM = {"crc32": "00000000"}
_METADATA = b'{"__metadata__":'
_SUM_PREFIX = _METADATA + b'{"crc32":"'
_SUM_START = 8 + len(_SUM_PREFIX)
_BLOCK = 1 << 20
# The first bytes of a zip archive, which is what torch writes.
_ARCHIVE = b"PK\x03\x04"
# Characters that are passed on of what an error says, and of a name.
_MESSAGE_LENGTH, _NAME_LENGTH = 300, 80

_EPOCH_NAME = re.compile("epoch_([0-9]{6,})")

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
        to_disk([*partial.iterdir(), partial])
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


def to_disk(paths: Iterable[Path]) -> None:
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
    to_disk([target.parent])
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
        state = parsed_object(path.read_bytes())
        if "format_version" not in state:
            raise ValueError("it has no format_version")
        # A checkpoint of a run says how far that was; one of weights alone need not.
        if state["format_version"] == FORMAT_VERSION and "progress" in state:
            how_far(state)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({_words(error)}); {_MOVE}") from error
    found = state["format_version"]
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {reprlib.repr(found)}, this version of remdm reads "
            f"{FORMAT_VERSION}; load it with the version that wrote it "
            f"({reprlib.repr(state.get('remdm_version', 'unknown'))})"
        )
    return state


def how_far(state: Mapping[str, Any]) -> tuple[int, bool, int]:
    """Epochs done, whether the next one has its data, and batches of it: by this they are sorted.

    Raises:
        ValueError: If the state of a checkpoint does not say.
    """
    progress = typed(state, "progress", dict)
    epoch, batches = counted(progress, "epoch"), counted(progress, "batches")
    return epoch, typed(progress, "collected", bool), batches


def _words(error: Exception) -> str:
    """What an error says, in one line that can be read: it may quote from the file."""
    return one_line(str(error) or repr(error), _MESSAGE_LENGTH)


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints below `root`, the newest last (by epoch, then batches done)."""
    found = []
    for folder in root.glob("*/"):
        if folder.name.startswith(".") or not (folder / STATE_FILE).is_file():
            continue
        # Others are not ours, or damaged: read_state says so to whoever names one.
        with contextlib.suppress(ValueError):
            found.append((how_far(parsed_object((folder / STATE_FILE).read_bytes())), folder))
    return [folder for _, folder in sorted(found)]


def remove_old(root: Path, keep: int, keep_every: int | None = None) -> None:
    """Delete old checkpoints; the best one has a folder of its own.

    Args:
        root: Folder of all checkpoints.
        keep: So many of the newest stay.
        keep_every: Those that were written after a multiple of so many epochs stay, too.
    """
    for folder in list_checkpoints(root)[:-keep]:
        epochs = whole_epochs(folder)
        if keep_every is not None and epochs is not None and epochs % keep_every == 0:
            continue
        doomed = root / f".partial-{os.getpid()}-{folder.name}"
        with contextlib.suppress(OSError):  # that room is not made is no reason to stop
            folder.rename(doomed)  # at once: half a checkpoint must not look like one
            if doomed.is_symlink():
                doomed.unlink()
            else:
                shutil.rmtree(doomed)


def epoch_name(epochs: int) -> str:
    """Folder name of the checkpoint that is written after so many epochs."""
    return f"epoch_{epochs:06d}"


def whole_epochs(folder: Path) -> int | None:
    """After how many epochs a checkpoint was written; None if it is one within an epoch."""
    found = _EPOCH_NAME.fullmatch(folder.name)
    return int(found[1]) if found is not None else None


def check_whole(folder: Path) -> dict[str, Any]:
    """See that a checkpoint can be read, all its files; returns its state.

    Raises:
        CheckpointError: If it is missing, damaged, or of another format version.
    """
    state = read_state(folder)
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".safetensors":
                check_sum(path)
            elif path.suffix == ".pt":
                _check_archive(path)
        except Exception as error:  # zip files raise many types
            raise CheckpointError(f"{path} is damaged ({_words(error)}); {_MOVE}") from error
    return state


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write tensors as safetensors; shared or sliced storage is made contiguous.

    Raises:
        OSError: If the disk is full.
    """
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    # Not save_file: it tells of a full disk by an error of its own.
    write_summed(path, save(tensors, metadata=BLANK_SUM))


def write_summed(path: Path, raw: bytes) -> None:
    """Write safetensors with the CRC-32 sum of all their bytes in the metadata.

    Args:
        path: Where.
        raw: Made with metadata `BLANK_SUM`, which is what the sum is taken of.

    Raises:
        OSError: If the disk is full.
    """
    assert raw[8:_SUM_START] == _SUM_PREFIX, "the sum must come first"
    with path.open("wb") as file:
        file.write(raw[:_SUM_START])
        file.write(f"{zlib.crc32(raw):08x}".encode("ascii"))
        file.write(memoryview(raw)[_SUM_START + 8 :])


def check_sum(path: Path) -> None:
    """Compare safetensors with their sum. Those that an older version wrote have none, and pass.

    Raises:
        ValueError: If the file is not what was written.
    """
    with path.open("rb") as file:
        head = file.read(_SUM_START + 8)
        if head[8:_SUM_START] != _SUM_PREFIX:
            if head[8:].startswith(_METADATA):
                raise ValueError("its metadata do not begin with the sum that remdm writes there")
            return
        found = zlib.crc32(head[:_SUM_START] + b"00000000")
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    if f"{found:08x}".encode("ascii") != head[_SUM_START:]:
        raise ValueError("it does not match its CRC-32 sum")


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors written by `save_weights`.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, the checkpoint is not complete; {_MOVE}")
    try:
        check_sum(path)
        return load_file(path)
    except Exception as error:  # safetensors raises its own untyped error
        raise CheckpointError(f"{path} is damaged ({_words(error)}); {_MOVE}") from error


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
        _check_archive(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(values, dict):
            raise ValueError(f"it holds no values by name, but {reprlib.repr(values)}")
    except pickle.UnpicklingError as error:
        # What torch says here is to load it without `weights_only`: never.
        raise CheckpointError(
            f"{path} is damaged (it holds something other than plain values and tensors, which "
            f"may be code and is not loaded); {_MOVE}"
        ) from error
    except Exception as error:  # torch raises many types for a torn file
        raise CheckpointError(f"{path} is damaged ({_words(error)}); {_MOVE}") from error
    return values


def _check_archive(path: Path) -> None:
    """See that a torch file is a whole archive: torch compares no sums, and reads other formats.

    Raises:
        ValueError: If it is not one that torch writes now, or a sum is wrong.
        zipfile.BadZipFile: If it is no archive.
    """
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            raise ValueError("it does not begin like an archive")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        size = sum(member.file_size for member in members)
        if not stored or len(names) < len(members) or size > path.stat().st_size:
            raise ValueError("its members are not plain pieces of the file")
        if (wrong := archive.testzip()) is not None:
            raise ValueError(f"{wrong} in it does not match its CRC-32 sum")


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
        unknown = [one_line(name, _NAME_LENGTH) for name in extra[:3]]
        raise CheckpointError(
            f"{source} does not fit this model: missing {missing[:3]}, unknown {unknown}, "
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
