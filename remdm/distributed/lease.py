"""Leases in a shared folder: one holder at a time, also when processes die and clocks jump.

A lease is a folder with one JSON file per acquisition, named by its generation number; the file
with the highest number says who holds it. The protocol has four rules:

1.  Generation g + 1 begins with the exclusive creation of its file, and only after generation g
    was seen to have ended. Of any number of rivals the file system lets one through.
2.  Only its holder ever writes to the file of a generation. Every `ttl_seconds / 3` it replaces
    the file by one with a higher beat (written beside it, then renamed). A holder that wakes up
    late can therefore never overwrite its successor: the successor has another file.
3.  A generation has ended when its file says `released`, when its process is gone from this very
    machine (same boot, same process namespace; the start time tells a reused pid), or when its
    file did not change for its `ttl_seconds` by the clock of the one who watches. The holder
    gives up for good a little less than `ttl_seconds` after it began to write its last beat. A
    watcher begins to count later, when it has seen that beat. So the holder gives up first, and
    what has ended stays so.
4.  The file with the highest number is never removed, lower ones only by the holder of a higher
    one, and who has created a file looks once more for a higher one (see `generations`).

No step compares the wall clocks of two machines, or asks for the wall clock at all. A machine that
was frozen with all its clocks (a paused virtual machine) believes in its lease until its next
beat. Against that, record `Lease.generation` with what you write, and let readers refuse what
comes from a lower generation than they have seen; `renew` asks the folder itself.

On NFS a file is opened by name for every look, which asks the server for its present state
(close-to-open). Mounts that switch this off (`nocto`) or serve cached names without asking may show
an old beat for `acregmax`, 60 s unless set: let `ttl_seconds` be twice that there. A process whose
compiled code keeps Python's interpreter lock for longer than `ttl_seconds` loses its lease.
Machines cloned from one snapshot of running memory look like one machine here.
"""

import logging
import math
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from remdm.distributed.generations import GenerationLog
from remdm.distributed.watching import Holder, Sight, Watch, clock

logger = logging.getLogger(__name__)

# Of its ttl_seconds a holder uses a little less, as clocks do not run at the same speed everywhere.
_USED_SHARE = 0.95


class LeaseHeld(ValueError):
    """Somebody else holds the lease and is alive."""


class LeaseLost(RuntimeError):
    """What was held is no longer ours."""


