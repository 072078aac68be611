"""What baselines see with."""

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("stable_baselines3")

from sb3_contrib.ppo_recurrent.policies import MultiInputLstmPolicy
from stable_baselines3.common.preprocessing import preprocess_obs

from remdm.baselines.features import ENCODERS, PlannerFeatures, RawFeatures
from remdm.baselines.reinforcement import WholeSequenceLstmPolicy
from remdm.baselines.vec_env import observation_space
from remdm.envs.making import make_vec_env
from remdm.maps import ArraySpec

DOORS = "Gridworld-Doors-9x13-v0"


def seen() -> tuple[dict[str, ArraySpec], dict[str, Tensor]]:
    """Observations of six states, and what they are made of."""
    env = make_vec_env([DOORS] * 6)
    env.reset(list(range(6)))
    plans = np.random.default_rng(0).integers(0, 8, (6, 5))
    arrays = env.execute(plans, 5).final_observations
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    env.close()
    return env.observation_spec, tensors


@pytest.mark.parametrize("kind", [PlannerFeatures, RawFeatures])
def test_what_sb3_makes_of_an_observation_is_seen_as_the_environment_shows_it(
    kind: type[PlannerFeatures | RawFeatures],
) -> None:
    spec, tensors = seen()
    space = observation_space(spec, kind.keys)
    features = kind(space, spec)
    own = {key: tensors[key] for key in kind.keys}
    shaped = {key: own[key].reshape(6, *(space[key].shape or ())) for key in own}
    handed = preprocess_obs(shaped, space)
    assert isinstance(handed, dict)
    integers = features.integers(handed)
    assert all(torch.equal(integers[key], own[key]) for key in own)
    assert {key: array.dtype for key, array in integers.items()} == {
        key: array.dtype for key, array in own.items()
    }
    assert features(handed).shape == (6, 256)


def test_padding_is_not_encoded_and_changes_nothing() -> None:
    spec, tensors = seen()
    features = PlannerFeatures(observation_space(spec, PlannerFeatures.keys), spec)
    own = {key: tensors[key] for key in PlannerFeatures.keys}
    padded = {key: array.new_zeros(9, *array.shape[1:]) for key, array in own.items()}
    places = torch.tensor([0, 1, 3, 4, 5, 8])
    for key, array in own.items():
        padded[key][places] = array
    expected, found = features(own), features(padded)
    torch.testing.assert_close(found[places], expected, rtol=1e-5, atol=1e-6)
    assert not found[torch.tensor([2, 6, 7])].any()
    found[places].sum().backward()
    assert features.out.weight.grad is not None
    assert bool(features.out.weight.grad.any())


def test_encoders_have_names() -> None:
    assert ENCODERS.get("planner") is PlannerFeatures
    with pytest.raises(ValueError, match="did you mean 'raw'"):
        ENCODERS.get("rau")


@pytest.mark.parametrize("begins", [(0, 0), (0, 3), ()])
def test_an_lstm_over_whole_sequences_gives_what_step_by_step_gives(
    begins: tuple[int, ...],
) -> None:
    rng = torch.Generator().manual_seed(0)
    lstm = torch.nn.LSTM(4, 5)
    features = torch.randn(3 * 6, 4, generator=rng)
    states = torch.randn(1, 3, 5, generator=rng), torch.randn(1, 3, 5, generator=rng)
    starts = torch.zeros(3, 6)
    if begins:
        starts[begins] = 1
    given = features, states, starts.flatten(), lstm
    expected, (hidden, cell) = MultiInputLstmPolicy._process_sequence(*given)
    found, after = WholeSequenceLstmPolicy._process_sequence(*given)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(after, (hidden, cell))
