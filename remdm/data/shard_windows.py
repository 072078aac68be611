"""The windows that one shard offers: made once, whatever comes before or after it."""

from dataclasses import dataclass, field, replace

import numpy as np

from remdm.data.contents import WindowContents, past_arrays, stored_arrays
from remdm.data.gather import Specs, addresses_of, specs_of
from remdm.data.labels import Labels
from remdm.data.shard_file import Shard
from remdm.data.targets import ShardTargets, shard_targets
from remdm.data.windows import history_known, past_windows, return_factors, window_returns
from remdm.tokens import mask_token

# Names of what a window holds besides observations.
PLANS, WEIGHTS, PAST = "plans", "weights", "past"
OBSERVATION = "obs/"


@dataclass(frozen=True, slots=True)
class WindowRules:
    """Which steps of a shard may be drawn, and what a window holds.

    Attributes:
        plan_horizon: Tokens per plan.
        target: See `shard_targets`.
        end_after: See `shard_targets`.
        return_weight_cap: Weights are multiplied by `return_factors` with this cap; not at all
            when None.
        contents: What a window holds. Steps whose history is not in their shard as far as the
            episode had begun are not drawn.
        in_stretches: Whether steps that are not drawn are shown all the same, with weight 0.
        val_share: Share of the levels that are kept back for validation.
    """

    plan_horizon: int
    target: str = "plan"
    end_after: str = "won"
    return_weight_cap: float | None = None
    contents: WindowContents = field(default_factory=WindowContents)
    in_stretches: bool = False
    val_share: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class ShardWindows:
    """The windows that one shard offers.

    Attributes:
        shard: The steps.
        labels: Their labels; None where targets need none.
        count: Drawable steps.
        counts: int64 [E]: drawable steps of each environment of `shard.envs`.
        row_specs: What a window holds of its own step.
        past_specs: What a window holds of the steps before it.
        addresses: uint64: where the drawable steps lie (int32 [N], environment after environment),
            then the arrays of `row_specs`, then those of `past_specs`.
        kept: Arrays that must live as long as their addresses are used.
    """

    shard: Shard
    labels: Labels | None
    count: int
    counts: np.ndarray
    row_specs: Specs
    past_specs: Specs
    addresses: np.ndarray
    kept: tuple[np.ndarray, ...]

    @property
    def steps(self) -> np.ndarray:
        """int32 [N]: the drawable steps, environment after environment."""
        return self.kept[0]

    def among(self, chosen: np.ndarray) -> "ShardWindows":
        """Those of some steps only.

        Args:
            chosen: bool [T].
        """
        stays = chosen[self.steps]
        env = np.arange(len(self.counts)).repeat(self.counts)[stays]
        steps = self.steps[stays]
        addresses = self.addresses.copy()
        addresses[:1] = addresses_of([steps])
        return replace(
            self,
            count=len(steps),
            counts=np.bincount(env, minlength=len(self.counts)),
            addresses=addresses,
            kept=(steps, *self.kept[1:]),
        )


def shard_windows(
    shard: Shard,
    labels: Labels | None,
    rules: WindowRules,
    stored: tuple[str, ...],
    allowed: np.ndarray | None = None,
) -> ShardWindows:
    """Find the windows of a shard.

    Args:
        shard: The steps.
        labels: Their labels; not read where the target is "executed".
        rules: What may be drawn.
        stored: Observation arrays of the dataset.
        allowed: bool [T]: steps that may be drawn; all when None.

    Raises:
        ValueError: If an array is missing, or the target needs labels and there are none.
    """
    contents = rules.contents
    keys, past_keys = contents.names(stored)
    targets = shard_targets(shard, labels, rules.target, rules.plan_horizon, rules.end_after)
    drawable = targets.weights > 0
    looks_back = bool(past_keys and contents.history)
    if looks_back:
        drawable &= history_known(shard.table.first_step, shard.offsets, contents.history)
    if allowed is not None:
        drawable &= allowed
    if rules.return_weight_cap is not None:
        targets = _weighed_by_return(shard, targets, drawable, rules.return_weight_cap)
    if rules.in_stretches:
        weights = np.where(drawable, targets.weights, np.float32(0))
        targets = replace(targets, weights=weights)
    steps, counts = _by_env(shard, drawable)
    rows = _arrays(shard, targets, keys, contents.past_actions)
    past = past_arrays(shard, past_keys) if looks_back else {}
    kept = (steps, *rows.values(), *past.values())
    return ShardWindows(
        shard,
        labels,
        len(steps),
        counts,
        specs_of(rows),
        specs_of(past),
        addresses_of(kept),
        kept,
    )


def _by_env(shard: Shard, drawable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drawable steps, environment after environment, and how many there are of each."""
    steps = drawable.nonzero()[0].astype(np.int32)
    if len(shard.envs) == 1:
        return steps, np.array([len(steps)])
    table = shard.table
    env = table.env.astype(np.int32).repeat(table.lengths)[steps]
    return steps[env.argsort(kind="stable")], np.bincount(env, minlength=len(shard.envs))


def _arrays(
    shard: Shard, targets: ShardTargets, keys: tuple[str, ...], past_actions: int
) -> dict[str, np.ndarray]:
    stored = stored_arrays(shard, keys)
    arrays = {OBSERVATION + key: stored[key] for key in keys}
    if past_actions:
        mask = mask_token(len(shard.action_names))
        arrays[PAST] = past_windows(shard.steps.actions, shard.offsets, past_actions, mask)
    return arrays | {PLANS: targets.plans, WEIGHTS: targets.weights}


def _weighed_by_return(
    shard: Shard, targets: ShardTargets, drawable: np.ndarray, cap: float
) -> ShardTargets:
    horizon = targets.plans.shape[1]
    returns = window_returns(shard.steps.rewards, shard.offsets, horizon)
    factors = return_factors(returns, drawable, cap)
    return replace(targets, weights=(targets.weights * factors).astype(np.float32))
