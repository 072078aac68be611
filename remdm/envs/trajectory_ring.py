"""The latest transitions of many rows, in memory of a fixed size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remdm.envs.contract import Chunk
from remdm.maps import ArraySpec

_SEEN, _SEEN_NEXT = "observations/", "next_observations/"


@dataclass(frozen=True, slots=True)
class Transitions:
    """Transitions with leading axes [...]: [n] for n rows, [n, length] for n sequences.

    Attributes:
        observations: By name [..., *shape]: what was seen before the action.
        actions: int64 [...].
        rewards: float32 [...].
        done: bool [...]: the episode ended with the action.
        next_observations: By name [..., *shape]: what was seen after it.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    done: np.ndarray
    next_observations: dict[str, np.ndarray]

    def named(self) -> dict[str, np.ndarray]:
        """All arrays by one name each."""
        seen = {_SEEN + key: array for key, array in self.observations.items()}
        seen_next = {_SEEN_NEXT + key: array for key, array in self.next_observations.items()}
        return {
            "actions": self.actions,
            "rewards": self.rewards,
            "done": self.done,
            **seen,
            **seen_next,
        }

    @staticmethod
    def of(named: dict[str, np.ndarray]) -> "Transitions":
        """The transitions whose `named` arrays these are."""

        def below(prefix: str) -> dict[str, np.ndarray]:
            return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}

        return Transitions(
            below(_SEEN), named["actions"], named["rewards"], named["done"], below(_SEEN_NEXT)
        )


class TrajectoryRing:
    """Keeps the last `capacity` transitions of every row and draws sequences of them.

    A sequence is of one row and one episode, and its steps follow one another as they were taken:
    it may run over the end of the memory to its beginning, never over the place that is written
    next, and never past the end of an episode. Rows fill at their own pace.
    """

    def __init__(
        self, capacity: int, num_rows: int, observation_spec: dict[str, ArraySpec]
    ) -> None:
        """Args:
            capacity: Transitions to keep per row.
            num_rows: Rows.
            observation_spec: The arrays of one observation; a transition keeps two of each.

        Raises:
            ValueError: If there is room for nothing.
        """
        if capacity < 1 or num_rows < 1:
            raise ValueError(
                "a ring needs at least one row and room for one transition, got "
                f"num_rows={num_rows} and capacity={capacity}"
            )
        self.capacity, self.num_rows = capacity, num_rows

        def room(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
            return np.zeros((num_rows, capacity, *shape), dtype)

        self._kept = {
            "actions": room((), np.dtype(np.int64)),
            "rewards": room((), np.dtype(np.float32)),
            "done": room((), np.dtype(np.bool_)),
            **{_SEEN + key: room(s.shape, s.dtype) for key, s in observation_spec.items()},
            **{_SEEN_NEXT + key: room(s.shape, s.dtype) for key, s in observation_spec.items()},
        }
        # Unbroken transitions of one episode: up to and with the one at a place, and up to now.
        self._unbroken = room((), np.dtype(np.int64))
        self._unbroken_now = np.zeros(num_rows, np.int64)
        self._written = np.zeros(num_rows, np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [num_rows]: transitions kept of each row."""
        return np.minimum(self._written, self.capacity)

    def append(self, new: Transitions, rows: Sequence[int] | np.ndarray | None = None) -> None:
        """Copy one transition of each of some rows, over their oldest where they are full.

        Args:
            new: Arrays [n, ...].
            rows: n distinct rows; all when None.

        Raises:
            ValueError: If the observation arrays are others.
        """
        arrays = new.named()
        if set(arrays) != set(self._kept):
            raise ValueError(
                f"transitions must have the arrays {', '.join(self._kept)}, got {', '.join(arrays)}"
            )
        chosen = np.arange(self.num_rows) if rows is None else np.asarray(rows, np.int64)
        heads = self._written[chosen] % self.capacity
        for name, kept in self._kept.items():
            kept[chosen, heads] = arrays[name]
        self._written[chosen] += 1
        self._unbroken_now[chosen] += 1
        self._unbroken[chosen, heads] = self._unbroken_now[chosen]
        self.cut(chosen[np.asarray(new.done, np.bool_)])

    def append_chunk(self, chunk: Chunk) -> None:
        """Copy all valid steps of a chunk of these rows."""
        done = chunk.terminated | chunk.truncated
        for slot in range(chunk.valid.shape[1]):
            rows = np.flatnonzero(chunk.valid[:, slot])
            following = {k: v[rows] for k, v in chunk.final_observations.items()}
            if slot + 1 < chunk.valid.shape[1]:
                goes_on = chunk.valid[rows, slot + 1]
                for key, array in following.items():
                    array[goes_on] = chunk.observations[key][rows[goes_on], slot + 1]
            taken = Transitions(
                observations={k: v[rows, slot] for k, v in chunk.observations.items()},
                actions=chunk.actions[rows, slot],
                rewards=chunk.rewards[rows, slot],
                done=done[rows, slot],
                next_observations=following,
            )
            self.append(taken, rows)

    def cut(self, rows: Sequence[int] | np.ndarray) -> None:
        """Say that `rows` begin another episode although nothing was `done`."""
        self._unbroken_now[np.asarray(rows, np.int64)] = 0

    def sample_sequences(self, rng: np.random.Generator, count: int, length: int) -> Transitions:
        """Draw sequences, each that there is with the same chance, with replacement.

        Args:
            rng: Source of randomness.
            count: How many.
            length: Transitions in each; only the last one may be `done`.

        Returns:
            Copies [count, length, ...], oldest first.

        Raises:
            ValueError: If `length` is not in 1..capacity.
            RuntimeError: If there is no sequence of that length.
        """
        if not 1 <= length <= self.capacity:
            raise ValueError(
                f"a sequence must have 1..capacity = {self.capacity} steps, got {length}"
            )
        ends = np.flatnonzero(self._ends_of(length))
        if not len(ends):
            raise RuntimeError(
                f"no episode has {length} transitions in the ring; append more, or draw shorter "
                "sequences"
            )
        row, last = np.divmod(ends[rng.integers(len(ends), size=count)], self.capacity)
        places = (last[:, None] + np.arange(1 - length, 1)) % self.capacity
        return Transitions.of(
            {name: kept[row[:, None], places] for name, kept in self._kept.items()}
        )

    def _ends_of(self, length: int) -> np.ndarray:
        """bool [num_rows, capacity]: a sequence of `length` ends at this place."""
        kept = self.lengths[:, None]
        oldest = np.where(kept < self.capacity, 0, self._written[:, None] % self.capacity)
        age = (np.arange(self.capacity) - oldest) % self.capacity  # 0 is the oldest
        return (age < kept) & (age >= length - 1) & (self._unbroken >= length)
