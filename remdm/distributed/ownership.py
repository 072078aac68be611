"""The right to write to a run and to its dataset: one learner at a time, on all machines."""

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

from remdm.distributed.lease import Lease, LeaseHeld, LeaseLost

logger = logging.getLogger(__name__)

ROLES_FOLDER = "roles"
TTL_SECONDS = 30.0
# Numbers that are tried for a process that was given none.
MOST_PROCESSES = 100_000


def role_folder(root: Path, role: str) -> Path:
    """The lease of a role below the folder of a run or a dataset."""
    return root / ROLES_FOLDER / role


class Ownership:
    """Leases that a process holds as long as it works. Use it in a `with` block."""

    def __init__(
        self, folders: Iterable[Path], owner: str, *, ttl_seconds: float = TTL_SECONDS
    ) -> None:
        """Acquire one lease after the other.

        Args:
            folders: From `role_folder`.
            owner: What to call this process.
            ttl_seconds: See `Lease.acquire`.

        Raises:
            LeaseHeld: If somebody has one of them; no lease is kept then.
        """
        self.owner, self.ttl_seconds = owner, ttl_seconds
        self._leases: dict[Path, Lease] = {}
        try:
            for folder in dict.fromkeys(folders):
                self._leases[folder] = Lease.acquire(folder, owner, ttl_seconds=ttl_seconds)
        except BaseException:
            self.release()
            raise

    @property
    def lost(self) -> bool:
        """Whether a lease has run out; `check` may get it back. Asks no file."""
        return any(lease.lost.is_set() for lease in self._leases.values())

    @property
    def generation(self) -> int:
        """Number of the first lease's acquisition: grows with every new owner."""
        return next(iter(self._leases.values())).generation

    def check(self) -> None:
        """To be called before something is written that nobody else may write.

        A lease that ran out (a laptop slept) is taken again, if nobody had it meanwhile.

        Raises:
            LeaseLost: If somebody had.
        """
        for folder, lease in self._leases.items():
            # Where it cannot be renewed, as on a full disk, it is held until its time is over.
            with contextlib.suppress(OSError):
                lease.renew()
            if lease.held:
                continue
            again = lease.regain()
            if again is None:
                raise LeaseLost(
                    f"this process gave no sign of life for {self.ttl_seconds:g} s, and another "
                    f"one works in {folder.parent.parent} since; nothing was written after that. "
                    "Start it again to go on from what is there"
                )
            self._leases[folder] = again
            logger.warning("%s had run out and is held again; nobody had it meanwhile", folder)

    def release(self) -> None:
        """Give everything back; repeated calls do nothing."""
        for lease in self._leases.values():
            lease.release()

    def __enter__(self) -> "Ownership":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def take_number(
    root: Path, role: str, index: int | None, *, ttl_seconds: float = TTL_SECONDS
) -> tuple[int, Ownership]:
    """Become number `index` of a role, or the lowest that is free.

    Args:
        root: Folder of the run.
        role: "collect" or "label".
        index: Which number; None for any.
        ttl_seconds: See `Lease.acquire`.

    Raises:
        LeaseHeld: If a living process has that number.
    """
    if index is not None:
        return index, _number(root, role, index, ttl_seconds)
    for number in range(MOST_PROCESSES):
        with contextlib.suppress(LeaseHeld):
            return number, _number(root, role, number, ttl_seconds)
    raise LeaseHeld(
        f"{MOST_PROCESSES} processes of role {role} work in {root}; name one by --index"
    )


def _number(root: Path, role: str, number: int, ttl_seconds: float) -> Ownership:
    name = f"{role}-{number}"
    return Ownership([role_folder(root, name)], name, ttl_seconds=ttl_seconds)
