"""What a roll-out asks for plans: agents and oracles behind one small interface."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from remdm.continuation import RunningPlans
from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.envs.history import with_history
from remdm.envs.near_sight import NearSightVecEnv
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.oracles.contract import Oracle
from remdm.planning_constraints import PlanMemory
from remdm.seeding import numpy_generator

if TYPE_CHECKING:
    from remdm.base_agent import BaseAgent


class Plans(NamedTuple):
    """The plans of one call.

    Attributes:
        tokens: Integer tokens [n, plan_horizon].
        nfe: [n]: network evaluations of each plan.
    """

    tokens: np.ndarray
    nfe: np.ndarray


class Policy(Protocol):
    """Something that plans for many episodes at once.

    Attributes:
        name: Short name for tables.
        replan_every: Actions executed before the next plan.
    """

    name: str
    replan_every: int

    def accompany(self, vec_env: PlanVecEnv) -> PlanVecEnv:
        """The environments as the policy wants to play them; see `Oracle.accompany`."""
        ...

    def begin(self, rows: np.ndarray, env_names: Sequence[str], level_seeds: Sequence[int]) -> None:
        """New episodes start in `rows`; forget what was kept about the old ones."""
        ...

    def plan(self, observations: dict[str, np.ndarray], rows: np.ndarray) -> Plans:
        """Plans for the episodes in `rows`.

        Args:
            observations: By name [n, ...], in the order of `rows`.
            rows: int64 [n]: stable labels of the running episodes.
        """
        ...

    def ran(self, rows: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> None:
        """What came of the plans; told after each of them.

        Args:
            rows: int64 [n]: the rows that were planned for.
            actions: Integer [n, K]: what was executed.
            lengths: int64 [n]: how many of a row's actions are meant, the first ones.
        """
        ...


class OraclePolicy:
    """Acts by an oracle's plans. What happens in an episode depends on its level seed only."""

    def __init__(
        self,
        oracle: Oracle,
        *,
        plan_horizon: int = 16,
        replan_every: int | None = None,
        seed: int = 0,
    ) -> None:
        """Args:
        oracle: Who plans.
        plan_horizon: Tokens per plan.
        replan_every: Actions before the next plan; the whole plan when None.
        seed: Seed of the oracle's own chance, combined with environment and level seed.
        """
        self.name = oracle.name
        self.oracle = oracle
        self.plan_horizon = plan_horizon
        self.replan_every = checked_replan_every(replan_every, plan_horizon)
        self.seed = seed
        # A plan that is the label has no chance in it and can be made for all rows at once. The
        # others draw from a generator of their episode, so that neighbours do not matter.
        self._draws = type(oracle).plan is not Oracle.plan
        self._generators: dict[int, np.random.Generator] = {}

    def accompany(self, vec_env: PlanVecEnv) -> PlanVecEnv:
        """See `Policy.accompany`."""
        return self.oracle.accompany(vec_env, self.plan_horizon)

    def begin(self, rows: np.ndarray, env_names: Sequence[str], level_seeds: Sequence[int]) -> None:
        """See `Policy.begin`."""
        for row, env, level in zip(rows, env_names, level_seeds, strict=True):
            self._generators[int(row)] = numpy_generator(self.seed, self.name, env, level)

    def plan(self, observations: dict[str, np.ndarray], rows: np.ndarray) -> Plans:
        """See `Policy.plan`."""
        no_net = np.zeros(len(rows))
        if not self._draws:
            return Plans(self.oracle.label(observations, self.plan_horizon)[0], no_net)
        plans = [
            self.oracle.plan(
                {name: array[i : i + 1] for name, array in observations.items()},
                self.plan_horizon,
                self._generators[int(row)],
            )
            for i, row in enumerate(rows)
        ]
        return Plans(np.concatenate(plans), no_net)

    def ran(self, rows: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> None:
        """See `Policy.ran`; an oracle sees all it needs in the observation."""


class _ToldVecEnv(PlanVecEnvWrapper):
    """Tells somebody of every chunk that is executed."""

    def __init__(self, vec_env: PlanVecEnv, tell: Callable[[Chunk], None]) -> None:
        super().__init__(vec_env)
        self._tell = tell

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`."""
        chunk = self.vec_env.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)
        self._tell(chunk)
        return chunk

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return observations


class AgentPolicy:
    """Acts by an agent's plans.

    All rows draw from one generator, so the same generator and the same number of rows give the
    same episodes, and another number of rows gives others of the same distribution.
    """

    def __init__(
        self,
        agent: "BaseAgent",
        generator: torch.Generator,
        *,
        replan_every: int | None = None,
        name: str = "planner",
        constrained: bool = False,
        near: int | None = None,
        remembers: bool = True,
    ) -> None:
        """Args:
        agent: Who plans, with the weights it holds.
        generator: Chance of the sampler.
        replan_every: Actions before the next plan; the agent's own number when None.
        name: Name in tables.
        constrained: Switch on the agent's action constraints and its loop breaker, for this
            policy's plans only.
        near: Show the agent only so many cells along the square around it, an odd number; see
            `NearSightVecEnv`. All that it remembers when None.
        remembers: Whether an agent with a memory keeps one; without, every plan is made as if the
            episode had just begun.
        """
        self.agent = agent
        self.generator = generator
        self.name = name
        self.constrained = constrained
        self.near = near
        chosen = agent.replan_every if replan_every is None else replan_every
        self.replan_every = checked_replan_every(chosen, agent.plan_horizon)
        self._memory = PlanMemory()
        self._running = RunningPlans(0, agent.plan_horizon, agent.num_actions)
        self._remembers = remembers and agent.memory_size > 0
        # What was executed and is not remembered yet: observations [N, K, ...], and real ones.
        self._news: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
        self._told = False

    def accompany(self, vec_env: PlanVecEnv) -> PlanVecEnv:
        """See `Policy.accompany`; some agents want to see what was before."""
        if self.near is not None:
            vec_env = NearSightVecEnv(vec_env, self.near)
        self._vec_env = with_history(vec_env, self.agent.history, self.agent.observation_keys)
        if self._remembers:
            self._vec_env = _ToldVecEnv(self._vec_env, self._tell)
            self._news.clear()
            self._told = True
        return self._vec_env

    def begin(self, rows: np.ndarray, env_names: Sequence[str], level_seeds: Sequence[int]) -> None:
        """See `Policy.begin`; only agents that ask for it keep anything between plans.

        Raises:
            RuntimeError: If the agent is to remember an episode of which it will not be told.
        """
        if self._remembers and not self._told:
            raise RuntimeError(
                "an agent with a memory must be told of all that is done in an episode; play in "
                "the environments that AgentPolicy.accompany(vec_env) returns"
            )
        self._memory.reset(rows)
        for _, real in self._news:
            real[rows] = False
        if self.agent.reads_continuation:
            self._running.reset(rows)

    def plan(self, observations: dict[str, np.ndarray], rows: np.ndarray) -> Plans:
        """See `Policy.plan`."""
        agent = self.agent
        own = agent.action_constraints, agent.loop_breaker
        if self.constrained:
            agent.action_constraints = agent.loop_breaker = True
        try:
            repeats = self._memory.count(observations, rows) if agent.loop_breaker else None
            if agent.reads_continuation:
                self._remember()
                carried = self._running.continuation(rows)
                sample = agent.plan(
                    observations, self.generator, repeats=repeats, continuation=carried
                )
            else:
                sample = agent.plan(observations, self.generator, repeats=repeats)
        finally:
            agent.action_constraints, agent.loop_breaker = own
        tokens = sample.tokens.cpu().numpy()
        if agent.reads_continuation:
            self._running.planned(rows, tokens, sample.token_log_probs.cpu().numpy())
        if sample.vectors is not None:
            self._vec_env.offer(sample.vectors.cpu().numpy(), rows)
        return Plans(tokens, sample.nfe.cpu().numpy())

    def _tell(self, chunk: Chunk) -> None:
        """Keep what the agent is to remember of a chunk; copies, as the next one overwrites it."""
        seen = {key: chunk.observations[key].copy() for key in self.agent.observation_keys}
        self._news.append((seen, chunk.valid & ~chunk.done[:, None]))

    def _remember(self) -> None:
        """Take in what was executed since the last plan; done here, as a part of planning."""
        news, self._news = self._news, []
        for seen, real in news:
            self._running.remember(self.agent, np.arange(len(real)), seen, real)

    def ran(self, rows: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> None:
        """See `Policy.ran`."""
        if self.agent.reads_continuation:
            self._running.ran(rows, actions, lengths)


def checked_replan_every(replan_every: int | None, plan_horizon: int) -> int:
    """`replan_every`, or the whole plan when None.

    Raises:
        ValueError: If it is not in 1..plan_horizon.
    """
    if replan_every is None:
        return plan_horizon
    if not 1 <= replan_every <= plan_horizon:
        raise ValueError(
            f"replan_every must be in 1..plan_horizon={plan_horizon}, got {replan_every}; "
            "lower DiffusionPlannerAgent.replan_every or raise plan_horizon."
        )
    return replan_every
