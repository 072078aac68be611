"""Who holds something, and whether that process still lives.

Two signs of an end are certain: its file says so, or its process is gone from this very machine.
For all other cases there is patience: a file that does not change for the time that its writer
promised, measured by the clock of the one who watches. Wall clocks of two machines are never
compared; none is asked.
"""

import contextlib
import functools
import json
import math
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from remdm.distributed.generations import Entry, GenerationLog


def clock() -> float:
    """Seconds by a clock that only goes forward and, where there is one, counts sleep as well."""
    boot_time: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


@functools.cache
def _machine() -> str:
    """Where process ids mean the same as here: host, boot and namespaces; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        spaces = [os.readlink("/proc/self/ns/pid")]
    except OSError:
        return ""
    with contextlib.suppress(OSError):  # start times are told by the clock of this one
        spaces.append(os.readlink("/proc/self/ns/time"))
    return " ".join([socket.gethostname(), boot, *spaces])


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """Letter of a process's state and its start in clock ticks since boot, if it can be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        columns = text.rpartition(")")[2].split()  # the program's name may hold anything
        return columns[0], int(columns[19])
    except (OSError, IndexError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Holder:
    """Contents of a lease's file.

    Attributes:
        owner: What the holder calls itself.
        host: Its host, for people.
        machine: Where its pid means something; empty if unknown.
        pid: Its process.
        process_start: When that began, in clock ticks since boot; 0 if unknown.
        nonce: A name for this acquisition that no other has.
        generation: The fencing token.
        ttl_seconds: After so long without a new beat it has given up.
        beat: Renewals so far.
        held_seconds: By the holder's own clock at the last beat.
        released: Whether it has ended of its own will.
    """

    owner: str
    host: str
    machine: str
    pid: int
    process_start: int
    nonce: str
    generation: int
    ttl_seconds: float
    beat: int = 0
    held_seconds: float = 0.0
    released: bool = False

    @classmethod
    def here(cls, owner: str, generation: int, ttl_seconds: float) -> "Holder":
        """This process as a holder."""
        own = _state_and_start(os.getpid())
        return cls(
            owner=owner,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            process_start=own[1] if own else 0,
            nonce=uuid.uuid4().hex,
            generation=generation,
            ttl_seconds=float(ttl_seconds),
        )

    def encoded(self) -> bytes:
        """One JSON object in ASCII."""
        return json.dumps(asdict(self), indent=1).encode("ascii") + b"\n"

    @classmethod
    def decoded(cls, raw: bytes) -> "Holder | None":
        """The holder that a file names, or None if the file is damaged."""
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        names = {field.name: field.type for field in fields(cls)}
        if not isinstance(found, dict) or not names.keys() <= found.keys():
            return None
        if any(type(found[name]) is not kind for name, kind in names.items()):
            return None
        holder = cls(**{name: found[name] for name in names})
        times = holder.ttl_seconds > 0 and math.isfinite(holder.ttl_seconds + holder.held_seconds)
        return holder if times and 0 < holder.pid < 2**31 else None

    def has_died(self) -> bool:
        """Whether its process ran on this machine and is certainly gone."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's process
        seen = _state_and_start(self.pid)
        if seen is None:
            return False
        return seen[0] in "ZX" or (self.process_start != 0 and seen[1] != self.process_start)

    def runs_here(self) -> bool:
        """Whether its process is certainly on this machine, alive and not stopped."""
        if not self.machine or self.machine != _machine() or self.released:
            return False
        seen = _state_and_start(self.pid)
        return seen is not None and seen[0] not in "ZXTt" and seen[1] == self.process_start


@dataclass(frozen=True, slots=True)
class Sight:
    """What a watcher saw.

    Attributes:
        entry: The newest file.
        holder: What it says; None if it is damaged or there is none.
        unchanged_seconds: For how long it has certainly been the same.
        changed: Whether it has changed since the watch began, so that somebody is alive.
        ttl_seconds: After so long without a change its writer has given up.
    """

    entry: Entry | None
    holder: Holder | None
    unchanged_seconds: float
    changed: bool
    ttl_seconds: float

    @property
    def silent(self) -> bool:
        """Whether nothing has changed for so long that the writer has given up."""
        return self.unchanged_seconds >= self.ttl_seconds

    @property
    def alive(self) -> bool:
        """Whether its holder has shown a sign of life: it wrote, or its process runs here."""
        return self.changed or (self.holder is not None and self.holder.runs_here())

    @property
    def ended(self) -> bool:
        """Whether the newest generation is over for good."""
        if self.holder is not None and (self.holder.released or self.holder.has_died()):
            return True
        return self.silent


class Watch:
    """Measures by this process's clock for how long a log has not changed."""

    def __init__(self, log: GenerationLog, ttl_seconds: float) -> None:
        """Args:
        log: What to watch.
        ttl_seconds: Patience with a file that does not say how often it should change.
        """
        self._log, self._ttl_seconds = log, ttl_seconds
        self._entry: Entry | None = None
        self._since: float | None = None
        self._changed = False

    def look(self) -> Sight:
        """Read the newest file and compare it with the last look.

        Raises:
            OSError: If the folder cannot be read.
        """
        # Before and after, so that neither a pause here nor a slow server adds to the silence.
        before = clock()
        entry = self._log.newest()
        if self._since is None or entry != self._entry:
            self._changed = self._since is not None
            self._entry, self._since = entry, clock()
        holder = Holder.decoded(entry.raw) if entry else None
        ttl = holder.ttl_seconds if holder else self._ttl_seconds
        return Sight(entry, holder, max(0.0, before - self._since), self._changed, ttl)
