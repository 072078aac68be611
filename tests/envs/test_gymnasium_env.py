"""Environments of Gymnasium behind our contract: spaces, vectors, limits."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from remdm import make_env
from remdm.envs.gymnasium_env import GymnasiumEnv
from remdm.envs.making import make_vec_env
from remdm.envs.spaces import actions_of, observation_arrays, write_observation
from remdm.envs.sync import SyncPlanVecEnv
from remdm.maps import ArraySpec
from tests.dagger.small_worlds import LENGTH, Echo, Follow

CARTPOLE, PENDULUM = "Gymnasium:CartPole-v1", "Gymnasium:Pendulum-v1"


@pytest.mark.parametrize("env_mode", ["sync", "async"])
def test_an_episode_is_that_of_gymnasium_itself(env_mode: str) -> None:
    vec_env = make_vec_env([CARTPOLE, CARTPOLE], env_mode=env_mode)
    own = gymnasium.make("CartPole-v1")
    seen = vec_env.reset([4, 5])["observation"][1].copy()
    expected, _ = own.reset(seed=5)
    rng, over = np.random.default_rng(0), False
    while not over:
        np.testing.assert_array_equal(seen, expected)
        action = int(rng.integers(2))
        expected, reward, terminated, truncated, _ = own.step(action)
        chunk = vec_env.execute(np.array([[3], [action]]), 1)
        assert chunk.rewards[1, 0] == reward
        assert (chunk.terminated[1, 0], chunk.truncated[1, 0]) == (terminated, truncated)
        seen, over = chunk.final_observations["observation"][1].copy(), terminated or truncated
    assert not chunk.won.any()
    vec_env.close()


def test_vectors_are_taken_as_offered_once_and_drawn_by_the_level_otherwise() -> None:
    vec_env = SyncPlanVecEnv([lambda: GymnasiumEnv("Follow", Follow()) for _ in range(2)])
    assert vec_env.vector_size == 2
    assert vec_env.num_actions == 1
    runs = []
    for _ in range(2):
        vec_env.reset([7, 7])
        Follow.taken.clear()
        vec_env.offer(np.array([[0.5, -9.0]], np.float32), [1])
        vec_env.execute(np.zeros((2, LENGTH), np.int64), LENGTH)
        runs.append([action.tolist() for action in Follow.taken])
    assert runs[0] == runs[1]
    assert runs[0][LENGTH] == [[0.5, -2.0]]  # moved onto the bound
    # The other row and all other steps drew: as its level says, one after another.
    assert runs[0][:5] == runs[0][LENGTH + 1 :]
    assert len({str(action) for action in runs[0]}) == LENGTH + 1


def test_tokens_cannot_be_offered_vectors() -> None:
    with pytest.raises(ValueError, match="are the tokens 0, 1, not vectors"):
        make_env(CARTPOLE).offer(np.zeros(1))
    vec_env = make_vec_env([PENDULUM], env_mode="async", num_workers=1)
    with pytest.raises(ValueError, match=r"set Experiment\.env_mode = 'sync'"):
        vec_env.offer(np.zeros((1, 1)), [0])
    vec_env.close()


def test_an_episode_is_won_where_its_last_step_says_so_and_cut_at_the_limit() -> None:
    env = GymnasiumEnv("Echo", Echo())
    env.reset(0)
    results = [env.step(0) for _ in range(LENGTH)]
    assert [r.won for r in results] == [False] * (LENGTH - 1) + [True]
    with pytest.raises(RuntimeError, match="must be reset"):
        env.step(0)
    cut = GymnasiumEnv("Echo", Echo(), max_episode_steps=3)
    cut.reset(0)
    results = [cut.step(0) for _ in range(3)]
    assert [r.truncated for r in results] == [False, False, True]
    assert not results[-1].terminated
    assert make_env(CARTPOLE).max_episode_steps == 500
    assert env.max_episode_steps == 1000


def test_nested_observations_become_named_arrays_in_the_smallest_type_that_nets_read() -> None:
    spec = observation_arrays(Echo.observation_space)
    assert spec == {
        "inner/noise": ArraySpec((2,), np.dtype(np.float32)),
        "wanted": ArraySpec((), np.dtype(np.int64)),
    }
    out = {name: np.zeros(s.shape, s.dtype) for name, s in spec.items()}
    write_observation({"wanted": 2, "inner": {"noise": np.array([0.5, 1.0])}}, out)
    assert out["wanted"] == 2
    assert out["inner/noise"].tolist() == [0.5, 1.0]
    assert list(observation_arrays(spaces.MultiBinary(3))) == ["observation"]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Text(4), "must be made of Box"),
        (spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2)])}), "must be made of Box"),
        (spaces.Dict({"a/b": spaces.Discrete(2)}), "no '/' in names"),
        (spaces.Dict({"history": spaces.Dict({"x": spaces.Discrete(2)})}), "none called history/"),
        (spaces.Dict({}), "at least one array"),
    ],
)
def test_observations_that_are_no_fixed_arrays_are_refused(
    space: spaces.Space[Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        observation_arrays(space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 2]),
        spaces.Discrete(3, start=1),
        spaces.Box(0, 3, (2,), dtype=np.int64),
    ],
)
def test_actions_that_are_neither_numbers_nor_vectors_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match="must be a Discrete space from 0 on or a Box"):
        actions_of(space)


def test_an_unknown_id_offers_what_gymnasium_would() -> None:
    with pytest.raises(ValueError, match="Did you mean: `CartPole`"):
        make_env("Gymnasium:CartPol-v1")
