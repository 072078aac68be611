"""A folder on a machine's own disk for one process, which goes when the process does."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make the folder, sweep those of processes that were killed, and remove it at the end.

    Raises:
        OSError: If there is no place for it, or somebody else has made that place.
    """
    root = Path(tempfile.gettempdir()) / f"remdm-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    if root.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{root} must belong to this user alone, and somebody else has made or opened it; "
            "remove it, or set TMPDIR to another folder"
        )
    with contextlib.ExitStack() as mine:
        with (root / _LOCK).open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            _sweep(root)
            path = Path(tempfile.mkdtemp(dir=root))
            mine.callback(shutil.rmtree, path, ignore_errors=True)
            mine.enter_context(_locked(path))
        yield path


def _locked(path: Path) -> IO[str]:
    lock = (path / _LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        lock.close()
        raise
    return lock


def _sweep(root: Path) -> None:
    for path in root.iterdir():
        if not path.is_dir():
            continue
        with contextlib.suppress(BlockingIOError):  # its process lives
            _locked(path).close()
            shutil.rmtree(path, ignore_errors=True)
