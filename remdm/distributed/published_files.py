"""The two files of a publication: how they are written down, and all that is checked in them.

The weights are a safetensors file whose header follows from the tensors alone, so a reader knows
every byte of it beforehand. `LATEST.json` says which version is the newest, with the size and the
SHA-256 sum of its file; its last field is a CRC-32 sum of the others.
"""

import errno
import hashlib
import io
import json
import os
import re
import reprlib
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT_VERSION = 1
LATEST_FILE = "LATEST.json"
# Real ones are far smaller; a damaged length must not make a reader take all the memory.
MAX_HEADER_BYTES = 16 << 20
MAX_LATEST_BYTES = 1 << 20
_LATEST_TYPES = {"version": int, "file": str, "bytes": int, "sha256": str, "facts": dict}
_WRONG_SUM = f"it does not match the SHA-256 sum in {LATEST_FILE}"
_WEIGHTS_NAME = re.compile(r"weights-([0-9]{9,18})\.safetensors")
# Messages quote what came from a disk: not all of it, and nothing that a terminal obeys.
_QUOTE = reprlib.Repr()
_QUOTE.maxstring = 100
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Weights = Mapping[str, Mapping[str, Tensor]]
Table = Mapping[str, Mapping[str, Any]]


class PublicationError(ValueError):
    """Published weights are damaged or do not fit, or what should be published makes no sense."""


class DamagedPublicationError(PublicationError):
    """What was published cannot be trusted; the next publication replaces it."""


@dataclass(frozen=True, slots=True)
class Latest:
    """What `LATEST.json` says.

    Attributes:
        version: The newest one.
        file: Name of the file of its weights, in the same folder.
        num_bytes: Size of that file.
        sha256: Sum of that file, 64 hex digits.
        facts: What the learner said of it.
    """

    version: int
    file: str
    num_bytes: int
    sha256: str
    facts: dict[str, Any]


def damaged(path: Path, reason: str) -> DamagedPublicationError:
    """The error for a file that cannot be trusted."""
    return DamagedPublicationError(f"{path} is damaged: {reason}; the next publication replaces it")


def weights_name(version: int) -> str:
    """Name of the file with the weights of a version."""
    return f"weights-{version:09d}.safetensors"


def versions_in(folder: Path) -> list[int]:
    """Versions whose weights lie in a folder, the oldest first."""
    found = (_WEIGHTS_NAME.fullmatch(name) for name in os.listdir(folder))
    versions = [(int(name[1]), name[0]) for name in found if name is not None]
    return sorted(version for version, name in versions if name == weights_name(version))


def flat(weights: Weights) -> dict[str, Tensor]:
    """Tensors by `<agent>/<name>`.

    Raises:
        PublicationError: If a name or a dtype cannot be written.
    """
    tensors = {}
    for agent, own in weights.items():
        if not agent or "/" in agent:
            raise PublicationError(f"an agent's name must be a word without '/', got {agent!r}")
        for name, tensor in own.items():
            if tensor.dtype not in _CODES:
                raise PublicationError(
                    f"{agent}/{name} must be one of {', '.join(_CODES.values())} to be "
                    f"published, got {tensor.dtype}"
                )
            tensors[f"{agent}/{name}"] = tensor
    return tensors


def plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as a reader will get them: lists for tuples, strings for keys.

    Raises:
        PublicationError: If JSON cannot hold them, or `action_names` is missing.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(facts), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise PublicationError(f"facts must be what JSON can hold: {error}") from error
    names = plain.get("action_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PublicationError(
            "facts must hold action_names, one string per action, got "
            f"{_QUOTE.repr(names)}; without them nobody could tell what the numbers of a plan mean"
        )
    return plain


def table_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Dtype, shape and place of every tensor, in the order of the file.

    Large items come first, so that every tensor starts at a multiple of its item size.
    """
    table, start = {}, 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        stop = start + tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    return table


def data_bytes(table: Table) -> int:
    """Bytes that the tensors of a table take."""
    return max((int(entry["data_offsets"][1]) for entry in table.values()), default=0)


def header(table: Table, version: int, action_names: list[str]) -> bytes:
    """All of a weights file that precedes the tensors.

    Raises:
        PublicationError: If it is larger than a reader would take.
    """
    fields = {"__metadata__": _metadata(version, action_names), **table}
    raw = json.dumps(fields, separators=(",", ":")).encode("ascii")
    raw += b" " * (-(len(raw) + 8) % 64)
    if len(raw) > MAX_HEADER_BYTES:
        raise PublicationError(
            f"names and shapes must fit into {MAX_HEADER_BYTES} bytes, got {len(raw)}; publish "
            "fewer tensors"
        )
    return len(raw).to_bytes(8, "little") + raw


def _metadata(version: int, action_names: list[str]) -> dict[str, str]:
    """What stands in the weights file itself; safetensors allows strings only."""
    return {
        "format_version": str(FORMAT_VERSION),
        "version": str(version),
        "action_names": json.dumps(action_names),
    }


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor: its own memory where it is contiguous and on the CPU."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(values.data)


def latest_text(latest: Latest) -> str:
    """The text of `LATEST.json`.

    Raises:
        PublicationError: If it is larger than a reader would take.
    """
    text = _summed(
        {
            "format_version": FORMAT_VERSION,
            "version": latest.version,
            "file": latest.file,
            "bytes": latest.num_bytes,
            "sha256": latest.sha256,
            "facts": latest.facts,
        }
    )
    if len(text) > MAX_LATEST_BYTES:
        raise PublicationError(
            f"facts must fit into {MAX_LATEST_BYTES} bytes with what {LATEST_FILE} says "
            f"otherwise, got {len(text)}; publish fewer of them"
        )
    return text


def _summed(fields: Mapping[str, Any]) -> str:
    """Fields as text, the last one being the sum of the others as they are written."""
    body = json.dumps(fields, indent=1)
    return json.dumps({**fields, "crc32": f"{zlib.crc32(body.encode()):08x}"}, indent=1)


def _open(path: Path) -> io.BufferedReader:
    """Open a plain file for reading. A link could lead out of the folder, a pipe could block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise damaged(path, "it is a link, which could lead out of the folder") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise damaged(path, "it is not a plain file")
    return os.fdopen(descriptor, "rb")


