"""The parent's end of a worker process: start it, talk to it, notice its death."""

import contextlib
import multiprocessing
import pickle
import sys
import types
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from remdm.envs.worker_main import WorkerSetup, worker_main

POLITE_EXIT_S = 5.0

Message = tuple[Any, ...]


class WorkerDied(Exception):
    """A worker that will not answer any more; the argument says why."""


class WorkerProcess:
    """The parent's end of one worker; every method but `kill` raises `WorkerDied` when it is."""

    def __init__(self, number: int, setup: WorkerSetup, context: str) -> None:
        """Start the process. It reports its environments, or why it has none, unasked."""
        self.number = number
        self.setup = setup
        self._late = ""
        packed = _pack(setup)
        multiprocess = multiprocessing.get_context(context)
        self.connection, theirs = multiprocess.Pipe()
        self.process: BaseProcess = multiprocess.Process(  # type: ignore[attr-defined]
            target=worker_main, args=(packed, theirs), name=f"remdm-env-{number}", daemon=True
        )
        with _without_main_module(packed):
            self.process.start()
        theirs.close()  # so that the worker's death closes the pipe

    def send(self, message: Message) -> None:
        """Put a message into the worker's pipe."""
        try:
            self.connection.send(message)
        except OSError as error:
            raise WorkerDied(self.epitaph()) from error

    def receive(self) -> tuple[bool, Any]:
        """The answer that is there; called when the pipe or the sentinel is ready."""
        try:
            if not self.connection.poll():
                raise EOFError
            answer: tuple[bool, Any] = self.connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied(self.epitaph()) from error
        return answer

    def wait_for_answer(self, timeout_s: float) -> None:
        """Wait for one answer, which must be a good one."""
        if not wait([self.connection, self.process.sentinel], timeout_s):
            self.give_up_on(timeout_s)
        good, answer = self.receive()
        if not good:
            raise WorkerDied(f"environment worker {self.number} could not go on: {answer.message}")

    def give_up_on(self, timeout_s: float) -> None:
        """Kill a worker that does not answer."""
        self._late = f" after it gave no answer within {timeout_s} s"
        self.process.kill()

    def epitaph(self) -> str:
        """How the worker died."""
        self.process.join(POLITE_EXIT_S)
        code = self.process.exitcode
        how = f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"
        return f"environment worker {self.number} (pid {self.process.pid}) {how}{self._late}"

    def kill(self) -> None:
        """End the process, whatever it is doing, and free what belongs to it."""
        self.process.kill()
        self.process.join(POLITE_EXIT_S)
        self.connection.close()


def _pack(setup: WorkerSetup) -> bytes:
    try:
        return pickle.dumps(setup)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "what makes an environment must be a name, an EnvMaker or another picklable "
            f"function at the top of a module, since it is sent to a worker process; {error}"
        ) from error


@contextlib.contextmanager
def _without_main_module(packed: bytes) -> Iterator[None]:
    """Keep a starting worker from running the user's script again, unless it is needed.

    Spawned workers import the parent's main module. It holds nothing that they need (but for a
    maker defined in it), costs seconds and memory when it imports torch, and starts the whole
    program again in a script without a `__main__` guard.
    """
    if b"__main__" in packed:
        yield
        return
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
