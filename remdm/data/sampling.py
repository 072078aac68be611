"""How often windows may be drawn, and the drawing itself."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from remdm.data.batch import Window
from remdm.data.contents import past_fills
from remdm.data.gather import PastGatherer, RowGatherer, Specs, check_alike, repeated
from remdm.data.shard_windows import OBSERVATION, PAST, PLANS, WEIGHTS, ShardWindows
from remdm.registry import unknown_name_message

BALANCES = ("env", "timestep")
_STEP_SPECS: Specs = (("steps", np.dtype(np.int32), ()),)
Balance = str | Mapping[str, float]


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


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """Which windows there are; E environments, S shards.

    Windows are numbered: those of an environment follow one another, and of them those of a shard.

    Attributes:
        sizes: int64 [E, S]: windows by environment and shard.
        counts: int64 [E]: windows by environment.
        shares: float64 [E]: probability that a drawn window is of an environment.
        share_limits: float64 [E]: sums of shares up to and with each environment.
        starts: int64 [E]: number of the first window of an environment.
        limits: int64 [E * S]: where the windows of environment e and shard s end.
    """

    sizes: np.ndarray
    counts: np.ndarray
    shares: np.ndarray
    share_limits: np.ndarray
    starts: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(cls, sizes: np.ndarray, env_names: tuple[str, ...], balance: Balance) -> "_Tables":
        counts = sizes.sum(1)
        shares = _shares(counts, env_names, balance)
        share_limits = np.cumsum(shares)
        # Rounding must not leave a gap above the last environment that has a share.
        if shares.any():
            share_limits[np.flatnonzero(shares)[-1] :] = 1.0
        starts = np.cumsum(counts) - counts
        return cls(sizes, counts, shares, share_limits, starts, np.cumsum(sizes.ravel()))


class WindowIndex:
    """All windows that one generation of a dataset offers.

    Attributes:
        parts: The windows of each shard.
        env_names: Environments that occur, sorted; `Window.env_ids` are places in it.
        row_nbytes: Bytes of one window.
    """

    def __init__(
        self,
        parts: Sequence[ShardWindows],
        *,
        balance: Balance,
        history: int = 0,
        verify: Callable[[ShardWindows], bool] | None = None,
    ) -> None:
        """Args:
        parts: The windows of each shard; at least one, in a fixed order.
        balance: "env" for equal shares, "timestep" for equal chances of all steps, or shares
            by environment.
        history: Steps that windows look back.
        verify: Called before a shard is first drawn from: whether its contents are those that
            were written. The others are left out. All are believed when None.

        Raises:
            ValueError: If shards do not fit together, or nothing has a positive share.
        """
        self.parts, self._balance, self._verify = tuple(parts), balance, verify
        self.env_names = tuple(sorted({name for part in parts for name in part.shard.envs}))
        sizes, self._first = _sizes(parts, self.env_names)
        self._tables = _Tables.of(sizes, self.env_names, balance)
        self._unseen = None if verify is None else np.ones(len(parts), np.bool_)
        self._leaving_out = threading.Lock()
        self._steps, self._gatherer, self._before = _gatherers(parts, history)
        self.row_nbytes = self._gatherer.row_nbytes
        self.row_nbytes += 0 if self._before is None else self._before.row_nbytes

    @property
    def counts(self) -> np.ndarray:
        """int64 [E]: windows by environment."""
        return self._tables.counts

    @property
    def shares(self) -> np.ndarray:
        """float64 [E]: probability that a drawn window is of an environment."""
        return self._tables.shares

    @property
    def num_windows(self) -> int:
        """Windows of all environments."""
        return int(self.counts.sum())

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw windows: an environment by its share, then one of its steps uniformly.

        No window is drawn twice in one call, as long as no environment has fewer than are drawn
        from it; of one that has fewer, windows are drawn independently and repeat. What this does
        to the distribution: how many windows are of each environment is as without it
        (multinomial by the shares), and each single window drawn is uniform in its environment;
        but those of one environment are a simple random sample without replacement, every set of
        them equally likely, in place of independent draws.

        Where a shard that is drawn from turns out damaged, the windows are drawn as if it had not
        been there.

        Returns:
            Three int64 [count]: environment, shard, step within the shard.

        Raises:
            RuntimeError: If there is nothing to draw.
        """
        while True:
            tables = self._tables
            if not tables.shares.any():
                raise RuntimeError("there is no labelled step to draw; see ready_for_training")
            state = None if self._unseen is None else rng.bit_generator.state
            env, number = _draw(tables, count, rng)
            cell = tables.limits.searchsorted(number, "right")
            shard = cell - env * tables.sizes.shape[1]
            if self._may_draw(shard):
                break
            assert state is not None, "nothing is left out of what is believed"
            rng.bit_generator.state = state
        place = number - tables.limits[cell] + tables.sizes[env, shard] + self._first[env, shard]
        return env, shard, self._steps.gather(shard, place)["steps"].astype(np.int64)

    def whole(self) -> np.ndarray:
        """Verify all shards now that were not yet.

        Returns:
            bool [S]: those that are what was written; of the others nothing is drawn.
        """
        self._may_draw(np.arange(len(self.parts)))
        return np.ones(len(self.parts), np.bool_) if self._unseen is None else ~self._unseen

    def _may_draw(self, shard: np.ndarray) -> bool:
        """Verify shards that were not seen yet; False if some of them are left out from now on."""
        unseen = self._unseen
        if unseen is None or self._verify is None:
            return True
        damaged = []
        for place in np.unique(shard[unseen[shard]]).tolist():
            if self._verify(self.parts[place]):
                unseen[place] = False
            else:
                damaged.append(place)
        if not damaged:
            if not unseen.any():
                self._unseen = None
            return True
        with self._leaving_out:
            sizes = self._tables.sizes.copy()
            sizes[:, damaged] = 0
            self._tables = _Tables.of(sizes, self.env_names, self._balance)
        return False

    def sample(
        self, batch_size: int, rng: np.random.Generator, rows: slice | None = None
    ) -> Window:
        """Draw windows, and copy those of them that are in `rows`; all when None."""
        env, shard, step = self.draw(batch_size, rng)
        if rows is not None:
            env, shard, step = env[rows], shard[rows], step[rows]
        return self.gather(env, shard, step)

    def gather(self, env: np.ndarray, shard: np.ndarray, step: np.ndarray) -> Window:
        """Copy windows, of drawable steps or of others.

        Args:
            env: int64 [B]: their environments; they are believed.
            shard: int64 [B]: places in `parts`.
            step: int64 [B]: steps within the shards.

        Raises:
            IndexError: If there is no such step.
        """
        arrays = self._gatherer.gather(shard, step)
        plans, weights = arrays.pop(PLANS), arrays.pop(WEIGHTS)
        past = arrays.pop(PAST, None)
        observations = {k.removeprefix(OBSERVATION): v for k, v in arrays.items()}
        if self._before is not None:
            observations |= self._before.gather(shard, step)
        return Window(observations, plans, weights, env.astype(np.int16), past)


