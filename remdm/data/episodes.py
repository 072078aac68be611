"""Episodes as wholes: their pieces joined, wherever they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from remdm.data.segment_table import UNKNOWN, SegmentTable
from remdm.data.shard_windows import ShardWindows


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """All P segments of all shards, shard after shard.

    Attributes:
        shard: int64 [P]: place of its shard.
        start: int64 [P]: its first step within the shard.
        length: int64 [P].
        env: int64 [P]: its environment.
        drawable: int64 [P]: steps that are drawn.
        head: int64 [P]: the first piece of its episode.
    """

    shard: np.ndarray
    start: np.ndarray
    length: np.ndarray
    env: np.ndarray
    drawable: np.ndarray
    head: np.ndarray


class Episodes:
    """The E episodes of some shards.

    Pieces of one episode have the same collector, environment and level seed, and each begins with
    the step after the last one of the piece before. Where one is missing, what follows the gap
    counts as an episode of its own.

    Attributes:
        lengths: int64 [E]: steps.
        env: int64 [E]: environments.
        drawable: int64 [E]: steps that are drawn.
    """

    def __init__(self, parts: Sequence[ShardWindows | None], env_names: Sequence[str]) -> None:
        """Args:
        parts: The windows of each shard, in the order of recording; None for one to leave out.
        env_names: `env` are places in it.
        """
        pieces = _pieces(parts, env_names)
        # Of one episode, pieces stay in the order of recording.
        order = pieces.head.argsort(kind="stable")
        heads, first = np.unique(pieces.head[order], return_index=True)
        episode = np.repeat(np.arange(len(heads)), np.diff([*first, len(order)]))
        lengths = pieces.length[order]
        self.lengths = np.bincount(episode, lengths, len(heads)).astype(np.int64)
        self.drawable = np.bincount(episode, pieces.drawable[order], len(heads)).astype(np.int64)
        self.env = pieces.env[heads]
        # Pieces in the order of episodes: where they lie, and how many steps are before their ends.
        self._shard, self._start, self._length = pieces.shard[order], pieces.start[order], lengths
        self._ends = np.cumsum(lengths)
        self._begin = np.cumsum(self.lengths) - self.lengths
        # The steps of all shards are numbered on; then one search finds the piece of any step.
        sizes = [0 if part is None else part.shard.num_steps for part in parts]
        self._offsets = np.cumsum([0, *sizes])
        self._starts = self._offsets[pieces.shard] + pieces.start
        self._rank = np.empty(len(order), np.int64)
        self._rank[order] = np.arange(len(order))
        self._episode = episode

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    def places(self, episode: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where steps lie.

        Args:
            episode: int64 [n].
            step: int64 [n]: steps within the episodes, which must exist.

        Returns:
            Two int64 [n]: place of the shard, and step within the shard.
        """
        number = self._begin[episode] + step
        piece = self._ends.searchsorted(number, "right")
        within = number - self._ends[piece] + self._length[piece]
        return self._shard[piece], self._start[piece] + within

    def find(self, shard: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which steps lie somewhere; the inverse of `places`."""
        number = self._offsets[shard] + row
        piece = self._starts.searchsorted(number, "right") - 1
        place = self._rank[piece]
        episode = self._episode[place]
        before = self._ends[place] - self._length[place] - self._begin[episode]
        return episode, before + number - self._starts[piece]


def contents_of(parts: Sequence[ShardWindows | None]) -> str:
    """Stands for the episodes of some shards and for what is to be learnt from them.

    Args:
        parts: See `Episodes`.
    """
    lines = [
        f"{part.shard.path.name} {part.shard.checksum} "
        f"{'' if part.labels is None else part.labels.checksum}\n"
        for part in parts
        if part is not None
    ]
    return sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _pieces(parts: Sequence[ShardWindows | None], env_names: Sequence[str]) -> _Pieces:
    ids = {name: place for place, name in enumerate(env_names)}
    there = [(i, part, part.shard.table) for i, part in enumerate(parts) if part is not None]
    tables = [table for _, _, table in there]

    def joined(columns: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *columns])

    return _Pieces(
        joined([np.full(len(table.lengths), place) for place, _, table in there]),
        joined([table.offsets[:-1] for table in tables]),
        joined([table.lengths for table in tables]),
        joined([np.array([ids[name] for name in t.envs])[t.env] for t in tables]),
        joined([_drawable(part, table) for _, part, table in there]),
        _heads(tables),
    )


def _drawable(part: ShardWindows, table: SegmentTable) -> np.ndarray:
    """int64 [S]: steps of each segment that are drawn."""
    segment = table.offsets.searchsorted(part.steps, "right") - 1
    return np.bincount(segment, minlength=len(table.lengths))


def _heads(tables: Sequence[SegmentTable]) -> np.ndarray:
    """For each segment the first piece of its episode, int64; itself for whole episodes."""
    counts = [len(table.lengths) for table in tables]
    heads = np.arange(sum(counts))
    # Pieces that wait to be continued by the step that is named last.
    waiting: dict[tuple[str, str, int, int], int] = {}
    for table, first in zip(tables, np.cumsum([0, *counts])[:-1].tolist(), strict=True):
        # Most segments are whole episodes, which nothing continues.
        places = np.flatnonzero((table.first_step > 0) | (table.outcome == UNKNOWN))
        for place, segment in zip(places.tolist(), table.segments(places.tolist()), strict=True):
            episode = segment.collector, segment.env, segment.seed
            head = first + place
            if segment.first_step:
                head = waiting.pop((*episode, segment.first_step), head)
            heads[first + place] = head
            if not segment.final:
                waiting[(*episode, segment.first_step + segment.length)] = head
    return heads
