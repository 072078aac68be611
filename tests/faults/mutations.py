"""Ways to damage a file, and to lie in one. Each is a function of its bytes and a generator.

Bytes are damaged as disks and torn copies do it. Lies are what a broken or malicious writer would
put into headers and JSON; where a file carries sums of itself, `seal` makes them right again, so
that only the reader's own checks stand between the lie and the program.
"""

import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Mutator = Callable[[bytes, np.random.Generator], bytes]

# JSON that Python's own writer refuses is put in place of these words.
_SPELLED = {
    '"<deep>"': "[" * 60_000 + "]" * 60_000,
    '"<long number>"': "9" * 6_000,
}
WEIRD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**40, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "x", "..", "../../escaped.safetensors",
    "/escaped.safetensors", "a/b.safetensors", ".hidden.safetensors", "\0", "\ud800", "\x1b[2J\n",
    "x" * 100_000, [], {}, [[]], [0], [True], {"a": 1}, "<deep>", "<long number>",
)  # fmt: skip
WEIRD_NAMES = tuple(value for value in WEIRD if isinstance(value, str))


def text_of(tree: Any) -> bytes:
    """JSON of a tree that may hold any of `WEIRD`."""
    text = json.dumps(tree, separators=(",", ":"))
    for word, spelled in _SPELLED.items():
        text = text.replace(word, spelled)
    return text.encode("ascii")


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


# Damaged bytes


def truncated(raw: bytes, rng: np.random.Generator) -> bytes:
    """Cut off at any length."""
    return raw[: int(rng.integers(len(raw)))]


