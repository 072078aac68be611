"""Jobs in processes that may crash or hang: each has its own, and so much time.

The processes are forked from a server that has loaded what jobs need and has no threads, so that
one more costs some hundredths of a second. What a job has told before its process ended is kept.
"""

import multiprocessing
import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

FINISHED, HUNG, CRASHED = "finished", "hung", "crashed"
_PATIENCE = 5.0  # seconds that a process has to end after its last words


class Job(Protocol):
    """What runs in a process; must be picklable."""

    def __call__(self, tell: Callable[[Any], None]) -> None:
        """Do it, and tell what is known; the last thing told counts."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job went.

    Attributes:
        index: Which job it was.
        ending: "finished", "hung" (it used up its time) or "crashed" (its process ended).
        told: What it told last; None if it told nothing.
        seconds: Time it took.
        detail: Of a crash: the signal, the exit code, or what was raised.
    """

    index: int
    ending: str
    told: Any
    seconds: float
    detail: str = ""


def run_jobs(
    jobs: Sequence[Job], *, processes: int, limit_seconds: float, preload: Sequence[str] = ()
) -> Generator[Outcome, None, None]:
    """Run jobs, as many at once as there may be processes; outcomes come as they are ready.

    Args:
        jobs: What to do.
        processes: Most processes at once, at least 1.
        limit_seconds: Time that a job has, above 0.
        preload: Modules that jobs need, loaded once.

    Raises:
        ValueError: If a number makes no sense.
    """
    if processes < 1 or not limit_seconds > 0:
        raise ValueError(
            f"jobs need at least 1 process and a time limit above 0, got {processes} and "
            f"{limit_seconds}."
        )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    waiting, running = deque(range(len(jobs))), list[_Running]()
    # Games put their folders here; those of processes that are killed would stay for ever.
    with tempfile.TemporaryDirectory(prefix="remdm_jobs_") as folder:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    index = waiting.popleft()
                    running.append(_Running(context, index, jobs[index], limit_seconds, folder))
                left = min(job.deadline for job in running) - monotonic()
                wait([job.pipe for job in running], max(0.0, left))
                for job in list(running):
                    outcome = job.look()
                    if outcome is not None:
                        running.remove(job)
                        yield outcome
        finally:
            for job in running:
                job.end()


@dataclass(frozen=True, slots=True)
class _Raised:
    """The last words of a job that raised."""

    words: str


class _Running:
    """A process with its job."""

    def __init__(
        self, context: ForkServerContext, index: int, job: Job, limit_seconds: float, folder: str
    ) -> None:
        self.index, self.told, self.raised, self.began = index, None, "", monotonic()
        self.deadline = self.began + limit_seconds
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, job, folder))
        self.process.start()
        theirs.close()

    def look(self) -> Outcome | None:
        """Take in what was told; the outcome if there will be no more."""
        ended = False
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                self._take(self.pipe.recv())
            ended = monotonic() >= self.deadline
            if not ended:
                return None
        seconds = monotonic() - self.began
        if not ended:  # the pipe is closed: the process is ending by itself
            self.process.join(_PATIENCE)
        code = self.process.exitcode
        self.end()
        if ended:
            return Outcome(self.index, HUNG, self.told, seconds)
        if code == 0 and not self.raised:
            return Outcome(self.index, FINISHED, self.told, seconds)
        return Outcome(self.index, CRASHED, self.told, seconds, self.raised or _cause(code))

    def _take(self, message: Any) -> None:
        if isinstance(message, _Raised):
            self.raised = message.words
        else:
            self.told = message

    def end(self) -> None:
        """Free process and pipe."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _work(pipe: Connection, job: Job, folder: str) -> None:
    """The life of a process: what games print goes nowhere, what they write into `folder`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who waits
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    own = Path(folder) / str(os.getpid())
    own.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(own)
    try:
        job(pipe.send)
    except Exception as error:
        pipe.send(_Raised(f"{type(error).__name__}: {error}"))
    pipe.close()
