"""Observations that visit every code path: arbitrary values in every array."""

import numpy as np
import torch

from remdm.maps import NUM_TERRAINS, Terrain, empty_observations, map_observation_spec


def random_states(
    count: int, seed: int = 0, height: int = 21, width: int = 79
) -> dict[str, np.ndarray]:
    """Arrays with all terrains, ages, search counts, failed moves, and agents at the edges too."""
    rng = np.random.default_rng(seed)
    cells = (count, height, width)
    out = empty_observations(map_observation_spec(height, width), (count,))

    def sparse(low: int, high: int, share: float) -> np.ndarray:
        return rng.integers(low, high, cells) * (rng.random(cells) < share)

    out["glyphs"][:] = sparse(1, 5976, 0.5)
    out["terrain"][:] = sparse(1, NUM_TERRAINS, 0.6)
    out["visited"][:] = sparse(1, 300, 0.2)
    out["step"][:] = rng.integers(300, 1000, count)
    out["searched"][:] = sparse(1, 256, 0.2)
    out["blocked"][:] = sparse(1, 256, 0.1)
    out["position"][:, 0] = rng.integers(0, height, count)
    out["position"][:, 1] = rng.integers(0, width, count)
    out["position"][:1] = 0, 0
    out["position"][1:2] = height - 1, width - 1
    return out


def nothing_to_explore(states: dict[str, np.ndarray], row: int) -> None:
    """Leave the agent of one state only searching, in place: all is known and visited."""
    states["terrain"][row] = Terrain.FLOOR
    states["visited"][row] = 1
    states["position"][row] = states["terrain"].shape[1] // 2, states["terrain"].shape[2] // 2


def tensors(observations: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same arrays as tensors."""
    return {key: torch.from_numpy(value) for key, value in observations.items()}