def _place(raw: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """A stretch; short ones, and ones within the first bytes, are as likely as others."""
    start = int(rng.integers(_pick(rng, (min(64, len(raw)), len(raw)))))
    return start, min(len(raw), start + int(2 ** rng.uniform(0, 10)))


def flipped(raw: bytes, rng: np.random.Generator) -> bytes:
    """One to four bits are wrong."""
    changed = bytearray(raw)
    for _ in range(int(rng.integers(1, 5))):
        changed[_place(raw, rng)[0]] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def zeroed(raw: bytes, rng: np.random.Generator) -> bytes:
    """A stretch was never written."""
    start, stop = _place(raw, rng)
    return raw[:start] + bytes(stop - start) + raw[stop:]


def filled(raw: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of erased flash memory."""
    start, stop = _place(raw, rng)
    return raw[:start] + b"\xff" * (stop - start) + raw[stop:]


def scrambled(raw: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of something else."""
    start, stop = _place(raw, rng)
    return raw[:start] + rng.bytes(stop - start) + raw[stop:]


def swapped(raw: bytes, rng: np.random.Generator) -> bytes:
    """Two blocks have changed places."""
    size = int(2 ** rng.uniform(0, 8))
    blocks = [raw[at : at + size] for at in range(0, len(raw), size)]
    one, other = (int(i) for i in rng.integers(len(blocks), size=2))
    blocks[one], blocks[other] = blocks[other], blocks[one]
    return b"".join(blocks)


def duplicated(raw: bytes, rng: np.random.Generator) -> bytes:
    """A block was written twice."""
    start, stop = _place(raw, rng)
    return raw[:stop] + raw[start:]


def extended(raw: bytes, rng: np.random.Generator) -> bytes:
    """Something follows the end."""
    return raw + _pick(rng, (b"\0", b" ", b"\n", raw, rng.bytes(64)))


DAMAGES: tuple[Mutator, ...] = (
    truncated, flipped, zeroed, filled, scrambled, swapped, duplicated, extended,
)  # fmt: skip


# Lies in JSON


def _slots(tree: Any) -> list[tuple[Any, Any]]:
    """All places (container, key) below `tree`."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], (dict, list)):
                waiting.append(node[key])
    return found


def lie_in(tree: Any, rng: np.random.Generator) -> Any:
    """A copy of a JSON tree in which one thing is wrong."""
    tree = json.loads(json.dumps(tree))
    slots = _slots(tree)
    if not slots or rng.random() < 0.05:
        return _pick(rng, WEIRD)
    node, key = _pick(rng, slots)
    change = rng.random()
    if change < 0.7:
        node[key] = _pick(rng, WEIRD)
    elif change < 0.8:
        del node[key]
    elif change < 0.9 and isinstance(node, dict):
        node[_pick(rng, WEIRD_NAMES)] = node.pop(key)
    elif isinstance(node, list):
        node.append(node[key])
    else:
        other, place = _pick(rng, slots)
        node[key] = json.loads(json.dumps(other[place]))
    return tree


def json_lie(raw: bytes, rng: np.random.Generator) -> bytes:
    """A lie in a file that is JSON."""
    return text_of(lie_in(json.loads(raw), rng))


# Lies in the headers of safetensors


def taken_apart(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data."""
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def put_together(header: Any, data: bytes) -> bytes:
    """The inverse of `taken_apart`."""
    text = text_of(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


_SHAPES: tuple[Any, ...] = (
    [2**40, 2**40], [2**62, 4], [2**63], [10**30], [-1], [-1, -1], [0], [0, 2**62, 2**62], [],
    [1] * 100, [0.5], [True], ["4"], None, 4, "<deep>",
)  # fmt: skip
_OFFSETS: tuple[Any, ...] = (
    [-8, 8], [8, 0], [0, 2**40], [0, 2**64], [0, 10**30], [-(2**63), 2**63], [0], [0, 1, 2], [],
    [0.0, 4.0], ["0", "4"], [None, None], [True, True], None, 7, "<deep>",
)  # fmt: skip
_DTYPES: tuple[Any, ...] = (
    "BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F16", "BF16", "F32", "F64",
    "F8_E4M3", "C64", "i8", "O", "", "x" * 10_000, None, 3, ["I8"], {}, "<deep>",
)  # fmt: skip


def header_lie(raw: bytes, rng: np.random.Generator) -> bytes:
    """A header that is JSON, and wrong about an array."""
    header, data = taken_apart(raw)
    names = [name for name in header if name != "__metadata__"]
    name, other = _pick(rng, names), _pick(rng, names)
    entry = header[name]
    lie = _pick(rng, ("shape", "offsets", "dtype", "overlap", "name", "drop", "add", "any"))
    if lie == "shape":
        entry["shape"] = _pick(rng, _SHAPES)
    elif lie == "offsets":
        entry["data_offsets"] = _pick(rng, _OFFSETS)
    elif lie == "dtype":
        entry["dtype"] = _pick(rng, _DTYPES)
    elif lie == "overlap":
        entry["data_offsets"] = header[other]["data_offsets"]
    elif lie == "name":
        header = {_pick(rng, WEIRD_NAMES) if k == name else k: v for k, v in header.items()}
    elif lie == "drop":
        del header[name]
    elif lie == "add":
        header[_pick(rng, WEIRD_NAMES)] = entry
    else:
        header = lie_in(header, rng)
    return put_together(header, data)


def facts_lie(raw: bytes, rng: np.random.Generator) -> bytes:
    """A wrong fact in the metadata of a file of arrays."""
    header, data = taken_apart(raw)
    facts = text_of(lie_in(json.loads(header["__metadata__"]["remdm"]), rng))
    header["__metadata__"]["remdm"] = facts.decode("ascii")
    return put_together(header, data)


def values_lie(raw: bytes, rng: np.random.Generator) -> bytes:
    """Arrays whose values nobody would write."""
    header, data = taken_apart(raw)
    start, stop = _place(data, rng)
    byte = _pick(rng, (b"\x02", b"\x7f", b"\x80", b"\xff"))
    return put_together(header, data[:start] + byte * (stop - start) + data[stop:])


def length_lie(raw: bytes, rng: np.random.Generator) -> bytes:
    """A header that is said to be longer or shorter than it is."""
    length = int.from_bytes(raw[:8], "little")
    lies = (0, 1, length - 1, length + 1, len(raw) - 8, len(raw), 2**27, 2**40, 2**63, 2**64 - 1)
    return int(_pick(rng, lies)).to_bytes(8, "little") + raw[8:]


HEADER_LIES: tuple[Mutator, ...] = (header_lie, length_lie)
CONTENT_LIES: tuple[Mutator, ...] = (facts_lie, values_lie)


def seal(raw: bytes) -> bytes:
    """The same file with the sums that its writer would have put into it.

    Two kinds of files have sums: of arrays (of the header, of the data) and weights (one).
    """
    prefix = b'{"__metadata__":{"crc32":"'
    start = 8 + len(prefix)
    length = int.from_bytes(raw[:8], "little")
    if raw[8:start] != prefix or length > len(raw) - 8:
        return raw
    if raw[start + 8 : start + 9] == b'"':
        raw = raw[:start] + b"0" * 8 + raw[start + 8 :]
        return raw[:start] + b"%08x" % zlib.crc32(raw) + raw[start + 8 :]
    head, data = raw[8 : 8 + length], raw[8 + length :]
    sums, rest = b"%08x" % zlib.crc32(data), head[len(prefix) + 16 :]
    head_sum = b"%08x" % zlib.crc32(prefix + b"0" * 8 + sums + rest)
    return raw[:8] + prefix + head_sum + sums + rest + data


def sealed(mutate: Mutator) -> Mutator:
    """A mutator whose files have the right sums."""

    def forge(raw: bytes, rng: np.random.Generator) -> bytes:
        return seal(mutate(raw, rng))

    forge.__name__ = f"sealed_{mutate.__name__}"
    return forge


# Lies in torch files, which are zip archives


def _archive(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archived(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            # By its name alone it would carry the time, and no two archives would be equal.
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def archive_lie(raw: bytes, rng: np.random.Generator) -> bytes:
    """An archive that is whole, with a member that is not what torch wrote."""
    members = _archive(raw)
    name = _pick(rng, [*members, *(n for n in members if n.endswith("data.pkl"))])
    lie = _pick(rng, ("damage", "damage", "damage", "name", "drop", "bomb"))
    if lie == "damage":
        members[name] = _pick(rng, DAMAGES)(members[name] or b"\0", rng)
    elif lie == "name":
        content = members.pop(name)
        members[_pick(rng, ("../../escaped", "/escaped", "archive/data/../x", "x" * 60_000))] = (
            content
        )
    elif lie == "drop":
        del members[name]
    else:
        members[name] = bytes(1 << 22)
        return _archived(members, zipfile.ZIP_DEFLATED)
    return _archived(members)


def storage_lie(raw: bytes, rng: np.random.Generator) -> bytes:
    """Another torch file: of an old format, of no mapping, or with a tensor that claims much."""
    file, few = io.BytesIO(), torch.zeros(2)
    lie = _pick(rng, ("old", "list", "number", "strided", "claims"))
    if lie == "old":
        torch.save({"x": few}, file, _use_new_zipfile_serialization=False)
    elif lie == "list":
        torch.save([few], file)
    elif lie == "number":
        torch.save(3, file)
    elif lie == "strided":
        torch.save({"x": few[:1].expand(1 << 30)}, file)
    else:
        torch.save({"x": torch.arange(771.0)}, file)
        members = _archive(file.getvalue())
        # 771 is spelled as two bytes; the same two bytes with a larger number after them.
        wider = {
            n: c.replace(b"M\x03\x03", b"J\xff\xff\xff\x7f") if n.endswith("data.pkl") else c
            for n, c in members.items()
        }
        return _archived(wider)
    return file.getvalue()


ARCHIVE_LIES: tuple[Mutator, ...] = (archive_lie, storage_lie)


# Code in place of data


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sentinel,)


def with_code(sentinel: Path) -> Mutator:
    """A mutator that puts a pickle that would make `sentinel` in place of the file."""

    def code(raw: bytes, rng: np.random.Generator) -> bytes:
        payload = Payload(sentinel)
        file, how = io.BytesIO(), int(rng.integers(4))
        if how == 0:
            return pickle.dumps(payload, protocol=int(rng.integers(2, 6)))
        if how == 1:
            torch.save({"x": payload}, file, _use_new_zipfile_serialization=False)
            return file.getvalue()
        torch.save({"x": payload}, file)
        if how == 2:
            return file.getvalue()
        if raw[:2] != b"PK":
            return raw + pickle.dumps(payload)
        return _archived(_archive(raw) | {"archive/data.pkl": pickle.dumps(payload, protocol=2)})

    return code
