"""One flat vector per observation, for nets that begin with a dense layer.

Packed Craftax observations become the ones and zeros that the game itself gives, bit for bit. It is
done on the device that trains, so that a batch travels at a 25th to a 37th of its size. Arrays of
other environments are laid behind each other.

Axes in this file: B observations, R rows and N columns of tiles, S scalars.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from remdm.maps import ArraySpec
from remdm.nets.denoiser import OFFSET_KEY

TILES, FLAGS, SCALARS = "tiles", "flags", "scalars"
PACKED_KEYS = (TILES, FLAGS, SCALARS)
# A tile number says which block it is, not of how many, and the last byte of flags may be partly
# filled. Both are facts of a game, known by the size of its view: blocks and flags of a tile.
Shape = tuple[int, ...]
GAMES: dict[tuple[Shape, Shape, Shape], tuple[int, int]] = {
    ((7, 9), (7, 9, 1), (22,)): (17, 4),  # Craftax-Classic
    ((9, 11), (9, 11, 6), (51,)): (37, 46),  # Craftax
}


class FlatTiles(nn.Module):
    """Undoes the packing of `remdm.envs.craftax.tiles.TileCodec` in torch.

    Attributes:
        observation_keys: The arrays that are read.
        size: Length of the vector: R * N * (num_blocks + num_flags) + S.
    """

    observation_keys: tuple[str, ...] = PACKED_KEYS

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_blocks: int | None,
        num_flags: int | None,
    ) -> None:
        """Args:
        observation_spec: Holds `tiles` integer [R, N], `flags` uint8 [R, N, bytes] and `scalars`
            [S].
        num_blocks: Kinds of blocks; None where the view is that of a known game.
        num_flags: Ones and zeros of a tile behind its block; None likewise.

        Raises:
            ValueError: If arrays are missing or do not fit each other, or a number is unknown or
                does not fit the arrays.
        """
        super().__init__()
        tiles, flags, scalars = _checked_shapes(observation_spec)
        if (tiles, flags, scalars) in GAMES:
            known = GAMES[tiles, flags, scalars]
            num_blocks = known[0] if num_blocks is None else num_blocks
            num_flags = known[1] if num_flags is None else num_flags
        if num_blocks is None or num_flags is None:
            raise ValueError(
                "a packed view does not say how many kinds of blocks and how many flags its tiles "
                f"have, and tiles {list(tiles)}, flags {list(flags)}, scalars {list(scalars)} are "
                f"those of no game in {__name__}.GAMES; set SequenceDenoiser.num_blocks and "
                "SequenceDenoiser.num_flags to those of the environment."
            )
        if not 1 <= num_blocks <= 255:
            raise ValueError(
                f"num_blocks must be in 1..255, as a tile is one byte, got {num_blocks}; set "
                "SequenceDenoiser.num_blocks."
            )
        if -(-num_flags // 8) != flags[2]:
            raise ValueError(
                f"num_flags must fill the {flags[2]} bytes of a tile, eight to a byte, got "
                f"{num_flags}; set SequenceDenoiser.num_flags."
            )
        self.num_flags = num_flags
        self.size = math.prod(tiles) * (num_blocks + num_flags) + scalars[0]
        self.blocks: Tensor
        self.bits: Tensor
        self.register_buffer("blocks", torch.arange(1, num_blocks + 1), persistent=False)
        # The first flag is the highest bit.
        bits = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
        self.register_buffer("bits", bits, persistent=False)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """The game's own vectors, float32 [B, size], of packed observations [B, ..]."""
        tiles, flags, scalars = (observations[key] for key in PACKED_KEYS)
        blocks = tiles[..., None] == self.blocks  # 0, unseen, is no block
        flags = (flags[..., None] & self.bits).flatten(-2)[..., : self.num_flags] != 0
        cells = torch.cat([blocks, flags], -1).flatten(1)
        return torch.cat([cells.float(), scalars.float()], 1)


class FlatArrays(nn.Module):
    """All arrays of an observation behind each other, in the order of the spec.

    Numbers are read as they are: an environment with large ones had better scale them.

    Attributes:
        observation_keys: The arrays that are read.
        size: Length of the vector.
    """

    def __init__(self, observation_spec: dict[str, ArraySpec]) -> None:
        """Args:
        observation_spec: Arrays of numbers or truth values. The offset that an agent may add is
            not read.

        Raises:
            ValueError: If there is no array, or one of something else.
        """
        super().__init__()
        specs = {key: spec for key, spec in observation_spec.items() if key != OFFSET_KEY}
        strange = [key for key, spec in specs.items() if spec.dtype.kind not in "biuf"]
        if not specs or strange:
            raise ValueError(
                "SequenceDenoiser needs observation arrays of real numbers, or packed ones called "
                f"{', '.join(PACKED_KEYS)}, got {observation_spec}. Choose another "
                "DiffusionPlannerAgent.denoiser_type."
            )
        self.observation_keys = tuple(specs)
        self.size = sum(math.prod(spec.shape) for spec in specs.values())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Vectors float32 [B, size] of observations [B, ..]."""
        arrays = [observations[key].float() for key in self.observation_keys]
        return torch.cat([a[:, None] if a.ndim == 1 else a.flatten(1) for a in arrays], 1)


def flattener(
    observation_spec: dict[str, ArraySpec], num_blocks: int | None, num_flags: int | None
) -> FlatTiles | FlatArrays:
    """What makes vectors of such observations: `FlatTiles` where there are tiles.

    Args:
        observation_spec: Arrays of one observation.
        num_blocks: See `FlatTiles`; None without tiles.
        num_flags: The same.

    Raises:
        ValueError: If the observations do not suit, or numbers of tiles are given without tiles.
    """
    if TILES in observation_spec:
        return FlatTiles(observation_spec, num_blocks, num_flags)
    if num_blocks is not None or num_flags is not None:
        raise ValueError(
            f'num_blocks and num_flags describe the array "{TILES}", and the observation has '
            f"{', '.join(observation_spec) or 'none'}; leave SequenceDenoiser.num_blocks and "
            "SequenceDenoiser.num_flags unset."
        )
    return FlatArrays(observation_spec)


def _checked_shapes(spec: dict[str, ArraySpec]) -> tuple[Shape, Shape, Shape]:
    """Shapes of tiles, flags and scalars that fit each other.

    Raises:
        ValueError: If they do not.
    """
    shapes = [spec[key].shape for key in PACKED_KEYS if key in spec]
    ranks = [len(shape) for shape in shapes]
    fits = ranks == [2, 3, 1] and shapes[0] == shapes[1][:2]
    if not fits or spec[TILES].dtype.kind not in "iu" or spec[FLAGS].dtype != np.uint8:
        raise ValueError(
            f'SequenceDenoiser needs, beside the array "{TILES}" of integers [rows, columns], '
            f'"{FLAGS}" of bytes [rows, columns, bytes] and "{SCALARS}" [count], got {spec}. '
            "Choose another DiffusionPlannerAgent.denoiser_type."
        )
    return shapes[0], shapes[1], shapes[2]
