"""Roll-outs that measure: a fixed list of level seeds per environment, played once each.

Every policy plays the same levels: environment by environment the seeds `first_seed + i`. Rows of
the vector environment take seeds from their environment's queue and leave when it is empty; what
is reported is ordered by environment and seed, so it does not depend on how many rows played.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.evaluation.kept_episodes import PolicyEpisodes
from remdm.evaluation.lives import FirstLives
from remdm.evaluation.policies import Policy
from remdm.evaluation.statistics import Rate
from remdm.tokens import end_token

Progress = Callable[[int, int, int], None]
"""Called as progress(episodes finished, episodes in all, episodes won)."""


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One finished episode.

    Attributes:
        env: Environment id.
        seed: Level seed.
        won: The task's own success.
        steps: Actions taken.
        plans: Plans made.
        nfe: Network evaluations of those plans.
        total_reward: Its return.
        ended: It came to its own end, before any cap.
        achieved: What was unlocked, in the order of `PlanVecEnv.achievement_names`.
    """

    env: str
    seed: int
    won: bool
    steps: int
    plans: int
    nfe: float
    total_reward: float = 0.0
    ended: bool = True
    achieved: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One line of a results file: one policy in one environment.

    Attributes:
        env: Environment id.
        episodes: Episodes played.
        wins: Episodes won.
        win_rate: wins / episodes.
        ci_low: Lower limit of the Wilson 95 % interval.
        ci_high: Upper limit.
        mean_steps_won: Mean actions of the won episodes; None without one.
        policy: Name of the policy.
        mean_steps: Mean actions of all episodes.
        plans_per_episode: Mean number of plans.
        nfe_per_plan: Mean network evaluations per plan.
        first_seed: Level seed of the first episode; the others follow it.
        mean_return: Mean return.
        return_low: Lower limit of its normal 95 % interval.
        return_high: Upper limit.
        lives: `FirstLives.summary`, where the environment has achievements.
        max_steps: Cap of an episode, the same for every policy; None where it is not known.
        nfe_per_step: Mean network evaluations per action taken.
    """

    env: str
    episodes: int
    wins: int
    win_rate: float
    ci_low: float
    ci_high: float
    mean_steps_won: float | None
    policy: str
    mean_steps: float
    plans_per_episode: float
    nfe_per_plan: float
    first_seed: int
    mean_return: float = 0.0
    return_low: float = 0.0
    return_high: float = 0.0
    lives: dict[str, Any] | None = None
    max_steps: int | None = None
    nfe_per_step: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON writes it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation gives: rows for tables, and the episodes behind them for pairing.

    Attributes:
        rows: One per environment, in the order asked for.
        records: One per episode, ordered by environment and seed.
    """

    rows: list[EvalRow]
    records: list[EpisodeRecord]

    def means(self, over_all: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, float]:
        """To log: `val/win_rate`, `val/return` and `val/steps`, by environment and their means.

        Args:
            over_all: Averages scalars over processes.
        """
        found: dict[str, float] = {}
        columns = (("win_rate", "win_rate"), ("return", "mean_return"), ("steps", "mean_steps"))
        for name, column in columns:
            own = over_all({f"val/{name}/{r.env}": getattr(r, column) for r in self.rows})
            found |= {f"val/{name}": float(np.mean(list(own.values()))), **own}
        return found

    def won_by_env(self) -> dict[str, np.ndarray]:
        """By environment, bool [episodes] in order of seeds; what `paired_difference` takes."""
        return {
            row.env: np.array([r.won for r in self.records if r.env == row.env])
            for row in self.rows
        }


