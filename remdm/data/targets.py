"""What is to be learnt at the steps of a shard."""

from dataclasses import dataclass

import numpy as np

from remdm.data.labels import Labels
from remdm.data.segment_table import WON
from remdm.data.shard_file import Shard
from remdm.data.windows import LEAST_RETURN_FACTOR, action_windows
from remdm.registry import unknown_name_message
from remdm.tokens import end_token

TARGETS = ("plan", "oracle_actions", "executed")
END_AFTER = ("won", "ended")


def check_target(target: str) -> None:
    """Refuse an unknown target.

    Raises:
        ValueError: If it is; names the nearest.
    """
    if target not in TARGETS:
        raise ValueError(unknown_name_message("DiskTrajDataset.target", target, TARGETS))


def check_end_after(end_after: str) -> None:
    """Refuse an unknown word.

    Raises:
        ValueError: If it is; names the nearest.
    """
    if end_after not in END_AFTER:
        raise ValueError(unknown_name_message("DiskTrajDataset.end_after", end_after, END_AFTER))


def check_return_weight_cap(cap: float | None) -> None:
    """Refuse a largest factor below the smallest.

    Raises:
        ValueError: If it is.
    """
    if cap is not None and not cap >= LEAST_RETURN_FACTOR:
        raise ValueError(
            f"DiskTrajDataset.return_weight_cap must be at least {LEAST_RETURN_FACTOR}, the factor "
            f"of a window without rewards, got {cap}; None weighs no window by its rewards."
        )


@dataclass(frozen=True, slots=True)
class ShardTargets:
    """What is to be learnt at the T steps of a shard.

    Attributes:
        plans: int8 [T, plan_horizon].
        weights: float32 [T]; 0 where nothing is to be learnt.
    """

    plans: np.ndarray
    weights: np.ndarray


def shard_targets(
    shard: Shard,
    labels: Labels | None,
    target: str,
    plan_horizon: int,
    end_after: str = "won",
) -> ShardTargets:
    """Plan targets of a shard.

    Args:
        shard: The steps.
        labels: Their labels; not read where `target` is "executed".
        target: "plan" for the oracle's plans, "oracle_actions" for the first actions of its plans
            at t, t + 1, ..., "executed" for the actions that were taken. The last two go to the
            segment's end, and over it with END where `end_after` allows it; other windows over
            the end, and those that need an action the oracle did not give, have weight 0.
        plan_horizon: Tokens per plan.
        end_after: "won" for END after episodes that were won, "ended" for END after all that came
            to their own end (`terminated`), not after those that were cut.
    """
    if target == "executed":
        actions, weights = shard.steps.actions, np.ones(shard.num_steps, np.float32)
    else:
        if labels is None:
            raise ValueError(f"target {target!r} needs labels of {shard.path}")
        if target == "plan":
            return ShardTargets(labels.plans, labels.weights)
        actions, weights = labels.plans[:, 0], labels.weights
    if end_after == "ended":
        ended = shard.steps.terminated[shard.offsets[1:] - 1]
    else:
        ended = shard.table.outcome == WON
    end = end_token(len(shard.action_names))
    plans, drawable = action_windows(actions, weights > 0, shard.offsets, ended, plan_horizon, end)
    return ShardTargets(plans, np.where(drawable, weights, np.float32(0)))
