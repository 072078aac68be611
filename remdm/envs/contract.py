"""The contract between environments and everything that drives them.

`PlannerEnv` is one world. `PlanVecEnv` is many of them behind one interface whose unit of work is
a plan, not a step: one call runs several actions in every world and returns all the steps.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from remdm.envs.actions import Actions
from remdm.maps import ArraySpec


class StepResult(NamedTuple):
    """What one action did."""

    reward: float
    terminated: bool
    truncated: bool
    won: bool  # the task's own success; only ever true together with `terminated`
    blocked: bool  # a move that neither moved the agent nor changed what it faces


class PlannerEnv(ABC):
    """One environment. Episodes are started by an explicit level seed, never by an auto-reset.

    Attributes:
        name: Environment id, as users type it.
        num_actions: Size of the action set.
        action_names: One name per action; stored with data and checkpoints.
        observation_spec: Arrays of one observation, by name.
        max_episode_steps: Steps after which an unfinished episode is truncated.
        actions: What can be done, where that is more than names say: vectors. There is one token
            then, and `offer` says what it means. None where actions are tokens.
    """

    name: str
    num_actions: int
    action_names: tuple[str, ...]
    observation_spec: dict[str, ArraySpec]
    max_episode_steps: int
    actions: Actions | None = None

    @property
    def vector_size(self) -> int:
        """Numbers of an action that is a vector; 0 where actions are tokens."""
        return 0 if self.actions is None else self.actions.vector_size

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Start the episode of level `seed`; the same seed gives the same episode."""

    @abstractmethod
    def step(self, action: int) -> StepResult:
        """Take one action.

        Raises:
            RuntimeError: If the episode is over or was never started.
        """

    @abstractmethod
    def observe(self, out: dict[str, np.ndarray]) -> None:
        """Copy the current observation into `out`, arrays of `observation_spec` shapes."""

    def offer(self, vector: np.ndarray) -> None:
        """Say which vector the next step takes.

        Args:
            vector: float32 [vector_size].

        Raises:
            ValueError: If actions are tokens here.
        """
        raise ValueError(
            f"the actions of {self.name} are the tokens {', '.join(self.action_names)}, not vectors"
        )

    @property
    def pending(self) -> bool:
        """Whether the last action waits for a direction; such a state is never observed."""
        return False

    def cancel(self) -> None:
        """Give up a pending action, so that the state can be observed again."""

    def close(self) -> None:
        """Free what the environment holds."""


@dataclass(frozen=True, slots=True)
class EnvKind:
    """What all environments of a run have in common.

    Attributes:
        action_names: One name per action.
        observation_spec: Arrays of one observation, by name.
        actions: What can be done, where that is more than names say: vectors; else None.
    """

    action_names: tuple[str, ...]
    observation_spec: dict[str, ArraySpec]
    actions: Actions | None = None

    @classmethod
    def of(cls, env: PlannerEnv) -> "EnvKind":
        """The kind of one environment."""
        return cls(tuple(env.action_names), dict(env.observation_spec), env.actions)

    @property
    def num_actions(self) -> int:
        """Size of the action set."""
        return len(self.action_names)

    def arguments_for(self, agent_type: Callable[..., Any]) -> tuple[Any, ...]:
        """What a class of agents is called with: arrays, actions, and vectors where there are any.

        Raises:
            ValueError: If it writes tokens where actions are vectors.
        """
        if self.actions is None:
            return self.observation_spec, self.num_actions
        if "actions" not in inspect.signature(agent_type).parameters:
            raise ValueError(
                f"actions are vectors here, and {agent_type} writes tokens; set "
                "Experiment.agent_type = @HeadAgent, or another environment."
            )
        return self.observation_spec, self.num_actions, self.actions


