"""Datasets whose batches can be rows of consecutive steps, and that keep levels back."""

import logging
import re
import threading
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from remdm.data.batch import Window
from remdm.data.contract import RLDataset
from remdm.data.level_split import check_val_share
from remdm.data.plain_json import counted, typed
from remdm.data.sampling import Balance, WindowIndex, check_balance
from remdm.data.stretches import WALK, Stretches, check_stretches, rows_of
from remdm.data.walk import Walk
from remdm.seeding import numpy_generator

logger = logging.getLogger(__name__)

_CONTENTS = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WalkStart:
    """What a walk is, beside the seed of the run.

    Attributes:
        number: Walks of the run before it.
        batch: The run's batch with which it began.
        contents: `Stretches.contents`.
    """

    number: int
    batch: int
    contents: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "WalkStart":
        """The start that plain values tell.

        Raises:
            ValueError: If they tell none.
        """
        contents = typed(values, "contents", str)
        if not _CONTENTS.fullmatch(contents):
            raise ValueError("contents must be 64 hex digits")
        return cls(counted(values, "number"), counted(values, "batch"), contents)


class _Latest:
    """The stretches of an index, made when they are first asked for, and kept until another is."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._made: Stretches | None = None
        self._lock = threading.Lock()

    def of(self, index: WindowIndex) -> Stretches:
        """Threads may ask side by side."""
        with self._lock:
            if self._made is None or self._made.index is not index:
                self._made = Stretches(index, self._steps)
            return self._made


class StretchDataset(RLDataset):
    """Draws from one index of windows: singly, in stretches at random, or walking through episodes.

    Attributes:
        balance: How often environments are drawn from.
        stretch_steps: Steps of a stretch; None for windows that are drawn singly.
        val_share: Share of the levels that are kept back for validation.
    """

    def __init__(
        self,
        balance: Balance,
        stretch_steps: int | None,
        stretches: str,
        padded_sampling: str,
        val_share: float,
    ) -> None:
        """Args:
        balance: See above.
        stretch_steps: See above.
        stretches: "walk" or "random".
        padded_sampling: Which borders of an episode a random stretch may lie over.
        val_share: See above.

        Raises:
            ValueError: If a value makes no sense.
        """
        check_balance(balance)
        check_stretches(stretch_steps, stretches, padded_sampling)
        check_val_share(val_share)
        self.balance, self.stretch_steps, self.val_share = balance, stretch_steps, val_share
        self._order, self._padded = stretches, padded_sampling
        if self.walks and not isinstance(balance, str) and len(set(balance.values()) - {0}) > 1:
            raise ValueError(
                "rows that walk come through every episode once, and balance gives environments "
                f"different shares, {dict(balance)}; set DiskTrajDataset.balance = 'timestep', or "
                "DiskTrajDataset.stretches = 'random'."
            )
        self._train, self._val = (_Latest(stretch_steps or 1) for _ in range(2))
        self._begun: WalkStart | None = None
        self._walk: tuple[WalkStart, Stretches, Walk] | None = None

    @property
    def walks(self) -> bool:
        """See `RLDataset`."""
        return self.stretch_steps is not None and self._order == WALK

    @abstractmethod
    def current_index(self) -> WindowIndex:
        """All that is drawn from in training.

        Raises:
            RuntimeError: If there is nothing.
        """

    @abstractmethod
    def current_val_index(self) -> WindowIndex | None:
        """All that is kept back; None if nothing is."""

    @property
    def has_val_windows(self) -> bool:
        """See `RLDataset`."""
        index = self.current_val_index()
        return index is not None and bool(index.shares.any())

    def sample(
        self, batch_size: int, rng: np.random.Generator, rows: slice | None = None
    ) -> Window:
        """See `RLDataset`. Where rows walk, these are windows that are drawn singly."""
        index = self.current_index()
        if self.stretch_steps is None or self.walks:
            return index.sample(batch_size, rng, rows)
        return self._drawn(self._train.of(index), batch_size, rng, rows)

    def begin_walk(self, batch: int, windows: int, seed: int) -> None:
        """See `RLDataset`. A walk goes on as long as there is the same to be learnt."""
        if not self.walks:
            return
        stretches = self._train.of(self.current_index())
        before = self._begun
        if before is None or before.contents != stretches.contents or before.batch > batch:
            number = 0 if before is None else before.number + 1
            self._begun = WalkStart(number, batch, stretches.contents)
            logger.info("walk %d through the episodes begins with batch %d", number, batch)
        begun = self._begun
        assert begun is not None
        if self._walk is not None and self._walk[0] == begun:
            walk = self._walk[2]
        else:
            walk = stretches.walk(rows_of(windows, stretches.steps), seed, "walk", begun.number)
        self._walk = begun, stretches, walk

    def walked(self, batch: int, rows: slice) -> Window:
        """See `RLDataset`."""
        if self._walk is None:
            raise RuntimeError("no row has begun to walk; call begin_walk() first")
        begun, stretches, walk = self._walk
        return stretches.walked(walk, batch - begun.batch, _whole_rows(rows, stretches.steps))

    def val_window(self, batch: int, windows: int, seed: int, rows: slice) -> Window:
        """See `RLDataset`."""
        index = self.current_val_index()
        if index is None or not index.shares.any():
            raise RuntimeError("no level is kept back; see has_val_windows")
        rng = numpy_generator(seed, "val batch", batch)
        if self.stretch_steps is None:
            return index.sample(windows, rng, rows)
        stretches = self._val.of(index)
        if not self.walks:
            return self._drawn(stretches, windows, rng, rows)
        walk = stretches.walk(rows_of(windows, stretches.steps), seed, "val walk")
        return stretches.walked(walk, batch, _whole_rows(rows, stretches.steps))

    def val_metrics(self) -> dict[str, float]:
        """How many windows are kept back, where some are to be."""
        if not self.val_share:
            return {}
        index = self.current_val_index()
        return {"buffer/val_windows": float(0 if index is None else index.num_windows)}

    def walk_state(self) -> dict[str, Any]:
        """What a checkpoint must remember of where rows are."""
        return {} if self._begun is None else {"walk": asdict(self._begun)}

    def restore_walk(self, state: Mapping[str, Any]) -> None:
        """Go on from where `walk_state` was taken, if it knew of a walk.

        Raises:
            ValueError: If it tells no walk.
        """
        self._begun = self._walk = None
        if "walk" in state:
            self._begun = WalkStart.from_json(typed(state, "walk", dict))

    def _drawn(
        self, stretches: Stretches, windows: int, rng: np.random.Generator, rows: slice | None
    ) -> Window:
        own = _whole_rows(slice(0, windows) if rows is None else rows, stretches.steps)
        return stretches.drawn(rows_of(windows, stretches.steps), rng, own, self._padded)


def _whole_rows(windows: slice, steps: int) -> range:
    """The rows that some windows of a batch fill."""
    first = windows.start // steps
    return range(first, first + rows_of(windows.stop - windows.start, steps))
