from collections import Counter

import numpy as np
import pytest
import torch

from remdm.agent import BaseAgent
from remdm.data.shards import RecordingBuffer, Shard
from remdm.diffusion import PlanSample
from remdm.envs.making import make_vec_env
from remdm.maps import NUM_ACTIONS, Action
from remdm.oracles.contract import Oracle
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.seeding import TRAINING_SEEDS, training_level_seed
from remdm.tokens import end_token
from remdm.training.collect_stats import CollectStats
from remdm.training.collector import Collector
from tests.training.remembered import DOORS, MAZE, copied, same

ROOM = "Gridworld-Room-9x9-v0"
END = end_token(NUM_ACTIONS)
PLAN_HORIZON = 8


class Always(Oracle):
    """An oracle that knows one plan."""

    name = "always"

    def __init__(self, *plan):
        self.tokens = [*plan] + [END] * (PLAN_HORIZON - len(plan))

    def label(self, observations, plan_horizon):
        count = len(observations["position"])
        return np.tile(np.array(self.tokens, np.int8), (count, 1)), np.ones(count, np.float32)


class Fixed(BaseAgent):
    """An agent that knows one plan, and remembers how it was asked."""

    def __init__(self, *plan):
        super().__init__()
        self.tokens = torch.tensor([*plan] + [END] * (PLAN_HORIZON - len(plan)))
        self.asked = []

    def loss(self, batch, generator):
        raise NotImplementedError

    def plan(self, observations, generator, **options):
        count = len(observations["position"])
        self.asked.append((count, generator.initial_seed(), options))
        none = torch.zeros(count)
        return PlanSample(self.tokens.repeat(count, 1), none, none, none + 3, none)


@pytest.fixture
def make(tmp_path):
    """Makes collectors, each with environments and a folder of its own."""
    opened = []

    def build(envs, oracle=None, *, folder="shards", seed=0, rank=0, replan_every=4):
        vec_env = make_vec_env(envs)
        opened.append(vec_env)
        buffer = RecordingBuffer(tmp_path / folder, vec_env.action_names, "test")
        return Collector(
            vec_env,
            oracle or MemoryOracle(),
            buffer,
            seed=seed,
            rank=rank,
            plan_horizon=PLAN_HORIZON,
            replan_every=replan_every,
        )

    yield build
    for vec_env in opened:
        vec_env.close()


def written(collector, epoch=0):
    return Shard.open(collector.buffer.flush(epoch))


def advance(collector, times, agent=None, *, beta=1.0, noise=0.0):
    stats = CollectStats()
    for _ in range(times):
        collector.advance(agent, stats, beta=beta, noise=noise)
    return stats


def test_statistics_and_shards_tell_the_same(make):
    collector = make([ROOM] * 3 + [MAZE] * 3)
    stats = collector.collect(None, 500, beta=1.0, noise=0.2)
    shard = written(collector)
    assert 500 <= stats.env_steps < 500 + 6 * 5
    assert stats.env_steps == shard.num_steps
    final = [s for s in shard.segments if s.final]
    assert stats.episodes == Counter(s.env for s in final)
    assert stats.wins == Counter(s.env for s in final if s.won)
    assert sum(not s.final for s in shard.segments) <= 6
    assert stats.plans == stats.nfe == 0
    metrics = stats.counts() | stats.rates()
    assert metrics["collect/env_steps"] == stats.env_steps
    assert metrics["collect/episodes"] == len(final)
    assert metrics[f"collect/win_rate/{MAZE}"] == stats.wins[MAZE] / stats.episodes[MAZE]
    assert "collect/nfe_per_plan" not in metrics


def test_an_environment_without_a_finished_episode_has_no_rate(make):
    stats = advance(make([DOORS]), 1)
    assert stats.counts() == {"collect/env_steps": stats.env_steps, "collect/episodes": 0}
    assert stats.rates() == {}


def test_the_oracle_alone_wins(make):
    stats = make([ROOM] * 2 + [MAZE] * 2).collect(None, 400, beta=0.0, noise=0.0)
    assert stats.wins == stats.episodes
    assert set(stats.episodes) == {ROOM, MAZE}


def test_episodes_go_on_from_call_to_call(make):
    collector = make([MAZE] * 2)
    for _ in range(6):
        collector.collect(None, 10, beta=1.0, noise=0.0)
    shard = written(collector)
    level_seeds = {training_level_seed(0, actor, n) for actor in range(2) for n in range(30)}
    assert {s.seed for s in shard.segments} <= level_seeds
    assert all(s.first_step == 0 for s in shard.segments)
    assert all(s.seed in TRAINING_SEEDS for s in shard.segments)


