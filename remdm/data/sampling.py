"""Which steps may be drawn, how often, and the drawing itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from remdm.data.batch import Window
from remdm.data.gather import RowGatherer
from remdm.data.labels import Labels
from remdm.data.shards import Shard
from remdm.data.windows import action_windows, episode_outcomes, past_windows
from remdm.registry import unknown_name_message
from remdm.tokens import end_token, mask_token

BALANCES = ("env", "timestep")
TARGETS = ("plan", "oracle_actions", "executed")
Balance = str | Mapping[str, float]
_PLANS, _WEIGHTS, _PAST = "plans", "weights", "past"


def check_target(target: str) -> None:
    """Refuse an unknown target.

    Raises:
        ValueError: If it is; names the nearest.
    """
    if target not in TARGETS:
        raise ValueError(unknown_name_message("DiskTrajDataset.target", target, TARGETS))


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
    shard: Shard, labels: Labels | None, target: str, plan_horizon: int
) -> ShardTargets:
    """Plan targets of a shard.

    Args:
        shard: The steps.
        labels: Their labels; not read where `target` is "executed".
        target: "plan" for the oracle's plans, "oracle_actions" for the first actions of its plans
            at t, t + 1, ..., "executed" for the actions that were taken. The last two go to the
            segment's end, and over it with END where the episode was won there; other windows
            over the end, and those that need an action the oracle did not give, have weight 0.
        plan_horizon: Tokens per plan.
    """
    if target == "executed":
        actions, weights = shard.steps.actions, np.ones(shard.num_steps, np.float32)
    else:
        if labels is None:
            raise ValueError(f"target {target!r} needs labels of {shard.path}")
        if target == "plan":
            return ShardTargets(labels.plans, labels.weights)
        actions, weights = labels.plans[:, 0], labels.weights
    won = np.array([s.won is True for s in shard.segments])
    end = end_token(len(shard.action_names))
    plans, drawable = action_windows(actions, weights > 0, shard.offsets, won, plan_horizon, end)
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
        observation_keys: Sequence[str] | None,
        allowed: Sequence[np.ndarray] | None = None,
        past_actions: int = 0,
    ) -> None:
        """Args:
        shards: At least one, in a fixed order.
        targets: What is to be learnt in each of them.
        balance: "env" for equal shares, "timestep" for equal chances of all steps, or shares
            by environment.
        observation_keys: Arrays that a window holds; all when None.
        allowed: For each shard bool [T]: steps that may be drawn; all when None.
        past_actions: Actions before each step that a window holds; none when 0.

        Raises:
            ValueError: If shards do not fit together, or nothing has a positive share.
        """
        self.env_names = tuple(sorted({s.env for shard in shards for s in shard.segments}))
        self._build_tables(shards, targets, allowed)
        self.shares = _shares(self.counts, self.env_names, balance)
        self._share_limits = np.cumsum(self.shares)
        # Rounding must not leave a gap above the last environment that has a share.
        if self.shares.any():
            self._share_limits[np.flatnonzero(self.shares)[-1] :] = 1.0
        keys = tuple(observation_keys or shards[0].steps.observations)
        self._gatherer = RowGatherer(
            [
                _arrays(shard, target, keys, past_actions)
                for shard, target in zip(shards, targets, strict=True)
            ]
        )
        self.row_nbytes = self._gatherer.row_nbytes

    def _build_tables(
        self,
        shards: Sequence[Shard],
        targets: Sequence[ShardTargets],
        allowed: Sequence[np.ndarray] | None,
    ) -> None:
        """For each environment the drawable steps, shard after shard.

        `_steps[_starts[e] : _starts[e + 1]]` are the steps within their shards; `_bounds[e]`
        holds, for each shard, how many of them lie in it and in the shards before.
        """
        ids = {name: i for i, name in enumerate(self.env_names)}
        found: list[list[np.ndarray]] = [[] for _ in ids]
        for number, (shard, target) in enumerate(zip(shards, targets, strict=True)):
            drawable = target.weights > 0
            if allowed is not None:
                drawable &= allowed[number]
            env = np.array([ids[s.env] for s in shard.segments]).repeat(np.diff(shard.offsets))
            for i, steps in enumerate(found):
                steps.append(np.flatnonzero(drawable & (env == i)).astype(np.int32))
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
        return Window(observations, plans, weights, env.astype(np.int16), past)


def _arrays(
    shard: Shard, target: ShardTargets, keys: tuple[str, ...], past_actions: int
) -> dict[str, np.ndarray]:
    observations = shard.steps.observations
    missing = [key for key in keys if key not in observations]
    if missing:
        raise ValueError(
            f"{shard.path} must hold the observation arrays {', '.join(keys)}; it lacks "
            f"{', '.join(missing)}. Move it away, or set another Experiment.buffer_dir."
        )
    arrays = {f"obs/{key}": observations[key] for key in keys}
    if past_actions:
        mask = mask_token(len(shard.action_names))
        arrays[_PAST] = past_windows(shard.steps.actions, shard.offsets, past_actions, mask)
    return arrays | {_PLANS: target.plans, _WEIGHTS: target.weights}


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
