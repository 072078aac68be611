"""Experts that only act: what they say is recorded at every state, and is the label."""

from typing import Any

import numpy as np
import pytest

from remdm.envs.gymnasium_env import GymnasiumEnv
from remdm.envs.making import make_vec_env
from remdm.envs.sync import SyncPlanVecEnv
from remdm.oracles.acting import ActingOracle, answers, as_the_env_shows
from remdm.oracles.recorded import PLAN, TAKEN, VECTOR, WEIGHT
from tests.dagger.small_worlds import Echo, EchoExpert, Follow, FollowExpert

END = 4


def accompanied(env: type, oracle: ActingOracle, plan_horizon: int = 2) -> Any:
    rows = SyncPlanVecEnv([lambda: GymnasiumEnv("world", env()) for _ in range(3)])
    return oracle.accompany(rows, plan_horizon)


def test_what_the_expert_says_is_recorded_at_every_state_and_asked_once() -> None:
    expert = EchoExpert()
    oracle = ActingOracle(expert)
    vec_env = accompanied(Echo, oracle)
    seen = vec_env.reset([1, 2, 3])
    assert expert.asked == 3
    np.testing.assert_array_equal(seen[PLAN], np.stack([seen["wanted"], [END] * 3], 1))
    chunk = vec_env.execute(np.array([[0, 1, 2, END], [2, END, END, END], [END] * 4]), 4)
    assert chunk.lengths.tolist() == [3, 1, 0]
    # Two states on the way, and one now in each row that moved.
    assert expert.asked == 3 + 2 + 2
    valid = chunk.valid
    np.testing.assert_array_equal(
        chunk.observations[PLAN][valid][:, 0], chunk.observations["wanted"][valid]
    )
    assert (chunk.observations[WEIGHT] == 1).all()
    plans, weights = oracle.label({k: v[valid] for k, v in chunk.observations.items()}, 2)
    assert plans.dtype == np.int8
    np.testing.assert_array_equal(plans, chunk.observations[PLAN][valid])
    assert weights.tolist() == [1.0] * 4
    now = chunk.final_observations
    np.testing.assert_array_equal(now[PLAN][:, 0], now["wanted"])


def test_the_expert_acts_where_nobody_offers_another_vector() -> None:
    vec_env = accompanied(Follow, ActingOracle(FollowExpert()))
    seen = vec_env.reset([1, 2, 3])
    wanted = seen["wanted"] - 1.0
    np.testing.assert_array_equal(seen[VECTOR], np.stack([wanted, -wanted], 1))
    vec_env.offer(np.array([[0.25, 0.5]], np.float32), [1])
    chunk = vec_env.execute(np.zeros((3, 2), np.int64), 1)
    assert chunk.lengths.tolist() == [1, 1, 1]
    assert chunk.rewards[[0, 2], 0].tolist() == [0.0, 0.0]
    assert chunk.rewards[1, 0] < 0
    np.testing.assert_array_equal(chunk.observations[TAKEN][1, 0], [0.25, 0.5])
    np.testing.assert_array_equal(chunk.observations[VECTOR][:, 0], seen[VECTOR])
    plans, _ = ActingOracle(FollowExpert()).label(
        {k: v[:, 0] for k, v in chunk.observations.items()}, 1
    )
    assert plans.tolist() == [[0], [0], [0]]


def test_an_answer_may_be_a_tensor_or_come_with_more() -> None:
    import torch

    class Tensors:
        def act(self, obs: Any, deterministic: bool) -> Any:
            return torch.tensor([1, 2], requires_grad=False), {"log_prob": 0.0}

    assert answers(Tensors(), None, True).tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"must have act\(obs, deterministic\)"):
        answers(object(), None, True)


def test_observations_are_handed_to_the_expert_as_its_environment_shows_them() -> None:
    one = np.zeros((2, 3))
    assert as_the_env_shows({"observation": one}) is one
    nested = as_the_env_shows({"a": one, "b/c": one, "b/d": one})
    assert nested.keys() == {"a", "b"}
    assert nested["b"].keys() == {"c", "d"}


def test_labels_that_were_not_recorded_are_missed_with_the_way_to_have_them() -> None:
    with pytest.raises(ValueError, match=r"Experiment\.oracle_type = @ActingOracle"):
        ActingOracle(EchoExpert()).label({"wanted": np.zeros(3)}, 1)
    with pytest.raises(ValueError, match=r"set ActingOracle\.expert_type"):
        ActingOracle()
    assert isinstance(ActingOracle(expert_type=EchoExpert).expert, EchoExpert)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_model_of_stable_baselines_is_an_expert(env_id: str) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", env_id, n_steps=8, batch_size=8, seed=1, device="cpu")
    rows = make_vec_env([f"Gymnasium:{env_id}"] * 5)
    vec_env = ActingOracle(model).accompany(rows, 1)
    seen = vec_env.reset(range(5))
    expected, _ = model.predict(seen["observation"], deterministic=True)
    found = seen[VECTOR] if vec_env.vector_size else seen[PLAN][:, 0]
    np.testing.assert_array_equal(found, expected)
    vec_env.close()
