"""Playing whole episodes one after another in a single environment, onto one tape.

A game that is played alone keeps its code and data in the processor's caches: a step of NetHack
takes a sixth of what it takes when 32 games take turns. Observations are written once, to where
the file is written from.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from remdm.data.records import STEP_DTYPES, StepArrays
from remdm.envs.contract import EnvError, PlannerEnv, StepResult
from remdm.maps import ArraySpec
from remdm.oracles.contract import Oracle
from remdm.seeding import numpy_generator

_NOTHING = StepResult(0.0, terminated=False, truncated=False, won=False, blocked=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an observation lies on a tape.

    Attributes:
        seen: Its arrays, to be written by an environment.
        batch: The same with a leading 1, as an oracle wants them.
    """

    seen: dict[str, np.ndarray]
    batch: dict[str, np.ndarray]


class Tape:
    """Room for the steps of many episodes, one after another; used again and again.

    What was never written takes no memory, so there can be room for the longest episodes.

    Attributes:
        actions: int8 [capacity].
        rewards: float32 [capacity].
        terminated: bool [capacity].
        truncated: bool [capacity].
    """

    def __init__(self, observation_spec: dict[str, ArraySpec], capacity: int) -> None:
        """Args:
        observation_spec: Arrays of one observation.
        capacity: Steps there is room for.
        """
        self._observations = {
            name: np.zeros((capacity, *spec.shape), spec.dtype)
            for name, spec in observation_spec.items()
        }
        self.actions, self.rewards, self.terminated, self.truncated = (
            np.zeros(capacity, dtype) for dtype in STEP_DTYPES.values()
        )
        # Views cost as much as a step of a game, and are the same in every round.
        self._places: list[Place] = []

    def place(self, step: int) -> Place:
        """Where the observation before a step lies."""
        for new in range(len(self._places), step + 1):
            arrays = self._observations.items()
            # `[new, ...]` keeps scalars (the step counter) as arrays that can be written.
            seen = {name: array[new, ...] for name, array in arrays}
            self._places.append(Place(seen, {name: array[new : new + 1] for name, array in arrays}))
        return self._places[step]

    def repeat(self, step: int) -> None:
        """Write the observation of the step before once more."""
        for array in self._observations.values():
            array[step] = array[step - 1]

    def steps(self, count: int) -> StepArrays:
        """The first `count` steps; they share memory with the tape."""
        return StepArrays(
            {name: array[:count] for name, array in self._observations.items()},
            self.actions[:count],
            self.rewards[:count],
            self.terminated[:count],
            self.truncated[:count],
        )


@dataclass(frozen=True, slots=True)
class SoloEpisode:
    """One played episode.

    Attributes:
        number: Its number among all of its environment.
        level_seed: Seed of its level.
        won: The task's own success.
        ended: It came to an end; otherwise the oracle had nothing more to do.
        num_steps: Steps in all.
        kept: Its steps are on the tape, after those of the kept ones before.
    """

    number: int
    level_seed: int
    won: bool
    ended: bool
    num_steps: int
    kept: bool


class SoloPlay:
    """Plays episodes of one environment; the same ones as `whole_episodes.EpisodePlay`."""

    def __init__(
        self,
        oracle: Oracle,
        env: PlannerEnv,
        level_seed: Callable[[int], int],
        *,
        seed: int,
        plan_horizon: int,
        replan_every: int,
        keep_lost: bool,
    ) -> None:
        """Args:
        oracle: Who plays.
        env: Where; the caller closes it.
        level_seed: From an episode's number to the seed of its level.
        seed: Seed of the oracle's own chance, combined with environment and level seed.
        plan_horizon: Tokens of the oracle's plans.
        replan_every: Actions of a plan before the next one.
        keep_lost: Keep episodes that were not won as well.
        """
        self.oracle, self.env, self.level_seed = oracle, env, level_seed
        self.seed, self.keep_lost = seed, keep_lost
        self.plan_horizon, self.replan_every = plan_horizon, replan_every
        self._draws = type(oracle).plan is not Oracle.plan

    def tape(self, episodes: int) -> Tape:
        """A tape for so many episodes of any length."""
        # An episode may begin a last run of actions within its cap, and see what is after it.
        longest = self.env.max_episode_steps + self.replan_every + 2
        return Tape(self.env.observation_spec, episodes * longest)

    def episodes(self, numbers: Iterable[int], tape: Tape) -> Iterator[SoloEpisode]:
        """Play them, and lay the steps of the kept ones onto the tape from its beginning.

        Raises:
            EnvError: If the environment fails; names level seed and step.
        """
        first = 0
        for number in numbers:
            episode = self._episode(number, tape, first)
            first += episode.num_steps if episode.kept else 0
            yield episode

    def _episode(self, number: int, tape: Tape, first: int) -> SoloEpisode:
        env, level, rng = self.env, self.level_seed(number), None
        if self._draws:  # what an oracle draws depends on the episode alone
            rng = numpy_generator(self.seed, self.oracle.name, env.name, level)
        step, spent, result, over = first, 0, _NOTHING, False
        try:
            env.reset(level)
            env.observe(tape.place(first).seen)
        except Exception as error:
            raise self._failure(error, level, 0) from error
        while not over and spent < env.max_episode_steps:
            tokens = self._plan(tape.place(step).batch, rng)
            begun = step
            try:
                step, result = self._run(tokens, tape, step)
            except Exception as error:
                raise self._failure(error, level, step - first) from error
            # A plan that runs nothing costs a step, or it could be made for ever.
            spent += max(step - begun, 1)
            over = result.terminated or result.truncated
        tape.terminated[first:step] = tape.truncated[first:step] = False
        if over:
            tape.terminated[step - 1], tape.truncated[step - 1] = result[1:3]
        kept = step > first and (result.won or self.keep_lost)
        return SoloEpisode(number, level, result.won, over, step - first, kept)

    def _plan(self, seen: dict[str, np.ndarray], rng: np.random.Generator | None) -> list[int]:
        """As many tokens as a run of actions can need, one more than its actions."""
        if rng is None:
            tokens = self.oracle.label(seen, self.plan_horizon)[0]
        else:
            tokens = self.oracle.plan(seen, self.plan_horizon, rng)
        wanted: list[int] = tokens[0, : self.replan_every + 1].tolist()
        return wanted

    def _run(self, tokens: list[int], tape: Tape, first: int) -> tuple[int, StepResult]:
        """Run actions by the rules of `PlanVecEnv.execute`; what is seen then is written, too.

        Returns:
            The step after the last one that was run, and what that one did.
        """
        env, step, pending, result = self.env, first, False, _NOTHING
        for token in tokens:
            asked = step - first < self.replan_every or pending
            if not (asked and 0 <= token < env.num_actions):
                break
            if pending:  # a state that waits for an answer is never observed
                tape.repeat(step)
            elif step > first:
                env.observe(tape.place(step).seen)
            result = env.step(token)
            tape.actions[step], tape.rewards[step] = token, result.reward
            step += 1
            pending = env.pending
            if result.terminated or result.truncated or result.blocked:
                break
        if pending:
            env.cancel()
        if step > first and not (result.terminated or result.truncated):
            env.observe(tape.place(step).seen)
        return step, result

    def _failure(self, error: Exception, level: int, step: int) -> EnvError:
        return EnvError(
            f"environment {self.env.name!r} failed: {type(error).__name__}: {error} "
            f"(seed {level}, from env_step {step} on)"
        )
