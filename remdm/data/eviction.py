"""Which shards are too many: first in, first out, but for those that somebody needs."""

from collections.abc import Sequence
from dataclasses import dataclass

from remdm.data.generation import ShardEntry
from remdm.data.shard_names import parsed_or_none


@dataclass(frozen=True, slots=True)
class Limits:
    """When files go.

    Attributes:
        max_steps: Largest number of steps outside `protected/`; None for no limit.
        max_bytes: Largest number of bytes outside `protected/`; None for no limit.
        unlink_after: Generations between leaving a shard out and deleting its file.
        stale_after_s: Age from which a temporary file counts as left by a killed writer.
    """

    max_steps: int | None = None
    max_bytes: int | None = None
    unlink_after: int = 1
    stale_after_s: float = 1800.0

    def exceeded(self, steps: int, size: int) -> bool:
        """Whether so many steps and bytes are too many."""
        too_many = self.max_steps is not None and steps > self.max_steps
        return too_many or (self.max_bytes is not None and size > self.max_bytes)


def within_limits(
    entries: Sequence[ShardEntry], limits: Limits
) -> tuple[tuple[ShardEntry, ...], list[ShardEntry]]:
    """Entries that stay, and the oldest unprotected ones that go.

    The newest one stays, and so does the newest one of every collector.
    """
    queue = [e for e in entries if not e.protected]
    steps = 0 if limits.max_steps is None else sum([e.steps for e in queue])
    size = 0 if limits.max_bytes is None else sum([e.total_bytes for e in queue])
    if not limits.exceeded(steps, size):
        return tuple(entries), []
    needed = _newest_names(queue) | {queue[-1].name}
    evicted: list[ShardEntry] = []
    for entry in queue:
        if not limits.exceeded(steps, size):
            break
        if entry.name not in needed:
            evicted.append(entry)
            steps, size = steps - entry.steps, size - entry.total_bytes
    gone = {e.name for e in evicted}
    return tuple(e for e in entries if e.protected or e.name not in gone), evicted


def _newest_names(entries: Sequence[ShardEntry]) -> set[str]:
    """Of each collector the name of its newest shard; names of other forms tell no collector.

    Args:
        entries: Sorted by name, so that those of one collector are in the order of making.
    """
    # Between the epoch and the last two numbers; later names take the place of earlier ones.
    last = {e.name[8:].rsplit("-", 2)[0]: e.name for e in entries}
    return {name for name in last.values() if parsed_or_none(name)}
