"""Files as memory: mapped, or copied where the system allows no more mappings."""

import ctypes
import errno
import mmap
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.damage import DamagedFileError

_MAP_FAILED = ctypes.c_void_p(-1).value
_MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")
# Part of the system's bound that files may take; the rest is for memory and libraries.
_SHARE = 0.8


def mapped(filename: str) -> np.ndarray:
    """The bytes of a file, read-only.

    The file must not shrink while they are used; writers here replace files and never change them.
    A process may have only so many mappings (Linux: vm.max_map_count, 65,530 by default), and
    cannot even ask for memory beyond that. So with tens of thousands of files mapped, further ones
    are copied into memory.

    Returns:
        uint8, at least 8.

    Raises:
        DamagedFileError: If it is no regular file, or one with less than 8 bytes.
        FileNotFoundError: If there is none.
    """
    # Without waiting: a pipe may have no writer.
    try:
        descriptor = os.open(filename, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise DamagedFileError(Path(filename), "it is no regular file") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedFileError(Path(filename), "it is no regular file")
        size = status.st_size
        if size < 8:
            raise DamagedFileError(Path(filename), f"it has {size} bytes, a header needs 8")
        if _Mapping.living < _most_mappings():
            return np.asarray(_Mapping(descriptor, size, filename))
        return _copied(descriptor, size)
    finally:
        os.close(descriptor)


def _copied(descriptor: int, size: int) -> np.ndarray:
    memory = np.zeros(size, np.uint8)
    view, place = memory.data, 0
    # Where the file is shorter by now, zeros remain, which no sum allows.
    while count := os.readv(descriptor, [view[place:]]):
        place += count
    memory.flags.writeable = False
    return memory


class _Mapping:
    """A file mapped read-only. Python's own `mmap` keeps a descriptor open per mapping."""

    __slots__ = ("address", "size")
    living = 0

    def __init__(self, descriptor: int, size: int, filename: str) -> None:
        address = libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address in (None, _MAP_FAILED):
            code = ctypes.get_errno()
            raise OSError(code, f"{filename} could not be mapped: {os.strerror(code)}")
        _Mapping.living += 1
        self.address: int = address
        self.size = size

    @property
    def __array_interface__(self) -> dict[str, Any]:
        # The second entry of the data marks the memory as read-only for NumPy.
        return {
            "data": (self.address, True),
            "shape": (self.size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        address = getattr(self, "address", None)
        if address is not None and _LIBC is not None:
            _LIBC.munmap(address, self.size)
            _Mapping.living -= 1


_MOST: int | None = None


def _most_mappings() -> int:
    """How many files may be mapped at once."""
    global _MOST
    if _MOST is None:
        try:
            _MOST = int(_SHARE * int(_MOST_MAPPINGS.read_text()))
        except (OSError, ValueError):
            _MOST = int(_SHARE * 65_530)
    return _MOST


_LIBC: ctypes.CDLL | None = None


def libc() -> ctypes.CDLL:
    """The system's C library, with the types of what is called here."""
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
