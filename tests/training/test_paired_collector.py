"""Planner and oracle on the same levels: what is played, kept and counted."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remdm.base_agent import BaseAgent
from remdm.data.shards import RecordingBuffer, Shard
from remdm.diffusion import PlanSample
from remdm.envs.making import make_vec_env
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.maps import NUM_ACTIONS, Action
from remdm.oracles.contract import Oracle
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.tokens import end_token
from remdm.training.collect_stats import CollectStats
from remdm.training.curriculum import WinRateCurriculum
from remdm.training.paired_collector import PairedCollector
from remdm.training.pairing import Pair, Pairing

ROOM, MAZE = "Gridworld-Room-9x9-v0", "Gridworld-Maze-9x9-v0"
PLAN_HORIZON = 8
CAP = 60


class OraclesOwn(BaseAgent):
    """Plans as the oracle does, so it wins every level in as many steps."""

    def loss(self, batch: Any, generator: torch.Generator) -> Any:
        raise NotImplementedError

    def tokens(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        return MemoryOracle().label(observations, PLAN_HORIZON)[0]

    def plan(self, observations: Any, generator: torch.Generator, **_: Any) -> PlanSample:
        tokens = torch.from_numpy(self.tokens(observations).astype(np.int64))
        none = torch.zeros(len(tokens))
        return PlanSample(tokens, none, none, none + 2, none)


class Hesitant(OraclesOwn):
    """Waits before each of its moves, and after it: it wins in twice as many, or more."""

    def tokens(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        moves = super().tokens(observations)[:, 0]
        plans = np.full((len(moves), PLAN_HORIZON), Action.WAIT)
        plans[:, 1] = moves
        return plans


class Idle(OraclesOwn):
    """Never moves."""

    def tokens(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        return np.full((len(observations["position"]), PLAN_HORIZON), Action.WAIT)


class Silent(OraclesOwn):
    """Has nothing to say."""

    def tokens(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        return np.full((len(observations["position"]), PLAN_HORIZON), end_token(NUM_ACTIONS))


class IdleOracle(MemoryOracle):
    """An oracle that loses."""

    def plan(
        self, observations: dict[str, np.ndarray], plan_horizon: int, rng: np.random.Generator
    ) -> np.ndarray:
        return np.full((len(observations["position"]), plan_horizon), Action.WAIT, np.int8)


class Watched(PlanVecEnvWrapper):
    """Remembers which levels were begun, in which environments."""

    begun: list[list[tuple[str, int]]]

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return observations

    def reset(self, seeds: Any, rows: Any = None) -> dict[str, np.ndarray]:
        self.begun.append([(self.env_names[row], s) for row, s in zip(rows, seeds, strict=True)])
        return super().reset(seeds, rows)

    def execute(self, plans: np.ndarray, num_steps: int, **how: Any) -> Any:
        return self.vec_env.execute(plans, num_steps, **how)


Make = Callable[..., PairedCollector]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes collectors, each with environments and a folder of its own."""
    opened = []

    def build(
        oracle: Oracle | None = None,
        *,
        folder: str = "shards",
        curriculum: bool = False,
        envs: tuple[str, ...] = (ROOM, ROOM, MAZE),
        **knobs: Any,
    ) -> PairedCollector:
        vec_env = Watched(make_vec_env(envs, max_episode_steps=CAP))
        vec_env.begun = []
        opened.append(vec_env)
        return PairedCollector(
            vec_env,
            oracle or MemoryOracle(),
            RecordingBuffer(tmp_path / folder, vec_env.action_names, "test"),
            WinRateCurriculum((ROOM, MAZE), queue_size=4) if curriculum else None,
            Pairing(**{"warm_start_episodes": 0} | knobs),
            seed=3,
            rank=0,
            plan_horizon=PLAN_HORIZON,
            replan_every=4,
        )

    yield build
    for vec_env in opened:
        vec_env.close()


def collected(collector: PairedCollector, agent: BaseAgent | None, epochs: int = 1) -> CollectStats:
    """What some epochs come to together."""
    total = CollectStats()
    for _ in range(epochs):
        stats = collector.collect(agent, 0, beta=0.0, noise=0.0)
        total.env_steps += stats.env_steps
        total.levels += stats.levels
        total.pairs += stats.pairs
        total.add(stats.sums, stats.means)
        for env, count in stats.episodes.items():
            total.episodes[env] += count
            total.wins[env] += stats.wins[env]
    return total


