"""The plainest net: all of an observation as one vector, through a few layers."""

import itertools
from collections.abc import Sequence

import gin
import numpy as np
import torch
from torch import Tensor, nn

from remdm.maps import ArraySpec


@gin.configurable(module="remdm", denylist=["observation_spec"])
class MLP(nn.Module):
    """Linear layers, each with a layer norm and a SiLU, over an observation's numbers as they are.

    Attributes:
        observation_keys: Names of the arrays that it reads: all.
        width: Channels of what it returns.
    """

    def __init__(
        self, observation_spec: dict[str, ArraySpec], *, hidden: Sequence[int] = (128, 128)
    ) -> None:
        """Args:
            observation_spec: Arrays of one observation.
            hidden: Channels of each layer.

        Raises:
            ValueError: If there is no layer.
        """
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(
                f"a net needs layers of at least 1 channel, got {hidden}; set MLP.hidden."
            )
        self.observation_keys = tuple(observation_spec)
        size = sum(int(np.prod(spec.shape)) for spec in observation_spec.values())
        sizes = [size, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.width = sizes[-1]

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features [B, width] of B observations."""
        flat = [
            observations[key].float().reshape(len(observations[key]), -1)
            for key in self.observation_keys
        ]
        features: Tensor = self.layers(torch.cat(flat, 1))
        return features