def evaluate_policy(
    policy: Policy,
    env_names: Sequence[str],
    *,
    episodes: int,
    first_seed: int,
    make_vec_env: Callable[[Sequence[str]], PlanVecEnv],
    rows: int | Mapping[str, int] = 16,
    max_episode_steps: int | None = None,
    progress: Progress | None = None,
    keep: PolicyEpisodes | None = None,
) -> Evaluation:
    """Play `episodes` levels of every environment, all environments side by side.

    Args:
        policy: Who plays.
        env_names: Environments, each once.
        episodes: Levels per environment.
        first_seed: Seed of the first level; level i has seed `first_seed + i`.
        make_vec_env: Makes the rows, given one name per row; closed here.
        rows: Most episodes of one environment played at once; one number, or one by name.
        max_episode_steps: Cap below the environments' own; an episode that reaches it is lost.
        progress: Told after every round of plans.
        keep: Takes the episodes, to be written when all are played.

    Raises:
        ValueError: If an argument does not make sense.
    """
    if not env_names or len(set(env_names)) != len(env_names):
        raise ValueError(f"env_names must be different names, at least one, got {env_names!r}.")
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}.")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}.")
    names: list[str] = []
    for env in env_names:
        wanted = rows[env] if isinstance(rows, Mapping) else rows
        if wanted < 1:
            raise ValueError(f"rows must be at least 1, got {wanted} for {env}.")
        names += [env] * min(wanted, episodes)
    vec_env = make_vec_env(names)
    try:
        return evaluate_in(
            policy,
            vec_env,
            episodes=episodes,
            first_seed=first_seed,
            max_episode_steps=max_episode_steps,
            progress=progress,
            keep=keep,
        )
    finally:
        vec_env.close()


def evaluate_in(
    policy: Policy,
    vec_env: PlanVecEnv,
    *,
    episodes: int,
    first_seed: int,
    max_episode_steps: int | None = None,
    progress: Progress | None = None,
    keep: PolicyEpisodes | None = None,
) -> Evaluation:
    """`evaluate_policy` in rows that exist already and are kept open, as during training.

    Every environment that has a row in `vec_env` is evaluated. What the rows held before is lost.
    """
    vec_env = policy.accompany(vec_env)
    order = list(dict.fromkeys(vec_env.env_names))
    queues = {env: deque(range(first_seed, first_seed + episodes)) for env in order}
    play = _Play(policy, vec_env, queues, max_episode_steps, keep)
    total = episodes * len(order)
    while play.running.any():
        play.advance()
        if progress is not None:
            progress(len(play.records), total, sum(r.won for r in play.records))
    place = {env: i for i, env in enumerate(order)}
    records = sorted(play.records, key=lambda r: (place[r.env], r.seed))
    caps = dict(zip(vec_env.env_names, play.caps.tolist(), strict=True))
    if keep is not None:
        keep.write({e: [(r.won, r.steps) for r in records if r.env == e] for e in order})
    facts = vec_env.achievement_names, vec_env.max_return
    rows = [eval_row(policy.name, env, records, *facts, max_steps=caps[env]) for env in order]
    return Evaluation(rows, records)


def eval_row(
    policy: str,
    env: str,
    records: Sequence[EpisodeRecord],
    achievement_names: Sequence[str] = (),
    max_return: float | None = None,
    *,
    max_steps: int | None = None,
) -> EvalRow:
    """Sum up the records of `env`.

    Args:
        policy: Name of the policy.
        env: Environment id.
        records: Of this environment and of others.
        achievement_names: Of `PlanVecEnv`.
        max_return: Of `PlanVecEnv`.
        max_steps: Cap that the episodes were played with.
    """
    mine = [r for r in records if r.env == env]
    lives = FirstLives(
        returns=np.array([r.total_reward for r in mine], np.float32),
        steps=np.array([r.steps for r in mine], np.int64),
        achievements=np.array([r.achieved for r in mine], np.bool_),
        ended=np.array([r.ended for r in mine], np.bool_),
    )
    low, high = lives.return_interval
    won = [r.steps for r in mine if r.won]
    rate = Rate.of(len(won), len(mine))
    plans, steps = sum(r.plans for r in mine), sum(r.steps for r in mine)
    nfe = sum(r.nfe for r in mine)
    return EvalRow(
        env=env,
        episodes=len(mine),
        wins=len(won),
        win_rate=rate.rate,
        ci_low=rate.low,
        ci_high=rate.high,
        mean_steps_won=sum(won) / len(won) if won else None,
        policy=policy,
        mean_steps=steps / len(mine),
        plans_per_episode=plans / len(mine),
        nfe_per_plan=nfe / max(plans, 1),
        first_seed=min(r.seed for r in mine),
        mean_return=float(lives.returns.mean()),
        return_low=low,
        return_high=high,
        lives=_lives(lives, mine, achievement_names, max_return) if achievement_names else None,
        max_steps=max_steps,
        nfe_per_step=nfe / max(steps, 1),
    )


def _lives(
    lives: FirstLives,
    records: Sequence[EpisodeRecord],
    names: Sequence[str],
    max_return: float | None,
) -> dict[str, Any]:
    """The figures of first lives, and what the planning cost: net calls per env step."""
    steps = max(sum(r.steps for r in records), 1)
    summary = lives.summary(names, max_return)
    return summary | {"nfe_per_step": sum(r.nfe for r in records) / steps}