def written(collector: PairedCollector) -> Shard | None:
    path = collector.buffer.flush(0)
    return None if path is None else Shard.open(path)


def levels(shard: Shard | None) -> Counter[tuple[str, int]]:
    return Counter((s.env, s.seed) for s in shard.segments) if shard is not None else Counter()


# What is kept


@pytest.mark.parametrize(
    ("won", "steps", "oracle_won", "keep_lost"),
    list(product((False, True), (1, 15, 16, 100), (False, True), (False, True))),
)
def test_a_pair_is_kept_if_the_planner_lost_or_took_more_than_half_as_much_again(
    won: bool, steps: int, oracle_won: bool, keep_lost: bool
) -> None:
    kept = Pairing(keep_lost=keep_lost).keeps(Pair(won, steps, oracle_won, 10))
    worth_it = not won or steps in (16, 100)  # 15 is not more than 1.5 x 10
    assert kept == (worth_it and (oracle_won or keep_lost))


def test_efficient_episodes_of_the_planner_leave_nothing_behind(make: Make) -> None:
    collector = make(oracle_replan_every=4)
    stats = collected(collector, OraclesOwn(), epochs=3)
    assert stats.wins == stats.episodes == {ROOM: 6, MAZE: 3}
    assert stats.sums["added_to_buffer"] == 0
    assert stats.rates()["collect/model_won"] == stats.rates()["collect/efficiency_ratio"] == 1
    assert written(collector) is None


def test_of_levels_that_the_planner_won_slowly_the_oracles_episodes_are_kept(make: Make) -> None:
    collector = make()
    stats = collected(collector, Hesitant(), epochs=3)
    shard = written(collector)
    assert shard is not None
    assert stats.rates()["collect/efficiency_ratio"] >= 2
    assert stats.sums["added_to_buffer"] == 9 == len(shard.segments)
    assert all(s.won and s.final and s.first_step == 0 for s in shard.segments)
    assert shard.num_steps == stats.sums["oracle_steps"]
    assert stats.sums["model_steps"] >= 2 * shard.num_steps
    assert not (shard.steps.actions == Action.WAIT).any()


def test_of_lost_levels_the_planners_episodes_can_be_kept_instead(make: Make) -> None:
    collector = make(keep="planner")
    stats = collected(collector, Idle(), epochs=2)
    shard = written(collector)
    assert shard is not None
    assert (shard.steps.actions == Action.WAIT).all()
    assert shard.num_steps == stats.sums["model_steps"] == 6 * CAP
    assert not any(s.won for s in shard.segments)


@pytest.mark.parametrize("keep_lost", [True, False])
def test_an_oracle_that_loses_is_counted_and_kept_if_asked(make: Make, keep_lost: bool) -> None:
    collector = make(IdleOracle(), keep_lost=keep_lost, warm_start_episodes=1)
    stats = collected(collector, Idle())
    assert stats.counts()["collect/oracle_lost"] == 5
    assert stats.sums["added_to_buffer"] == (5 if keep_lost else 0)
    shard = written(collector)
    assert (shard is not None) == keep_lost
    assert shard is None or not any(s.won for s in shard.segments)


# What is played and counted


def test_planner_and_oracle_play_the_same_levels(make: Make) -> None:
    collector = make()
    collected(collector, Idle(), epochs=3)
    begun = collector.vec_env.begun
    assert begun[::2] == begun[1::2]
    played = [level for levels_at_once in begun[::2] for level in levels_at_once]
    assert len(set(played)) == len(played) == 9
    assert levels(written(collector)) == Counter(played)


def test_all_steps_of_both_are_counted_whether_kept_or_not(make: Make) -> None:
    for agent in (OraclesOwn(), Hesitant(), Idle()):
        stats = collected(make(folder=type(agent).__name__), agent, epochs=2)
        assert stats.env_steps == stats.sums["model_steps"] + stats.sums["oracle_steps"]
        assert stats.sums["model_steps"] > 0
        assert stats.sums["oracle_steps"] > 0


