"""Anybody with an `act` method as the oracle: one action for each observation.

Such an expert goes along while episodes are played, and is asked once at every state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import gin
import numpy as np

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.envs.spaces import OBSERVATION
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.maps import ArraySpec
from remdm.oracles.contract import Oracle
from remdm.oracles.recorded import PLAN, TAKEN, VECTOR, WEIGHT, recorded_plans
from remdm.tokens import end_token

Asked = Callable[[dict[str, np.ndarray]], np.ndarray]


class Expert(Protocol):
    """Whoever says what to do. A model of Stable-Baselines3 is one, too, by its `predict`."""

    def act(self, obs: Any, deterministic: bool) -> Any:
        """Choose actions.

        Args:
            obs: N observations in the form of the environment's own: an array [N, ...], or a dict
                of such.
            deterministic: Take the likeliest instead of drawing one.

        Returns:
            Integers [N], or vectors [N, ...]; or a tuple that begins with them.
        """
        ...


def answers(expert: Any, observations: Any, deterministic: bool) -> np.ndarray:
    """What an expert says to N observations, [N, ...].

    Raises:
        ValueError: If it cannot be asked.
    """
    call = getattr(expert, "act", None) or getattr(expert, "predict", None)
    if not callable(call):
        raise ValueError(
            "an expert must have act(obs, deterministic), or predict as models of "
            f"Stable-Baselines3 do; {type(expert).__name__} has neither."
        )
    found = call(observations, deterministic=deterministic)
    found = found[0] if isinstance(found, tuple) else found
    if hasattr(found, "detach"):  # a tensor; torch is not loaded for those who have none
        found = found.detach().cpu()
    return np.asarray(found)


def as_the_env_shows(arrays: Mapping[str, np.ndarray]) -> Any:
    """N observations as Gymnasium hands them out, as far as their names tell.

    One array called "observation" is the observation itself, others are entries of a dict.
    """
    if set(arrays) == {OBSERVATION}:
        return arrays[OBSERVATION]
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        *outer, last = name.split("/")
        place = nested
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = array
    return nested


@gin.configurable(module="remdm", denylist=["expert"])
class ActingOracle(Oracle):
    """An expert of single actions. Its labels are what it said when a state was visited.

    They are plans of one action; `DiskTrajDataset.target = "oracle_actions"` strings together
    those of states that follow one another, for agents that plan further.
    """

    name = "expert"
    version = 1
    gives_plans = False

    def __init__(
        self,
        expert: Any = None,
        *,
        expert_type: Callable[[], Any] | None = None,
        deterministic: bool = True,
    ) -> None:
        """Args:
        expert: See `Expert`; made by `expert_type` when None.
        expert_type: Class or function that makes the expert.
        deterministic: Whether it takes its likeliest actions.

        Raises:
            ValueError: If there is no expert.
        """
        if expert is None and expert_type is None:
            raise ValueError(
                "ActingOracle needs somebody to ask; set ActingOracle.expert_type, or hand it an "
                "expert."
            )
        self.expert = expert_type() if expert is None and expert_type is not None else expert
        self.deterministic = deterministic

    def ask(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """The actions at N observations, by name [N, ...], as the expert numbers them."""
        return answers(self.expert, as_the_env_shows(arrays), self.deterministic)

    def accompany(self, vec_env: PlanVecEnv, plan_horizon: int) -> PlanVecEnv:
        """See `Oracle.accompany`."""
        return AskingVecEnv(vec_env, self.ask, plan_horizon)

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the expert said; see `Oracle.label`. Vectors are in the observations alone.

        Raises:
            ValueError: If it was not asked when the steps were recorded.
        """
        fix = "Collect with Experiment.oracle_type = @ActingOracle and the same plan_horizon."
        return recorded_plans(observations, plan_horizon, fix)


