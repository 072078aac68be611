"""Which steps may be drawn, how often, and the drawing itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from remdm.data.batch import Window
from remdm.data.contents import WindowContents, past_gatherer, stored_arrays
from remdm.data.gather import RowGatherer
from remdm.data.labels import Labels
from remdm.data.shards import Shard
from remdm.data.windows import (
    LEAST_RETURN_FACTOR,
    action_windows,
    episode_outcomes,
    history_known,
    past_windows,
    return_factors,
    window_returns,
)
from remdm.registry import unknown_name_message
from remdm.tokens import end_token, mask_token

BALANCES = ("env", "timestep")
TARGETS = ("plan", "oracle_actions", "executed")
END_AFTER = ("won", "ended")
Balance = str | Mapping[str, float]
_PLANS, _WEIGHTS, _PAST = "plans", "weights", "past"


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


def check_balance(balance: Balance) -> None:
    """Refuse a balance that says nothing.

    Raises:
        ValueError: If it is an unknown word, or shares that are not finite and positive.
    """
    if isinstance(balance, str):
        if balance not in BALANCES:
            raise ValueError(unknown_name_message("DiskTrajDataset.balance", balance, BALANCES))
        return
    shares = [float(share) for share in balance.values()]
    if not any(shares) or not all(math.isfinite(s) and s >= 0 for s in shares):
        raise ValueError(
            "DiskTrajDataset.balance must give environments finite shares >= 0, not all 0, "
            f"got {dict(balance)}"
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
        ended = np.array([s.won is True for s in shard.segments])
    end = end_token(len(shard.action_names))
    plans, drawable = action_windows(actions, weights > 0, shard.offsets, ended, plan_horizon, end)
    return ShardTargets(plans, np.where(drawable, weights, np.float32(0)))


def won_steps(shards: Sequence[Shard]) -> list[np.ndarray]:
    """For each shard bool [T]: the step belongs to an episode that was won in the end."""
    outcomes = episode_outcomes([s for shard in shards for s in shard.segments])
    flags, start = [], 0
    for shard in shards:
        won = [outcome is True for outcome in outcomes[start : start + len(shard.segments)]]
        flags.append(np.repeat(won, np.diff(shard.offsets)))
        start += len(shard.segments)
    return flags


class WindowIndex:
    """All windows that one generation of a dataset offers.

    Attributes:
        env_names: Environments that occur, sorted; `Window.env_ids` are places in it.
        counts: int64 [E]: windows by environment.
        shares: float64 [E]: probability that a drawn window is of an environment.
        row_nbytes: Bytes of one window.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        targets: Sequence[ShardTargets],
        *,
        balance: Balance,
        contents: WindowContents,
        allowed: Sequence[np.ndarray] | None = None,
        return_weight_cap: float | None = None,
    ) -> None:
        """Args:
        shards: At least one, in a fixed order.
        targets: What is to be learnt in each of them.
        balance: "env" for equal shares, "timestep" for equal chances of all steps, or shares
            by environment.
        contents: What a window holds. Steps whose history is not in their shard as far as the
            episode had begun are not drawn.
        allowed: For each shard bool [T]: steps that may be drawn; all when None.
        return_weight_cap: Weights are multiplied by `return_factors` with this cap, shard by
            shard; not at all when None.

        Raises:
            ValueError: If shards do not fit together, or nothing has a positive share.
        """
        self.env_names = tuple(sorted({s.env for shard in shards for s in shard.segments}))
        keys, past_keys = contents.names(tuple(shards[0].steps.observations))
        look_back = contents.history if past_keys else 0
        drawable = [
            (target.weights > 0) & _history_known(shard, look_back)
            for shard, target in zip(shards, targets, strict=True)
        ]
        if allowed is not None:
            drawable = [both & flags for both, flags in zip(drawable, allowed, strict=True)]
        self._build_tables(shards, drawable)
        self.shares = _shares(self.counts, self.env_names, balance)
        self._share_limits = np.cumsum(self.shares)
        # Rounding must not leave a gap above the last environment that has a share.
        if self.shares.any():
            self._share_limits[np.flatnonzero(self.shares)[-1] :] = 1.0
        if return_weight_cap is not None:
            targets = [
                _weighed_by_return(shard, target, flags, return_weight_cap)
                for shard, target, flags in zip(shards, targets, drawable, strict=True)
            ]
        self._gatherer = RowGatherer(
            [
                _arrays(shard, target, keys, contents.past_actions)
                for shard, target in zip(shards, targets, strict=True)
            ]
        )
        self._before = past_gatherer(shards, past_keys, look_back) if look_back else None
        self.row_nbytes = self._gatherer.row_nbytes
        self.row_nbytes += 0 if self._before is None else self._before.row_nbytes

    def _build_tables(self, shards: Sequence[Shard], drawable: Sequence[np.ndarray]) -> None:
        """For each environment the drawable steps, shard after shard.

        `_steps[_starts[e] : _starts[e + 1]]` are the steps within their shards; `_bounds[e]`
        holds, for each shard, how many of them lie in it and in the shards before.
        """
        ids = {name: i for i, name in enumerate(self.env_names)}
        found: list[list[np.ndarray]] = [[] for _ in ids]
        for shard, flags in zip(shards, drawable, strict=True):
            env = np.array([ids[s.env] for s in shard.segments]).repeat(np.diff(shard.offsets))
            for i, steps in enumerate(found):
                steps.append(np.flatnonzero(flags & (env == i)).astype(np.int32))
        sizes = np.array([[len(s) for s in steps] for steps in found], np.int64)
        self._bounds = np.cumsum(sizes, 1)
        self.counts = self._bounds[:, -1]
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])
        self._steps = np.concatenate([s for steps in found for s in steps])

    @property
    def num_windows(self) -> int:
        """Windows of all environments."""
        return int(self.counts.sum())

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw windows: an environment by its share, then one of its steps uniformly.

        Returns:
            Three int64 [count]: environment, shard, step within the shard.

        Raises:
            RuntimeError: If there is nothing to draw.
        """
        if not self.shares.any():
            raise RuntimeError("there is no labelled step to draw; see ready_for_training")
        env = self._share_limits.searchsorted(rng.random(count), "right")
        rank = (rng.random(count) * self.counts[env]).astype(np.int64)
        # A product of a number below 1 may still round up to the count itself.
        rank = np.minimum(rank, self.counts[env] - 1)
        shard = np.empty(count, np.int64)
        for i in np.unique(env):
            chosen = env == i
            shard[chosen] = self._bounds[i].searchsorted(rank[chosen], "right")
        return env, shard, self._steps[self._starts[env] + rank].astype(np.int64)

    def sample(self, batch_size: int, rng: np.random.Generator) -> Window:
        """Draw windows and copy them."""
        env, shard, step = self.draw(batch_size, rng)
        arrays = self._gatherer.gather(shard, step)
        plans, weights = arrays.pop(_PLANS), arrays.pop(_WEIGHTS)
        past = arrays.pop(_PAST, None)
        observations = {k.removeprefix("obs/"): v for k, v in arrays.items()}
        if self._before is not None:
            observations |= self._before.gather(shard, step)
        return Window(observations, plans, weights, env.astype(np.int16), past)


def _arrays(
    shard: Shard, target: ShardTargets, keys: tuple[str, ...], past_actions: int
) -> dict[str, np.ndarray]:
    stored = stored_arrays(shard, keys)
    arrays = {f"obs/{key}": stored[key] for key in keys}
    if past_actions:
        mask = mask_token(len(shard.action_names))
        arrays[_PAST] = past_windows(shard.steps.actions, shard.offsets, past_actions, mask)
    return arrays | {_PLANS: target.plans, _WEIGHTS: target.weights}


def _history_known(shard: Shard, count: int) -> np.ndarray:
    first_steps = np.array([s.first_step for s in shard.segments])
    return history_known(first_steps, shard.offsets, count)


def _weighed_by_return(
    shard: Shard, target: ShardTargets, drawable: np.ndarray, cap: float
) -> ShardTargets:
    horizon = target.plans.shape[1]
    returns = window_returns(shard.steps.rewards, shard.offsets, horizon)
    factors = return_factors(returns, drawable, cap)
    return replace(target, weights=(target.weights * factors).astype(np.float32))


def _shares(counts: np.ndarray, env_names: tuple[str, ...], balance: Balance) -> np.ndarray:
    """float64 [E] that add up to 1, or all 0 if there is no window.

    Raises:
        ValueError: If there are windows, and `balance` names none of their environments.
    """
    if isinstance(balance, str):
        wanted = np.ones(len(counts)) if balance == "env" else counts.astype(np.float64)
    else:
        wanted = np.array([float(balance.get(name, 0.0)) for name in env_names])
        if not wanted.any():
            raise ValueError(
                f"DiskTrajDataset.balance must name an environment of the data "
                f"({', '.join(env_names)}), got {', '.join(balance)}"
            )
    wanted = np.where(counts > 0, wanted, 0.0)
    return wanted / wanted.sum() if wanted.any() else wanted