def share_of(action, collector, agent=None, *, plans=100, beta, noise):
    """Share of the first actions of plans, where each plan runs one action."""
    advance(collector, plans, agent, beta=beta, noise=noise)
    actions = written(collector).steps.actions
    return (actions == action).mean(), len(actions)


def test_beta_is_the_share_of_the_oracles_plans(make):
    collector = make([ROOM] * 32, Always(Action.WAIT), replan_every=1)
    agent = Fixed(Action.SEARCH)
    share, count = share_of(Action.WAIT, collector, agent, beta=0.25, noise=0.0)
    assert count == 3200
    # Five standard deviations of a mean of 3,200: wrong with chance 6e-7.
    assert abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / count)


def test_noise_is_the_share_of_random_plans_among_the_oracles(make):
    # One random action in twelve is a WAIT by chance. KICK and OPEN take a direction with them,
    # which is a step of its own.
    collector = make([ROOM] * 32, Always(Action.WAIT), replan_every=1)
    advance(collector, 100, noise=0.3)
    actions = written(collector).steps.actions
    asks = np.isin(actions, (Action.OPEN, Action.KICK))
    firsts = len(actions) - asks.sum()
    expected = 1 - 0.3 * 11 / 12
    plain = (actions == Action.WAIT).sum()
    # Directions may be WAITs, too: of 0.3 * 2 / 12 answers one in twelve.
    expected += 0.3 * 2 / 12 / 12
    assert abs(plain / firsts - expected) < 5 * np.sqrt(0.3 * 0.7 / firsts)
    assert set(actions.tolist()) == set(range(NUM_ACTIONS))


def test_noise_does_not_touch_the_agents_plans(make):
    collector = make([ROOM] * 4, Always(Action.WAIT), replan_every=1)
    share, _ = share_of(Action.SEARCH, collector, Fixed(Action.SEARCH), beta=0.0, noise=1.0)
    assert share == 1.0


def test_without_an_agent_the_oracle_always_acts(make):
    collector = make([ROOM] * 4, Always(Action.WAIT))
    share, _ = share_of(Action.WAIT, collector, plans=3, beta=0.0, noise=0.0)
    assert share == 1.0


def test_the_agents_plans_and_calls_are_counted_and_its_chance_is_a_named_stream(make):
    agent = Fixed(Action.SEARCH)
    stats = advance(make([ROOM] * 5), 4, agent, beta=0.0)
    assert stats.plans == 20
    assert stats.rates()["collect/nfe_per_plan"] == 3
    assert [count for count, *_ in agent.asked] == [5] * 4
    assert len({seed for _, seed, _ in agent.asked}) == 4
    assert all(options == {"collecting": True} for *_, options in agent.asked)
    again = Fixed(Action.SEARCH)
    advance(make([ROOM] * 5, folder="again"), 4, again, beta=0.0)
    assert [seed for _, seed, _ in again.asked] == [seed for _, seed, _ in agent.asked]


def test_only_so_many_actions_of_a_plan_run(make):
    stats = advance(make([ROOM] * 2, Always(*[Action.WAIT] * 8), replan_every=3), 5)
    assert stats.env_steps == 2 * 5 * 3


def test_a_plan_stops_at_a_move_that_fails(make):
    collector = make([ROOM], Always(*[Action.NORTH] * 8), replan_every=8)
    advance(collector, 2)
    shard = written(collector)
    if not shard.segments[0].final:
        row = collector.observations["position"][0, 0]
        assert row == 1
        assert shard.num_steps <= 8 + 1


