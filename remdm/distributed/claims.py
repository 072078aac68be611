"""Many workers share many pieces of work in one folder, and none is done twice.

`members/<owner>` is the lease of a worker (see `lease`), `claims/<name>` the history of a piece of
work: a log in which each step is a numbered file that somebody has created exclusively (see
`generations`) and nobody changes. A step says `claimed` (by which acquisition of which member),
`free` or `done`. Whoever wants the next step must create the next number:

*   a worker claims a name that is new or free, or was claimed by a member that has ended;
*   done and free follow only on the worker's own claim. A worker that slept, and whose claim was
    taken over, finds the number taken: its `done` does not count, and a name has at most one.

So the work itself may be begun twice, when a worker is stopped or killed in the middle, but is
recorded as done once. As with leases, no wall clock takes part. Do not delete parts of the folder;
the whole of it may go when nobody works there.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from remdm.distributed.generations import Entry, GenerationLog
from remdm.distributed.lease import Lease, LeaseLost, LostEvent
from remdm.distributed.watching import Watch

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_STATES = ("claimed", "free", "done")


@dataclass(frozen=True, slots=True)
class Step:
    """One step in the history of a name.

    Attributes:
        state: "claimed", "free" or "done".
        owner: Which member made it.
        member_generation: In which acquisition of its lease.
    """

    state: str
    owner: str
    member_generation: int

    def encoded(self) -> bytes:
        """One JSON object in ASCII."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"

    @classmethod
    def decoded(cls, raw: bytes) -> "Step | None":
        """The step that a file describes, or None if the file is damaged."""
        try:
            found = json.loads(raw)
            step = cls(found["state"], found["owner"], found["member_generation"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        fits = step.state in _STATES and type(step.member_generation) is int
        return step if fits and isinstance(step.owner, str) and _fits(step.owner) else None


class ClaimBoard:
    """One worker's view of the shared work, for one thread. Use it in a `with` block or `close` it.

    Attributes:
        owner: The name of this worker.
        generation: Of its lease; record it with what you write.
        lost: Set when this worker's claims may be taken by others, e.g. after a long stop.
    """

    def __init__(
        self, folder: str | os.PathLike[str], owner: str, ttl_seconds: float = 30.0
    ) -> None:
        """Args:
        folder: Shared by all workers; made if missing.
        owner: A name that no other living worker has: letters, digits, '.', '_' and '-'.
        ttl_seconds: A worker of another machine is dead after so long without a sign of life.

        Raises:
            ValueError: If an argument does not fit.
            LeaseHeld: If a living worker has this name; a ValueError, too.
            OSError: If the folder cannot be read or written.
        """
        _check_name(owner, "owner")
        self._folder, self._ttl_seconds = Path(folder), ttl_seconds
        self._lease = Lease.acquire(
            self._folder / "members" / owner, owner, ttl_seconds=ttl_seconds
        )
        self.owner, self.generation = owner, self._lease.generation
        self._claimed: dict[str, int] = {}
        self._watches: dict[Path, Watch] = {}

    @property
    def lost(self) -> LostEvent:
        """Set when this worker's claims may be taken by others."""
        return self._lease.lost

    def claim(self, name: str) -> bool:
        """Take a piece of work, if nobody else has it or has done it. Does not wait.

        The end of a worker on another machine is found by looking again: its claims become free
        when this board has seen no sign of life from it for its `ttl_seconds`.

        Args:
            name: Of the work, e.g. a shard's: letters, digits, '.', '_' and '-'.

        Returns:
            Whether to do it now. False also where this board has it already.

        Raises:
            ValueError: If the name does not fit.
            LeaseLost: If this worker counts as dead itself, or has been closed.
            OSError: If the folder cannot be read or written.
        """
        log = self._log(name)
        if not self._lease.held:
            raise LeaseLost(
                f"a worker must be alive to claim {name!r}, and {self.owner!r} was closed, or gave "
                "no sign of life for its ttl_seconds, so that others may have taken its work. Make "
                "a new ClaimBoard; if it keeps happening, give it a greater ttl_seconds"
            )
        entry = log.newest()
        if entry is not None and not self._is_open(log, entry):
            return False
        generation = entry.generation + 1 if entry else 1
        log.make()
        if not log.append(generation, self._step("claimed")):
            return False
        self._claimed[name] = generation
        return True

    def done(self, name: str) -> bool:
        """Record that claimed work is done, after its result has been stored.

        Returns:
            Whether it counts. False if others took the claim over, and do or did the work as well.

        Raises:
            RuntimeError: If this board has not claimed the name.
            OSError: If the folder cannot be written to; the claim then stays.
        """
        return self._follow(name, "done")

    def release(self, name: str) -> bool:
        """Give claimed work back undone, so that anybody may claim it.

        Returns:
            Whether it was still ours to give.

        Raises:
            RuntimeError: If this board has not claimed the name.
            OSError: If the folder cannot be written to; the claim then stays.
        """
        return self._follow(name, "free")

    def sweep(self) -> list[str]:
        """Free what dead workers had claimed. `claim` does without; for a view of what is open.

        Returns:
            The names that were freed by this call, sorted.

        Raises:
            OSError: If the folder cannot be read or written.
        """
        freed = []
        for name in self.names():
            log = self._log(name)
            entry = log.newest()
            if entry is None or not self._is_open(log, entry):
                continue
            step = Step.decoded(entry.raw)
            is_free = step is not None and step.state == "free"
            if not is_free and log.append(entry.generation + 1, self._step("free")):
                freed.append(name)
        return freed

    def names(self) -> list[str]:
        """Every name that was ever claimed, sorted."""
        try:
            found = os.listdir(self._folder / "claims")
        except FileNotFoundError:
            return []
        return sorted(name for name in found if _fits(name))

    def is_done(self, name: str) -> bool:
        """Whether the work has been done, by anybody.

        Raises:
            ValueError: If the name does not fit.
            OSError: If the folder cannot be read.
        """
        entry = self._log(name).newest()
        step = Step.decoded(entry.raw) if entry else None
        return step is not None and step.state == "done"

    def undone(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that nobody has done yet, in their order."""
        return [name for name in names if not self.is_done(name)]

    def close(self) -> None:
        """Leave: what this worker has claimed and not done is free for others at once."""
        self._claimed.clear()
        self._lease.release()

    def __enter__(self) -> "ClaimBoard":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _log(self, name: str) -> GenerationLog:
        _check_name(name, "name")
        return GenerationLog(self._folder / "claims" / name)

    def _step(self, state: str) -> bytes:
        return Step(state, self.owner, self.generation).encoded()

    def _follow(self, name: str, state: str) -> bool:
        generation = self._claimed.get(name)
        if generation is None:
            raise RuntimeError(
                f"{name!r} must be claimed by this board before it can be called {state}: call "
                "claim(name) first, and go on only if it returns True"
            )
        ours = self._log(name).append(generation + 1, self._step(state))
        del self._claimed[name]
        return ours

    def _is_open(self, log: GenerationLog, entry: Entry) -> bool:
        """Whether the next step may be a claim by anybody."""
        step = Step.decoded(entry.raw)
        if step is None:
            # Nobody can say whose it is. Its maker writes it in one go, or has died.
            return self._watch(log).look().silent
        if step.state == "claimed":
            return self._has_ended(step)
        return step.state == "free"

    def _has_ended(self, step: Step) -> bool:
        sight = self._watch(GenerationLog(self._folder / "members" / step.owner)).look()
        # A folder that shows less than the claim tells is an old view of it, as NFS may give.
        generation = sight.entry.generation if sight.entry else 0
        if generation == step.member_generation:
            return sight.ended
        return generation > step.member_generation or sight.silent

    def _watch(self, log: GenerationLog) -> Watch:
        if log.folder not in self._watches:
            self._watches[log.folder] = Watch(log, self._ttl_seconds)
        return self._watches[log.folder]


def _fits(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def _check_name(name: str, what: str) -> None:
    if not _fits(name):
        raise ValueError(
            f"{what} must consist of 1 to 200 letters, digits, '.', '_' and '-', and not begin "
            f"with '.', as it names a folder; got {name!r}"
        )
