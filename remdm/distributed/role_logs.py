"""What the processes of a run write: a file for each, and their lines on the terminal."""

import fcntl
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from remdm.data.plain_json import one_line

logger = logging.getLogger(__name__)

LOGS_FOLDER = "logs"
_HEAD = "--- "
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_LINES_KEPT = 15
_LONGEST_LINE = 2000
# A launcher that was killed leaves processes that stop, with a checkpoint, as soon as they can.
WAIT_SECONDS = 30.0


class RoleLog:
    """The log file of one process, through all its starts.

    It is locked while it is open, here and in the process that writes to it: two processes of the
    same name on one machine would be a mistake.
    """

    def __init__(self, folder: Path, name: str, wait_seconds: float = WAIT_SECONDS) -> None:
        """Args:
        folder: Where log files are; made if missing.
        name: Of the process, unique within the run.
        wait_seconds: How long to wait for the end of a process of that name.

        Raises:
            ValueError: If a process of that name still runs on this machine.
            OSError: If the file cannot be opened.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.name = folder / f"{name}.log", name
        self.last: deque[str] = deque(maxlen=_LINES_KEPT)
        # Not through a link, which somebody may have put into a folder that was downloaded.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self.path, flags, 0o666), "ab", buffering=0)
        try:
            self._lock(time.monotonic() + wait_seconds)
        except BaseException:
            self._file.close()
            raise
        self._read_to = os.fstat(self._file.fileno()).st_size
        self._rest = b""

    def _lock(self, until: float) -> None:
        told = False
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    logger.info("%s runs on this machine: waiting for its end", self.name)
                told = True
                if time.monotonic() >= until:
                    raise ValueError(
                        f"{self.name} of this run must not be started twice, and one runs on this "
                        f"machine: it holds {self.path}. Wait for its end or stop it; further "
                        "collectors on another machine get numbers of their own by --first_index"
                    ) from None
                time.sleep(0.1)

    def fileno(self) -> int:
        """The open file, for the process to write to."""
        return self._file.fileno()

    def begin(self, command: str) -> None:
        """Note that the process is started."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        head = f"{_HEAD}{now} {one_line(command)}\n".encode()
        # A process that was killed may have left half a line.
        self._file.write(b"\n" + head if self._rest else head)
        self.last.clear()

    def lines(self) -> list[str]:
        """Whole lines that came since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            raw = file.read()
        self._read_to += len(raw)
        *whole, self._rest = (self._rest + raw).split(b"\n")
        found = [_printable(line) for line in whole if not line.startswith(_HEAD.encode())]
        self.last.extend(found)
        return found

    def half_line(self) -> list[str]:
        """What came after the last whole line, if anything did."""
        return [_printable(self._rest)] if self._rest else []

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _printable(line: bytes) -> str:
    return one_line(line.decode("utf-8", "replace").rstrip(), _LONGEST_LINE)


class RoleLogs:
    """The log files of all processes of a run on this machine, printed with their names before."""

    def __init__(self, run: Path) -> None:
        """Args:
        run: Folder of the run.
        """
        self.folder = run / LOGS_FOLDER
        self._logs: dict[str, RoleLog] = {}
        self._console = Console(highlight=False, markup=False, soft_wrap=True)

    def of(self, name: str) -> RoleLog:
        """The log of a process, which is opened by the first call."""
        if name not in self._logs:
            self._logs[name] = RoleLog(self.folder, name)
        return self._logs[name]

    def show(self) -> None:
        """Print what is new."""
        for log in self._logs.values():
            self._print(log, log.lines())

    def _print(self, log: RoleLog, lines: Sequence[str]) -> None:
        width = max(map(len, self._logs))
        colour = _COLOURS[list(self._logs).index(log.name) % len(_COLOURS)]
        for line in lines:
            prefix = Text(f"{log.name:{width}} | ", colour)
            self._console.print(prefix.append(line, style="default"))

    def last_lines(self, names: Sequence[str]) -> list[str]:
        """The last lines of some processes, as far as they were printed."""
        logs = [self._logs[name] for name in names if name in self._logs]
        if len(logs) == 1:
            return [*logs[0].last, *logs[0].half_line()]
        return [f"{log.name} | {line}" for log in logs for line in (*log.last, *log.half_line())]

    def close(self) -> None:
        """Print the rest and close all files."""
        for log in self._logs.values():
            self._print(log, [*log.lines(), *log.half_line()])
            log.close()
