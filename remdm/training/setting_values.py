"""What values of settings may be: the least ones, and those that can be written in several ways."""

from remdm.registry import unknown_name_message

RESUME_WORDS = ("auto", "must", "never")

# The least value of each number that has one; None where allowed means "never" or "no limit".
LEAST = {
    "parallel_actors": 1,
    "num_env_workers": 1,
    "warm_start_timesteps": 0,
    "epochs": 1,
    "total_timesteps": 1,
    "train_timesteps_per_epoch": 0,
    "train_batches_per_epoch": 0,
    "start_learning_at_epoch": 0,
    "start_collecting_at_epoch": 0,
    "val_interval": 1,
    "val_interval_timesteps": 1,
    "val_episodes": 1,
    "val_rows": 1,
    "val_step_cap": 1,
    "val_replan_every": 1,
    "val_tolerance": 0,
    "test_episodes": 1,
    "test_step_cap": 1,
    "ckpt_interval": 1,
    "keep_every_ckpts": 1,
    "keep_last_ckpts": 1,
    "batch_size": 1,
    "batches_per_update": 1,
    "learning_rate": 0,
    "lr_warmup_steps": 0,
    "lr_warmup_timesteps": 0,
    "l2_coeff": 0,
    "dloader_workers": 0,
    "shard_timesteps": 1,
    "max_epochs_ahead": 0,
    "max_wait_seconds": 0,
    "max_silence_seconds": 1,
    "log_interval": 1,
}


def resume_point(value: str | int) -> str | int:
    """What `Experiment.resume` says: a word, or a number of epochs, also typed as text.

    Raises:
        ValueError: If it is neither.
    """
    if value in RESUME_WORDS or (type(value) is int and value >= 0):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    known = (*RESUME_WORDS, "a number of epochs")
    raise ValueError(unknown_name_message("Experiment.resume", str(value), known))


def whole_steps(name: str, value: float | None) -> int | None:
    """A count of env steps, also where it is written as 1e8.

    Args:
        name: Of the argument of `Experiment`.
        value: As given.

    Raises:
        ValueError: If it is no whole number.
    """
    if value is not None and value % 1:
        raise ValueError(
            f"{name} must be a whole number of env steps, got {value}; set Experiment.{name}."
        )
    return None if value is None else int(value)
