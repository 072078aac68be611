"""Random joints, states and steps to enumerate, and the exact law of a sampler on them."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from remdm.diffusion.exact import ExactDenoiser as ExactDenoiser
from remdm.diffusion.schedules import LinearSchedule
from remdm.diffusion.step import Step


def random_joint(num_symbols: int, horizon: int, seed: int = 0) -> np.ndarray:
    """Probabilities of all sequences in lexicographic order, from a sparse Dirichlet."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(num_symbols**horizon, 0.3))


def all_states(num_symbols: int, horizon: int) -> Tensor:
    """Every partly masked sequence, int64 [(V + 1)^L, L]; MASK is V."""
    return torch.tensor(list(itertools.product(range(num_symbols + 1), repeat=horizon)))


def state_index(states: Tensor, num_symbols: int) -> Tensor:
    """Row of each state in `all_states`."""
    powers = (num_symbols + 1) ** torch.arange(states.shape[-1] - 1, -1, -1)
    return (states * powers).sum(-1)


def step_of(states: Tensor, probs: Tensor, classes: Tensor, alpha_t: float, alpha_s: float) -> Step:
    """A `Step` of states [b, L] with given classes; sampled confidence as without truncation."""
    return Step(
        index=0,
        num_steps=states.shape[1],
        alpha_t=alpha_t,
        alpha_s=alpha_s,
        schedule=LinearSchedule(),
        masked=states == probs.shape[-1] - 1,
        free=torch.ones_like(states, dtype=torch.bool),
        probs=probs,
        classes=classes,
        sampled_confidence=probs.gather(-1, classes[..., None])[..., 0],
        committed_confidence=torch.zeros(states.shape, dtype=torch.float64),
        keys=torch.arange(len(states)),
    )


def sequential_law(
    denoiser: ExactDenoiser,
    num_symbols: int,
    horizon: int,
    choose: Callable[[Step], Tensor],
) -> Tensor:
    """Exact distribution over sequences of a sampler that commits one position per call.

    Args:
        denoiser: The model.
        num_symbols: V.
        horizon: L.
        choose: Probabilities float64 [b, L] of committing each position, given what was drawn.

    Returns:
        float64 [V^L], lexicographic.
    """
    mass = {(num_symbols,) * horizon: 1.0}
    for step_number in range(horizon):
        following: dict[tuple[int, ...], float] = {}
        for state, weight in mass.items():
            row = torch.tensor([state])
            probs = denoiser(row, None, None).exp()
            masked = [h for h in range(horizon) if state[h] == num_symbols]
            combos = torch.tensor(list(itertools.product(range(num_symbols), repeat=len(masked))))
            drawn = torch.zeros(len(combos), horizon, dtype=torch.int64)
            drawn[:, masked] = combos
            chance = probs[0, masked].gather(-1, combos.T).prod(0)
            alpha = step_number / horizon
            step = step_of(
                row.expand(len(combos), -1),
                probs.expand(len(combos), -1, -1),
                drawn,
                alpha,
                alpha + 1 / horizon,
            )
            picked = choose(step)
            for n, h in itertools.product(range(len(combos)), masked):
                after = (*state[:h], int(drawn[n, h]), *state[h + 1 :])
                share = weight * float(chance[n] * picked[n, h])
                following[after] = following.get(after, 0.0) + share
        mass = following
    sequences = itertools.product(range(num_symbols), repeat=horizon)
    return torch.tensor([mass.get(s, 0.0) for s in sequences], dtype=torch.float64)


def total_variation(first: Tensor, second: Tensor) -> float:
    """Half the sum of absolute differences."""
    return float((first - second).abs().sum() / 2)
