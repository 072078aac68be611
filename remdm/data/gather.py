"""Copying scattered rows of many files into one batch, in one compiled loop.

NumPy can pick rows of one array; a batch of 128 windows from 100 shards is 100 arrays per key. The
loop below takes the rows' addresses and copies them, without the GIL and without a Python object
per row.
"""

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


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


class RowGatherer:
    """Gathers rows of arrays that are spread over several files.

    Every file has the same arrays by name, with the same dtype and row shape, and its own length.
    """

    def __init__(self, files: list[dict[str, np.ndarray]]) -> None:
        """Args:
        files: For each file its arrays by name; the first axis of each counts rows.

        Raises:
            ValueError: If an array is not contiguous, or files differ in more than length.
        """
        self._files = files  # the addresses below are only good as long as the arrays live
        self._specs = {k: (v.dtype, v.shape[1:]) for k, v in files[0].items()}
        self._lengths = np.array([_common_length(arrays) for arrays in files], np.int64)
        for arrays in files:
            specs = {k: (v.dtype, v.shape[1:]) for k, v in arrays.items()}
            if specs != self._specs:
                raise ValueError(
                    f"arrays must be alike in all files, got {specs} and {self._specs}"
                )
            if not all(v.flags.c_contiguous for v in arrays.values()):
                raise ValueError("arrays must be contiguous")
        self._sources = np.array([[_address(f[k]) for k in self._specs] for f in files], np.uint64)
        sizes = [
            int(np.prod(shape, dtype=np.int64)) * d.itemsize for d, shape in self._specs.values()
        ]
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
        if len(rows) and not ((rows >= 0) & (rows < self._lengths[files])).all():
            raise IndexError("a row lies outside its file")
        out = {k: np.empty((len(rows), *shape), dtype) for k, (dtype, shape) in self._specs.items()}
        targets = np.array([_address(array) for array in out.values()], np.uint64)
        _copy_rows(self._sources, self._row_bytes, files, rows, targets)
        return out


def _common_length(arrays: dict[str, np.ndarray]) -> int:
    lengths = {len(v) for v in arrays.values()}
    if len(lengths) != 1:
        raise ValueError(f"arrays of one file must be equally long, got {sorted(lengths)}")
    return lengths.pop()
