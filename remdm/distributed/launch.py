"""Starting the roles of a run, starting again what dies, and stopping all of them.

What a role does is its own matter: here it is a command line, and its exit code says what is to
be done next.

    0     it is done
    2     an error that a person must mend: everything stops
    130   somebody asked it to stop: it stays stopped, and all stop if it was the learner
    else  the machine's fault, or a signal: it is started again, after a pause that doubles

An engine knows where processes run: `local_engine` on this machine, `ray_engine` on a cluster.
"""

import logging
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from remdm.distributed.restarting import going_on

logger = logging.getLogger(__name__)

DONE, USER_ERROR, BROKEN, STOPPED = 0, 2, 1, 128 + signal.SIGINT
POLL_SECONDS = 0.1
MOST_PAUSE_SECONDS = 30.0
ONE_REQUEST_SECONDS = 0.5
# Roles without which a run is not over.
ESSENTIAL = ("learn", "validate")


@dataclass(frozen=True, slots=True)
class Part:
    """One role of a run, as it is to be started.

    Attributes:
        role: "collect", "label", "learn" or "validate".
        index: Which one of its role.
        words: What follows the name of the Python program on its command line.
        ranks: Processes that work as one, as learners do.
        cpus: Cores of each process; for engines that place processes.
        gpus: Accelerators of each process; likewise.
    """

    role: str
    index: int
    words: tuple[str, ...]
    ranks: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in messages and names of files."""
        return f"{self.role}-{self.index}"

    def rank_name(self, rank: int) -> str:
        """The name of one of its processes."""
        return self.name if rank == 0 else f"{self.name}.{rank}"


class Job(ABC):
    """One process."""

    @abstractmethod
    def code(self) -> int | None:
        """Its exit code, below 0 if a signal ended it; None while it runs."""

    @abstractmethod
    def send(self, signal_number: int) -> None:
        """Send it a signal, if it still runs."""


class Engine(ABC):
    """Where processes run. Use it in a `with` block or `close` it."""

    @abstractmethod
    def start(self, part: Part, rank: int, env: Mapping[str, str]) -> Job:
        """Start one process of a part.

        Args:
            part: What to run.
            rank: Which of its processes.
            env: Environment variables, beside those that the engine sets.
        """

    @abstractmethod
    def meeting_settings(self, part: Part) -> dict[str, str]:
        """Environment variables that let the processes of a part find each other.

        Raises:
            ValueError: If they cannot work there.
        """

    @abstractmethod
    def show(self) -> None:
        """Print what the processes have written since the last call."""

    @abstractmethod
    def last_lines(self, part: Part) -> list[str]:
        """The last lines that a part has written, without the newest that `show` has not read."""

    @abstractmethod
    def close(self) -> None:
        """End whatever still runs, at once."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Team:
    """All processes of a part, from one start to their end."""

    def __init__(self, engine: Engine, part: Part) -> None:
        """Start them. Several find each other as they would under `accelerate launch`.

        That itself would hide their exit codes: it ends with 1, whatever they end with.
        """
        self._jobs: list[Job] = []
        env: dict[str, str] = {}
        if part.ranks > 1:
            size = str(part.ranks)
            env = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, **engine.meeting_settings(part)}
        try:
            for rank in range(part.ranks):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if env else {}
                self._jobs.append(engine.start(part, rank, own | env))
        except BaseException:
            self.send(signal.SIGKILL)
            raise

    def send(self, signal_number: int) -> None:
        """Send a signal to all that run."""
        for job in self._jobs:
            job.send(signal_number)

    def code(self) -> int | None:
        """The exit code of the whole; None while one of them runs."""
        codes = [job.code() for job in self._jobs]
        if None in codes:
            if any(code not in (None, DONE, STOPPED) for code in codes):
                self.send(signal.SIGKILL)  # the others would wait for the dead one for ever
            return None
        return max((code for code in codes if code is not None), key=_weight)


def _weight(code: int) -> tuple[bool, bool, bool, bool]:
    """How much a code says: one that was killed above says less than the one that was the cause."""
    return code == USER_ERROR, code not in (DONE, STOPPED), code > 0, code == STOPPED


class Signals:
    """A context in which SIGINT and SIGTERM are counted instead of obeyed.

    Those that follow each other at once are one request: a batch system may signal a process in
    two ways.
    """

    def __init__(self) -> None:
        """Nothing is installed before the context is entered."""
        self.count = 0
        self._last = float("-inf")
        self._previous: dict[int, Any] = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self.count += now - self._last >= ONE_REQUEST_SECONDS
        self._last = now

    def __enter__(self) -> "Signals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Watched:
    """A part and how it fares: it runs (`team`), waits to be started, or has ended (`code`)."""

    part: Part
    team: Team | None = None
    due: float = 0.0
    failures: int = 0
    mark: object = None
    code: int | None = None


