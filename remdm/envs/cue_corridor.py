"""A corridor that asks for memory: a sign at its beginning, and doors at its end.

`CueCorridor-4x28-v0` has four signs and 28 steps between sign and doors. A sign is seen from the
first cell only. At the end there is a door for each sign; opening the right one wins (reward 1),
another one loses, and both end the episode. Nothing that is seen at the end tells which is right,
so who does not remember the first cell wins one time in four.
"""

import re

import gin
import numpy as np

from remdm.envs.contract import PlannerEnv, StepResult
from remdm.maps import ArraySpec

FORWARD = 0
SIGN, DOORS = "sign", "doors"
_NAME = re.compile(r"CueCorridor-(\d+)x(\d+)-v0")
# Steps beyond the shortest way before an episode is cut.
_PATIENCE = 16


@gin.configurable(module="remdm", denylist=["name"])
class CueCorridorEnv(PlannerEnv):
    """One corridor. Action 0 goes on; action i opens door i, from 1 on.

    Observations:
        sign uint8 [signs]: 1 at the sign of this episode in the first cell, else all 0.
        doors uint8 []: 1 in the last cell.
    """

    def __init__(self, name: str, *, max_episode_steps: int | None = None) -> None:
        """Args:
            name: `CueCorridor-<signs>x<steps>-v0`.
            max_episode_steps: Steps after which an episode is cut; a few more than are needed when
                None.

        Raises:
            ValueError: If the name or the number is out of place.
        """
        found = _NAME.fullmatch(name)
        signs, length = (int(number) for number in found.groups()) if found else (0, 0)
        if not 2 <= signs <= 100 or not 1 <= length <= 10_000:
            raise ValueError(
                f"a corridor is called CueCorridor-<signs>x<steps>-v0, with 2 to 100 signs and 1 "
                f"to 10000 steps, got {name!r}"
            )
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(
                f"max_episode_steps must be at least 1, got {max_episode_steps}; set "
                "CueCorridorEnv.max_episode_steps."
            )
        self.name, self.signs, self.length = name, signs, length
        self.num_actions = 1 + signs
        self.action_names = ("FORWARD", *(f"DOOR_{i}" for i in range(1, signs + 1)))
        self.observation_spec = {
            SIGN: ArraySpec((signs,), np.dtype(np.uint8)),
            DOORS: ArraySpec((), np.dtype(np.uint8)),
        }
        self.max_episode_steps = max_episode_steps or length + _PATIENCE
        self.sign, self.place, self.steps = 0, 0, 0
        self._running = False

    def reset(self, seed: int) -> None:
        """See `PlannerEnv.reset`."""
        self.sign = int(np.random.default_rng(seed).integers(self.signs))
        self.place, self.steps, self._running = 0, 0, True

    def step(self, action: int) -> StepResult:
        """See `PlannerEnv.step`."""
        if not self._running:
            raise RuntimeError("the episode is over, or never began; call reset(seed)")
        if not 0 <= action < self.num_actions:
            raise ValueError(f"an action is in 0..{self.num_actions - 1}, got {action}")
        self.steps += 1
        at_end = self.place == self.length
        opened = at_end and action != FORWARD
        won = opened and action == 1 + self.sign
        moves = not at_end and action == FORWARD
        self.place += int(moves)
        cut = not opened and self.steps >= self.max_episode_steps
        self._running = not (opened or cut)
        return StepResult(
            reward=float(won),
            terminated=opened,
            truncated=cut,
            won=won,
            blocked=not (moves or opened),
        )

    def observe(self, out: dict[str, np.ndarray]) -> None:
        """See `PlannerEnv.observe`."""
        out[SIGN][...] = 0
        if self.place == 0:
            out[SIGN][self.sign] = 1
        out[DOORS][...] = self.place == self.length
