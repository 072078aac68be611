"""Weights that one learner publishes for many collectors, through a folder.

Every version is one file that is never changed; `LATEST.json` names the newest one. Both are
written under a temporary name, fsynced and renamed, the weights first. A reader therefore gets a
whole version or an error with a reason, wherever a writer was killed. Readers write nothing: the
folder may be mounted read-only for them.
"""

import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from remdm.data.atomic_file import atomic_file, sweep_temporary_files
from remdm.distributed.published_files import (
    LATEST_FILE,
    DamagedPublicationError,
    Latest,
    PublicationError,
    Weights,
    data_bytes,
    flat,
    header,
    latest_text,
    plain_facts,
    raw_bytes,
    read_latest,
    read_weights,
    table_of,
    versions_in,
    weights_name,
)

__all__ = ["LATEST_FILE", "PublicationError", "Published", "Publisher", "Subscriber"]

POLL_SECONDS = 0.2
LOG_EVERY_SECONDS = 30.0
# A temporary file of this age has no writer any more, whatever bears its process number now.
ABANDONED_SECONDS = 3600.0
# Publications that may overtake one reading before it gives up.
_MAX_OVERTAKEN = 100
_GONE = (errno.ENOENT, errno.ESTALE)  # the second one is what a network disk says

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """One version of the weights of all agents.

    Attributes:
        version: Grows with every publication.
        facts: What the learner said of it: `action_names`, and as epoch, updates, env_steps.
        weights: Tensors on the CPU by agent and name, each with memory of its own.
    """

    version: int
    facts: dict[str, Any]
    weights: dict[str, dict[str, Tensor]]


