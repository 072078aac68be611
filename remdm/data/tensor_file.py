"""One immutable file of named arrays: written atomically, checked, mapped into memory.

The container is safetensors (8 bytes of header length, a JSON header, the raw arrays), so any
safetensors reader opens it. On top of it the metadata carry two CRC-32 sums, one of the header and
one of the arrays: a torn copy or a flipped bit is found and never trained on.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import stat
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from remdm.data.plain_json import one_line
from remdm.data.tensor_header import (
    CODES,
    check_data,
    checked_header,
    header_bytes,
    layout,
    views_of,
)

SUFFIX = ".safetensors"
TEMPORARY_PREFIX = ".tmp-"
# A reason may quote what stands in the file, and that may be anything.
_REASON_LENGTH = 300
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedFileError(Exception):
    """A data file that cannot be trusted.

    Attributes:
        path: The file.
        reason: What is wrong with it, in one sentence.
    """

    def __init__(self, path: Path, reason: str) -> None:
        """Args:
        path: The file.
        reason: What is wrong with it, in one sentence.
        """
        reason = one_line(reason, _REASON_LENGTH)
        super().__init__(f"{one_line(str(path))} is damaged: {reason}")
        self.path, self.reason = path, reason


@contextlib.contextmanager
def damage_if_wrong(path: Path) -> Iterator[None]:
    """Say of which file it is that something in it is wrong.

    Raises:
        DamagedFileError: If the block raises ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise DamagedFileError(path, str(error)) from error


@contextlib.contextmanager
def atomic_file(path: Path, what: str) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends without an exception.

    The file is fsynced before and its folder after the rename, so `path` either does not exist
    or is whole, also after a power cut. On any exception the temporary file is removed.

    Args:
        path: Final place; its folder must exist.
        what: What is being written, for the error message.

    Raises:
        OSError: If it cannot be written, e.g. because the disk is full.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        # A buffered byte that could not be written stays with the file object, not on disk.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _write_error(error, path, what) from error
        raise
    _sync_folder(path.parent)


def _write_error(error: OSError, path: Path, what: str) -> OSError:
    advice = (
        "free some space, or lower DiskTrajDataset.dset_max_bytes, and start again"
        if error.errno in _NO_SPACE
        else "see that the folder exists and may be written to"
    )
    return OSError(
        error.errno,
        f"{what} could not be written to {path}: {error.strerror or error}. Nothing that was on "
        f"disk before has been harmed; {advice}",
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporary_files(folder: Path, older_than_s: float) -> int:
    """Remove what killed writers left behind in `folder`; returns the number of files."""
    limit, removed = time.time() - older_than_s, 0
    for path in sorted(folder.glob(f"{TEMPORARY_PREFIX}*")):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < limit:
                path.unlink()
                removed += 1
    return removed


def write_tensor_file(
    path: Path,
    tensors: Mapping[str, Sequence[np.ndarray]],
    metadata: Mapping[str, Any],
    what: str,
) -> None:
    """Write arrays atomically.

    Args:
        path: Final place; its folder must exist.
        tensors: By name, the parts of an array that are laid one after another along axis 0.
        metadata: Anything JSON can hold.
        what: What is being written, for error messages.

    Raises:
        ValueError: If the parts of an array do not fit together.
        OSError: If it cannot be written, e.g. because the disk is full.
    """
    specs = {name: _joined_spec(name, parts) for name, parts in tensors.items()}
    table = layout(specs)
    with atomic_file(path, what) as file:
        file.write(header_bytes(table, metadata, data_sum=0))
        data_sum = 0
        for name in table:
            for part in tensors[name]:
                raw = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
                data_sum = zlib.crc32(raw, data_sum)
                file.write(raw)
        file.seek(0)
        file.write(header_bytes(table, metadata, data_sum))


def _joined_spec(name: str, parts: Sequence[np.ndarray]) -> tuple[np.dtype, list[int]]:
    dtype, shape = parts[0].dtype, parts[0].shape[1:]
    if dtype not in CODES:
        raise ValueError(f"{name} has dtype {dtype}, which safetensors cannot hold")
    for part in parts:
        if part.dtype != dtype or part.shape[1:] != shape:
            raise ValueError(
                f"all parts of {name} must be {dtype} [:, {shape}], got {part.dtype} {part.shape}"
            )
    return dtype, [sum(len(part) for part in parts), *shape]


class _Mapping:
    """A file mapped read-only. Python's own `mmap` keeps a descriptor open per mapping."""

    def __init__(self, path: Path) -> None:
        # Asked before it is opened: opening a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamagedFileError(path, "it is no regular file")
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if self.size < 8:
                raise DamagedFileError(path, f"it has {self.size} bytes, a header needs 8")
            address = _libc().mmap(
                None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0
            )
        if address in (None, ctypes.c_void_p(-1).value):
            code = ctypes.get_errno()
            raise OSError(code, f"{path} could not be mapped: {os.strerror(code)}")
        self.address: int = address
        # The second entry marks the memory as read-only for NumPy.
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (self.size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        address = getattr(self, "address", None)
        if address is not None and _LIBC is not None:
            _LIBC.munmap(address, self.size)


_LIBC: ctypes.CDLL | None = None


def _libc() -> ctypes.CDLL:
    global _LIBC
    if _LIBC is None:
        lib = ctypes.CDLL(None, use_errno=True)
        lib.mmap.restype = ctypes.c_void_p
        integer = ctypes.c_int
        lib.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, integer, integer, integer, ctypes.c_long,
        ]  # fmt: skip
        lib.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        _LIBC = lib
    return _LIBC


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The arrays of a file as read-only views of the mapped file.

    The file must not shrink while views live; writers here replace files and never change them.

    Attributes:
        path: The file.
        tensors: Views by name.
        metadata: What the writer stored beside them.
        checksum: 16 hex digits that stand for header and contents.
        nbytes: Size of the file.
    """

    path: Path
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]
    checksum: str
    nbytes: int

    def array(self, name: str) -> np.ndarray:
        """An array that must be there.

        Raises:
            ValueError: If it is not.
        """
        if name not in self.tensors:
            raise ValueError(f"it has no array {name}")
        return self.tensors[name]

    @classmethod
    def open(cls, path: Path, *, verify_data: bool = False) -> "TensorFile":
        """Map a file and check its header.

        Args:
            path: The file.
            verify_data: Also read all arrays and compare their sum.

        Raises:
            DamagedFileError: If the file is not whole.
            FileNotFoundError: If there is none.
        """
        memory = np.asarray(_Mapping(path))
        length = int.from_bytes(memory[:8].tobytes(), "little")
        if length > len(memory) - 8:
            raise DamagedFileError(
                path, f"its header should have {length} bytes, the whole file has {len(memory)}"
            )
        head, data = memory[8 : 8 + length].tobytes(), memory[8 + length :]
        with damage_if_wrong(path):
            table, metadata, sums = checked_header(head)
            tensors = views_of(table, data)
            if verify_data:
                check_data(tensors, data, sums)
        return cls(path, tensors, metadata, sums, len(memory))
