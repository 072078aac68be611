"""Which levels are kept back from training, to score the loss on."""

from hashlib import blake2b

import numpy as np

from remdm.data.segment_table import SegmentTable


def is_kept_back(env: str, seed: int, share: float) -> bool:
    """Whether a level is kept back; depends on nothing else, so that it is the same in every run.

    Args:
        env: Environment id.
        seed: Level seed.
        share: Of the levels that are.
    """
    drawn = blake2b(f"{env}\n{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "little") < share * 2.0**64


def steps_kept_back(table: SegmentTable, share: float) -> np.ndarray:
    """The steps of levels that are kept back, bool [T]."""
    levels = np.stack([table.env, table.seed], 1)
    distinct, place = np.unique(levels, axis=0, return_inverse=True)
    back = [is_kept_back(table.envs[env], seed, share) for env, seed in distinct.tolist()]
    return np.array(back, np.bool_)[place.reshape(-1)].repeat(table.lengths)


def check_val_share(share: float) -> None:
    """Refuse a share that leaves nothing to learn from.

    Raises:
        ValueError: If it is one.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(
            "val_share must be at least 0 and less than 1, or there is nothing to learn from, "
            f"got {share}; set DiskTrajDataset.val_share."
        )