def test_the_oracle_plays_each_environment_alone_before_the_first_pair(make: Make) -> None:
    collector = make(warm_start_episodes=3)
    stats = collected(collector, OraclesOwn(), epochs=2)
    warm = collector.vec_env.begun[:2]
    assert Counter(env for rounds in warm for env, _ in rounds) == {ROOM: 3, MAZE: 3}
    assert collector.vec_env.begun[2] == collector.vec_env.begun[3]
    assert stats.sums["added_to_buffer"] >= 6
    assert stats.levels == stats.pairs == 6
    assert set(levels(written(collector))) >= {level for rounds in warm for level in rounds}


@pytest.mark.parametrize("episodes", [2, 3, 7])
def test_an_epoch_has_as_many_pairs_as_are_asked_for(make: Make, episodes: int) -> None:
    collector = make(episodes_per_epoch=episodes)
    stats = collected(collector, Idle(), epochs=3)
    assert stats.levels == stats.pairs == 3 * episodes
    # Rows take turns to rest, so no environment is left out.
    assert min(collector.episodes) >= episodes - 1
    assert max(collector.episodes) - min(collector.episodes) <= 1


def test_without_weights_the_oracle_plays_alone(make: Make) -> None:
    collector = make()
    stats = collected(collector, None, epochs=2)
    assert (stats.levels, stats.pairs) == (6, 0)
    assert stats.wins == stats.episodes
    assert stats.env_steps == stats.sums["oracle_steps"]
    assert stats.sums["added_to_buffer"] == 6
    assert "collect/model_won" not in stats.rates()


def test_a_planner_without_a_plan_loses_and_holds_nobody_up(make: Make) -> None:
    stats = collected(make(), Silent())
    assert sum(stats.wins.values()) == 0
    assert stats.sums["model_steps"] == 0
    assert stats.sums["added_to_buffer"] == 3


def test_the_curriculum_hears_of_the_planner_and_says_where_to_play(make: Make) -> None:
    collector = make(curriculum=True, envs=(ROOM, MAZE), warm_start_episodes=2)
    stats = collected(collector, Idle(), epochs=10)
    assert collector.metrics() == {
        "curriculum/" + env + "/win_rate": 0.0 if stats.episodes[env] >= 4 else 0.5
        for env in (ROOM, MAZE)
    }
    assert sum(stats.episodes.values()) == 20
    rounds = collector.vec_env.begun
    assert len({tuple(env for env, _ in levels_at_once) for levels_at_once in rounds}) > 1


# Going on


def advanced(collector: PairedCollector, stats: CollectStats) -> None:
    collector.advance(Hesitant(), stats, beta=0.2, noise=0.1)


@pytest.mark.parametrize("advances", [0, 1, 2, 4, 9, 23])
def test_a_restored_collector_plays_the_round_it_was_in_again(make: Make, advances: int) -> None:
    knobs = {"curriculum": True, "warm_start_episodes": 1, "envs": (ROOM, MAZE, MAZE, ROOM)}
    whole, stopped, resumed = (make(folder=name, **knobs) for name in ("whole", "one", "two"))
    stats = [CollectStats() for _ in range(2)]
    for _ in range(advances):
        advanced(stopped, stats[0])
    resumed.restore({name: array.copy() for name, array in stopped.state().items()})
    while stats[0].levels < 12:
        advanced(resumed, stats[0])
    while stats[1].levels < 12:
        advanced(whole, stats[1])
    assert stats[0] == stats[1]
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, resumed.state()[name], err_msg=name)
    pieces = [steps_by_level(collector) for collector in (stopped, resumed)]
    assert not pieces[0].keys() & pieces[1].keys()
    assert pieces[0] | pieces[1] == steps_by_level(whole)


def steps_by_level(collector: PairedCollector) -> dict[tuple[str, int], bytes]:
    shard = written(collector)
    if shard is None:
        return {}
    starts = shard.offsets.tolist()
    return {
        (s.env, s.seed): shard.steps.actions[start : start + s.length].tobytes()
        for s, start in zip(shard.segments, starts, strict=False)
    }


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"episodes_per_epoch": 0}, "episodes_per_epoch must be at least 1, got 0"),
        ({"warm_start_episodes": -1}, "warm_start_episodes must be at least 0, got -1"),
        ({"oracle_replan_every": 0}, "oracle_replan_every must be at least 1, got 0"),
        ({"efficiency_multiplier": 0.0}, r"efficiency_multiplier must be above 0, got 0\.0"),
        ({"keep": "orakle"}, "'orakle'.*'oracle'"),
    ],
)
def test_values_that_make_no_sense_are_refused(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Pairing(**knobs)