class LostEvent(threading.Event):
    """Set when a lease is lost. It knows the deadline: it is also set where no thread could run.

    A process that was stopped and goes on therefore finds it set at once, and so does one whose
    heartbeat hangs in a call to a server that has gone away.
    """

    def __init__(self, deadline: float) -> None:
        """Args:
        deadline: When it sets itself, by `clock`, in seconds.
        """
        super().__init__()
        self.deadline = deadline

    def is_set(self) -> bool:
        """Whether the lease is lost."""
        if not super().is_set() and clock() >= self.deadline:
            self.set()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the lease is lost.

        Args:
            timeout: Seconds after which to stop waiting.

        Returns:
            Whether it is lost.
        """
        end = math.inf if timeout is None else clock() + timeout
        while not self.is_set():
            left = min(end, self.deadline) - clock()
            if end <= clock():
                return False
            super().wait(min(max(left, 0.0), threading.TIMEOUT_MAX))
        return True


class Lease:
    """The right to be the only one, kept alive by a thread of its own. Made by `acquire`.

    It belongs to the process that acquired it: a forked child must not use it. Lost is lost: a
    lease does not come back; acquire a new one, which has a higher generation.

    Attributes:
        generation: Grows with every acquisition; record it with what you write.
        lost: Set when somebody took over, or when the lease could not be renewed in time.
    """

    def __init__(self, log: GenerationLog, holder: Holder, began: float) -> None:
        """Args:
        log: The folder.
        holder: What its newest file says: this process.
        began: `clock` before that was written, in seconds.
        """
        self.generation = holder.generation
        self.lost = LostEvent(began + _USED_SHARE * holder.ttl_seconds)
        self._log, self._holder, self._began = log, holder, began
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="remdm-lease", daemon=True)
        self._heart.start()

    @classmethod
    def acquire(
        cls,
        path: str | os.PathLike[str],
        owner: str,
        *,
        ttl_seconds: float = 30.0,
        wait_seconds: float = 0.0,
    ) -> "Lease":
        """Become the holder, as soon as the one before has ended.

        A dead process of this machine is replaced at once, one of another machine after its
        `ttl_seconds` without a sign of life. To see that somebody lives on another machine takes
        a third of that.

        Args:
            path: Folder of the lease, on a file system that all rivals share; made if missing.
            owner: What to call this process in messages, e.g. "learner".
            ttl_seconds: After so long without a renewal others take over. Renewed three times as
                often. Longer than any pause of the process or its file server.
            wait_seconds: How long to wait for the end of a living holder.

        Raises:
            ValueError: If an argument does not fit.
            LeaseHeld: If another holder is alive; a ValueError, too.
            OSError: If the folder cannot be read or written.
        """
        _check(owner, ttl_seconds, wait_seconds)
        log = GenerationLog(Path(path))
        log.make()
        watch, patience = Watch(log, ttl_seconds), clock() + wait_seconds
        first = True
        while True:
            sight = watch.look()
            if sight.entry is None or sight.ended:
                generation = sight.entry.generation if sight.entry else 0
                lease = cls._begin(log, generation + 1, owner, ttl_seconds)
                if lease is not None:
                    return lease
            elif sight.alive and clock() >= patience:
                raise LeaseHeld(_held_message(log.folder, sight))
            elif first:
                logger.info(
                    "%s has an owner: watching for a sign of life, which takes up to %g s",
                    log.folder,
                    sight.ttl_seconds,
                )
            first = False
            time.sleep(min(max(sight.ttl_seconds / 20, 0.01), 0.5))

    def regain(self) -> "Lease | None":
        """A new lease in place of this one, which was lost: None if somebody had one meanwhile.

        A machine that slept for a while may go on like that, where nobody took over.

        Raises:
            OSError: If the folder cannot be read or written.
        """
        if not self.lost.is_set() or self._released.is_set():
            raise RuntimeError("only a lease that was lost, and not released, can be regained")
        self._released.set()
        if not self._is_newest():
            return None
        return self._begin(self._log, self.generation + 1, self.owner, self._holder.ttl_seconds)

    @classmethod
    def _begin(
        cls, log: GenerationLog, generation: int, owner: str, ttl_seconds: float
    ) -> "Lease | None":
        holder, began = Holder.here(owner, generation, ttl_seconds), clock()
        made = log.append(generation, holder.encoded())
        # A creation that took longer than the promise is worth nothing: others may be past it.
        in_time = clock() < began + _USED_SHARE * ttl_seconds
        return cls(log, holder, began) if made and in_time else None

    @property
    def owner(self) -> str:
        """What the holder calls itself."""
        return self._holder.owner

    @property
    def held(self) -> bool:
        """Whether this process may act as the holder, as far as its clock tells."""
        here = os.getpid() == self._holder.pid
        return here and not self._released.is_set() and not self.lost.is_set()

    def renew(self) -> bool:
        """Show a sign of life, and see whether the lease is still ours.

        The heartbeat calls it. Call it before a step that nobody else may do at the same time.

        Returns:
            Whether the lease is held; False once it is lost or released.

        Raises:
            OSError: If the folder cannot be read or written. The lease lives on until its time
                is over.
        """
        with self._lock:
            if not self.held:
                return False
            began = clock()
            if not self._is_newest():
                self.lost.set()
                return False
            holder = replace(
                self._holder, beat=self._holder.beat + 1, held_seconds=began - self._began
            )
            self._log.rewrite(self.generation, holder.encoded(), holder.nonce)
            self._holder = holder
            # What arrived too late may have been preceded by a rival, who has seen the old beat.
            if not self.lost.is_set():
                self.lost.deadline = began + _USED_SHARE * holder.ttl_seconds
            return self.held

    def release(self) -> None:
        """End the lease, so that others need not wait. Repeated calls do nothing.

        A failure to say so in the folder is only logged: others find out after `ttl_seconds`.
        """
        if os.getpid() != self._holder.pid or self._released.is_set():
            return
        lost = self.lost.is_set()
        self._released.set()
        self._heart.join(self._holder.ttl_seconds)
        if not lost:
            self.lost.deadline = math.inf
        if self._heart.is_alive():
            return  # it hangs in a call to the file system, and so would the next one
        try:
            if self._is_newest():
                ended = replace(self._holder, released=True)
                self._log.rewrite(self.generation, ended.encoded(), ended.nonce)
        except OSError as error:
            logger.warning("the lease %s was not released: %s", self._log.folder, error)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _is_newest(self) -> bool:
        entry = self._log.newest()
        if entry is None or entry.generation != self.generation:
            return False
        # Another nonce: the folder was deleted and somebody else began again. A damaged file is
        # still ours, and the next beat mends it.
        holder = Holder.decoded(entry.raw)
        return holder is None or holder.nonce == self._holder.nonce

    def _beat(self) -> None:
        pause = self._holder.ttl_seconds / 3
        while not self._released.wait(pause):
            try:
                if not self.renew():
                    break
                pause = self._holder.ttl_seconds / 3
            except OSError as error:
                logger.warning("the lease %s could not be renewed: %s", self._log.folder, error)
                pause = self._holder.ttl_seconds / 12
        if self.lost.is_set():
            logger.warning(
                "the lease %s of %r (generation %d) is lost: it was taken over, or could not be "
                "renewed within its ttl_seconds of %g",
                self._log.folder,
                self.owner,
                self.generation,
                self._holder.ttl_seconds,
            )


def _check(owner: str, ttl_seconds: float, wait_seconds: float) -> None:
    if not owner:
        raise ValueError("owner must name who holds the lease, e.g. 'learner', got ''")
    if not (ttl_seconds > 0 and math.isfinite(ttl_seconds)):
        raise ValueError(f"ttl_seconds must be positive and finite, e.g. 30, got {ttl_seconds}")
    if not wait_seconds >= 0:
        raise ValueError(
            f"wait_seconds must be at least 0, which does not wait; got {wait_seconds}"
        )


def _held_message(folder: Path, sight: Sight) -> str:
    advice = (
        "Wait until it ends, stop it, or give this process a folder of its own "
        "(another run name or Experiment.ckpt_base_dir). Delete nothing: the lease of a process "
        f"that has died is taken over without help, after at most {sight.ttl_seconds:g} s"
    )
    holder = sight.holder
    if holder is None:
        return (
            f"{folder} must belong to one process at a time, and somebody is writing to it: its "
            f"newest file cannot be read, but changes. {advice}"
        )
    age = holder.held_seconds + sight.unchanged_seconds
    return (
        f"{folder} must belong to one process at a time, and {holder.owner!r} has it: process "
        f"{holder.pid} on host {holder.host!r}, for {age:.0f} s, generation "
        f"{sight.entry.generation if sight.entry else 0}, and it is alive. {advice}"
    )
