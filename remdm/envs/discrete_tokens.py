"""Observations of floats as whole numbers, for nets that read tokens."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from remdm.envs.contract import Chunk, EnvError, PlanVecEnv
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.maps import HISTORY_PREFIX, ArraySpec


class DiscreteTokensVecEnv(PlanVecEnvWrapper):
    """Shows the number of the bin that a value lies in, in place of the value.

    All bins have the same width: of x clipped to [low, high] the bin is
    floor(n_bins * (x - low) / (high - low)), and n_bins - 1 for x = high. Each chosen array
    keeps its name and shape and becomes int32. Arrays with other limits get a wrapper of their own.
    """

    def __init__(
        self,
        vec_env: PlanVecEnv,
        n_bins: int,
        *,
        low: float = 0.0,
        high: float = 1.0,
        keys: Sequence[str] | None = None,
    ) -> None:
        """Args:
            vec_env: The set to wrap, which this one then owns.
            n_bins: Number of bins, at least 1.
            low: Lower limit of the values; what is below lies in bin 0.
            high: Upper limit; what is above lies in the last bin.
            keys: Arrays of floats to cut into bins; all of them when None.

        Raises:
            ValueError: If there are no bins between the limits, an array is unknown or holds no
                floats, or the set shows histories already.
        """
        super().__init__(vec_env)
        spec = vec_env.observation_spec
        floats = [key for key, array in spec.items() if array.dtype.kind == "f"]
        self.keys = tuple(floats if keys is None else keys)
        if not self.keys or not set(self.keys) <= set(floats):
            raise ValueError(
                f"bins need arrays of floats, of which there are {floats}; got {list(self.keys)}"
            )
        if n_bins < 1 or not -np.inf < low < high < np.inf:
            raise ValueError(
                f"at least one bin is needed between finite limits low < high, got n_bins={n_bins} "
                f"from {low} to {high}"
            )
        if any(key.startswith(HISTORY_PREFIX) for key in spec):
            # Zeros before an episode would become the bin of 0.0, and recordings know only zeros.
            raise ValueError(
                "values must be cut into bins before their history is kept; put the "
                "HistoryVecEnv around the DiscreteTokensVecEnv"
            )
        self.n_bins, self.low, self.high = n_bins, low, high
        self.observation_spec = spec | {
            key: ArraySpec(spec[key].shape, np.dtype(np.int32)) for key in self.keys
        }

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`.

        Raises:
            EnvError: If a value is NaN, which lies in no bin.
        """
        chunk = self.vec_env.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)
        return replace(
            chunk,
            observations=self._shown(chunk.observations),
            final_observations=self._shown(chunk.final_observations),
        )

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return observations | {key: self._bins(key, observations[key]) for key in self.keys}

    def _bins(self, key: str, values: np.ndarray) -> np.ndarray:
        if np.isnan(values).any():
            raise EnvError(
                f"observation array {key!r} of {', '.join(sorted(set(self.env_names)))} holds NaN, "
                "which lies in no bin; leave it out by keys"
            )
        wide = values.astype(np.result_type(values.dtype, np.float32), copy=False)
        share = (np.clip(wide, self.low, self.high) - self.low) / (self.high - self.low)
        return np.clip(np.floor(share * self.n_bins), 0, self.n_bins - 1).astype(np.int32)