@dataclass(frozen=True, slots=True)
class Chunk:
    """All the steps that one `execute` call ran; N environments, K step slots.

    Attributes:
        observations: By name [N, K, ...]: what was seen before each step.
        final_observations: By name [N, ...]: what is seen after the last step.
        actions: int64 [N, K]; meaningful where `valid`.
        rewards: float32 [N, K].
        terminated: bool [N, K]; true at most once a row, on its last valid step.
        truncated: bool [N, K]; likewise.
        valid: bool [N, K]; a row's valid steps come first.
        won: bool [N]; the row's episode ended in this chunk, and by the task's own success.
        blocked: bool [N]; the last step was a move that failed.
    """

    observations: dict[str, np.ndarray]
    final_observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    won: np.ndarray
    blocked: np.ndarray

    def part(self, rows: Sequence[int]) -> "Chunk":
        """Copies of some of the rows."""

        def taken(value: np.ndarray | dict[str, np.ndarray]) -> Any:
            if isinstance(value, dict):
                return {name: array[rows] for name, array in value.items()}
            return value[rows]

        return Chunk(*(taken(getattr(self, field.name)) for field in fields(self)))

    @property
    def done(self) -> np.ndarray:
        """bool [N]: the row's episode ended in this chunk."""
        return (self.terminated | self.truncated).any(1)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: number of steps each row ran."""
        return self.valid.sum(1)


class PlanVecEnv(ABC):
    """Many environments that run plans. There is no auto-reset: the caller resets what is over.

    Arrays handed out belong to the caller until the next call of `reset` or `execute`, which may
    reuse their memory; copy what must live longer.

    Attributes:
        env_names: One name per row.
        num_envs: Number of rows.
        num_actions: Size of the action set, the same in every row.
        action_names: One name per action.
        observation_spec: Arrays of one observation, the same in every row.
        max_episode_steps: Steps after which an episode is cut, per row.
        achievement_names: What can be achieved on the way; none in most environments.
        max_return: Return of an episode in which all goes well; None where there is no such.
        vector_size: Numbers of an action that is a vector; 0 where actions are tokens.
    """

    env_names: tuple[str, ...]
    num_envs: int
    num_actions: int
    action_names: tuple[str, ...]
    observation_spec: dict[str, ArraySpec]
    max_episode_steps: tuple[int, ...]
    achievement_names: tuple[str, ...] = ()
    max_return: float | None = None
    vector_size: int = 0

    @property
    def achievements(self) -> np.ndarray:
        """bool [num_envs, achievements]: unlocked in each row's episode, also after its end."""
        return np.zeros((self.num_envs, len(self.achievement_names)), np.bool_)

    @abstractmethod
    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Start new episodes.

        Args:
            seeds: Level seeds, one per entry of `rows`.
            rows: Environments to reset; all of them when None.

        Returns:
            The current observation of every row, [num_envs, ...] by name.
        """

    def assign(self, names: Sequence[str], rows: Sequence[int]) -> None:
        """Give rows other environments; a row that gets one runs nothing until it is reset.

        Args:
            names: Environments, one per entry of `rows`, among those that the set was made with.
            rows: Distinct rows. One that has the environment already goes on as it is.

        Raises:
            ValueError: If a row is unknown or named twice, or the set has no such environment.
        """
        if any(self.env_names[row] != name for row, name in zip(rows, names, strict=True)):
            raise ValueError(
                f"the rows of a {type(self).__name__} keep their environments, "
                f"{', '.join(sorted(set(self.env_names)))}; set Experiment.curriculum_type = None"
            )

    @abstractmethod
    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """Run up to `num_steps` actions of each row's plan.

        A row stops early at its plan's first token that is not an action (END or MASK), at its
        episode's end and, with `stop_when_blocked`, after a move that failed. An action that asks
        for a direction is finished with the plan's next token, past `num_steps` if need be, and
        cancelled where the plan has none. Hence K = num_steps + 1.
        Rows whose episode is over, or whose plan starts with END, run nothing.

        Args:
            plans: Integer tokens [num_envs, horizon], horizon >= num_steps.
            num_steps: Actions to run per row, at least 1.
            stop_when_blocked: End a row's chunk after a failed move.

        Raises:
            ValueError: If shapes do not fit.
            EnvError: If an environment fails; names env id, seed and step.
        """

    def offer(self, vectors: np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
        """Say which vectors the next step takes, where actions are vectors.

        Whoever decides last is followed: a plan then holds the one token that there is.

        Args:
            vectors: float32 [n, vector_size], one per entry of `rows`.
            rows: Distinct rows.

        Raises:
            ValueError: If actions are tokens here.
        """
        raise ValueError(
            f"the actions of a {type(self).__name__} of {self.env_names[0]} are tokens, not "
            "vectors; where they are vectors, set Experiment.env_mode = 'sync'"
        )

    @abstractmethod
    def close(self) -> None:
        """Free environments, processes and shared memory."""


class EnvError(RuntimeError):
    """An environment, or the process that holds it, failed."""
