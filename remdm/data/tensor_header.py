"""The header of a file of arrays: what is written into it, and what must hold of one that is read.

Pure functions of bytes and tables. Everything that is read is checked against the data's real size
before NumPy hears of it: sums protect from accidents, not from whoever can make a sum.
"""

import json
import math
import re
import reprlib
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from remdm.data.plain_json import parsed_object, typed

_METADATA_KEY = "remdm"
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
CODES = {dtype: code for code, dtype in _DTYPES.items()}
# Every header starts with these bytes, so the sums lie at a known place.
_PREFIX = b'{"__metadata__":{"crc32":"'
_SUM_START = len(_PREFIX)
_SUMS = re.compile(r"[0-9a-f]{16}")


def layout(specs: Mapping[str, tuple[np.dtype, list[int]]]) -> dict[str, Any]:
    """Where arrays lie in the data, in the order in which they are written.

    Args:
        specs: dtype and shape by name.
    """
    # Large items first: every array then starts at a multiple of its item size.
    order = sorted(specs, key=lambda name: (-specs[name][0].itemsize, name))
    table, start = {}, 0
    for name in order:
        dtype, shape = specs[name]
        stop = start + math.prod(shape) * dtype.itemsize
        table[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    return table


def header_bytes(table: Mapping[str, Any], metadata: Mapping[str, Any], data_sum: int) -> bytes:
    """The first bytes of a file: a length, and a header with the sums of itself and of the data."""
    sums = f"{0:08x}{data_sum:08x}"
    text = json.dumps(metadata, separators=(",", ":"), sort_keys=True)
    fields = {"__metadata__": {"crc32": sums, _METADATA_KEY: text}, **table}
    raw = json.dumps(fields, separators=(",", ":")).encode("ascii")
    raw += b" " * (-(len(raw) + 8) % 64)
    head_sum = f"{zlib.crc32(raw):08x}".encode("ascii")
    raw = raw[:_SUM_START] + head_sum + raw[_SUM_START + 8 :]
    return len(raw).to_bytes(8, "little") + raw


def checked_header(head: bytes) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What it says of each array, the writer's metadata, and the sums.

    Raises:
        ValueError: If it is not whole, or none that `header_bytes` makes.
    """
    stored = head[_SUM_START : _SUM_START + 8]
    if not head.startswith(_PREFIX) or len(stored) < 8:
        raise ValueError("its header does not begin like one written by remdm")
    blank = head[:_SUM_START] + b"00000000" + head[_SUM_START + 8 :]
    if f"{zlib.crc32(blank):08x}".encode("ascii") != stored:
        raise ValueError("its header does not match its CRC-32 sum")
    table = parsed_object(head)
    facts = typed(table, "__metadata__", dict)
    del table["__metadata__"]
    sums = typed(facts, "crc32", str)
    if not _SUMS.fullmatch(sums):
        raise ValueError(f"its sums must be 16 hex digits, got {reprlib.repr(sums)}")
    return table, parsed_object(typed(facts, _METADATA_KEY, str)), sums


def views_of(table: Mapping[str, Any], data: np.ndarray) -> dict[str, np.ndarray]:
    """All arrays, which lie one after another and fill `data`.

    Raises:
        ValueError: If they do not.
    """
    views, end = {}, 0
    for name, entry in table.items():
        try:
            # One word for thousands of files.
            views[sys.intern(name)], end = _view(entry, data, end)
        except ValueError as error:
            raise ValueError(f"array {reprlib.repr(name)}: {error}") from error
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow its last array")
    return views


def _view(entry: Any, data: np.ndarray, start: int) -> tuple[np.ndarray, int]:
    """The array that begins at byte `start`, and where it ends.

    Raises:
        ValueError: If that is not what `entry` says.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"it must be described by an object, got {reprlib.repr(entry)}")
    code, shape = typed(entry, "dtype", str), typed(entry, "shape", list)
    if code not in _DTYPES:
        raise ValueError(f"its dtype {reprlib.repr(code)} is none of {', '.join(_DTYPES)}")
    # Of what is larger together than an array can be, NumPy says so by ValueError, too.
    if not shape or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise ValueError(f"its shape must be numbers >= 0, got {reprlib.repr(shape)}")
    dtype = _DTYPES[code]
    stop = start + math.prod(shape) * dtype.itemsize
    if typed(entry, "data_offsets", list) != [start, stop]:
        raise ValueError(
            f"{code} {reprlib.repr(shape)} must lie at bytes {start} to {stop} of the data, "
            f"its offsets are {reprlib.repr(entry['data_offsets'])}"
        )
    if stop > len(data):
        raise ValueError(f"it should end at byte {stop} of the data, which has {len(data)} bytes")
    return data[start:stop].view(dtype).reshape(shape), stop


def check_data(tensors: Mapping[str, np.ndarray], data: np.ndarray, sums: str) -> None:
    """Raises: ValueError: If the data are not what was written."""
    if zlib.crc32(data.data) != int(sums[8:], 16):
        raise ValueError("its contents do not match their CRC-32 sum")
    for name, array in tensors.items():
        # NumPy and torch count on it.
        if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"array {reprlib.repr(name)} holds more than true and false")
