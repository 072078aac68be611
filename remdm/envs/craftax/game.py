"""The two Craftax games as this package runs them: names, sizes, actions, achievements."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from remdm.envs.craftax.tiles import TileCodec
from remdm.registry import import_extra, unknown_name_message

CLASSIC, FULL = "Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"
GAME_NAMES = (CLASSIC, FULL)


@dataclass(frozen=True, slots=True)
class Game:
    """One of the games.

    Attributes:
        name: As users type it.
        env: The craftax environment that never resets itself.
        params: Its default parameters.
        codec: Packs its observations.
        action_names: One name per action.
        achievement_names: One name per achievement, in the order of the state's array.
        achievement_values: float32: reward for unlocking each.
        max_episode_steps: Steps after which the game itself ends a life.
    """

    name: str
    env: Any
    params: Any
    codec: TileCodec
    action_names: tuple[str, ...]
    achievement_names: tuple[str, ...]
    achievement_values: np.ndarray
    max_episode_steps: int

    @property
    def max_return(self) -> float:
        """Return of a life that unlocks everything and keeps its health: 22 or 226."""
        return float(self.achievement_values.sum())


@lru_cache(maxsize=2)
def load_game(name: str) -> Game:
    """The game called `name`.

    Raises:
        ValueError: If there is none; offers the nearest name.
        ImportError: If jax or craftax is not installed; says what installs them.
    """
    if name not in GAME_NAMES:
        raise ValueError(unknown_name_message("Craftax environment", name, GAME_NAMES))
    import_extra("jax", "craftax")
    make = import_extra("craftax.craftax_env", "craftax").make_craftax_env_from_name
    env = make(name, auto_reset=False)
    package = "craftax.craftax_classic" if name == CLASSIC else "craftax.craftax"
    constants = import_extra(f"{package}.constants", "craftax")
    achievements = sorted(constants.Achievement, key=lambda a: a.value)
    values = np.ones(len(achievements), np.float32)
    if name == FULL:
        values = np.asarray(constants.ACHIEVEMENT_REWARD_MAP, np.float32)
    params = env.default_params
    return Game(
        name=name,
        env=env,
        params=params,
        codec=_codec(name, constants),
        action_names=tuple(a.name for a in sorted(constants.Action, key=lambda a: a.value)),
        achievement_names=tuple(a.name.lower() for a in achievements),
        achievement_values=values,
        max_episode_steps=int(params.max_timesteps),
    )


def _codec(name: str, constants: Any) -> TileCodec:
    rows, columns = (int(side) for side in constants.OBS_DIM)
    blocks = len(constants.BlockType)
    if name == CLASSIC:
        return TileCodec(rows, columns, blocks, num_flags=4, num_scalars=22)
    # Items, five classes of eight creatures, and whether a tile is lit.
    flags = len(constants.ItemType) + 5 * 8 + 1
    return TileCodec(rows, columns, blocks, num_flags=flags, num_scalars=51)
