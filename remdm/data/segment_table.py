"""The segments of a shard as columns: a shard of many costs no Python object for each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import gt, lt

import numpy as np

from remdm.data.records import Segment

# One column each in the array that a shard stores, beside the lengths that its offsets tell.
_ENV, _SEED, _FIRST_STEP, _OUTCOME, _POLICY_VERSION, _COLLECTOR = range(6)
NUM_COLUMNS = 6
# Values of an outcome.
UNKNOWN, LOST, WON = -1, 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class SegmentTable:
    """S segments.

    Attributes:
        envs: Environment ids; `env` are places in it.
        collectors: Names of collectors.
        rows: int64 [S, 6]: place in `envs`, level seed, first step, outcome (-1 where the episode
            goes on after the segment, otherwise whether it was won), policy version, place in
            `collectors`.
        offsets: int64 [S + 1]: segment s has the steps offsets[s] to offsets[s + 1].
    """

    envs: tuple[str, ...]
    collectors: tuple[str, ...]
    rows: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> "SegmentTable":
        """The table of some segments.

        Raises:
            ValueError: If a number does not fit into 64 bits.
        """
        envs = tuple(dict.fromkeys(s.env for s in segments))
        collectors = tuple(dict.fromkeys(s.collector for s in segments))
        env_places = {name: place for place, name in enumerate(envs)}
        places = {name: place for place, name in enumerate(collectors)}
        rows = [
            (
                env_places[s.env],
                s.seed,
                s.first_step,
                UNKNOWN if s.won is None else int(s.won),
                s.policy_version,
                places[s.collector],
            )
            for s in segments
        ]
        try:
            table = np.array(rows, np.int64).reshape(len(rows), NUM_COLUMNS)
            lengths = np.array([s.length for s in segments], np.int64)
        except OverflowError:
            raise ValueError(
                "the numbers of a segment must fit into 64 bits, and one does not"
            ) from None
        return cls(envs, collectors, table, np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> np.ndarray:
        """int64 [S]: steps of each segment."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def env(self) -> np.ndarray:
        """int64 [S]: places in `envs`."""
        return self.rows[:, _ENV]

    @property
    def seed(self) -> np.ndarray:
        """int64 [S]: level seeds."""
        return self.rows[:, _SEED]

    @property
    def collector(self) -> np.ndarray:
        """int64 [S]: places in `collectors`."""
        return self.rows[:, _COLLECTOR]

    @property
    def first_step(self) -> np.ndarray:
        """int64 [S]: steps of the episode before each segment."""
        return self.rows[:, _FIRST_STEP]

    @property
    def outcome(self) -> np.ndarray:
        """int64 [S]: `UNKNOWN`, `LOST` or `WON`."""
        return self.rows[:, _OUTCOME]

    @property
    def policy_version(self) -> np.ndarray:
        """int64 [S]: version of the policy that acted in each segment."""
        return self.rows[:, _POLICY_VERSION]

    def segments(self, places: Sequence[int] | None = None) -> tuple[Segment, ...]:
        """Some segments, or all, as objects."""
        rows = self.rows if places is None else self.rows[list(places)]
        lengths = self.lengths if places is None else self.lengths[list(places)]
        return tuple(
            Segment(
                self.envs[env],
                seed,
                first_step,
                length,
                None if outcome == UNKNOWN else outcome == WON,
                outcome != UNKNOWN,
                policy_version,
                self.collectors[collector],
            )
            for (env, seed, first_step, outcome, policy_version, collector), length in zip(
                rows.tolist(), lengths.tolist(), strict=True
            )
        )

    def check(self) -> None:
        """Raises: ValueError: If a segment has no environment, no collector, or no sense."""
        if self.rows.dtype != np.int64 or self.rows.shape[1:] != (NUM_COLUMNS,):
            raise ValueError(
                f"segments must be int64 [S, {NUM_COLUMNS}], got {self.rows.dtype} "
                f"{list(self.rows.shape)}"
            )
        if not len(self.rows):
            raise ValueError("it has no segments")
        low, high = self.rows.min(0).tolist(), self.rows.max(0).tolist()
        least = (0, low[_SEED], 0, UNKNOWN, low[_POLICY_VERSION], 0)
        most = list(high)
        most[_ENV], most[_OUTCOME] = len(self.envs) - 1, WON
        most[_COLLECTOR] = len(self.collectors) - 1
        if any(map(lt, low, least)) or any(map(gt, high, most)):
            wrong = ((self.rows < np.array(least)) | (self.rows > np.array(most))).any(1)
            place = int(wrong.argmax())
            raise ValueError(f"its segment {place} makes no sense: {self.rows[place].tolist()}")
        for column, names in ((_ENV, self.envs), (_COLLECTOR, self.collectors)):
            used = set(self.rows[:, column].tolist())
            if not len(used) == len(set(names)) == len(names):
                raise ValueError("it has names twice, or for nothing")
