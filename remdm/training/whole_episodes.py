"""Playing given levels from beginning to end in rows, with all the steps of each.

What happens in an episode depends on its environment and its number only: a row that is free takes
the next number, and neither the number of rows nor that of processes changes what is played.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from remdm.data.records import OBSERVATION_PREFIX, STEP_DTYPES, StepArrays, valid_steps
from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.tokens import end_token

if TYPE_CHECKING:
    from remdm.evaluation.policies import OraclePolicy


@dataclass(frozen=True, slots=True, eq=False)
class WholeEpisode:
    """One played episode.

    Attributes:
        number: Its number among all of its environment.
        level_seed: Seed of its level.
        won: The task's own success.
        ended: It came to an end; otherwise the oracle had nothing more to do.
        parts: Its steps, in pieces that share memory with those of others; none if nothing was
            done.
    """

    number: int
    level_seed: int
    won: bool
    ended: bool
    parts: list[StepArrays]

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return sum(len(part) for part in self.parts)


class EpisodePlay:
    """Plays numbered episodes of one environment in the rows of a set."""

    def __init__(
        self,
        policy: "OraclePolicy",
        vec_env: PlanVecEnv,
        numbers: Iterable[int],
        level_seed: Callable[[int], int],
    ) -> None:
        """Args:
        policy: Who plays.
        vec_env: Rows of one environment.
        numbers: Episodes to play, in this order.
        level_seed: From an episode's number to the seed of its level.
        """
        self.policy, self.vec_env = policy, policy.accompany(vec_env)
        self.level_seed = level_seed
        self.caps = np.asarray(vec_env.max_episode_steps, np.int64)
        self._left = iter(numbers)
        # By row, while it plays.
        self._numbers: dict[int, int] = {}
        self._parts: dict[int, list[StepArrays]] = {}
        self._spent = np.zeros(vec_env.num_envs, np.int64)
        self._seen: dict[str, np.ndarray] = {}
        self._deal(range(vec_env.num_envs))

    def rounds(self) -> Iterator[list[WholeEpisode]]:
        """What has ended, after every round of plans; until all are played."""
        while self._numbers:
            yield self._advance()

    def _advance(self) -> list[WholeEpisode]:
        rows = np.array(sorted(self._numbers))
        planned = self.policy.plan({k: v[rows] for k, v in self._seen.items()}, rows)
        end = end_token(self.vec_env.num_actions)
        tokens = np.full((self.vec_env.num_envs, planned.tokens.shape[1]), end, np.int64)
        tokens[rows] = planned.tokens
        chunk = self.vec_env.execute(tokens, self.policy.replan_every, stop_when_blocked=True)
        self._seen = chunk.final_observations
        lengths = chunk.lengths
        ran = rows[lengths[rows] > 0]
        steps = valid_steps(chunk)
        stops = np.cumsum(lengths)
        for row in ran.tolist():
            self._parts[row].append(steps[int(stops[row] - lengths[row]) : int(stops[row])])
        # A plan that runs nothing costs a step, or it could be made for ever.
        self._spent[rows] += np.maximum(lengths[rows], 1)
        over = chunk.done | (self._spent >= self.caps)
        ended = [int(row) for row in rows if over[row]]
        episodes = [self._finished(row, chunk) for row in ended]
        self._deal(ended)
        return episodes

    def _finished(self, row: int, chunk: Chunk) -> WholeEpisode:
        number = self._numbers.pop(row)
        return WholeEpisode(
            number=number,
            level_seed=self.level_seed(number),
            won=bool(chunk.won[row]),
            ended=bool(chunk.done[row]),
            parts=self._parts.pop(row),
        )

    def _deal(self, rows: Iterable[int]) -> None:
        """Give free rows the next episodes."""
        dealt = dict(zip(rows, self._left, strict=False))
        if not dealt:
            return
        seeds = [self.level_seed(number) for number in dealt.values()]
        self._numbers |= dealt
        self._parts |= {row: [] for row in dealt}
        free = np.array(list(dealt))
        self._spent[free] = 0
        names = [self.vec_env.env_names[row] for row in dealt]
        self.policy.begin(free, names, seeds)
        self._seen = self.vec_env.reset(seeds, list(dealt))


def joined(parts: Sequence[StepArrays]) -> StepArrays:
    """Pieces, one after another, as arrays of their own; there must be one at least."""
    named = [part.named() for part in parts]
    whole = {name: np.concatenate([arrays[name] for arrays in named]) for name in named[0]}
    own = {name: whole.pop(name) for name in STEP_DTYPES}
    observations = {name.removeprefix(OBSERVATION_PREFIX): array for name, array in whole.items()}
    return StepArrays(observations, **own)
