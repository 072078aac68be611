"""Waiting for other processes: said in the log, and not for ever."""

import logging
import time

from remdm.data.plain_json import one_line

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LOG_EVERY_SECONDS = 30.0


class Patience:
    """How long a process goes on waiting for what others have to do."""

    def __init__(self, max_wait_seconds: float) -> None:
        """Args:
        max_wait_seconds: How long to wait without any sign of progress.
        """
        self.max_wait_seconds = max_wait_seconds
        self._since: float | None = None
        self._next_words = 0.0
        self._state: object = None

    def wait(
        self, wanted: str, found: str, fix: str, *, state: object, alive: bool = False
    ) -> None:
        """Wait for a moment, and say so now and then.

        Args:
            wanted: What this process waits for.
            found: What there is, in words.
            fix: What a person should see to.
            state: Whatever changes when there is progress: the time then begins anew.
            alive: Whether somebody who will make progress is certainly alive.

        Raises:
            TimeoutError: If there was no sign of progress for too long.
        """
        now = time.monotonic()
        if self._since is None or state != self._state or alive:
            self._since, self._state = now, state
        waited, text = now - self._since, one_line(f"{wanted}: {found}", 400)
        if waited >= self.max_wait_seconds:
            raise TimeoutError(
                f"waited for {self.max_wait_seconds:g} s in vain for {text}; {fix}, or raise "
                "Experiment.max_wait_seconds"
            )
        if now >= self._next_words:
            self._next_words = now + LOG_EVERY_SECONDS
            logger.info("waiting for %s", text)
        time.sleep(POLL_SECONDS)

    def over(self) -> None:
        """What was waited for is there."""
        self._since = None
