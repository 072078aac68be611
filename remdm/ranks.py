"""Several processes that learn one thing together: which one this is, and what they must share.

The batch of a training step is one batch, however many processes there are. Random numbers are
drawn for all its rows, in every process alike, and each process keeps those of its own rows. Sums
over the batch are divided by the mean, over the processes, of the sums of each; the mean of the
processes' losses, and so of their gradients, is then that of one process with the whole batch.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor


class Processes(Protocol):
    """The part of `accelerate.Accelerator` that says how many processes there are."""

    @property
    def num_processes(self) -> int: ...  # noqa: D102
    @property
    def process_index(self) -> int: ...  # noqa: D102


class LostProcessError(ConnectionError):
    """Another process of the run has ended, or has not answered for too long."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The place of this process among those that share a batch; all have as many rows of it.

    Attributes:
        index: Number of this process, from 0.
        count: Number of processes.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, processes: Processes) -> "Ranks":
        """The place of this process among those that accelerate knows."""
        return cls(processes.process_index, processes.num_processes)

    def whole(self, rows: int) -> int:
        """Rows of the whole batch, where each process has `rows` of them."""
        return rows * self.count

    def part(self, rows: int) -> slice:
        """Where the `rows` rows of this process lie in the whole batch."""
        return slice(self.index * rows, (self.index + 1) * rows)

    def own(self, values: Tensor, dim: int = 0) -> Tensor:
        """What belongs to this process of `values` for the whole batch, along `dim`."""
        if self.count == 1:
            return values
        rows = values.shape[dim] // self.count
        return values.narrow(dim, self.index * rows, rows)

    def means(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The mean of each number over all processes, in one message; all must call this.

        Args:
            values: Scalars on one device.

        Returns:
            Detached scalars of at least float32, the same in all processes; `values` themselves
            where there is one process.
        """
        if self.count == 1:
            return values
        dtype = reduce(torch.promote_types, (v.dtype for v in values), torch.float32)
        sums = torch.stack([v.detach().to(dtype) for v in values])
        torch.distributed.all_reduce(sums)
        return (sums / self.count).unbind()


ALONE = Ranks()


def weighted_mean(values: Tensor, weights: Tensor, ranks: Ranks) -> Tensor:
    """The mean of what counts, over the batch of all processes; 0 where nothing does.

    Args:
        values: Floating, of any shape.
        weights: Of the same shape, at least 0. What has weight 0 has no gradient, not even where
            its value is not finite.
        ranks: Of the batch.

    Returns:
        A scalar whose mean over the processes is the mean over all of them.
    """
    weights = weights.to(values)
    (total,) = ranks.means(weights.sum())
    counted = torch.where(weights > 0, values, 0.0) * weights
    return counted.sum() / torch.where(total == 0, 1.0, total)


@contextlib.contextmanager
def lost_process_told() -> Iterator[None]:
    """Say what it means when a message between processes fails; also a decorator.

    Raises:
        LostProcessError: In place of what torch raises then.
    """
    try:
        yield
    except RuntimeError as error:
        if not _about_processes(error):
            raise
        late = "timed out" in str(error).lower()
        what = "has not answered for Experiment.max_silence_seconds" if late else "has ended"
        raise LostProcessError(
            f"another process of this run {what}, so this one ends, too; that one's last message "
            "says why. Start all of them again to go on from the newest checkpoint."
        ) from error


def _about_processes(error: RuntimeError) -> bool:
    """Whether an error is of torch's messages between processes; those of gloo have no type."""
    typed = isinstance(error, getattr(torch.distributed, "DistError", ()))
    return typed or "gloo" in str(error).lower()
