"""Map observations cut down to what lies around the agent: the local-only ablation.

A planner may read a crop around the agent and, more coarsely, the whole level. How much the second
brings is seen by hiding it: whatever lies farther away than the crop is UNKNOWN, in the maps that
are remembered and in the symbols that the game shows. It stays in the memory and is seen again from
nearby. Nets, constraints and histories all read the cut maps, so nothing can leak past them; only
the agent's own row and column still tell where on the level it is.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.envs.making import env_target
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.maps import Terrain
from remdm.registry import import_extra

# Arrays of `map_observation_spec` with one value per cell, and what they hold of a cell unseen.
_UNSEEN = {"terrain": int(Terrain.UNKNOWN), "visited": 0, "searched": 0, "blocked": 0}
_SYMBOLS, _PLACE = "glyphs", "position"


class NearSightVecEnv(PlanVecEnvWrapper):
    """Shows only the square of cells around the agent."""

    def __init__(self, vec_env: PlanVecEnv, side: int) -> None:
        """Args:
            vec_env: The set to wrap, which this one then owns; its observations are maps.
            side: Cells along the square that is shown, odd.

        Raises:
            ValueError: If `side` is even or below 1, or the observations are no maps.
        """
        super().__init__(vec_env)
        if side < 1 or side % 2 == 0:
            raise ValueError(
                f"the square around the agent that stays in sight must have an odd number of cells "
                f"along its side, got {side}."
            )
        missing = [name for name in (*_UNSEEN, _PLACE) if name not in vec_env.observation_spec]
        if missing:
            raise ValueError(
                f"only maps can be hidden, and {vec_env.env_names[0]} shows none (there is no "
                f"{', no '.join(missing)}); leave the blind policies out."
            )
        self.side = side
        self._unseen = _UNSEEN | {_SYMBOLS: blank_symbol(vec_env.env_names)}

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`."""
        chunk = self.vec_env.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)
        return replace(
            chunk,
            observations=self._shown(chunk.observations),
            final_observations=self._shown(chunk.final_observations),
        )

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        height, width = observations["terrain"].shape[-2:]
        place = observations[_PLACE].astype(np.int64)
        rows = np.abs(np.arange(height) - place[..., :1]) <= self.side // 2
        columns = np.abs(np.arange(width) - place[..., 1:]) <= self.side // 2
        near = rows[..., :, None] & columns[..., None, :]
        hidden = {
            name: np.where(near, observations[name], observations[name].dtype.type(value))
            for name, value in self._unseen.items()
            if name in observations
        }
        return observations | hidden


def blank_symbol(env_names: Sequence[str]) -> int:
    """What `glyphs` shows of cells never seen: NetHack's stone, and UNKNOWN in other maps."""
    if all(env_target(name).startswith("remdm.envs.minihack:") for name in env_names):
        return int(import_extra("nle.nethack", "minihack").GLYPH_CMAP_OFF)
    return int(Terrain.UNKNOWN)
