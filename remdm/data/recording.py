"""The buffer that takes what actors do and writes it as shards.

A shard lays the steps of its segments one after another. A segment is an episode or a piece of
one: an episode that is still going on when the buffer is written, or that is cut (see
`remdm.data.pieces`), continues in another segment with `first_step > 0`.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remdm.data.pieces import PieceLength
from remdm.data.records import Segment, StepArrays, StepChunk, valid_steps
from remdm.data.shard_checks import MOST_ACTIONS
from remdm.data.shard_file import write_shard
from remdm.data.shard_names import ShardName, parse_shard_name, parsed_or_none, shard_name


@dataclass(slots=True)
class _OpenSegment:
    """A segment that grows, up to `most` steps if there is a limit.

    `parts` are (block, start, stop) of the steps it has so far.
    """

    env: str
    seed: int
    first_step: int
    policy_version: int
    most: float
    length: int
    parts: list[tuple[int, int, int]]


class RecordingBuffer:
    """Takes the chunks of a `PlanVecEnv` and writes them as shards.

    Each chunk is copied once, when it comes. Writing streams those copies to the file.

    Attributes:
        policy_version: Version of the policy that acts; set it when new weights are taken.
    """

    def __init__(
        self,
        folder: Path | None,
        action_names: Sequence[str],
        collector: str = "main",
        *,
        policy_version: int = 0,
        piece_length: PieceLength | None = None,
    ) -> None:
        """Args:
        folder: Where shards go, made if missing; None drops all steps.
        action_names: One name per action.
        collector: Name of this collector, part of the file names; no two may share one.
        policy_version: Version of the policy that acts.
        piece_length: Steps after which an episode goes on in another piece; None cuts none.
        """
        shard_name(0, collector, 0, 0)
        if len(action_names) > MOST_ACTIONS:
            raise ValueError(
                f"at most {MOST_ACTIONS} actions fit into int8 plans, got {len(action_names)}"
            )
        self.folder, self.collector = folder, collector
        self.action_names = tuple(action_names)
        self.policy_version, self._piece_length = policy_version, piece_length
        # Epoch and sequence of the newest shard; whether the folder was searched for it.
        self._last, self._searched = (-1, -1), False
        self._blocks: list[StepArrays] = []
        self._closed: list[tuple[Segment, list[tuple[int, int, int]]]] = []
        self._open: dict[int, _OpenSegment] = {}
        # What a row's next step continues: (env, seed, steps taken).
        self._position: dict[int, tuple[str, int, int]] = {}

    @property
    def epoch(self) -> int:
        """Epoch in the name of this collector's newest shard, if known; otherwise -1."""
        return self._last[0]

    @property
    def num_steps(self) -> int:
        """Steps recorded and not yet written."""
        return self.finished_steps + sum(s.length for s in self._open.values())

    @property
    def finished_steps(self) -> int:
        """Those of whole episodes and of pieces that have ended."""
        return sum(segment.length for segment, _ in self._closed)

    @property
    def finished_episodes(self) -> int:
        """Episodes whose last step is among `finished_steps`."""
        return sum(segment.final for segment, _ in self._closed)

    @property
    def nbytes(self) -> int:
        """Bytes that are held for them."""
        return sum(b.nbytes for b in self._blocks)

    def append(
        self, chunk: StepChunk, seeds: Sequence[int] | np.ndarray, env_names: Sequence[str]
    ) -> None:
        """Record all valid steps of a chunk, without arrays `history/...`: see `HISTORY_PREFIX`.

        Args:
            chunk: What one `execute` call ran.
            seeds: Level seed of each row's episode.
            env_names: Environment of each row.
        """
        lengths = chunk.valid.sum(1)
        if self.folder is None or not lengths.any():
            return
        block = valid_steps(chunk)
        stops = np.cumsum(lengths)
        done = (chunk.terminated | chunk.truncated).any(1)
        index = len(self._blocks)
        self._blocks.append(block)
        for row in np.flatnonzero(lengths).tolist():
            stop, length = int(stops[row]), int(lengths[row])
            start = stop - length
            while start < stop:
                segment = self._continue(row, env_names[row], int(seeds[row]))
                taken = int(min(stop - start, segment.most - segment.length))
                segment.parts.append((index, start, start + taken))
                segment.length += taken
                start += taken
                if segment.length == segment.most and (start < stop or not done[row]):
                    self._close(row, won=None)
            if done[row]:
                self._close(row, won=bool(chunk.won[row]))

    def add(self, env: str, seed: int, steps: StepArrays, *, won: bool | None) -> None:
        """Record a whole episode at once.

        Args:
            env: Its environment.
            seed: Its level seed.
            steps: All its steps, at least one.
            won: Whether it was won; None if it did not come to an end.
        """
        if self.folder is None:
            return
        first, index = 0, len(self._blocks)
        self._blocks.append(steps)
        while first < len(steps):
            stop = int(min(len(steps), first + self._most(env, seed, first)))
            outcome = won if stop == len(steps) else None
            segment = Segment(
                env, seed, first, stop - first, outcome, outcome is not None,
                self.policy_version, self.collector,
            )  # fmt: skip
            self._closed.append((segment, [(index, first, stop)]))
            first = stop

    def reopen(
        self,
        seeds: Sequence[int] | np.ndarray,
        env_names: Sequence[str],
        first_steps: Sequence[int] | np.ndarray,
    ) -> None:
        """Go on with episodes that were begun before this buffer was made.

        Args:
            seeds: Level seed of each row's episode.
            env_names: Environment of each row.
            first_steps: Steps each episode has taken.
        """
        for row, first in enumerate(first_steps):
            self._position[row] = (env_names[row], int(seeds[row]), int(first))

    def go_on_after(self, last: ShardName) -> None:
        """Give shards later names than `last`, also where that one is not in the folder.

        Args:
            last: Name of this collector's newest shard.

        Raises:
            ValueError: If it is another collector's.
        """
        if last.collector != self.collector:
            raise ValueError(
                f"collector {self.collector} must go on after a shard of its own, got one of "
                f"{last.collector}"
            )
        self._last = max(self._last, (last.epoch, last.sequence))

    def abandon(self, rows: Sequence[int]) -> None:
        """Say that `rows` are reset although their episodes have not ended."""
        for row in rows:
            if row in self._open:
                self._close(row, won=None)
            self._position.pop(row, None)

    def cut(self, rows: Sequence[int]) -> None:
        """Say that a limit ends the episodes of `rows` with the step before: they are lost.

        An episode without any step is none.
        """
        for row in rows:
            if row in self._open:
                block, _, stop = self._open[row].parts[-1]
                self._blocks[block].truncated[stop - 1] = True
                self._close(row, won=False)

    def flush(
        self,
        epoch: int,
        state: Mapping[str, np.ndarray] | None = None,
        confirm: Callable[[], None] | None = None,
    ) -> Path | None:
        """Write everything recorded so far as one shard, unfinished episodes as pieces.

        If writing fails, the steps stay here and a later call can write them.

        Args:
            epoch: Epoch of collection, part of the name. A collector's names never go back: where
                it has shards of a later epoch, that one is named.
            state: All of the collector that is needed to go on after these steps; see
                `write_shard`.
            confirm: Called right before the shard appears; what it raises keeps it back.

        Returns:
            The file; None if there was nothing to write.

        Raises:
            FileExistsError: If another process writes under this collector's name.
            OSError: If it cannot be written, e.g. because the disk is full.
        """
        for row in sorted(self._open):
            self._close(row, won=None)
        return self.flush_finished(epoch, state, confirm)

    def flush_finished(
        self,
        epoch: int,
        state: Mapping[str, np.ndarray] | None = None,
        confirm: Callable[[], None] | None = None,
    ) -> Path | None:
        """`flush` without the pieces that still go on, which stay here."""
        if self.folder is None or not self._closed:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._new_path(self.folder, epoch)
        parts = [part for _, parts in self._closed for part in parts]
        arrays = [self._blocks[block][start:stop] for block, start, stop in parts]
        segments = [s for s, _ in self._closed]
        write_shard(path, segments, arrays, self.action_names, state=state, confirm=confirm)
        told = parse_shard_name(path.name)
        self._last = (told.epoch, told.sequence)
        self._closed.clear()
        self._keep_blocks_of_open()
        return path

    def _keep_blocks_of_open(self) -> None:
        """Let go of all steps but those of segments that still grow, and of their neighbours."""
        wanted = sorted({block for s in self._open.values() for block, _, _ in s.parts})
        place = {block: number for number, block in enumerate(wanted)}
        self._blocks = [self._blocks[block] for block in wanted]
        for segment in self._open.values():
            segment.parts = [(place[block], start, stop) for block, start, stop in segment.parts]

    def _new_path(self, folder: Path, epoch: int) -> Path:
        if not self._searched:
            # Names that were used before an interruption are never used again, not even where
            # their files are gone: a manifest may still tell of them.
            told = [name for name in map(parsed_or_none, os.listdir(folder)) if name is not None]
            own = [(n.epoch, n.sequence) for n in told if n.collector == self.collector]
            self._last, self._searched = max([self._last, *own]), True
        last_epoch, last = self._last
        sequence = last + 1 if epoch <= last_epoch else 0
        steps = self.finished_steps
        return folder / shard_name(max(epoch, last_epoch), self.collector, sequence, steps)

    def _continue(self, row: int, env: str, seed: int) -> _OpenSegment:
        open_segment = self._open.get(row)
        if open_segment is not None:
            same = (open_segment.env, open_segment.seed) == (env, seed)
            if same and open_segment.policy_version == self.policy_version:
                return open_segment
            self._close(row, won=None)
        known = self._position.get(row)
        first = known[2] if known is not None and known[:2] == (env, seed) else 0
        most = self._most(env, seed, first)
        self._open[row] = _OpenSegment(env, seed, first, self.policy_version, most, 0, [])
        return self._open[row]

    def _most(self, env: str, seed: int, first: int) -> float:
        """Most steps of a segment that begins with step `first` of an episode."""
        return math.inf if self._piece_length is None else self._piece_length(env, seed, first)

    def _close(self, row: int, *, won: bool | None) -> None:
        s = self._open.pop(row)
        segment = Segment(
            s.env, s.seed, s.first_step, s.length, won, won is not None,
            s.policy_version, self.collector,
        )  # fmt: skip
        self._closed.append((segment, s.parts))
        if won is None:
            self._position[row] = (s.env, s.seed, s.first_step + s.length)
        else:
            self._position.pop(row, None)
