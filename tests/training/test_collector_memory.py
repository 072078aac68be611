"""Collecting with an agent that remembers: it has seen every step, also after a stop."""

import gin
import numpy as np
import pytest

from remdm import config
from remdm.data.shards import RecordingBuffer, Shard
from remdm.envs.making import make_vec_env
from remdm.experiment import Experiment
from remdm.maps import NUM_ACTIONS
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.policy_agent import PolicyAgent
from remdm.training.collect_stats import CollectStats
from remdm.training.collector import Collector
from remdm.training.paired_collector import PairedCollector
from remdm.training.pairing import Pairing
from tests.remembering import HORIZON, MEMORIES, SPEC, remembering
from tests.test_agent import TINY_NET
from tests.test_resume import stopping
from tests.tiny_runs import assert_same_run, checkpoint_values, tiny_bindings
from tests.training.remembered import DOORS, MAZE, copied, same


@pytest.fixture(params=MEMORIES)
def memory(request):
    return request.param


@pytest.fixture
def make(tmp_path):
    """Makes collectors, each with environments and a folder of its own."""
    opened = []

    def build(folder, *parts, collector_type=Collector, env=DOORS):
        vec_env = make_vec_env([env] * 4)
        opened.append(vec_env)
        buffer = RecordingBuffer(tmp_path / folder, vec_env.action_names, "test")
        place = {"seed": 0, "rank": 0, "plan_horizon": HORIZON, "replan_every": 3}
        return collector_type(vec_env, MemoryOracle(), buffer, None, *parts, **place)

    yield build
    for vec_env in opened:
        vec_env.close()


def advance(collector, plans, agent, beta=0.0):
    stats = CollectStats()
    for _ in range(plans):
        collector.advance(agent, stats, beta=beta, noise=0.2)


def written(collector, epoch):
    return Shard.open(collector.buffer.flush(epoch))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_all_steps_of_an_episode_are_remembered_whoever_acted(make, memory, beta):
    agent, collector = remembering("planner", memory), make("shards")
    advance(collector, 6, agent, beta)
    state = collector.state()
    known = state["running_memory"]
    assert known.dtype == np.float32
    steps = {row: sum(len(c) for c in chunks) for row, chunks in enumerate(collector.history)}
    assert max(steps.values()) > 6
    for row, seen in replayed(collector, agent.observation_keys).items():
        real = np.ones((1, steps[row]), np.bool_)
        whole = agent.remember({k: v[None] for k, v in seen.items()}, real, None)
        np.testing.assert_allclose(known[row], whole[0], rtol=1e-3, atol=1e-4)


def replayed(collector, keys):
    """What was seen before each step of the open episodes, played once more."""
    found = {}
    for row, chunks in enumerate(collector.history):
        envs = make_vec_env([DOORS])
        envs.reset([int(collector.level_seeds[row])])
        parts = []
        for actions in chunks:
            if len(actions):
                plan = np.full((1, 5), NUM_ACTIONS + 1)
                plan[0, : len(actions)] = actions
                chunk = envs.execute(plan, 4)
                parts.append({k: chunk.observations[k][chunk.valid] for k in keys})
        if parts:
            found[row] = {k: np.concatenate([part[k] for part in parts]) for k in keys}
        envs.close()
    return found


def test_what_the_oracle_does_alone_is_remembered_by_who_takes_over(make):
    agent = remembering()
    alone, beside = make("alone"), make("beside")
    alone.watcher = agent
    advance(alone, 5, None)
    advance(beside, 5, agent, beta=1.0)
    assert alone.state()["running_memory"].any()
    np.testing.assert_array_equal(alone.state()["running_memory"], beside.state()["running_memory"])


def test_a_resumed_collector_remembers_what_it_would_have_without_a_stop(make, memory):
    agent = remembering("planner", memory)
    first, second = make("first"), make("second")
    advance(first, 7, agent, beta=0.3)
    first.buffer.flush(0)
    second.restore(copied(first.state()))
    for collector in (first, second):
        advance(collector, 7, agent, beta=0.3)
    assert same(first.state(), second.state())
    a, b = written(first, 1), written(second, 1)
    assert a.segments == b.segments
    assert same(a.steps.named(), b.steps.named())


def test_an_agent_without_memory_leaves_no_trace_of_one(make):
    gin.parse_config(TINY_NET)
    agent, collector = PolicyAgent(SPEC, NUM_ACTIONS, plan_horizon=HORIZON), make("shards")
    collector.watcher = agent
    advance(collector, 2, agent, beta=0.5)
    assert "running_memory" not in collector.state()


def test_a_pair_is_played_with_memory(make):
    agent, asked = remembering(), []
    plan = agent.plan

    def kept(*given, **named):
        asked.append(named["continuation"].memory)
        return plan(*given, **named)

    agent.plan = kept
    pairing = Pairing(episodes_per_epoch=4)
    collector = make("pairs", pairing, collector_type=PairedCollector, env=MAZE)
    advance(collector, 4, agent)
    assert asked[0] is None
    assert all(memory.any(1).all() for memory in asked[1:])


MEMORY_RUN = (
    "EgoDenoiser.memory_type = @GRUMemory",
    "GRUMemory.width = 8",
    "DiskTrajDataset.stretch_steps = 3",
)


def test_a_run_that_collects_and_learns_with_memory_goes_on_bit_for_bit(tmp_path):
    """Stopped while episodes are open that the oracle alone began."""
    knobs = {"epochs": "3", "augmentation_type": "None", "val_interval": "None"}
    kinds = {"whole": [Experiment], "stopped": [stopping("epoch", 1), Experiment]}
    for name, parts in kinds.items():
        for kind in parts:
            config.clear_config()
            config.load_config([], [*tiny_bindings(tmp_path / name, **knobs), *MEMORY_RUN])
            run = kind("run")
            run.start()
            try:
                run.learn()
            finally:
                run.close()
        assert run.progress.finished
    held = checkpoint_values(tmp_path / "whole" / "run")
    assert any("collector/running_memory" in name for name in held)
    assert_same_run(*(tmp_path / name / "run" for name in kinds))