class _Play:
    """The state of an evaluation: which level each row plays, and how far it is."""

    def __init__(
        self,
        policy: Policy,
        vec_env: PlanVecEnv,
        queues: dict[str, deque[int]],
        max_episode_steps: int | None,
        keep: PolicyEpisodes | None = None,
    ) -> None:
        self.policy, self.vec_env, self.queues = policy, vec_env, queues
        self.keep = keep
        if keep is not None:
            keep.begin(vec_env)
        count = vec_env.num_envs
        own = np.asarray(vec_env.max_episode_steps, np.int64)
        self.caps = own if max_episode_steps is None else np.minimum(own, max_episode_steps)
        self.end = end_token(vec_env.num_actions)
        self.records: list[EpisodeRecord] = []
        self.running = np.zeros(count, bool)
        self.seeds = np.zeros(count, np.int64)
        self.steps = np.zeros(count, np.int64)
        self.idle = np.zeros(count, np.int64)  # plans that ran nothing
        self.plans = np.zeros(count, np.int64)
        self.nfe = np.zeros(count)
        self.returns = np.zeros(count)
        self.observations: dict[str, np.ndarray] = {}
        self._deal(range(count))

    def advance(self) -> None:
        """One round: a plan for every running row, and up to `replan_every` actions of it."""
        rows = np.flatnonzero(self.running)
        planned = self.policy.plan({k: v[rows] for k, v in self.observations.items()}, rows)
        tokens = np.full((self.vec_env.num_envs, planned.tokens.shape[1]), self.end, np.int64)
        tokens[rows] = planned.tokens
        left = self.caps - self.steps  # nothing is done, earned or achieved after the cap
        tokens[np.arange(tokens.shape[1]) >= left[:, None]] = self.end
        self.plans[rows] += 1
        self.nfe[rows] += planned.nfe
        chunk = self.vec_env.execute(tokens, self.policy.replan_every, stop_when_blocked=True)
        if self.keep is not None:
            self.keep.append(chunk, self.seeds)
        self.observations = chunk.final_observations
        self.policy.ran(rows, chunk.actions[rows], chunk.lengths[rows])
        self._settle(rows, chunk)

    def _settle(self, rows: np.ndarray, chunk: Chunk) -> None:
        """Count the steps, note what has finished, and give those rows their next level."""
        lengths = chunk.lengths[rows]
        self.steps[rows] += lengths
        self.returns[rows] += (chunk.rewards * chunk.valid)[rows].sum(1)
        # A plan that runs nothing costs a step of the budget, or it could be made for ever.
        self.idle[rows] += lengths == 0
        spent = self.steps[rows] + self.idle[rows]
        over = chunk.done[rows] | (spent >= self.caps[rows])
        if self.keep is not None:
            self.keep.cut(rows[over & ~chunk.done[rows]].tolist())
        achieved = self.vec_env.achievements
        for row in rows[over]:
            self.records.append(
                EpisodeRecord(
                    env=self.vec_env.env_names[row],
                    seed=int(self.seeds[row]),
                    won=bool(chunk.won[row] and self.steps[row] <= self.caps[row]),
                    steps=int(min(self.steps[row], self.caps[row])),
                    total_reward=float(self.returns[row]),
                    ended=bool(chunk.terminated[row].any()),
                    achieved=tuple(achieved[row].tolist()),
                    plans=int(self.plans[row]),
                    nfe=float(self.nfe[row]),
                )
            )
        self.running[rows[over]] = False
        self._deal(rows[over])

    def _deal(self, rows: Sequence[int] | np.ndarray) -> None:
        """Start the next level of their environment in `rows`, as far as there are levels left."""
        dealt, names, seeds = [], [], []
        for row in rows:
            env = self.vec_env.env_names[row]
            if self.queues[env]:
                dealt.append(int(row))
                names.append(env)
                seeds.append(self.queues[env].popleft())
        if not dealt:
            return
        fresh = np.array(dealt)
        self.observations = self.vec_env.reset(seeds, dealt)
        self.policy.begin(fresh, names, seeds)
        self.seeds[fresh] = seeds
        for counter in (self.steps, self.idle, self.plans, self.nfe, self.returns):
            counter[fresh] = 0
        self.running[fresh] = True
