"""Files that appear whole or not at all, and what is left of those that never did."""

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from remdm.data.mapped_file import libc

TEMPORARY_PREFIX = ".tmp-"
_TEMPORARY_NAME = re.compile(
    rf"{re.escape(TEMPORARY_PREFIX)}([0-9a-f]{{12}})-([0-9]+)-[0-9a-f]{{32}}"
)
_ANYWHERE = "0" * 12
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# Of renameat2(2).
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


@contextlib.contextmanager
def atomic_file(
    path: Path,
    what: str,
    *,
    exclusive: bool = False,
    confirm: Callable[[], None] | None = None,
) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends without an exception.

    The file is fsynced before and its folder after the rename, so `path` either does not exist
    or is whole, also after a power cut. On any exception the temporary file is removed.

    Args:
        path: Final place; its folder must exist.
        what: What is being written, for the error message.
        exclusive: Whether to refuse to write over a file that exists, whoever made it and when.
        confirm: Called when all is on disk, right before it gets its name: the last moment to
            raise something, and so to take it back.

    Raises:
        FileExistsError: If there is such a file, and that is not allowed.
        OSError: If it cannot be written, e.g. because the disk is full.
    """
    temporary = path.parent / temporary_name()
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if confirm is not None:
            confirm()
        if exclusive:
            put_in_place(temporary, path)
        else:
            temporary.replace(path)
    except BaseException as error:
        # A buffered byte that could not be written stays with the file object, not on disk.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _write_error(error, path, what) from error
        raise
    _sync_folder(path.parent)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a file its final name, unless that is taken. Both must lie in one folder.

    Raises:
        FileExistsError: If it is taken.
        OSError: If that is impossible.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        # An answer of NFS may be lost, and the question asked again.
        if not path.samefile(temporary):
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _rename_to_new(temporary, path)
        return
    temporary.unlink(missing_ok=True)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename without replacing, for file systems without hard links.

    Raises:
        FileExistsError: If there is a file of that name.
        OSError: If the system or the file system cannot do it.
    """
    rename = getattr(libc(), "renameat2", None)
    if rename is None:
        reason = "this file system can neither link nor rename without replacing"
        raise OSError(errno.ENOSYS, reason)
    old, new = os.fsencode(temporary), os.fsencode(path)
    if rename(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _write_error(error: OSError, path: Path, what: str) -> OSError:
    advice = "see that the folder exists and may be written to"
    if error.errno in _NO_SPACE:
        advice = "free some space, or lower DiskTrajDataset.dset_max_bytes, and start again"
    elif error.errno == errno.EEXIST:
        advice = "another process writes under the same name; give each collector a name of its own"
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


def temporary_name() -> str:
    """A name for a file that is not whole yet; it tells who writes it, on which machine."""
    return f"{TEMPORARY_PREFIX}{_machine()}-{os.getpid()}-{uuid.uuid4().hex}"


@functools.cache
def _machine() -> str:
    """12 hex digits for where process numbers mean the same as here; all 0 if that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return _ANYWHERE
    return hashlib.sha256(f"{socket.gethostname()} {boot} {space}".encode()).hexdigest()[:12]


def writer_runs(path: Path) -> bool | None:
    """Whether the process that writes a temporary file is alive; None if that cannot be told."""
    made = _TEMPORARY_NAME.fullmatch(path.name)
    if made is None or made[1] != _machine() or made[1] == _ANYWHERE:
        return None
    try:
        os.kill(int(made[2]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def sweep_temporary_files(folder: Path, older_than_s: float) -> int:
    """Remove what killed writers left behind in a folder; see `sweep_files`."""
    return sweep_files(sorted(folder.glob(f"{TEMPORARY_PREFIX}*")), older_than_s)


def sweep_files(paths: Sequence[Path], older_than_s: float) -> int:
    """Remove those temporary files whose writers are dead; returns their number.

    On the machine of a writer that is certain at once, however old the file looks: clocks jump.
    On another one the file must not have been changed for so long.
    """
    limit, removed = time.time() - older_than_s, 0
    for path in paths:
        runs = writer_runs(path)
        if runs:
            continue
        with contextlib.suppress(FileNotFoundError):
            if runs is False or path.stat().st_mtime < limit:
                path.unlink()
                removed += 1
    return removed
