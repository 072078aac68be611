"""Run a program that is asked to stop when the process that started it dies.

    python tether.py PARENT_PID PROGRAM ARGUMENT ...

Run as a file of its own between two processes, so that it imports nothing of this package. The
program takes its place: same process number, same output.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, words: list[str]) -> None:
    """Become the program `words`, unless the parent has died already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG, which Linux has, was refused")
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(128 + signal.SIGTERM)
    os.execv(words[0], words)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