def test_the_same_seed_gives_the_same_shards(make):
    paths = []
    for folder in ("a", "b"):
        collector = make([DOORS] * 3, folder=folder, seed=5)
        collector.collect(Fixed(Action.EAST, Action.SOUTH), 300, beta=0.7, noise=0.2)
        paths.append(collector.buffer.flush(0))
    assert paths[0] != paths[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_another_seed_or_rank_plays_other_levels(make):
    played = {}
    for seed, rank in ((0, 0), (1, 0), (0, 1)):
        collector = make([ROOM] * 3, folder=f"{seed}-{rank}", seed=seed, rank=rank)
        collector.collect(None, 200, beta=1.0, noise=0.0)
        played[seed, rank] = {s.seed for s in written(collector).segments}
    assert not played[0, 0] & played[1, 0]
    assert not played[0, 0] & played[0, 1]


def resumed(make, envs, *, plans, replan_every=4, oracle=None, noise=0.5):
    """A collector, and another one that was restored from its state."""
    first = make(envs, oracle, folder="first", replan_every=replan_every)
    advance(first, plans, noise=noise)
    first.buffer.flush(0)
    second = make(envs, oracle, folder="second", replan_every=replan_every)
    second.restore({k: v.copy() for k, v in first.state().items()})
    return first, second


def goes_on_equally(first, second, *, plans, noise=0.5):
    assert same(copied(first.observations), copied(second.observations))
    stats = [advance(c, plans, noise=noise) for c in (first, second)]
    assert stats[0] == stats[1]
    a, b = written(first, 1), written(second, 1)
    assert a.segments == b.segments
    assert any(s.first_step > 0 for s in a.segments)
    assert same(a.steps.named(), b.steps.named())


@pytest.mark.parametrize("plans", [1, 7, 40])
@pytest.mark.parametrize("replan_every", [1, 3])
def test_a_restored_collector_goes_on_as_if_it_had_not_stopped(make, plans, replan_every):
    # Half of the plans are random, so that some chunks end in a KICK whose direction comes after
    # the last step, and some in one that is cancelled.
    pair = resumed(make, [DOORS] * 4, plans=plans, replan_every=replan_every)
    goes_on_equally(*pair, plans=30)


def test_a_kick_given_up_at_the_end_of_a_chunk_is_given_up_again(make):
    oracle = Always(Action.EAST, Action.KICK)
    first, second = resumed(make, [DOORS] * 4, plans=6, oracle=oracle, noise=0.0)
    # Replayed as one long plan, each EAST would be the direction of the KICK before it.
    goes_on_equally(first, second, plans=5, noise=0.0)


@pytest.mark.minihack
def test_a_restored_collector_goes_on_in_nethack(make):
    envs = ["MiniHack-Corridor-R2-v0", "MiniHack-MazeWalk-9x9-v0", "MiniHack-Room-Random-5x5-v0"]
    pair = resumed(make, envs, plans=25)
    goes_on_equally(*pair, plans=25)


def test_a_collector_that_never_ran_can_be_restored(make):
    first, second = resumed(make, [ROOM] * 2, plans=0)
    assert advance(first, 3) == advance(second, 3)
    assert written(first, 1).segments == written(second, 1).segments


def test_plans_that_run_nothing_do_not_hinder_restoring(make):
    first, second = resumed(make, [ROOM] * 2, plans=2, oracle=Always(), noise=0.0)
    assert same(copied(first.observations), copied(second.observations))
    assert second.chunks == 2


def test_the_state_is_plain_arrays_that_do_not_change_afterwards(make):
    collector = make([MAZE] * 3)
    advance(collector, 5)
    state = collector.state()
    before = copied(state)
    advance(collector, 5)
    assert same(state, before)
    assert all(isinstance(array, np.ndarray) for array in state.values())


class Listening(Fixed):
    """Wants to know what was executed, and keeps it."""

    reads_continuation = True

    def plan(self, observations, generator, **options):
        count = len(observations["position"])
        self.asked.append(options["continuation"])
        none = torch.zeros(count, PLAN_HORIZON)
        return PlanSample(self.tokens.repeat(count, 1), none[:, 0], none[:, 0], none[:, 0], none)


def test_an_agent_is_told_what_ran_before_also_after_resuming(make):
    """Every second plan is the oracle's: its actions count, its plans are not continued."""
    plan = [Action.EAST, Action.SOUTH, Action.SEARCH, Action.WAIT, Action.NORTH]
    first, agent = make([DOORS] * 4, folder="first"), Listening(*plan)
    advance(first, 9, agent, beta=0.5)
    second, other = make([DOORS] * 4, folder="second"), Listening(*plan)
    first.buffer.flush(0)
    second.restore(first.state())
    before = len(agent.asked)
    for collector, told in ((first, agent), (second, other)):
        advance(collector, 9, told, beta=0.5)
    for one, again in zip(agent.asked[before:], other.asked, strict=True):
        for name in ("executed", "num_executed", "previous", "confidence"):
            np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    told = np.concatenate([c.num_executed for c in agent.asked])
    assert told.max() < PLAN_HORIZON
    assert len(set(told.tolist())) > 2
    previous = np.concatenate([c.previous for c in agent.asked])
    forgotten = (previous == NUM_ACTIONS).all(1)
    assert forgotten.any()
    assert not forgotten.all()
