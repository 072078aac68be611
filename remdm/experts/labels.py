"""What an expert would do: its next action at every visited state, and whole plans by branching.

A plan that strings together the expert's actions along a life that others led is none it ever had:
its second token is what the expert does in a state that its first would not have led to. A branched
plan is made by the expert itself, in a copy of the world and with a copy of its memory.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from remdm.envs.craftax.worlds import Worlds
from remdm.experts.policy import Expert
from remdm.experts.rollout import act
from remdm.tokens import end_token


class Tutor:
    """An expert that labels; its functions are compiled once."""

    def __init__(self, expert: Expert, *, temperature: float = 0.0) -> None:
        """Args:
            expert: Who knows what to do.
            temperature: Divides the logits when an action is drawn; 0 takes the likeliest.

        Raises:
            ValueError: If `temperature` is negative.
        """
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        self.expert = expert
        self.temperature = temperature

    def memory(self, rows: int) -> jax.Array:
        """What the expert remembers of `rows` lives that begin, float32 [rows, width]."""
        return jnp.zeros((rows, self.expert.width))

    @partial(jax.jit, static_argnums=(0, 5))
    def plans(
        self,
        worlds: Worlds,
        memory: jax.Array,
        begins: jax.Array,
        key: jax.Array,
        plan_horizon: int,
    ) -> jax.Array:
        """The plan that the expert carries out from here.

        Args:
            worlds: N of them; they stay as they are.
            memory: float32 [N, width]: of each life so far, without what is seen now.
            begins: bool [N]: what is seen now is the first of a life.
            key: Draws the actions, if any are drawn.
            plan_horizon: Tokens per plan H.

        Returns:
            int32 [N, H]: actions until the life ends, then END; all END where it is over.
        """
        game = self.expert.runner.game
        end = end_token(len(game.action_names))
        caps = jnp.full(len(worlds), game.max_episode_steps, jnp.int32)

        def advance(
            carry: tuple[Worlds, jax.Array, jax.Array], key: jax.Array
        ) -> tuple[tuple[Worlds, jax.Array, jax.Array], jax.Array]:
            worlds, memory, begins = carry
            memory, logits = self.expert.logits(memory, worlds, begins)
            actions = self._chosen(logits, key)
            after, _ = self.expert.runner.step(worlds, actions, caps)
            tokens = jnp.where(worlds.running, actions, end)
            return (after, memory, jnp.zeros_like(begins)), tokens

        keys = jax.random.split(key, plan_horizon)
        _, tokens = jax.lax.scan(advance, (worlds, memory, begins), keys)
        return tokens.T

    @partial(jax.jit, static_argnums=0)
    def follow(
        self,
        memory: jax.Array,
        packed: dict[str, jax.Array],
        begins: jax.Array,
        valid: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Look over the shoulders of lives that others lead.

        Args:
            memory: float32 [N, width]: of each life so far.
            packed: What was seen, by name [N, K, ...].
            begins: bool [N, K]: it was the first of a life.
            valid: bool [N, K]: the step was taken; a row's first ones, as in a chunk.
            key: Draws the actions, if any are drawn.

        Returns:
            The memory after the valid steps [N, width]; the expert's action at every step, int32
            [N, K]; and its logits, float32 [N, K, actions].
        """
        flat = self.expert.runner.game.codec.expand(packed)

        def advance(memory: jax.Array, step: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            seen, begin, taken = step
            net, params = self.expert.net, self.expert.params
            after, logits, _ = act(net, params, memory, seen[None], begin[None])
            return jnp.where(taken[:, None], after, memory), logits[0]

        steps = tuple(jnp.swapaxes(array, 0, 1) for array in (flat, begins, valid))
        memory, logits = jax.lax.scan(advance, memory, steps)
        logits = jnp.swapaxes(logits, 0, 1)
        return memory, self._chosen(logits, key), logits

    def _chosen(self, logits: jax.Array, key: jax.Array) -> jax.Array:
        """An action for each of the logits [..., actions], int32."""
        if self.temperature == 0:
            return logits.argmax(-1).astype(jnp.int32)
        return jax.random.categorical(key, logits / self.temperature).astype(jnp.int32)


def first_of_lives(steps_before: np.ndarray, num_steps: int) -> np.ndarray:
    """Which steps of a chunk are the first of a life, bool [N, K].

    Args:
        steps_before: int64 [N]: steps that each life had taken before the chunk.
        num_steps: K.
    """
    begins = np.zeros((len(steps_before), num_steps), bool)
    begins[:, 0] = steps_before == 0
    return begins
