"""`remdm` in a process whose wall clock is wrong by as many seconds as a file says just then."""

import os
import time
from collections.abc import Sequence

OFFSET_FILE = "REMDM_TEST_CLOCK"


def main(words: Sequence[str]) -> int:
    """As `remdm.cli.main`; the environment names the file."""
    from remdm.cli import main as command

    path, seconds, nanoseconds = os.environ[OFFSET_FILE], time.time, time.time_ns

    def offset() -> int:
        with open(path) as file:
            return int(file.read())

    time.time = lambda: seconds() + offset()
    time.time_ns = lambda: nanoseconds() + offset() * 10**9
    return command(words)
