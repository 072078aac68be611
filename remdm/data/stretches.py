"""Windows that follow one another: rows of consecutive steps of episodes."""

from dataclasses import replace

import numpy as np
import torch

from remdm.data.batch import Window
from remdm.data.episodes import Episodes, contents_of
from remdm.data.sampling import WindowIndex
from remdm.data.walk import Walk
from remdm.registry import unknown_name_message
from remdm.seeding import numpy_generator
from remdm.stretch import Stretch

ORDERS = WALK, RANDOM = ("walk", "random")
PADDED_SAMPLING = ("none", "left", "right", "both")


def check_stretches(steps: int | None, order: str, padded_sampling: str) -> None:
    """Refuse arguments of `DiskTrajDataset` that make no sense.

    Args:
        steps: stretch_steps.
        order: stretches.
        padded_sampling: padded_sampling.

    Raises:
        ValueError: If one is unknown, too small, or of no use.
    """
    if steps is not None and not steps >= 1:
        raise ValueError(
            f"stretch_steps must be at least 1, got {steps}; set DiskTrajDataset.stretch_steps, or "
            "None for windows that are drawn singly."
        )
    for name, word, words in (
        ("stretches", order, ORDERS),
        ("padded_sampling", padded_sampling, PADDED_SAMPLING),
    ):
        if word not in words:
            raise ValueError(unknown_name_message(f"DiskTrajDataset.{name}", word, words))
    if padded_sampling != "none" and (steps is None or order == WALK):
        raise ValueError(
            f"padded_sampling {padded_sampling!r} is about stretches that are drawn at random; set "
            "DiskTrajDataset.stretch_steps and DiskTrajDataset.stretches = 'random', or "
            "DiskTrajDataset.padded_sampling = 'none'."
        )


def rows_of(windows: int, steps: int) -> int:
    """Rows of a batch.

    Args:
        windows: Its windows.
        steps: Steps of a row.

    Raises:
        ValueError: If they do not fill whole rows.
    """
    if windows % steps or windows < steps:
        raise ValueError(
            f"a batch must be whole stretches of {steps} steps, got {windows} windows; set "
            f"Experiment.batch_size to a multiple of DiskTrajDataset.stretch_steps = {steps}."
        )
    return windows // steps


class Stretches:
    """Stretches of the episodes of one index.

    All shards are verified when this is made; damaged ones are left out.

    Attributes:
        index: The windows.
        steps: Steps of a stretch, S.
        contents: Stands for the episodes and what is to be learnt from them.
    """

    def __init__(self, index: WindowIndex, steps: int) -> None:
        """Args:
        index: The windows.
        steps: Steps of a stretch.
        """
        self.index, self.steps = index, steps
        whole = index.whole().tolist()
        parts = [
            part if is_whole else None for part, is_whole in zip(index.parts, whole, strict=True)
        ]
        self.contents = contents_of(parts)
        self._episodes = Episodes(parts, index.env_names)
        # Those in which something can be learnt, of environments that are drawn from.
        useful = (self._episodes.drawable > 0) & (index.shares[self._episodes.env] > 0)
        self._walked = np.flatnonzero(useful)

    def walk(self, rows: int, seed: int, *stream: int | str) -> Walk:
        """A walk through all episodes in which something can be learnt.

        Args:
            rows: Rows of a batch, over all processes.
            seed: Of the run.
            stream: Name of the random stream; the number of the pass is added.

        Raises:
            RuntimeError: If there is no such episode.
        """
        if not len(self._walked):
            raise RuntimeError("there is no labelled step to draw; see ready_for_training")
        count = -(-self._episodes.lengths[self._walked] // self.steps)
        return Walk(count, rows, lambda number: numpy_generator(seed, *stream, number))

    def walked(self, walk: Walk, batch: int, rows: range) -> Window:
        """What rows show in a batch of a walk.

        Args:
            walk: One of these stretches.
            batch: Since it began.
            rows: Which rows.
        """
        place, number = walk.at(batch, rows)
        return self._window(self._walked[place], number * self.steps, number == 0)

    def drawn(
        self, rows: int, rng: np.random.Generator, own: range, padded_sampling: str
    ) -> Window:
        """Stretches around windows that are drawn as if they were to be shown singly.

        The window's place within its stretch is uniform; a stretch that lies over a border of its
        episode is then pushed inside, unless it may.

        Args:
            rows: How many.
            rng: Source of randomness.
            own: Which of them to copy.
            padded_sampling: Which borders they may lie over: "none", "left", "right" or "both".
        """
        _, shard, row = self.index.draw(rows, rng)
        start = -rng.integers(self.steps, size=rows)
        shard, row, start = (array[own.start : own.stop] for array in (shard, row, start))
        episode, step = self._episodes.find(shard, row)
        start += step
        last = np.maximum(self._episodes.lengths[episode] - self.steps, 0)
        if padded_sampling in ("none", "left"):
            start = np.minimum(start, last)
        if padded_sampling in ("none", "right"):
            start = np.maximum(start, 0)
        return self._window(episode, start, np.ones(len(episode), np.bool_))

    def _window(self, episode: np.ndarray, start: np.ndarray, begins: np.ndarray) -> Window:
        """Stretches as one window, row after row.

        Args:
            episode: int64 [R].
            start: int64 [R]: the episode's step that a row begins with; where it has no such step,
                the row is filled.
            begins: bool [R]: whether what was before is forgotten at the row's first real step.
        """
        step = start[:, None] + np.arange(self.steps)
        last = self._episodes.lengths[episode][:, None] - 1
        real = (step >= 0) & (step <= last)
        whose = episode.repeat(self.steps)
        # Any step of the episode may fill a row: it is neither learnt from nor remembered.
        shard, row = self._episodes.places(whose, step.clip(0, last).ravel())
        window = self.index.gather(self._episodes.env[whose], shard, row)
        first = np.zeros_like(real)
        first[np.arange(len(real)), real.argmax(1)] = begins
        stretch = Stretch(torch.from_numpy(first), torch.from_numpy(real))
        weights = np.where(real.ravel(), window.weights, np.float32(0))
        return replace(window, weights=weights, stretch=stretch)
