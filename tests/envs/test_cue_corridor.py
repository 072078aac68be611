"""A corridor whose end tells nothing of what was shown at its beginning."""

import numpy as np
import pytest

from remdm.envs.cue_corridor import FORWARD, CueCorridorEnv
from remdm.envs.making import make_env, make_vec_env
from remdm.evaluation.policies import OraclePolicy
from remdm.evaluation.rollout import evaluate_policy
from remdm.maps import empty_observations
from remdm.oracles.cue_oracle import KNOWN, CueOracle
from remdm.tokens import end_token

NAME = "CueCorridor-4x28-v0"
END = end_token(5)


def seen(env):
    out = empty_observations(env.observation_spec, ())
    env.observe(out)
    return out


def begun(seed=0, name=NAME, **arguments):
    env = make_env(name, **arguments)
    env.reset(seed)
    return env


def test_the_sign_is_seen_from_the_first_cell_only_and_the_doors_from_the_last():
    env = begun()
    for place in range(29):
        now = seen(env)
        assert now["sign"].sum() == (place == 0)
        assert now["doors"] == (place == 28)
        result = env.step(FORWARD)
        assert result.blocked == (place == 28)
    assert seen(env)["doors"] == 1


@pytest.mark.parametrize("right", [True, False])
def test_only_the_door_of_the_sign_wins(right):
    env = begun()
    door = 1 + int(seen(env)["sign"].argmax())
    for _ in range(28):
        assert not env.step(FORWARD).terminated
    result = env.step(door if right else 1 + door % 4)
    assert result.terminated
    assert result.won == right
    assert result.reward == float(right)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(FORWARD)


def test_no_door_opens_on_the_way():
    env = begun()
    result = env.step(1)
    assert result.blocked
    assert not result.terminated
    assert seen(env)["sign"].any()


def test_signs_are_drawn_by_the_level_seed_and_all_of_them_come():
    signs = [begun(seed).sign for seed in range(400)]
    assert signs == [begun(seed).sign for seed in range(400)]
    counts = np.bincount(signs, minlength=4)
    # Each is Binomial(400, 1/4); one is out of these limits with probability below 1e-5.
    assert counts.min() > 60
    assert counts.max() < 145


def test_an_episode_is_cut_in_the_end():
    env = begun(max_episode_steps=5)
    assert [env.step(FORWARD).truncated for _ in range(5)] == [False] * 4 + [True]
    assert begun().max_episode_steps > 29


@pytest.mark.parametrize("name", ["CueCorridor-4-v0", "CueCorridor-1x4-v0", "CueCorridor-4x0-v0"])
def test_names_that_make_no_corridor_are_refused(name):
    with pytest.raises(ValueError, match="signs"):
        make_env(name)
    with pytest.raises(ValueError, match=r"CueCorridorEnv\.max_episode_steps"):
        CueCorridorEnv(NAME, max_episode_steps=0)


def test_the_oracle_wins_every_level_and_its_knowledge_is_in_its_own_array():
    envs = []

    def made(names):
        envs.append(make_vec_env(names))
        return envs[-1]

    policy = OraclePolicy(CueOracle(), plan_horizon=6, replan_every=4)
    played = evaluate_policy(
        policy, [NAME, "CueCorridor-4x4-v0"], episodes=30, first_seed=0, make_vec_env=made, rows=7
    )
    assert [row.win_rate for row in played.rows] == [1.0, 1.0]
    assert {record.steps for record in played.records} == {29, 5}
    assert KNOWN not in envs[0].observation_spec


def test_labels_go_on_until_the_doors_are_there():
    vec_env = CueOracle().accompany(make_vec_env([NAME] * 3), 4)
    now = vec_env.reset([0, 1, 2])
    chunk = vec_env.execute(np.zeros((3, 28), np.int64), 28)
    assert vec_env.observation_spec.keys() == now.keys() == chunk.observations.keys()
    doors = now[KNOWN].copy()
    assert (chunk.observations[KNOWN] == doors[:, None]).all()
    plans, weights = CueOracle().label(chunk.final_observations, 4)
    assert plans.tolist() == [[door, END, END, END] for door in doors.tolist()]
    assert (weights == 1).all()
    before = {k: v[:, 27] for k, v in chunk.observations.items()}
    assert (CueOracle().label(before, 4)[0] == FORWARD).all()
    unseen = chunk.final_observations | {KNOWN: np.zeros(3, np.uint8)}
    assert not CueOracle().label(unseen, 4)[1].any()
    # One row begins anew; the others stay what they are.
    now = vec_env.reset([3], [1])
    assert now[KNOWN][[0, 2]].tolist() == doors[[0, 2]].tolist()
    assert now[KNOWN][1] == 1 + now["sign"][1].argmax()


def test_the_oracle_knows_no_other_worlds():
    with pytest.raises(ValueError, match="lacks sign, doors"):
        CueOracle().accompany(make_vec_env(["Gridworld-Room-9x9-v0"]), 4)
