import numpy as np
import pytest

from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import OraclePolicy, Plans
from remdm.evaluation.recording import record_episode
from remdm.evaluation.rollout import EvalRow, evaluate_in, evaluate_policy
from remdm.maps import NUM_ACTIONS, Action
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.oracles.random_policy import RandomPolicy
from remdm.tokens import end_token

ENVS = ("Gridworld-Maze-9x9-v0", "Gridworld-Room-9x9-v0", "Gridworld-DarkRoom-9x9-v0")
END = end_token(NUM_ACTIONS)


class Spy:
    """Plans like another policy, and keeps what it was asked."""

    def __init__(self, policy):
        self.policy, self.name, self.replan_every = policy, policy.name, policy.replan_every
        self.levels, self.batches = [], []

    def accompany(self, vec_env):
        return self.policy.accompany(vec_env)

    def begin(self, rows, env_names, level_seeds):
        self.levels += list(zip(env_names, level_seeds, strict=True))
        self.policy.begin(rows, env_names, level_seeds)

    def plan(self, observations, rows):
        assert all(len(array) == len(rows) for array in observations.values())
        self.batches.append(len(rows))
        return self.policy.plan(observations, rows)

    def ran(self, rows, actions, lengths):
        self.policy.ran(rows, actions, lengths)


class Fixed:
    """Always the same plan."""

    name, replan_every = "fixed", 4

    def __init__(self, *tokens):
        self.tokens = np.array(tokens + (END,) * (4 - len(tokens)))

    def accompany(self, vec_env):
        return vec_env

    def begin(self, rows, env_names, level_seeds):
        pass

    def plan(self, observations, rows):
        return Plans(np.tile(self.tokens, (len(rows), 1)), np.full(len(rows), 2.0))

    def ran(self, rows, actions, lengths):
        pass


def play(policy, *, envs=ENVS, episodes=7, first_seed=5, **options):
    return evaluate_policy(
        policy,
        envs,
        episodes=episodes,
        first_seed=first_seed,
        make_vec_env=make_vec_env,
        **options,
    )


@pytest.mark.parametrize("oracle", [MemoryOracle, RandomPolicy])
def test_result_does_not_depend_on_the_number_of_rows(oracle):
    results = [play(OraclePolicy(oracle()), rows=rows) for rows in (1, 3, 20)]
    by_name = dict(zip(ENVS, (2, 1, 5), strict=True))
    results.append(play(OraclePolicy(oracle()), rows=by_name))
    assert all(result == results[0] for result in results[1:])


def test_result_does_not_depend_on_the_order_or_company_of_environments():
    together = play(OraclePolicy(RandomPolicy()))
    reverse = play(OraclePolicy(RandomPolicy()), envs=ENVS[::-1])
    alone = play(OraclePolicy(RandomPolicy()), envs=ENVS[1:2])
    assert reverse.rows == together.rows[::-1]
    assert alone.rows == together.rows[1:2]
    assert [r for r in together.records if r.env == ENVS[1]] == alone.records


def test_every_policy_plays_the_same_levels_once():
    spies = [Spy(OraclePolicy(oracle())) for oracle in (MemoryOracle, RandomPolicy)]
    for spy in spies:
        play(spy, rows=2)
    expected = [(env, seed) for env in ENVS for seed in range(5, 12)]
    for spy in spies:
        assert sorted(spy.levels) == sorted(expected)


def test_records_are_ordered_by_environment_and_seed():
    records = play(OraclePolicy(RandomPolicy()), rows=3).records
    assert [(r.env, r.seed) for r in records] == [(e, s) for e in ENVS for s in range(5, 12)]


def test_only_running_rows_are_planned_for():
    spy = Spy(OraclePolicy(MemoryOracle()))
    play(spy, rows=7)
    assert spy.batches[0] == 21
    assert spy.batches == sorted(spy.batches, reverse=True)
    assert 0 < spy.batches[-1] < 21