class Supervisor:
    """Keeps the parts of a run going until they are done."""

    def __init__(
        self,
        engine: Engine,
        parts: Sequence[Part],
        progress: Callable[[Part], object],
        *,
        max_restarts: int = 5,
        restart_seconds: float = 1.0,
        grace_seconds: float = 120.0,
    ) -> None:
        """Args:
        engine: Where they run.
        parts: What to run.
        progress: Something that differs when a part has achieved anything since the last call.
        max_restarts: How often in a row to start a part again that achieves nothing.
        restart_seconds: Pause before the first of them; it doubles, up to half a minute.
        grace_seconds: Time for a part to end by itself, before it is killed.

        Raises:
            ValueError: If a number makes no sense.
        """
        if max_restarts < 0 or restart_seconds < 0 or grace_seconds < 0:
            raise ValueError(
                "--max_restarts, --restart_seconds and --grace_seconds must be at least 0, got "
                f"{max_restarts}, {restart_seconds:g} and {grace_seconds:g}"
            )
        self._engine, self._progress = engine, progress
        self._max_restarts, self._restart_seconds = max_restarts, restart_seconds
        self._grace_seconds = grace_seconds
        self._watched = [_Watched(part) for part in parts]
        self._failure = DONE  # what ended everything, if something did
        self._stopping = self._finishing = False
        self._deadline = float("inf")
        self._asked = 0

    def run(self) -> int:
        """Start everything, and return when all has ended.

        Returns:
            0 if the run is done, 130 if it was stopped before, 2 if a person must mend something,
            1 if a part failed too often.
        """
        with Signals() as signals, self._engine:
            try:
                while self._lives:
                    self._obey(signals.count)
                    self._step()
            except BaseException as error:  # nobody may be left behind, or lose what it has done
                self._stop(f"the launcher ends ({type(error).__name__})")
                while self._lives and time.monotonic() < self._deadline:
                    self._step()
                raise
        return self._outcome()

    @property
    def _lives(self) -> bool:
        return any(watched.code is None for watched in self._watched)

    def _step(self) -> None:
        for watched in self._watched:
            if watched.code is None:
                self._look(watched)
        self._see_whether_done()
        self._end_overdue()
        self._engine.show()
        time.sleep(POLL_SECONDS)

    def _outcome(self) -> int:
        codes = self._codes()
        if all(code == DONE for code in codes):
            return DONE
        if self._failure != DONE:
            return self._failure
        return STOPPED

    def _codes(self) -> list[int | None]:
        """How those have ended that decide whether the run is over."""
        essential = [w.code for w in self._watched if w.part.role in ESSENTIAL]
        return essential or [w.code for w in self._watched]

    def _look(self, watched: _Watched) -> None:
        if watched.team is None:
            if self._stopping or self._finishing:
                watched.code = STOPPED
            elif time.monotonic() >= watched.due:
                watched.team = Team(self._engine, watched.part)
            return
        code = watched.team.code()
        if code is None:
            return
        watched.team = None
        self._engine.show()
        if self._stopping or self._finishing:
            watched.code = code
        else:
            self._on_end(watched, code)

    def _on_end(self, watched: _Watched, code: int) -> None:
        name = watched.part.name
        if code == DONE:
            logger.info("%s is done", name)
            watched.code = code
        elif code == STOPPED:
            logger.info("%s was asked to stop, and is not started again", name)
            watched.code = code
            if watched.part.role == "learn":
                self._stop("the learner was asked to stop")
        elif code == USER_ERROR:
            watched.code = self._failure = code
            self._stop(f"{name} found an error that starting again cannot mend", watched.part)
        else:
            self._start_again(watched, code)

    def _start_again(self, watched: _Watched, code: int) -> None:
        part, mark = watched.part, self._progress(watched.part)
        if mark != watched.mark:
            watched.failures, watched.mark = 0, mark
        watched.failures += 1
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        if watched.failures > self._max_restarts:
            watched.code, self._failure = code, BROKEN
            self._stop(
                f"{part.name} {how}, and that after {self._max_restarts} restarts in a row "
                "without progress (--max_restarts)",
                part,
            )
            return
        # A run that was told to go back to an epoch has done so.
        watched.part = replace(part, words=tuple(going_on(part.words)))
        pause = min(self._restart_seconds * 2 ** (watched.failures - 1), MOST_PAUSE_SECONDS)
        watched.due = time.monotonic() + pause
        logger.warning(
            "%s %s; it is started again in %g s (%d of at most %d times without progress)",
            part.name, how, pause, watched.failures, self._max_restarts,
        )  # fmt: skip

    def _see_whether_done(self) -> None:
        if self._stopping or self._finishing or any(c != DONE for c in self._codes()):
            return
        self._finishing = True
        self._deadline = time.monotonic() + self._grace_seconds

    def _obey(self, count: int) -> None:
        """Pass on what a person asked for: to stop, to stop at once, to be gone."""
        if count <= self._asked:
            return
        self._asked = count
        if count == 1:
            self._stop("asked to stop; once more stops at once")
        else:
            self._send_all(signal.SIGTERM if count == 2 else signal.SIGKILL)

    def _stop(self, why: str, culprit: Part | None = None) -> None:
        lines = self._engine.last_lines(culprit) if culprit is not None else []
        level = logging.INFO if culprit is None else logging.ERROR
        text = "\n".join([f"{why}; all are stopped", *(f"    {line}" for line in lines)])
        logger.log(level, "%s", text)
        self._stopping = True
        self._deadline = time.monotonic() + self._grace_seconds
        self._send_all(signal.SIGTERM)

    def _send_all(self, signal_number: int) -> None:
        for watched in self._watched:
            if watched.team is not None:
                watched.team.send(signal_number)

    def _end_overdue(self) -> None:
        if time.monotonic() < self._deadline:
            return
        if self._finishing and not self._stopping:
            self._stop("the run is over, and some parts have not noticed")
            return
        running = [w.part.name for w in self._watched if w.team is not None]
        if running:
            logger.warning(
                "%s did not end within %g s (--grace_seconds) and must be killed",
                ", ".join(running), self._grace_seconds,
            )  # fmt: skip
        self._deadline = time.monotonic() + self._grace_seconds
        self._send_all(signal.SIGKILL)