def read_latest(folder: Path) -> Latest | None:
    """What `LATEST.json` of a folder says; None if there is none.

    Raises:
        PublicationError: If it is damaged, or of another format version.
    """
    path = folder / LATEST_FILE
    try:
        with _open(path) as file:
            raw = file.read(MAX_LATEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # replaced, on a network disk, while it was read
            return read_latest(folder)
        raise
    if len(raw) > MAX_LATEST_BYTES:
        raise damaged(path, f"it has more than {MAX_LATEST_BYTES} bytes")
    try:
        text = raw.decode("ascii")
        fields = json.loads(text)
        found = fields["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    if found != FORMAT_VERSION:
        raise PublicationError(
            f"{path} has publication format {_QUOTE.repr(found)}, this version of remdm reads "
            f"{FORMAT_VERSION}; run the same version for the learner and its collectors"
        )
    fields.pop("crc32", None)
    if _summed(fields) != text:
        raise damaged(path, "it does not match its CRC-32 sum")
    return _checked_latest(path, fields)


def _checked_latest(path: Path, fields: Mapping[str, Any]) -> Latest:
    wrong = [name for name, kind in _LATEST_TYPES.items() if type(fields.get(name)) is not kind]
    if wrong:
        raise damaged(path, f"it has no {' and no '.join(wrong)} of the right type")
    latest = Latest(*(fields[name] for name in _LATEST_TYPES))
    if not 0 < latest.version < 10**18:
        raise damaged(path, "its version must be above 0 and have at most 18 digits")
    own_name = weights_name(latest.version)
    if latest.file != own_name:
        # This is also what keeps a reader inside the folder.
        raise damaged(
            path,
            f"version {latest.version} must lie in {own_name} beside it, got "
            f"{_QUOTE.repr(latest.file)}",
        )
    try:
        plain_facts(latest.facts)
    except PublicationError as error:
        raise damaged(path, str(error)) from error
    return latest


def read_weights(folder: Path, latest: Latest, like: Weights) -> dict[str, dict[str, Tensor]]:
    """The weights that `latest` names, each tensor with memory of its own on the CPU.

    Args:
        folder: Of the publication.
        latest: What its `LATEST.json` says.
        like: Tensors of exactly the wanted names, shapes and dtypes. Nothing is allocated before
            the file was found to have these.

    Raises:
        PublicationError: If the file is damaged or does not fit.
        FileNotFoundError: If it is not there.
    """
    path, wanted = folder / latest.file, flat(like)
    table = table_of(wanted)
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != latest.num_bytes:
            raise damaged(path, f"it has {size} bytes, {LATEST_FILE} says {latest.num_bytes}")
        try:
            digest = hashlib.sha256(_checked_header(path, file, size, latest, table))
        except PublicationError as error:
            # Damage is never told as weights of another model.
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != latest.sha256:
                raise damaged(path, _WRONG_SUM) from error
            raise
        tensors = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in wanted.items()}
        for name in table:
            raw = raw_bytes(tensors[name])
            file.readinto(raw)
            digest.update(raw)
            if tensors[name].dtype == torch.bool and (tensors[name].view(torch.uint8) > 1).any():
                raise damaged(path, f"{name} holds more than true and false")
    if digest.hexdigest() != latest.sha256:
        raise damaged(path, _WRONG_SUM)
    return {
        agent: {name: tensors[f"{agent}/{name}"] for name in own} for agent, own in like.items()
    }


def _checked_header(
    path: Path, file: io.BufferedReader, size: int, latest: Latest, table: Table
) -> bytes:
    """All that precedes the tensors, if it is of this version and these are as in the table."""
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise damaged(path, f"a header of {length} bytes cannot be in its {size} bytes")
    try:
        head += file.read(length)
        fields = dict(json.loads(head[8:].decode("ascii")))
        metadata = fields.pop("__metadata__")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(
            path, f"its header cannot be read ({type(error).__name__}: {error})"
        ) from error
    own = _metadata(latest.version, latest.facts["action_names"])
    if metadata != own:
        raise damaged(
            path,
            f"it says {_QUOTE.repr(metadata)} of itself, {LATEST_FILE} says {_QUOTE.repr(own)}",
        )
    if fields != table:
        raise PublicationError(f"{path} does not fit this model: {_differences(fields, table)}")
    declared = 8 + length + data_bytes(table)
    if declared != size:
        raise damaged(path, f"header and tensors take {declared} of its {size} bytes")
    return head


def _differences(found: Mapping[str, Any], own: Table) -> str:
    missing, unknown = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    different = [
        f"{name} is {_QUOTE.repr(found[name])} in the file and {own[name]} here"
        for name in sorted(own.keys() & found.keys())
        if found[name] != own[name]
    ]
    return (
        f"missing {missing[:3]}, unknown {_QUOTE.repr(unknown[:3])}, "
        f"different {different[:3]}; start the collector with the config.gin of the learner's "
        "run folder"
    )
