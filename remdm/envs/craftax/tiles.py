"""Symbolic observations in a 25th to a 37th of their size, and back bit for bit.

Craftax shows each tile as a row of ones and zeros: one of its blocks, then what lies, lives and
shines there. Kept are the number of the block and the rest as bits; the scalars behind the map stay
as they are. 5,380 bytes of Classic become 214, 33,072 of the full game 897.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from remdm.maps import ArraySpec

if TYPE_CHECKING:
    import jax

TILES, FLAGS, SCALARS = "tiles", "flags", "scalars"


@dataclass(frozen=True, slots=True)
class TileCodec:
    """Packs observations of one game.

    Attributes:
        rows: Tiles from north to south.
        columns: Tiles from west to east.
        num_blocks: Kinds of blocks.
        num_flags: Ones and zeros of a tile behind its block.
        num_scalars: Numbers behind the map.
    """

    rows: int
    columns: int
    num_blocks: int
    num_flags: int
    num_scalars: int

    @property
    def flat_size(self) -> int:
        """Length of the game's own observation."""
        return self._map_size + self.num_scalars

    @property
    def _map_size(self) -> int:
        return self.rows * self.columns * (self.num_blocks + self.num_flags)

    @property
    def spec(self) -> dict[str, ArraySpec]:
        """The arrays of one packed observation.

        - `tiles` uint8 [rows, columns]: 1 + the block's number, 0 where nothing can be seen.
        - `flags` uint8 [rows, columns, bytes]: the rest of a tile, eight to a byte, first one in
          the highest bit.
        - `scalars` float32 [num_scalars]: inventory, needs, facing, light, ... as the game gives
          them.
        """
        cells = (self.rows, self.columns)
        return {
            TILES: ArraySpec(cells, np.dtype(np.uint8)),
            FLAGS: ArraySpec((*cells, -(-self.num_flags // 8)), np.dtype(np.uint8)),
            SCALARS: ArraySpec((self.num_scalars,), np.dtype(np.float32)),
        }

    def encode(self, flat: "jax.Array") -> "dict[str, jax.Array]":
        """Pack observations, inside or outside of a compiled function.

        Args:
            flat: float32 [..., flat_size], as the game gives them.

        Returns:
            The arrays of `spec` with the same leading axes.
        """
        import jax.numpy as jnp

        leading = flat.shape[:-1]
        shape = (*leading, self.rows, self.columns, self.num_blocks + self.num_flags)
        tiles = flat[..., : self._map_size].reshape(shape)
        blocks = tiles[..., : self.num_blocks]
        number = jnp.where(blocks.any(-1), blocks.argmax(-1) + 1, 0)
        return {
            TILES: number.astype(jnp.uint8),
            FLAGS: jnp.packbits(tiles[..., self.num_blocks :] > 0, axis=-1),
            SCALARS: flat[..., self._map_size :].astype(jnp.float32),
        }

    def expand(self, packed: "dict[str, jax.Array]") -> "jax.Array":
        """`decode` for compiled functions: float32 [..., flat_size]."""
        import jax
        import jax.numpy as jnp

        blocks = jax.nn.one_hot(packed[TILES].astype(jnp.int32) - 1, self.num_blocks)
        bits = jnp.unpackbits(packed[FLAGS], axis=-1, count=self.num_flags)
        cells = jnp.concatenate([blocks, bits.astype(jnp.float32)], -1)
        scalars = packed[SCALARS]
        return jnp.concatenate([cells.reshape(*scalars.shape[:-1], -1), scalars], -1)

    def decode(self, packed: dict[str, Any]) -> np.ndarray:
        """The observations that were packed.

        Args:
            packed: The arrays of `spec`, with any leading axes.

        Returns:
            float32 [..., flat_size].
        """
        tiles = np.asarray(packed[TILES])
        blocks = np.eye(self.num_blocks + 1, dtype=np.float32)[tiles][..., 1:]
        bits = np.unpackbits(np.asarray(packed[FLAGS]), axis=-1, count=self.num_flags)
        cells = np.concatenate([blocks, bits.astype(np.float32)], -1)
        scalars = np.asarray(packed[SCALARS], np.float32)
        return np.concatenate([cells.reshape(*scalars.shape[:-1], -1), scalars], -1)
