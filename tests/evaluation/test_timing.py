"""Timed calls: how many, for how many rows, on which levels; and the tables of what they cost."""

import io

import numpy as np
import pytest
from rich.console import Console

from remdm.envs.making import make_vec_env
from remdm.evaluation.costs import cost_table, describe
from remdm.evaluation.policies import OraclePolicy, Plans
from remdm.evaluation.rollout import evaluate_policy
from remdm.evaluation.timing import Timing, pooled, time_policy
from remdm.maps import NUM_ACTIONS, Action
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.tokens import end_token

ENV = "Gridworld-Room-9x9-v0"
END = end_token(NUM_ACTIONS)


class Still:
    """Waits twice a plan, by three calls of a net, and keeps what it was asked."""

    name, replan_every = "still", 2

    def __init__(self, *tokens: int) -> None:
        self.tokens = np.array(tokens or (Action.WAIT, Action.WAIT))
        self.batches: list[int] = []
        self.levels: list[int] = []

    def accompany(self, vec_env):
        return vec_env

    def begin(self, rows, env_names, level_seeds):
        self.levels += level_seeds

    def plan(self, observations, rows):
        self.batches.append(len(rows))
        return Plans(np.tile(self.tokens, (len(rows), 1)), np.full(len(rows), 3.0))

    def ran(self, rows, actions, lengths):
        pass


def timed(policy, **changed):
    numbers = {"rows": 2, "calls": 5, "warmup": 3, "first_seed": 7, "max_episode_steps": 8}
    return time_policy(policy, ENV, make_vec_env=make_vec_env, **(numbers | changed))


def test_every_call_plans_for_all_rows_and_the_first_are_not_counted():
    policy = Still()
    timing = timed(policy)
    assert policy.batches == [2] * 8
    assert (len(timing.plan_ms), timing.plans, timing.steps, timing.nfe) == (5, 10, 20, 30.0)
    assert timing.to_dict()["nfe_per_plan"] == 3.0
    assert timing.to_dict()["nfe_per_step"] == 1.5


def test_an_episode_that_ends_is_followed_by_the_next_level():
    policy = Still()
    timed(policy)  # 8 calls of 2 steps, capped at 8 steps
    assert policy.levels == [7, 8, 9, 10, 11, 12]


def test_no_action_is_counted_behind_the_cap():
    assert timed(Still(), calls=4, warmup=0, max_episode_steps=3).steps == 2 * (2 + 1) * 2


def test_plans_that_do_nothing_end_their_episodes_too():
    policy = Still(END, END)
    assert timed(policy, calls=9, warmup=0, max_episode_steps=3).steps == 0
    assert len(policy.levels) == 2 * 4


def test_figures_are_those_of_the_calls():
    timing = Timing("p", 2, (1.0, 2.0, 3.0, 10.0), 4.0, 8, 12.0)
    assert (timing.median_ms, timing.ms_per_step) == (2.5, 2.0)
    assert timing.p95_ms == pytest.approx(8.95)
    assert timing.plans_per_second == 500.0
    assert timing.steps_per_second == 400.0


def test_timings_of_several_environments_are_pooled_call_by_call():
    one, other = Timing("p", 2, (1.0,), 1.0, 2, 3.0), Timing("p", 2, (5.0, 6.0), 2.0, 4, 5.0)
    assert pooled([one, other]) == Timing("p", 2, (1.0, 5.0, 6.0), 3.0, 6, 8.0)
    with pytest.raises(ValueError, match="one policy and batch"):
        pooled([one, Timing("p", 1, (1.0,), 1.0, 2, 3.0)])


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"calls": 0}, {"warmup": -1}])
def test_senseless_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="timing needs"):
        timed(Still(), **wrong)


def test_costs_are_counted_over_all_environments_of_a_policy():
    policy = Still()
    rows = evaluate_policy(
        policy,
        [ENV, "Gridworld-DarkRoom-9x9-v0"],
        episodes=2,
        first_seed=0,
        make_vec_env=make_vec_env,
        max_episode_steps=6,
    ).rows
    assert [(row.max_steps, row.nfe_per_step) for row in rows] == [(6, 1.5)] * 2
    console = Console(file=io.StringIO(), width=80)
    console.print(cost_table(rows, [timed(Still()), timed(Still(), rows=1)]))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["still", "3.00", "2.00", "1.50"] in lines
    assert [line[:2] for line in lines if line[:1] == ["still"]][1:] == [
        ["still", "2"],
        ["still", "1"],
    ]


def test_policies_say_what_they_are():
    said = describe(OraclePolicy(MemoryOracle(), plan_horizon=9))
    assert said == {"kind": "MemoryOracle", "plan_horizon": 9, "replan_every": 9}
    assert describe(Still()) == {"kind": "Still", "replan_every": 2}
