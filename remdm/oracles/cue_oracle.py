"""Who walks through `remdm.envs.cue_corridor`, and has not forgotten the sign."""

from collections.abc import Sequence
from dataclasses import replace

import gin
import numpy as np

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.envs.cue_corridor import DOORS, FORWARD, SIGN
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.maps import ArraySpec
from remdm.oracles.contract import Oracle
from remdm.tokens import end_token

KNOWN = "oracle/door"


class KnownDoorVecEnv(PlanVecEnvWrapper):
    """Corridors beside which somebody notes the right door, in an array that no net reads.

    - `oracle/door` uint8: the action that opens it; 0 where no sign was seen.
    """

    def __init__(self, vec_env: PlanVecEnv) -> None:
        """Args:
        vec_env: Corridors.
        """
        super().__init__(vec_env)
        door = ArraySpec((), np.dtype(np.uint8))
        self.observation_spec = vec_env.observation_spec | {KNOWN: door}
        self._doors = np.zeros(self.num_envs, np.uint8)

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`; the sign is in sight now."""
        seen = self.vec_env.reset(seeds, rows)
        begun = slice(None) if rows is None else np.array(rows, np.int64)
        sign = seen[SIGN][begun]
        self._doors[begun] = np.where(sign.any(1), 1 + sign.argmax(1), 0)
        return self._shown(seen)

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`."""
        chunk = self.vec_env.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)
        doors = np.repeat(self._doors[:, None], chunk.valid.shape[1], 1)
        return replace(
            chunk,
            observations=chunk.observations | {KNOWN: doors},
            final_observations=self._shown(chunk.final_observations),
        )

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return observations | {KNOWN: self._doors.copy()}


@gin.configurable(module="remdm")
class CueOracle(Oracle):
    """Goes on for a whole plan, and opens the right door at the end.

    How far the end is cannot be seen, so plans go on until somebody runs into it.
    """

    name = "cue"

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.label`; weight 0 where nobody has seen the sign."""
        known = observations[KNOWN]
        at_end = observations[DOORS] > 0
        plans = np.full((len(known), plan_horizon), FORWARD, np.int8)
        plans[at_end] = end_token(1 + observations[SIGN].shape[1])
        plans[at_end, 0] = known[at_end]
        return plans, (known > 0).astype(np.float32)

    def accompany(self, vec_env: PlanVecEnv, plan_horizon: int) -> PlanVecEnv:
        """See `Oracle.accompany`.

        Raises:
            ValueError: If these are no corridors.
        """
        missing = [key for key in (SIGN, DOORS) if key not in vec_env.observation_spec]
        if missing:
            raise ValueError(
                f"CueOracle walks through corridors with the arrays {SIGN} and {DOORS}, and "
                f"{vec_env.env_names[0]} lacks {', '.join(missing)}; set Experiment.train_envs to "
                "CueCorridor-4x28-v0, or Experiment.oracle_type to another."
            )
        return KnownDoorVecEnv(vec_env)
