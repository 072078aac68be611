"""What an augmentation does to steps that follow one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from remdm.oracles.memory_oracle import MemoryOracle
from remdm.stretch import Stretch
from remdm.training.augmentation import MemoryAugmentation, mirror
from tests.training.remembered import MAZE, PLAN_HORIZON, copied, noisy_states, window

ROWS, STEPS = 20, 5
IMAGINED = ("explore", "close", "lock", "exhaust", "obstruct")
NONE = dict.fromkeys([f"{name}_probability" for name in IMAGINED], 0.0)


@pytest.fixture(scope="module")
def states():
    return noisy_states(MAZE, ROWS * STEPS)


def test_a_row_is_mirrored_as_a_whole_and_what_had_no_label_gets_none(states):
    real = torch.ones(ROWS, STEPS, dtype=torch.bool)
    real[:, 4] = False
    before = window(copied(states))
    counts = real.numpy().ravel().astype(np.float32)
    before = replace(before, weights=counts, stretch=Stretch(torch.zeros_like(real), real))
    after = MemoryAugmentation(MemoryOracle(), **NONE)(before, np.random.default_rng(0))
    kinds = []
    for row in range(ROWS):
        own = slice(row * STEPS, (row + 1) * STEPS)
        for axes in ((), (0,), (1,), (0, 1)):
            wanted = copied({k: v[own] for k, v in states.items()})
            for axis in axes:
                mirror(wanted, np.arange(STEPS), axis)
            if all(np.array_equal(wanted[k], after.observations[k][own]) for k in wanted):
                kinds.append(axes)
                break
        else:
            pytest.fail(f"row {row} is not mirrored as a whole")
    # All four kinds but with probability below 4 * (3 / 4)^20 = 0.013, and the seed is fixed.
    assert len(set(kinds)) == 4
    np.testing.assert_array_equal(after.weights, counts)
    assert after.stretch is before.stretch
    plans = MemoryOracle().label(after.observations, PLAN_HORIZON)[0]
    np.testing.assert_array_equal(after.plans, plans)


@pytest.mark.parametrize("name", IMAGINED)
def test_steps_that_follow_one_another_are_not_imagined_anew(states, name):
    real = torch.ones(ROWS, STEPS, dtype=torch.bool)
    shown = replace(window(copied(states)), stretch=Stretch(real, real))
    augment = MemoryAugmentation(MemoryOracle(), **NONE | {f"{name}_probability": 0.1})
    with pytest.raises(ValueError, match=rf"MemoryAugmentation\.{name}_probability to 0"):
        augment(shown, np.random.default_rng(0))
