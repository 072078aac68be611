"""What is recorded: segments of episodes and their steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from remdm.maps import HISTORY_PREFIX

OBSERVATION_PREFIX = "obs/"
STEP_DTYPES = {
    "actions": np.dtype(np.int8),
    "rewards": np.dtype(np.float32),
    "terminated": np.dtype(np.bool_),
    "truncated": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """An episode, or a piece of one, inside a shard.

    Attributes:
        env: Environment id.
        seed: Level seed of the episode.
        first_step: Steps of the episode before this segment.
        length: Steps in this segment.
        won: Whether the episode was won; None if it goes on after this segment.
        final: Whether the episode ends with this segment.
        policy_version: Version of the policy that acted.
        collector: Who recorded it.
    """

    env: str
    seed: int
    first_step: int
    length: int
    won: bool | None
    final: bool
    policy_version: int
    collector: str

    def __post_init__(self) -> None:
        """Raises: ValueError: If the values contradict each other."""
        if self.length < 1 or self.first_step < 0:
            raise ValueError(
                "a segment needs length >= 1 and first_step >= 0, "
                f"got {self.length} and {self.first_step}"
            )
        if self.final != (self.won is not None):
            raise ValueError(
                "won must be known exactly for a final segment, "
                f"got won={self.won}, final={self.final}"
            )


@dataclass(frozen=True, slots=True)
class StepArrays:
    """T steps in a row.

    Attributes:
        observations: By name [T, ...]: what was seen before each step.
        actions: int8 [T].
        rewards: float32 [T].
        terminated: bool [T].
        truncated: bool [T].
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.actions)

    def __getitem__(self, steps: slice) -> "StepArrays":
        """Views of some of the steps."""
        return StepArrays(
            {k: v[steps] for k, v in self.observations.items()},
            self.actions[steps],
            self.rewards[steps],
            self.terminated[steps],
            self.truncated[steps],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.nbytes for a in self.named().values())

    def named(self) -> dict[str, np.ndarray]:
        """All arrays by the names they have in a file."""
        named = {OBSERVATION_PREFIX + k: v for k, v in self.observations.items()}
        return named | {k: getattr(self, k) for k in STEP_DTYPES}


class StepChunk(Protocol):
    """The part of `remdm.envs.contract.Chunk` that is recorded; N rows, K step slots."""

    @property
    def observations(self) -> Mapping[str, np.ndarray]: ...  # noqa: D102
    @property
    def actions(self) -> np.ndarray: ...  # noqa: D102
    @property
    def rewards(self) -> np.ndarray: ...  # noqa: D102
    @property
    def terminated(self) -> np.ndarray: ...  # noqa: D102
    @property
    def truncated(self) -> np.ndarray: ...  # noqa: D102
    @property
    def valid(self) -> np.ndarray: ...  # noqa: D102
    @property
    def won(self) -> np.ndarray: ...  # noqa: D102


def valid_steps(chunk: StepChunk) -> StepArrays:
    """Copies of a chunk's valid steps, row after row, without arrays `history/...`."""
    cells = np.flatnonzero(chunk.valid)

    def pick(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, *array.shape[2:]).take(cells, 0)

    return StepArrays(
        {
            name: pick(array)
            for name, array in chunk.observations.items()
            if not name.startswith(HISTORY_PREFIX)
        },
        pick(chunk.actions).astype(np.int8),
        pick(chunk.rewards).astype(np.float32, copy=False),
        pick(chunk.terminated),
        pick(chunk.truncated),
    )
