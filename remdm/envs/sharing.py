"""Memory that several processes see, as NumPy arrays.

A block is a memory-mapped file whose name is removed as soon as every process has it open: it
then lives exactly as long as somebody uses it, and nothing is left behind when processes are
killed. Arrays keep their mapping alive, so none ever points to memory that is gone.
"""

import contextlib
import mmap
import os
import tempfile

import numpy as np

# A file system in memory where there is one; elsewhere the pages of an unlinked temporary file.
_IN_MEMORY = "/dev/shm"


def create_block(num_bytes: int) -> tuple[str, np.ndarray]:
    """A new block of zeros.

    Args:
        num_bytes: Size, at least 1.

    Returns:
        The name to open it by until `forget_block`, and its memory, uint8 [num_bytes].

    Raises:
        OSError: If neither the in-memory file system nor the temporary folder has the room.
    """
    folders = [folder for folder in (_IN_MEMORY, tempfile.gettempdir()) if os.path.isdir(folder)]
    for folder in folders:
        try:
            return _create_in(folder, num_bytes)
        except OSError as error:
            failure = error
    raise OSError(
        failure.errno,
        f"no room for {num_bytes} bytes of shared memory in {' or '.join(folders)} "
        f"({failure.strerror}); use fewer environments or shorter chunks",
    )


def _create_in(folder: str, num_bytes: int) -> tuple[str, np.ndarray]:
    descriptor, path = tempfile.mkstemp(prefix="remdm-", dir=folder)
    try:
        # Takes the room now: a mapping of a sparse file would kill the process when it is full.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, num_bytes)
        else:
            os.ftruncate(descriptor, num_bytes)
        return path, _map(descriptor, num_bytes)
    except OSError:
        forget_block(path)
        raise
    finally:
        os.close(descriptor)


def open_block(path: str, num_bytes: int) -> np.ndarray:
    """The memory of a block made by another process, uint8 [num_bytes]."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return _map(descriptor, num_bytes)
    finally:
        os.close(descriptor)


def _map(descriptor: int, num_bytes: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(descriptor, num_bytes), np.uint8)


def forget_block(path: str) -> None:
    """Remove the block's name; whoever has it open keeps it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