class AskingVecEnv(PlanVecEnvWrapper):
    """A set of environments whose observations hold what an expert would do.

    - `expert/plan` int8 [plan_horizon]: its action, then END. A vector's one token is 0.
    - `expert/weight` float32: 1.
    - `expert/vector` and `taken/vector` float32 [D], where actions are vectors: what it would do,
      and what was offered last, which was done as far as bounds allow. In what is seen now, both
      are the expert's.

    Where actions are vectors, the expert's are on offer until somebody offers others.
    """

    def __init__(self, vec_env: PlanVecEnv, ask: Asked, plan_horizon: int) -> None:
        """Args:
        vec_env: The set to wrap, which this one then owns.
        ask: The expert's actions at N observations of that set.
        plan_horizon: Tokens per plan.
        """
        super().__init__(vec_env)
        self.ask, self.plan_horizon = ask, plan_horizon
        own = {
            PLAN: ArraySpec((plan_horizon,), np.dtype(np.int8)),
            WEIGHT: ArraySpec((), np.dtype(np.float32)),
        }
        if self.vector_size:
            vector = ArraySpec((self.vector_size,), np.dtype(np.float32))
            own |= {VECTOR: vector, TAKEN: vector}
        self.observation_spec = vec_env.observation_spec | own
        self._said = self._nothing((self.num_envs,))
        self._taken = np.zeros((self.num_envs, self.vector_size), np.float32)

    def _nothing(self, shape: tuple[int, ...]) -> np.ndarray:
        if self.vector_size:
            return np.zeros((*shape, self.vector_size), np.float32)
        return np.full(shape, end_token(self.num_actions), np.int8)

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`."""
        seen = self.vec_env.reset(seeds, rows)
        self._hear(seen, np.arange(self.num_envs) if rows is None else np.array(rows, np.int64))
        return self._shown(seen)

    def offer(self, vectors: np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
        """See `PlanVecEnv.offer`."""
        self._taken[rows] = vectors
        self.vec_env.offer(vectors, rows)

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`; where actions are vectors, no more than one step."""
        if self.vector_size:
            # The vectors of later steps are not known yet: the expert has to see them first.
            plans, num_steps = plans[:, :1], 1
        chunk = self.vec_env.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)
        said = self._nothing(chunk.valid.shape)
        said[:, 0] = self._said
        later = chunk.valid.copy()
        later[:, 0] = False
        if later.any():
            said[later] = self._asked({k: v[later] for k, v in chunk.observations.items()})
        told = self._told(said)
        if self.vector_size:
            taken = np.zeros_like(said)
            taken[:, 0] = self._taken
            told[TAKEN] = taken
        self._hear(chunk.final_observations, np.flatnonzero(chunk.valid[:, 0] & ~chunk.done))
        return replace(
            chunk,
            observations=chunk.observations | told,
            final_observations=self._shown(chunk.final_observations),
        )

    def _asked(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        """What the expert says to N observations: tokens int8 [N] or vectors float32 [N, D].

        Raises:
            ValueError: If there is no such action.
        """
        count = len(next(iter(seen.values())))
        found = self.ask(seen)
        wanted = (count, self.vector_size) if self.vector_size else (count,)
        if found.size != np.prod(wanted) or (not self.vector_size and found.dtype.kind not in "iu"):
            raise ValueError(
                f"an expert must answer {count} observations with "
                f"{'vectors' if self.vector_size else 'integers'} of shape {list(wanted)}, got "
                f"{found.dtype} {list(found.shape)}; act is given all of them at once."
            )
        if self.vector_size:
            return found.reshape(wanted).astype(np.float32)
        if not ((found >= 0) & (found < self.num_actions)).all():
            raise ValueError(
                f"an expert's actions must be numbers below {self.num_actions}, got "
                f"{sorted(set(found.ravel().tolist()))}"
            )
        return found.reshape(wanted).astype(np.int8)

    def _hear(self, seen: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """Ask the expert about what `rows` see now."""
        if not len(rows):
            return
        self._said[rows] = self._asked({name: array[rows] for name, array in seen.items()})
        if self.vector_size:
            self.offer(self._said[rows], rows)

    def _told(self, said: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays that hold what the expert said at some moments."""
        shape = said.shape[:-1] if self.vector_size else said.shape
        plans = np.full((*shape, self.plan_horizon), end_token(self.num_actions), np.int8)
        plans[..., 0] = 0 if self.vector_size else said
        told = {PLAN: plans, WEIGHT: np.ones(shape, np.float32)}
        return told | ({VECTOR: said} if self.vector_size else {})

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `PlanVecEnvWrapper`: what is seen now, with what the expert says to it."""
        told = self._told(self._said.copy())
        return observations | told | ({TAKEN: self._said.copy()} if self.vector_size else {})
