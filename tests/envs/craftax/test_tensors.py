"""Observations of Craftax for torch: JAX's own memory, which stays as it was."""

import gc
from contextlib import closing

import numpy as np
import pytest

pytest.importorskip("craftax")

import jax
import torch

from remdm.envs.craftax.game import CLASSIC
from remdm.envs.craftax.vec_env import CraftaxVecEnv

pytestmark = pytest.mark.craftax

ROWS, STEPS = 8, 8
DTYPES = {"tiles": torch.uint8, "flags": torch.uint8, "scalars": torch.float32}


def plans(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(17, size=(ROWS, STEPS))


def test_tensors_are_the_observations_in_place_and_outlive_what_follows() -> None:
    with closing(CraftaxVecEnv([CLASSIC] * ROWS)) as envs:
        with pytest.raises(RuntimeError, match="before the first reset"):
            _ = envs.tensors
        envs.reset(list(range(ROWS)))
        envs.execute(plans(0), STEPS)
        seen = envs.tensors
        assert {name: tensor.dtype for name, tensor in seen.items()} == DTYPES
        kept = {name: array.copy() for name, array in envs.observations.items()}
        for name, tensor in seen.items():
            assert tensor.shape == (ROWS, *envs.observation_spec[name].shape)
            np.testing.assert_array_equal(tensor.numpy(), kept[name])
        if jax.default_backend() == "cpu":
            own = envs.worlds.observations
            assert {name: tensor.data_ptr() for name, tensor in seen.items()} == {
                name: array.unsafe_buffer_pointer() for name, array in own.items()
            }
            del own
        # Steps and a reset want new memory; what nobody held would be used again.
        for turn in range(1, 4):
            envs.execute(plans(turn), STEPS)
            gc.collect()
        envs.reset([99], rows=[0])
        later = envs.tensors
        assert not all(torch.equal(later[name], seen[name]) for name in seen)
    gc.collect()
    for name, tensor in seen.items():
        np.testing.assert_array_equal(tensor.numpy(), kept[name])


def test_chunks_reach_torch_without_a_copy_as_well() -> None:
    """A chunk's arrays are read-only, which torch takes through DLPack only."""
    with closing(CraftaxVecEnv([CLASSIC] * ROWS)) as envs:
        envs.reset(list(range(ROWS)))
        chunk = envs.execute(plans(0), STEPS)
    for array in (*chunk.observations.values(), chunk.rewards):
        assert not array.flags.writeable
        tensor = torch.from_dlpack(array)
        assert tensor.data_ptr() == array.ctypes.data
        np.testing.assert_array_equal(tensor.numpy(), array)