def test_rows_sum_up_the_records():
    result = play(OraclePolicy(RandomPolicy()), episodes=12)
    for row in result.rows:
        mine = [r for r in result.records if r.env == row.env]
        won = [r.steps for r in mine if r.won]
        assert (row.episodes, row.wins, row.policy) == (12, len(won), "random")
        assert row.win_rate == len(won) / 12
        assert row.ci_low < row.win_rate < row.ci_high or row.win_rate in (0.0, 1.0)
        assert row.mean_steps_won == pytest.approx(np.mean(won))
        assert row.mean_steps == pytest.approx(np.mean([r.steps for r in mine]))
        assert row.plans_per_episode == pytest.approx(np.mean([r.plans for r in mine]))
        np.testing.assert_array_equal(result.won_by_env()[row.env], [r.won for r in mine])


def test_record_agrees_with_the_same_episode_recorded_alone():
    result = play(OraclePolicy(MemoryOracle()), episodes=4)
    for record in result.records:
        vec_env = make_vec_env([record.env])
        recording = record_episode(OraclePolicy(MemoryOracle()), vec_env, record.seed)
        assert (recording.num_steps, recording.won) == (record.steps, record.won)


def test_the_oracle_wins_and_chance_does_worse():
    # RandomPolicy wins under half of the levels; the oracle all of them.
    oracle = play(OraclePolicy(MemoryOracle()), episodes=30, max_episode_steps=25)
    chance = play(OraclePolicy(RandomPolicy()), episodes=30, max_episode_steps=25)
    for best, worst in zip(oracle.rows[1:2], chance.rows[1:2], strict=True):
        assert best.win_rate == 1.0
        assert worst.ci_high < 1.0


def test_episode_that_reaches_the_cap_is_lost_and_a_win_at_the_cap_counts():
    free = play(OraclePolicy(MemoryOracle(), replan_every=4), rows=3)
    cap = int(np.median([r.steps for r in free.records]))
    capped = play(OraclePolicy(MemoryOracle(), replan_every=4), rows=3, max_episode_steps=cap)
    assert any(r.steps == cap for r in free.records)
    for before, after in zip(free.records, capped.records, strict=True):
        assert after.steps == min(before.steps, cap)
        assert after.won == (before.won and before.steps <= cap)


def test_plan_that_does_nothing_ends_as_a_loss():
    result = play(Fixed(), episodes=2, max_episode_steps=9)
    for record in result.records:
        assert (record.won, record.steps, record.plans) == (False, 0, 9)


def test_network_calls_are_counted_per_plan():
    result = play(Fixed(Action.WAIT, Action.WAIT), episodes=2, max_episode_steps=8)
    for row in result.rows:
        assert row.nfe_per_plan == 2.0
        assert row.plans_per_episode == 4.0


def test_open_environments_can_be_evaluated_again():
    vec_env = make_vec_env([env for env in ENVS for _ in range(2)])
    results = [
        evaluate_in(OraclePolicy(RandomPolicy()), vec_env, episodes=5, first_seed=5)
        for _ in range(2)
    ]
    assert results[0] == results[1] == play(OraclePolicy(RandomPolicy()), episodes=5)
    vec_env.close()


def test_progress_is_told_until_all_episodes_are_done():
    told = []
    result = play(OraclePolicy(MemoryOracle()), progress=lambda *numbers: told.append(numbers))
    assert told == sorted(told)
    assert told[-1] == (21, 21, sum(row.wins for row in result.rows))


def test_worker_processes_give_the_same_result():
    def make_async(names):
        return make_vec_env(names, env_mode="async", num_workers=2)

    arguments = {"episodes": 4, "first_seed": 5, "rows": 2}
    result = evaluate_policy(
        OraclePolicy(RandomPolicy()), ENVS[:2], make_vec_env=make_async, **arguments
    )
    assert result == play(OraclePolicy(RandomPolicy()), envs=ENVS[:2], episodes=4)


def test_row_is_written_with_the_promised_names():
    row = play(OraclePolicy(MemoryOracle()), episodes=1).rows[0]
    promised = ["env", "episodes", "wins", "win_rate", "ci_low", "ci_high"]
    promised += ["mean_steps_won", "policy"]
    assert isinstance(row, EvalRow)
    assert list(row.to_dict())[: len(promised)] == promised


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"envs": ()}, "env_names"),
        ({"envs": (ENVS[0], ENVS[0])}, "env_names"),
        ({"episodes": 0}, "episodes"),
        ({"rows": 0}, "rows"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
    ],
)
def test_senseless_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        play(OraclePolicy(MemoryOracle()), **options)
