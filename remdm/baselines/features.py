"""From an observation to a vector: what all baselines see with.

`planner` is the planner's own encoder. `raw` is the one that published baselines had: two small
stacks of convolutions over glyph ids taken as numbers, of a 9x9 crop and of the whole map, both
cut from the same `glyphs` and `position` that `DualStreamDenoiser` reads.
"""

import gin
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from remdm.maps import ArraySpec
from remdm.nets.dual_stream import LOCAL_PADDING, LOCAL_SIZE
from remdm.nets.ego import EgoEncoder
from remdm.nets.egocentric import FEATURE_KEYS, egocentric_crop
from remdm.registry import Registry

FEATURES_DIM = 256


class MapFeatures(BaseFeaturesExtractor):
    """Features of map observations. SB3 hands over every array as float32.

    Attributes:
        keys: Arrays of an observation that are read.
    """

    keys: tuple[str, ...]

    def __init__(
        self,
        observation_space: spaces.Dict,
        observation_spec: dict[str, ArraySpec],
        features_dim: int,
    ) -> None:
        """Args:
        observation_space: Of the arrays `keys`.
        observation_spec: Arrays of one observation.
        features_dim: Length of the vector.
        """
        super().__init__(observation_space, features_dim)
        self.spec = {key: observation_spec[key] for key in self.keys}
        self._dtypes = {key: _torch_dtype(spec) for key, spec in self.spec.items()}

    def integers(self, observations: dict[str, Tensor]) -> dict[str, Tensor]:
        """The arrays as the environment made them, [B, ...] by name."""
        count = len(observations[self.keys[0]])
        return {
            key: observations[key].reshape(count, *self.spec[key].shape).to(self._dtypes[key])
            for key in self.keys
        }


def _torch_dtype(spec: ArraySpec) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, spec.dtype.name)
    return dtype


@gin.configurable(
    module="remdm", denylist=["observation_space", "observation_spec", "low_precision"]
)
class PlannerFeatures(MapFeatures):
    """The planner's observation tokens, each narrowed, side by side, through one layer."""

    keys = FEATURE_KEYS

    def __init__(
        self,
        observation_space: spaces.Dict,
        observation_spec: dict[str, ArraySpec],
        low_precision: bool = False,
        *,
        encoder_type: type[EgoEncoder] = EgoEncoder,
        width: int = 128,
        token_dim: int = 32,
        features_dim: int = FEATURES_DIM,
    ) -> None:
        """Args:
        observation_space: Of the arrays `keys`.
        observation_spec: Arrays of one observation.
        low_precision: Whether the encoder runs in bfloat16.
        encoder_type: Makes observation tokens of `width` channels.
        width: Channels of a token, as in the planner.
        token_dim: Channels that each token is narrowed to.
        features_dim: Length of the vector.
        """
        super().__init__(observation_space, observation_spec, features_dim)
        self.low_precision = low_precision
        self.encoder = encoder_type(self.spec, width)
        self.narrow = nn.Linear(width, token_dim)
        self.out = nn.Linear(token_dim * self.encoder.num_tokens, features_dim)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features float32 [B, features_dim]; zeros for padding.

        Recurrent PPO fills sequences up with observations of zeros, most of a batch where episodes
        are short, and leaves out what comes of them. A real one knows at least where it stands.
        """
        arrays = self.integers(observations)
        real = (arrays["terrain"] != 0).flatten(1).any(1)
        if bool(real.all()):
            return self._encoded(arrays)
        found = self._encoded({key: array[real] for key, array in arrays.items()})
        blank = found.new_zeros(len(real), found.shape[1])
        return blank.index_put((real.nonzero()[:, 0],), found)

    def _encoded(self, arrays: dict[str, Tensor]) -> Tensor:
        with torch.autocast(self.out.weight.device.type, torch.bfloat16, self.low_precision):
            tokens = F.relu(self.narrow(self.encoder(arrays)))
            features = F.relu(self.out(tokens.flatten(1)))
        return features.float()


@gin.configurable(
    module="remdm", denylist=["observation_space", "observation_spec", "low_precision"]
)
class RawFeatures(MapFeatures):
    """Glyph ids as numbers, not even scaled: kept as it was published."""

    keys = ("glyphs", "position")

    def __init__(
        self,
        observation_space: spaces.Dict,
        observation_spec: dict[str, ArraySpec],
        low_precision: bool = False,
        *,
        features_dim: int = FEATURES_DIM,
    ) -> None:
        """Args:
        observation_space: Of the arrays `keys`.
        observation_spec: Arrays of one observation.
        low_precision: Ignored: bfloat16 cannot tell the ids apart.
        features_dim: Length of the vector.

        Raises:
            ValueError: If the map is too small for the convolutions.
        """
        super().__init__(observation_space, observation_spec, features_dim)
        height, width = self.spec["glyphs"].shape
        if min(height, width) < 9:
            raise ValueError(
                f"the raw encoder needs a map of at least 9x9 cells, got {height}x{width}; set "
                "Baseline.encoder = 'planner'."
            )
        self.local = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.whole = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            size = self.whole(torch.zeros(1, 1, height, width)).shape[1]
        self.out = nn.Linear(32 * LOCAL_SIZE**2 + size, features_dim)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features float32 [B, features_dim]."""
        arrays = self.integers(observations)
        glyphs = arrays["glyphs"].to(torch.int32)
        crop = egocentric_crop(glyphs, arrays["position"], LOCAL_SIZE, LOCAL_PADDING)
        near, far = self.local(crop[:, None].float()), self.whole(glyphs[:, None].float())
        return F.relu(self.out(torch.cat([near, far], 1)))


ENCODERS = Registry("encoder")
ENCODERS.register("planner", PlannerFeatures)
ENCODERS.register("raw", RawFeatures)
