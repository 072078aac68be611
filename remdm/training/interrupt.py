"""Stopping on Ctrl-C or SIGTERM at the next safe point instead of anywhere."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_ASKED = b"\nstopping after the current step; once more stops at once\n"


class Stopped(Exception):
    """Somebody asked to stop, and this is a point to go on from."""


class StopRequest:
    """A context in which the first signal sets `requested`; the second one interrupts at once."""

    def __init__(self) -> None:
        """Nothing is installed before the context is entered."""
        self.requested = False
        self._previous: dict[int, Any] = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Logging could be what the signal interrupted, and must not be entered twice.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.write(sys.stderr.fileno(), _ASKED)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
