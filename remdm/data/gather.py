"""Copying scattered rows of many files into one batch, and such loops that must be compiled.

NumPy can pick rows of one array; a batch of 128 windows from 100 shards is 100 arrays per key. The
loop below takes the rows' addresses and copies them, without the GIL and without a Python object
per row.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic
def _copy_bytes(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy bytes from one address to another."""
    signature = types.void(types.uint64, types.uint64, types.uint64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = builder.inttoptr(args[0], cgutils.voidptr_t)
        start = builder.inttoptr(args[1], cgutils.voidptr_t)
        cgutils.raw_memcpy(builder, to, start, args[2], 1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _fill_bytes(typingctx: Any, target: Any, value: Any, count: Any) -> Any:
    """Write one byte many times."""
    signature = types.void(types.uint64, types.uint8, types.uint64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = builder.inttoptr(args[0], cgutils.voidptr_t)
        cgutils.memset(builder, start, args[2], args[1])
        return context.get_dummy_value()

    return signature, codegen


@numba.njit(nogil=True, cache=True)
def _copy_rows(
    sources: np.ndarray,
    row_bytes: np.ndarray,
    files: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
) -> None:
    for index in range(len(rows)):
        file, row = files[index], np.uint64(rows[index])
        for array in range(len(row_bytes)):
            size = row_bytes[array]
            _copy_bytes(  # type: ignore[call-arg]  # numba passes the context itself
                targets[array] + np.uint64(index) * size, sources[file, array] + row * size, size
            )


@numba.njit(nogil=True, cache=True)
def _copy_rows_before(
    sources: np.ndarray,
    row_bytes: np.ndarray,
    fills: np.ndarray,
    count: np.uint64,
    known: np.ndarray,
    files: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
) -> None:
    for index in range(len(rows)):
        file, there = files[index], known[index]
        first = np.uint64(rows[index]) - there
        for array in range(len(row_bytes)):
            size = row_bytes[array]
            target = targets[array] + np.uint64(index) * count * size
            gap = (count - there) * size
            source = sources[file, array] + first * size
            _fill_bytes(target, fills[array], gap)  # type: ignore[call-arg]
            _copy_bytes(target + gap, source, there * size)


@numba.njit(nogil=True, cache=True)
def repeated(numbers: np.ndarray) -> np.ndarray:
    """Places of numbers that occur at an earlier place as well.

    Args:
        numbers: int64 [N], none negative.

    Returns:
        int64, ascending.
    """
    size = 4
    while size < 2 * len(numbers):
        size *= 2
    seen = np.full(size, -1, np.int64)
    found = np.empty(len(numbers), np.int64)
    count = 0
    for place in range(len(numbers)):
        number = numbers[place]
        # Neighbours go to cells that are far apart.
        cell = (number * 0x9E3779B1 >> 7) & (size - 1)
        while seen[cell] != -1 and seen[cell] != number:
            cell = (cell + 1) & (size - 1)
        if seen[cell] == number:
            found[count] = place
            count += 1
        seen[cell] = number
    return found[:count]


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


# Of each array its name, dtype and row shape; alike ones are one object.
Specs = tuple[tuple[str, np.dtype, tuple[int, ...]], ...]
_SPECS: dict[Specs, Specs] = {}


def specs_of(arrays: Mapping[str, np.ndarray]) -> Specs:
    """What must be alike in all files; the same object for alike arrays.

    Raises:
        ValueError: If an array is not contiguous, or they are not equally long.
    """
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) > 1:
        raise ValueError(f"arrays of one file must be equally long, got {sorted(lengths)}")
    if not all(array.flags.c_contiguous for array in arrays.values()):
        raise ValueError("arrays must be contiguous")
    specs = tuple((name, array.dtype, array.shape[1:]) for name, array in arrays.items())
    return _SPECS.setdefault(specs, specs)


def addresses_of(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """uint64: where arrays lie, as long as they live."""
    return np.array([_address(array) for array in arrays], np.uint64)


def check_alike(specs: Iterable[Specs]) -> None:
    """Raises: ValueError: If files differ in more than length."""
    different = dict.fromkeys(specs)
    if len(different) > 1:
        raise ValueError(
            f"arrays must be alike in all files, got {' and '.join(map(str, different))}"
        )


class RowGatherer:
    """Gathers rows of arrays that are spread over several files.

    Every file has the same arrays by name, with the same dtype and row shape, and its own length.
    """

    def __init__(self, specs: Specs, sources: np.ndarray, lengths: np.ndarray) -> None:
        """Args:
        specs: Of each array its name, dtype and row shape.
        sources: uint64 [files, arrays]: where the arrays lie; they must outlive this.
        lengths: int64 [files]: rows.
        """
        self._specs, self._lengths = specs, lengths
        self._sources = np.ascontiguousarray(sources)
        sizes = [int(np.prod(shape, dtype=np.int64)) * d.itemsize for _, d, shape in specs]
        self._row_bytes = np.array(sizes, np.uint64)

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row of all arrays."""
        return int(self._row_bytes.sum())

    def gather(self, files: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copy rows into fresh arrays.

        Args:
            files: int64 [B]: file of each row.
            rows: int64 [B]: row within the file.

        Returns:
            By name [B, ...].

        Raises:
            IndexError: If there is no such row.
        """
        self._check(files, rows)
        out, targets = self._fresh((len(rows),))
        _copy_rows(self._sources, self._row_bytes, files, rows, targets)
        return out

    def _check(self, files: np.ndarray, rows: np.ndarray) -> None:
        if len(rows) and not ((rows >= 0) & (rows < self._lengths[files])).all():
            raise IndexError("a row lies outside its file")

    def _fresh(self, leading: tuple[int, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Arrays to copy into, and their addresses."""
        out = {name: np.empty(leading + shape, dtype) for name, dtype, shape in self._specs}
        return out, np.array([_address(array) for array in out.values()], np.uint64)


class PastGatherer(RowGatherer):
    """Gathers what lies before rows: the last `count` rows of the same segment, newest last.

    Where a segment has fewer, a byte of the array's own fills the front. Rows that follow one
    another in a file are one piece of memory, so that each window is one copy per array.
    """

    def __init__(
        self,
        specs: Specs,
        sources: np.ndarray,
        lengths: np.ndarray,
        starts: Sequence[np.ndarray],
        count: int,
        fills: Mapping[str, int],
    ) -> None:
        """Args:
        specs: See `RowGatherer`.
        sources: See `RowGatherer`.
        lengths: See `RowGatherer`.
        starts: For each file int64 [S]: its segments' first rows, ascending from 0.
        count: How many rows to look back, at least 1.
        fills: Value of every byte of what lies before the segment; 0 for arrays not named.
        """
        super().__init__(specs, sources, lengths)
        self._count = count
        self._fills = np.array([fills.get(name, 0) for name, *_ in self._specs], np.uint8)
        # All files' rows are numbered on; then one search finds the segment of any row.
        self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._lengths)])
        self._starts = np.concatenate(
            [own + first for own, first in zip(starts, self._offsets[:-1], strict=True)]
        )

    @property
    def row_nbytes(self) -> int:
        """Bytes of what lies before one row, in all arrays."""
        return super().row_nbytes * self._count

    def gather(self, files: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copy what lies before rows into fresh arrays; see `RowGatherer.gather`.

        Returns:
            By name [B, count, ...].
        """
        self._check(files, rows)
        numbers = self._offsets[files] + rows
        begun = self._starts[self._starts.searchsorted(numbers, "right") - 1]
        known = np.minimum(numbers - begun, self._count).astype(np.uint64)
        out, targets = self._fresh((len(rows), self._count))
        _copy_rows_before(
            self._sources,
            self._row_bytes,
            self._fills,
            np.uint64(self._count),
            known,
            files,
            rows,
            targets,
        )
        return out