def _gatherers(
    parts: Sequence[ShardWindows], history: int
) -> tuple[RowGatherer, RowGatherer, PastGatherer | None]:
    """What copies the numbers of drawable steps, windows, and the steps before them.

    Raises:
        ValueError: If the arrays of shards are not alike.
    """
    check_alike([part.row_specs for part in parts])
    check_alike([part.past_specs for part in parts])
    rows, past = parts[0].row_specs, parts[0].past_specs
    sources = np.concatenate([part.addresses for part in parts]).reshape(len(parts), -1)
    windows = np.array([part.count for part in parts])
    lengths = np.array([part.shard.num_steps for part in parts])
    steps = RowGatherer(_STEP_SPECS, sources[:, :1], windows)
    own = RowGatherer(rows, sources[:, 1 : 1 + len(rows)], lengths)
    if not past:
        return steps, own, None
    starts = [part.shard.offsets[:-1] for part in parts]
    fills = past_fills(parts[0].shard.action_names)
    before = PastGatherer(past, sources[:, 1 + len(rows) :], lengths, starts, history, fills)
    return steps, own, before


def _draw(tables: _Tables, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Environments and numbers of windows, two int64 [count]."""
    env = tables.share_limits.searchsorted(rng.random(count), "right")
    number = _numbers(tables, env, rng)
    again = repeated(number)
    if len(again):
        _replace_repeated(tables, env, number, again, rng)
    return env, number


def _numbers(tables: _Tables, env: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers of windows, one of each environment named, uniform and independent."""
    counts = tables.counts[env]
    rank = (rng.random(len(env)) * counts).astype(np.int64)
    # A product of a number below 1 may still round up to the count itself.
    return tables.starts[env] + np.minimum(rank, counts - 1)


def _replace_repeated(
    tables: _Tables,
    env: np.ndarray,
    number: np.ndarray,
    again: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw the places `again` anew until no window occurs twice, where that can be."""
    counts = tables.counts
    drawn = np.bincount(env, minlength=len(counts))
    for i in np.flatnonzero((drawn > counts // 2) & (drawn <= counts)):
        # Few would be left over: a shuffled list is faster than many attempts.
        number[env == i] = tables.starts[i] + rng.permutation(counts[i])[: drawn[i]]
    few = drawn <= counts // 2
    again = again[few[env[again]]]
    while len(again):
        number[again] = _numbers(tables, env[again], rng)
        again = repeated(number)
        again = again[few[env[again]]]


def _sizes(
    parts: Sequence[ShardWindows], env_names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Two int64 [E, S]: how many steps of each environment a part has, and at which place of its
    steps they begin.
    """
    ids = {name: i for i, name in enumerate(env_names)}
    # Most parts have the same environments, so their places are looked up once.
    envs = [part.shard.envs for part in parts]
    places = {kind: np.array([ids[name] for name in kind]) for kind in set(envs)}
    env = np.concatenate([places[kind] for kind in envs])
    each = np.concatenate([part.counts for part in parts])
    lengths = np.array([len(part.counts) for part in parts])
    shard = np.arange(len(parts)).repeat(lengths)
    before = np.cumsum(each) - each
    sizes, first = np.zeros((2, len(env_names), len(parts)), np.int64)
    sizes[env, shard] = each
    first[env, shard] = before - before[np.cumsum(lengths) - lengths].repeat(lengths)
    return sizes, first


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
