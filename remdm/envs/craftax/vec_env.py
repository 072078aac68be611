"""Craftax as a `PlanVecEnv`: one compiled call runs a chunk of every row's plan."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import gin
import jax
import numpy as np

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.envs.craftax.game import load_game
from remdm.envs.craftax.worlds import Worlds, runner_of
from remdm.envs.rows import plan_tokens
from remdm.envs.sync import check_rows

if TYPE_CHECKING:
    import torch


@gin.configurable(module="remdm", denylist=["env_names"])
class CraftaxVecEnv(PlanVecEnv):
    """Many worlds of one game in this process.

    A move into something solid turns the agent, so no step counts as blocked, and there is no
    winning but by beating the full game's last boss. What a life achieved is in `achievements`.
    """

    def __init__(
        self,
        env_names: Sequence[str],
        *,
        max_episode_steps: int | Sequence[int | None] | None = None,
    ) -> None:
        """Args:
            env_names: One name per row, all the same.
            max_episode_steps: Steps after which a life is cut; the game's own limit when None.

        Raises:
            ValueError: If the names are unknown or differ.
            ImportError: If jax or craftax is missing.
        """
        if not env_names or len(set(env_names)) != 1:
            raise ValueError(
                f"all rows of a Craftax set must play the same game, got {sorted(set(env_names))}"
            )
        self.game = load_game(env_names[0])
        self.env_names = tuple(env_names)
        self.num_envs = len(env_names)
        self.num_actions = len(self.game.action_names)
        self.action_names = self.game.action_names
        self.observation_spec = self.game.codec.spec
        self.achievement_names = self.game.achievement_names
        self.max_return = self.game.max_return
        limits = max_episode_steps
        if limits is None or isinstance(limits, int):
            limits = [limits] * self.num_envs
        own = self.game.max_episode_steps
        self.max_episode_steps = tuple(own if cap is None else min(cap, own) for cap in limits)
        self._caps = np.array(self.max_episode_steps, np.int32)
        self._runner = runner_of(self.game.name)
        self._worlds: Worlds | None = None

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`; rows that were never started wait in level 0 and run nothing."""
        chosen = np.array(check_rows(seeds, rows, self.num_envs), np.int64)
        levels = np.array(seeds, np.int64)
        if self._worlds is None:
            waiting = np.zeros(self.num_envs, np.int64)
            waiting[chosen] = levels
            started = np.isin(np.arange(self.num_envs), chosen)
            self._worlds = replace(
                self._runner.make_many(waiting), running=jax.numpy.asarray(started)
            )
        else:
            self._worlds = self._runner.replace(self._worlds, chosen, levels)
        return self.observations

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`; nothing is ever blocked."""
        del stop_when_blocked
        tokens = plan_tokens(plans, self.num_envs, num_steps)[:, :num_steps].astype(np.int32)
        self._worlds, trace = self._runner.run(self.worlds, tokens, self._caps)
        ran = jax.tree.map(np.asarray, trace)
        return Chunk(
            observations=ran.observations,
            final_observations=self.observations,
            actions=tokens.astype(np.int64),
            rewards=ran.rewards,
            terminated=ran.terminated,
            truncated=ran.truncated,
            valid=ran.valid,
            won=ran.terminated.any(1) & self._beaten(),
            blocked=np.zeros(self.num_envs, bool),
        )

    @property
    def worlds(self) -> Worlds:
        """All that the rows are in; setting it goes back to an earlier moment.

        Raises:
            RuntimeError: If `reset` was never called.
        """
        if self._worlds is None:
            raise RuntimeError("there are no worlds before the first reset; call reset() first")
        return self._worlds

    @worlds.setter
    def worlds(self, worlds: Worlds) -> None:
        if len(worlds) != self.num_envs:
            raise ValueError(
                f"this set has {self.num_envs} rows, got {len(worlds)} worlds; choose as many with "
                "worlds.take(rows)"
            )
        self._worlds = worlds

    @property
    def observations(self) -> dict[str, np.ndarray]:
        """What every row sees now, by name [num_envs, ...]."""
        return {name: np.asarray(array) for name, array in self.worlds.observations.items()}

    @property
    def tensors(self) -> "dict[str, torch.Tensor]":
        """`observations` for torch, without a copy, on the device where JAX has computed them.

        They look into memory of JAX, whose arrays never change: nobody may write to them. No call
        here gives that memory away, so they keep showing this moment after later ones, and take
        room until the last of them is let go, also beyond `close`.

        Raises:
            RuntimeError: If `reset` was never called.
        """
        import torch  # by whoever needs it: the environments do without

        return {name: torch.from_dlpack(seen) for name, seen in self.worlds.observations.items()}

    @property
    def achievements(self) -> np.ndarray:
        """bool [num_envs, achievements]: unlocked in each row's life, also after its end."""
        return np.asarray(self.worlds.state.achievements).astype(bool)

    def _beaten(self) -> np.ndarray:
        """bool [num_envs]: the agent lives, so a life that has ended was won."""
        return np.asarray(self.worlds.state.player_health) > 0

    def close(self) -> None:
        """Let go of the worlds."""
        self._worlds = None
