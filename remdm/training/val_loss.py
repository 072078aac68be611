"""The loss on levels that are kept back from training: how well what is learnt carries over."""

import logging
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from remdm.data.batch import Batch
from remdm.ranks import Ranks
from remdm.seeding import torch_generator
from remdm.stretch import CarriedMemory

if TYPE_CHECKING:
    from remdm.training.logged_run import LoggedRun

logger = logging.getLogger(__name__)


def val_loss(run: "LoggedRun") -> dict[str, float]:
    """Score the weights that act on batches of what is kept back, without a gradient.

    They are the same batches with the same masks at every validation, as long as the data are.
    Where rows walk, they do so from the beginning, with a memory of their own. Agents are scored
    by their own loss, whatever they minimise.

    Returns:
        `val/<agent>/loss` and its parts, means by weight over the batches of all processes; nothing
        where it is not asked for, or no level that is kept back was recorded yet.

    Raises:
        ValueError: If none is there, and none will ever be.
    """
    if not run.val_loss_batches:
        return {}
    if not run.dataset.has_val_windows:
        _check_levels_may_come(run)
        return {}
    ranks, device = Ranks.of(run.accelerator), str(run.DEVICE)
    memories = {name: CarriedMemory() for name in run.trainers}
    sums: dict[str, float] = defaultdict(float)
    total = 0.0
    for index in range(run.val_loss_batches):
        batch = _batch(run, index, ranks)
        (weight,) = ranks.means(batch.weights.sum())
        total += float(weight)
        for name, trainer in run.trainers.items():
            own = replace(batch, memory=memories[name]) if run.dataset.walks else batch
            chance = torch_generator(run.seed, "val masks", index, device=device)
            with torch.no_grad():
                loss, parts = trainer.policy(own, chance)
            for key, value in {**parts, "loss": loss}.items():
                sums[f"val/{name}/{key}"] += float(value) * float(weight)
    return run.reduce({name: value / total for name, value in sums.items()}) if total else {}


def _batch(run: "LoggedRun", index: int, ranks: Ranks) -> Batch:
    """This process's part of one of the batches."""
    rows = run.batch_size
    window = run.dataset.val_window(index, ranks.whole(rows), run.seed, ranks.part(rows))
    return Batch.from_window(window, ranks).to(run.DEVICE)


def _check_levels_may_come(run: "LoggedRun") -> None:
    if run.role.alone and run.start_collecting_at_epoch >= run.num_epochs:
        raise ValueError(
            "val_loss_batches needs levels that are not trained on, and by "
            f"DiskTrajDataset.val_share = {run.dataset.val_share} none of the data is one: raise "
            "it, collect more, or set Experiment.val_loss_batches = 0."
        )
    logger.warning("no level that is kept back has been labelled yet: there is no val loss")
