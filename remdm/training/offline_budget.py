"""Budgets of offline training, said in updates or in env steps, as the epochs they come to.

An epoch of an offline run is so many updates and nothing else, so a recipe says

    Experiment.epochs = @offline_epochs()
    offline_epochs.updates = 60_000
    Experiment.val_interval = @offline_val_interval()
    offline_val_interval.updates = 5_000
"""

import gin


@gin.configurable(module="remdm")
def offline_epochs(
    *,
    updates: int | None = None,
    timesteps: int | None = None,
    updates_per_epoch: int = gin.REQUIRED,
    batch_size: int = gin.REQUIRED,
) -> int:
    """The whole budget, in epochs.

    Args:
        updates: Gradient steps, a multiple of those of an epoch. They win over `timesteps`.
        timesteps: Env steps: as many drawn windows, rounded down to whole epochs, and one at least.
        updates_per_epoch: `Experiment.train_batches_per_epoch / Experiment.batches_per_update`.
        batch_size: Windows per update.

    Raises:
        ValueError: If a number makes no sense.
    """
    if updates is not None:
        return _whole_epochs("offline_epochs", updates, updates_per_epoch)
    if timesteps is None or min(timesteps, updates_per_epoch, batch_size) < 1:
        raise ValueError(
            "an offline budget must be updates or timesteps, and numbers at least 1, got "
            f"timesteps={timesteps}, updates_per_epoch={updates_per_epoch}, "
            f"batch_size={batch_size}; set offline_epochs.updates or offline_epochs.timesteps."
        )
    return max(1, timesteps // (batch_size * updates_per_epoch))


@gin.configurable(module="remdm")
def offline_val_interval(
    *,
    updates: int = gin.REQUIRED,
    updates_per_epoch: int = gin.REQUIRED,
) -> int:
    """Epochs between evaluations.

    Args:
        updates: Gradient steps between them, a multiple of those of an epoch.
        updates_per_epoch: See `offline_epochs`.

    Raises:
        ValueError: If a number makes no sense.
    """
    return _whole_epochs("offline_val_interval", updates, updates_per_epoch)


@gin.configurable(module="remdm")
def offline_keep_every(
    *,
    updates: int = gin.REQUIRED,
    updates_per_epoch: int = gin.REQUIRED,
) -> int:
    """Epochs between checkpoints that stay.

    Args:
        updates: Gradient steps between them, a multiple of those of an epoch.
        updates_per_epoch: See `offline_epochs`.

    Raises:
        ValueError: If a number makes no sense.
    """
    return _whole_epochs("offline_keep_every", updates, updates_per_epoch)


def _whole_epochs(name: str, updates: int, updates_per_epoch: int) -> int:
    if updates_per_epoch < 1 or updates < 1 or updates % updates_per_epoch:
        raise ValueError(
            f"{name}.updates must be a multiple of the {updates_per_epoch} updates of an epoch, "
            f"at least 1 of them, got {updates}; set it, or {name}.updates_per_epoch together "
            "with Experiment.train_batches_per_epoch."
        )
    return updates // updates_per_epoch