class Publisher:
    """The one writer of a folder of published weights.

    A run has one learner, which holds the lock of the run folder. Two publishers at a time could
    take the same version; readers would then see a sum that does not match.
    """

    def __init__(self, folder: Path, *, keep: int = 3) -> None:
        """Make the folder and clear away what killed writers left in it.

        Args:
            folder: Where to publish.
            keep: Number of versions that stay on disk. A reader has to begin again if that many
                appear between its reading `LATEST.json` and its opening the weights.

        Raises:
            ValueError: If `keep` is below 1.
            OSError: If the folder cannot be made.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, the version just published, got {keep}")
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)
        _sweep(self.folder)

    def publish(self, weights: Weights, facts: Mapping[str, Any]) -> int:
        """Publish the next version and remove the oldest.

        Args:
            weights: Tensors by agent and name, on any device; not to be changed meanwhile.
            facts: What readers should know, JSON-able; `action_names`, one per action, among them.

        Returns:
            The version, larger than every one before it, also after a restart.

        Raises:
            PublicationError: If names, dtypes or facts cannot be written. Nothing was.
            OSError: If the disk is full or read-only. The version before is still the newest.
        """
        tensors, plain = flat(weights), plain_facts(facts)
        table = table_of(tensors)
        version = self._next_version()
        head = header(table, version, plain["action_names"])
        size = len(head) + data_bytes(table)
        latest = Latest(version, weights_name(version), size, "0" * 64, plain)
        latest_text(latest)  # refuses facts that are too long before anything is written
        path, what = self.folder / latest.file, f"version {version} of the published weights"
        digest = hashlib.sha256(head)
        with atomic_file(path, what) as file:
            file.write(head)
            for name in table:
                raw = raw_bytes(tensors[name])
                digest.update(raw)
                file.write(raw)
        latest = replace(latest, sha256=digest.hexdigest())
        try:
            self._write_latest(latest_text(latest), what)
        except OSError:
            # It may be in place and only its folder not yet be on disk.
            if read_latest(self.folder) != latest:
                path.unlink(missing_ok=True)
            raise
        self._remove_old()
        return version

    def _next_version(self) -> int:
        """One more than whatever lies in the folder; a damaged `LATEST.json` is set aside."""
        path, newest = self.folder / LATEST_FILE, 0
        try:
            latest = read_latest(self.folder)
            newest = latest.version if latest is not None else 0
        except PublicationError as error:
            aside = path.with_name(f"damaged-{time.time_ns()}-{LATEST_FILE}")
            path.rename(aside)
            logger.warning("%s. It was set aside as %s, publication goes on", error, aside.name)
        return max(newest, *versions_in(self.folder), 0) + 1

    def _write_latest(self, text: str, what: str) -> None:
        path = self.folder / LATEST_FILE
        before = path.lstat().st_mtime_ns if os.path.lexists(path) else 0
        with atomic_file(path, what) as file:
            file.write(text.encode("ascii"))
            file.flush()
            # The clock of a file system ticks every few milliseconds, and inodes are used again:
            # without this, two publications in a row could look the same to `Subscriber.version`.
            now = max(time.time_ns(), before + 1)
            os.utime(file.fileno(), ns=(now, now))

    def _remove_old(self) -> None:
        for version in versions_in(self.folder)[: -self.keep]:
            try:
                (self.folder / weights_name(version)).unlink(missing_ok=True)
            except OSError as error:
                logger.warning("an old version could not be removed: %s", error)
        _sweep(self.folder)


class Subscriber:
    """Reads what a `Publisher` writes, from any process that sees the folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet, and the folder need not exist.

        Args:
            folder: Where the learner publishes.
        """
        self.folder = Path(folder)
        self._stamp: tuple[int, int, int] | None = None
        self._version: int | None = None

    def version(self) -> int | None:
        """The newest version, None if there is none; one `stat` if nothing is new.

        Raises:
            PublicationError: If `LATEST.json` is damaged; the next publication replaces it.
        """
        try:
            found = (self.folder / LATEST_FILE).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            latest = read_latest(self.folder)
            if latest is None:
                return None
            self._stamp, self._version = stamp, latest.version
        return self._version

    def read(self, like: Weights) -> Published | None:
        """The newest weights, whole and of one version; None if there are none.

        Args:
            like: Tensors by agent and name, on any device. The published ones must have exactly
                these names, shapes and dtypes, which is checked before any memory is taken.

        Raises:
            PublicationError: If something is damaged or does not fit; says what.
            OSError: If the folder cannot be read.
        """
        missing = None
        for _ in range(_MAX_OVERTAKEN):
            latest = read_latest(self.folder)
            if latest is None:
                return None
            try:
                weights = read_weights(self.folder, latest, like)
                return Published(latest.version, latest.facts, weights)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
            if missing == latest.version:
                raise DamagedPublicationError(
                    f"{self.folder / LATEST_FILE} names {latest.file}, which is not there; the "
                    "next publication replaces both"
                )
            missing = latest.version  # removed since: a newer one must be there
        raise PublicationError(
            f"{_MAX_OVERTAKEN} times in a row weights were removed from {self.folder} before they "
            "could be opened; publish less often, or keep more versions"
        )

    def wait_for(
        self, version: int, max_wait_seconds: float, stop: Callable[[], bool] = lambda: False
    ) -> int | None:
        """Wait until a version appears, and say so in the log.

        Damage does not end the waiting, since the next publication mends it.

        Args:
            version: The oldest version that will do.
            max_wait_seconds: How long to wait for it.
            stop: Asked several times a second whether to give up.

        Returns:
            The newest version, None if `stop` said so.

        Raises:
            TimeoutError: If it did not come in time.
        """
        start, next_words = time.monotonic(), 0.0
        while True:
            newest, state = self._look()
            if newest is not None and newest >= version:
                return newest
            if stop():
                return None
            waited = time.monotonic() - start
            if waited >= max_wait_seconds:
                raise TimeoutError(
                    f"no weights of version {version} or newer came to {self.folder} within "
                    f"{max_wait_seconds:g} s: {state}; see that the learner runs and publishes "
                    "there, or raise Experiment.max_wait_seconds"
                )
            if waited >= next_words:
                next_words = waited + LOG_EVERY_SECONDS
                logger.info(
                    "waiting for weights of version %d or newer in %s: %s (%.0f of at most %g s)",
                    version, self.folder, state, waited, max_wait_seconds,
                )  # fmt: skip
            time.sleep(min(POLL_SECONDS, max_wait_seconds - waited))

    def _look(self) -> tuple[int | None, str]:
        """The newest version, and what there is in words."""
        try:
            newest = self.version()
        except PublicationError as error:
            return None, str(error)
        if newest is None:
            return None, "nothing is published there yet"
        return newest, f"the newest is version {newest}"


def _sweep(folder: Path) -> None:
    """Remove temporary files of processes that are gone; that it fails is no harm."""
    with contextlib.suppress(OSError):
        sweep_temporary_files(folder, ABANDONED_SECONDS)
