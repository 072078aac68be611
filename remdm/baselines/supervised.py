"""What learning from demonstrations has in common: data, updates, and a watch over them."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from remdm.baselines.demonstration_set import DemonstrationSet, collected, existing
from remdm.baselines.learner import Task
from remdm.baselines.watch import Watch
from remdm.seeding import numpy_generator

Batch = TypeVar("Batch")


def demonstrations_of(
    task: Task, stop: Callable[[], bool], *, keep_lost: bool
) -> DemonstrationSet | None:
    """What the budget pays for: of `Experiment.buffer_dir`, or made in the run's own folder."""
    settings, names = task.settings, task.kind.action_names
    if settings.buffer_dir is not None:
        return existing(Path(settings.buffer_dir), settings.train_envs, task.budget, names)
    return collected(
        task.folder,
        settings.oracle_type(),
        settings.train_envs,
        task.budget,
        settings.seed,
        names,
        keep_lost=keep_lost,
        stop=stop,
        shown=settings.verbose,
    )


class SupervisedTraining:
    """Batches, AdamW with a cosine to zero, clipping: the same for cloning and sequences."""

    def __init__(
        self, module: torch.nn.Module, learning_rate: float, grad_clip: float, total: int
    ) -> None:
        """Args:
        module: What is trained.
        learning_rate: At the first update.
        grad_clip: Largest norm of the gradient.
        total: Updates in all.
        """
        self.module, self.grad_clip, self.total = module, grad_clip, total
        self.optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, total)

    def update(self, loss: Tensor) -> None:
        """One step down."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.grad_clip)
        self.optimiser.step()
        self.schedule.step()

    def run(
        self,
        watch: Watch,
        env_steps: int,
        batches: Iterable[Batch],
        loss_of: Callable[[Batch], Tensor],
    ) -> bool:
        """Update by batch after batch.

        Args:
            watch: Told of every update.
            env_steps: That the data have cost.
            batches: As many as there are updates.
            loss_of: From a batch to what is to become less.

        Returns:
            Whether all were done.
        """
        watch.begin(self.module, self.total, "update")
        done = 0
        for done, batch in enumerate(batches, 1):
            loss = loss_of(batch)
            self.update(loss)
            if not watch.advance(done, env_steps, done, partial(_scalars, loss.detach())):
                break
        watch.end()
        return done == self.total


def _scalars(loss: Tensor) -> dict[str, float]:
    return {"train/loss": float(loss)}


def check_numbers(owner: str, **numbers: float | None) -> None:
    """See that knobs are above zero, where they are numbers.

    Raises:
        ValueError: If one is not.
    """
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}; set {owner}.{name}.")


def epochs_of(
    count: int, batch_size: int, updates: int, seed: int, *stream: str
) -> Iterator[np.ndarray]:
    """Numbers below `count` in batches, shuffled anew in every epoch, `updates` batches in all."""
    done, epoch = 0, 0
    while done < updates:
        order = numpy_generator(seed, *stream, epoch).permutation(count)
        for start in range(0, count, batch_size):
            if done < updates:
                yield order[start : start + batch_size]
            done += 1
        epoch += 1
