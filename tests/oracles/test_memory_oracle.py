import pytest

from remdm.envs.gridworld import LEVEL_KINDS
from remdm.envs.making import make_vec_env
from remdm.envs.minihack import HELD_OUT_ENVS, TRAINING_ENVS
from remdm.evaluation.policies import OraclePolicy
from remdm.evaluation.rollout import evaluate_policy
from remdm.oracles.memory_oracle import MemoryOracle

EPISODES = 20


def play(envs, **options):
    return evaluate_policy(
        OraclePolicy(MemoryOracle(), **options),
        envs,
        episodes=EPISODES,
        first_seed=0,
        make_vec_env=make_vec_env,
        rows=4,
    ).rows


@pytest.mark.minihack
def test_it_wins_the_minihack_maps_at_their_own_step_limits():
    # Levels, game and oracle are seeded, so a given NetHack plays the same episodes every time.
    # Were the levels drawn anew, at a win rate of 0.999 on each training map and 0.99 on each
    # held-out one, the bounds would be missed with chance 0.08 (80 of 80) and 0.05 (3 x 19 of 20).
    rows = {row.env: row for row in play([*TRAINING_ENVS, *HELD_OUT_ENVS])}
    assert [rows[env].wins for env in TRAINING_ENVS] == [EPISODES] * len(TRAINING_ENVS)
    assert all(rows[env].wins >= EPISODES - 1 for env in HELD_OUT_ENVS)
    # Lengths of 300 episodes were 2.3, 6.8, 33, 13.3, 82, 128 and 243 steps; twice that means
    # that it walks in circles.
    assert rows["MiniHack-Room-Random-15x15-v0"].mean_steps_won < 10
    assert rows["MiniHack-MazeWalk-9x9-v0"].mean_steps_won < 27
    assert rows["MiniHack-Room-Dark-15x15-v0"].mean_steps_won < 164


@pytest.mark.parametrize("replan_every", [1, 4, 16])
def test_it_wins_the_gridworlds_however_often_it_plans(replan_every):
    # A hidden cell is missed by 100 searches with chance 2e-7, a locked door by 20 kicks 2e-4.
    rows = [play([env], replan_every=replan_every)[0] for env in LEVEL_KINDS]
    assert {row.env: row.wins for row in rows} == dict.fromkeys(LEVEL_KINDS, EPISODES)
