"""Deleting the files of evicted shards, which a busy disk can make slow."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterable

from remdm.data.folder import DatasetFolder

logger = logging.getLogger(__name__)

# So many files are deleted at once; more of them by a thread, beside everything else.
AT_ONCE = 64


class Burial:
    """Deletes evicted shards with their labels. To be used by one thread."""

    def __init__(self, folder: DatasetFolder) -> None:
        """Args:
        folder: The dataset.
        """
        self.folder = folder
        self._done: set[str] = set()
        self._thread: threading.Thread | None = None

    @property
    def done(self) -> frozenset[str]:
        """Those of the names of the last call of `bury` that are deleted by now."""
        return frozenset(self._done)

    def bury(self, names: Iterable[str]) -> None:
        """Delete shards in `shards/`; may go on after the return.

        Args:
            names: All that are to be deleted, also those of former calls.

        Raises:
            OSError: If a file cannot be deleted.
        """
        due = set(names)
        self._done &= due
        left = sorted(due - self._done)
        if self._thread is not None and self._thread.is_alive():
            return
        if len(left) <= AT_ONCE:
            for name in left:
                self._delete(name)
        else:
            self._thread = threading.Thread(target=self._delete_all, args=(left,), daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until all that was to be deleted is."""
        if self._thread is not None:
            self._thread.join()

    def _delete_all(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                self._delete(name)
        except OSError as error:
            logger.warning("an evicted shard could not be deleted, which is tried again: %s", error)

    def _delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.folder.shards / name)
        # Moved to protected/ meanwhile, the shard lives on, and so do its labels.
        if not os.path.exists(self.folder.protected / name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.folder.labels / name)
        self._done.add(name)
