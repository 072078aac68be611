"""Whether what an experiment asks of its data fits what its dataset gives."""

import logging
from typing import TYPE_CHECKING

from remdm.training.augmentation import MemoryAugmentation

if TYPE_CHECKING:
    from remdm.training.assembly import AssembledRun

logger = logging.getLogger(__name__)


def check_data_knobs(run: "AssembledRun") -> None:
    """See that the knobs of dataset and experiment fit together.

    Raises:
        ValueError: If a loss is asked for and no level is kept back, or an augmentation would
            break up what follows one another.
    """
    if run.val_loss_batches and not run.dataset.val_share:
        raise ValueError(
            f"val_loss_batches={run.val_loss_batches} needs levels that are not trained on; set "
            "DiskTrajDataset.val_share to a share of them, or Experiment.val_loss_batches = 0."
        )
    remembering = any(trainer.agent.memory_size for trainer in run.trainers.values())
    if remembering and run.dataset.stretch_steps is None:
        logger.warning(
            "a net has a memory, and windows that are drawn singly teach it nothing of what was "
            "before; set DiskTrajDataset.stretch_steps, or memory_type = None"
        )
    if run.dataset.stretch_steps is None or not isinstance(run.augment, MemoryAugmentation):
        return
    if run.dataset.walks:
        raise ValueError(
            "MemoryAugmentation draws for each batch anew, and rows that walk through episodes go "
            "on in the next one; set Experiment.augmentation_type = None, or "
            "DiskTrajDataset.stretches = 'random'."
        )
    run.augment.check_stretches()
