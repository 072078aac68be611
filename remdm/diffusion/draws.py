"""Random numbers of a sampler, a stream of its own for every row.

A row's numbers are a function of its key, the denoising step, what they are for and the position:
the counter-based generator splitmix64 (Steele, Lea and Flood, OOPSLA 2014) evaluated at a
counter. So a row's plan depends neither on the rows beside it, nor on rows that left the batch,
nor on steps that were skipped because they could not change anything. `fused.py` computes the
same bits in numba.
"""

import torch
from torch import Tensor

# What a number is used for; each purpose has its own range of counters.
TOKEN, POSITION, REMASK = 0, 1, 2
NUM_PURPOSES = 3

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


def row_keys(generator: torch.Generator, batch_size: int, device: torch.device) -> Tensor:
    """One random key per row: all that a sampler takes from its generator.

    Returns:
        int64 [batch_size] on `device`; the same numbers whatever the device.
    """
    keys = torch.randint(
        -(2**63), 2**63 - 1, (batch_size,), generator=generator, device=generator.device
    )
    return keys.to(device)


def uniform(keys: Tensor, step: int, purpose: int, horizon: int) -> Tensor:
    """Uniform numbers strictly between 0 and 1.

    Args:
        keys: int64 [b].
        step: Denoising step, from 0.
        purpose: `TOKEN`, `POSITION` or `REMASK`.
        horizon: Numbers per row.

    Returns:
        float64 [b, horizon], multiples of 2^-53 with 52 random bits.
    """
    first = (step * NUM_PURPOSES + purpose) * horizon + 1
    counter = torch.arange(first, first + horizon, device=keys.device)
    state = keys[:, None] + counter * _signed(GOLDEN)
    state = (state ^ _shift_right(state, 30)) * _signed(MIX_1)
    state = (state ^ _shift_right(state, 27)) * _signed(MIX_2)
    bits = _shift_right(state ^ _shift_right(state, 31), 12)
    return (bits.double() + 0.5) * 2.0**-52


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned word; torch multiplies both alike, modulo 2^64."""
    return word - 2**64 if word >= 2**63 else word


def _shift_right(word: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` repeats the sign bit, which is cut off here."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)
