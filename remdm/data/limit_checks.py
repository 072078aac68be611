"""What the numbers that bound a dataset on disk must be."""

import math


def check_limits(
    max_steps: int | None,
    max_cycles: float | None,
    max_bytes: int | None,
    min_steps: int,
    unlink_after: int,
) -> None:
    """Refuse limits of `DiskTrajDataset` that make no sense.

    Args:
        max_steps: dset_max_timesteps.
        max_cycles: dset_max_cycles.
        max_bytes: dset_max_bytes.
        min_steps: dset_min_timesteps.
        unlink_after: unlink_after.

    Raises:
        ValueError: If a number is too small, or two do not fit together.
    """
    for name, value, least in (
        ("dset_max_timesteps", max_steps, 1),
        ("dset_max_bytes", max_bytes, 1),
        ("dset_min_timesteps", min_steps, 0),
        ("unlink_after", unlink_after, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"DiskTrajDataset.{name} must be at least {least}, got {value}")
    if max_steps is not None and max_steps < min_steps:
        raise ValueError(
            f"DiskTrajDataset.dset_max_timesteps={max_steps} must not be smaller than "
            f"dset_min_timesteps={min_steps}, or training never begins"
        )
    if max_cycles is None:
        return
    if not (max_cycles > 0 and math.isfinite(max_cycles)):
        raise ValueError(
            "dset_max_cycles must be a finite number above 0, got "
            f"{max_cycles}; set DiskTrajDataset.dset_max_cycles."
        )
    if max_steps is not None:
        raise ValueError(
            f"dset_max_cycles={max_cycles} and dset_max_timesteps={max_steps} both say how many "
            "steps to keep; set one of DiskTrajDataset's to None."
        )
