"""Other processes of a test: they run a piece of code, and are talked to line by line."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# A process that says nothing for so long will never do so; then it is killed and the test fails.
HANGS_S = 120


class Child:
    """A process; all its lines are ASCII."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self._watchdog = threading.Timer(HANGS_S, self.process.kill)
        self._watchdog.start()

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.kill()
            raise AssertionError(f"the process ended:\n{self.process.stderr.read()}")
        return line.rstrip("\n")

    def send(self, signal_number: int) -> None:
        self.process.send_signal(signal_number)

    def end(self) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def children(number: int, code: str, *arguments: object) -> Iterator[list[Child]]:
    """Several processes with the same code, whose first argument is their place."""
    started: list[Child] = []
    try:
        for place in range(number):
            started.append(Child(code, place, *arguments))
        yield started
    finally:
        for child in started:
            child.end()
