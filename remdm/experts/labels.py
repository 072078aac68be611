"""What an expert would do: its next action at every visited state, and whole plans by branching.

A plan that strings together the expert's actions along a life that others led is none it ever had:
its second token is what the expert does in a state that its first would not have led to. A branched
plan is made by the expert itself, in a copy of the world and with a copy of its memory.

What an expert draws at step `t` of a level depends on the level and `t` alone, as the world does.
So a branched plan is exactly what the expert goes on to do, and asking again gives the same answer.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from remdm.envs.craftax.worlds import Worlds
from remdm.experts.policy import Expert
from remdm.experts.rollout import act
from remdm.tokens import end_token

_DRAWS = 0x5EED  # sets an expert's draws apart from those of the world's own steps


class Tutor:
    """An expert that labels; its functions are compiled once."""

    def __init__(self, expert: Expert, *, temperature: float = 0.0) -> None:
        """Args:
            expert: Who knows what to do.
            temperature: Divides the logits when an action is drawn; 0 takes the likeliest.

        Raises:
            ValueError: If `temperature` is negative.
        """
        check_temperature(temperature)
        self.expert = expert
        self.temperature = temperature

    def memory(self, rows: int) -> jax.Array:
        """What the expert remembers of `rows` lives that begin, float32 [rows, width]."""
        return jnp.zeros((rows, self.expert.width))

    @partial(jax.jit, static_argnums=(0, 3))
    def plans(self, worlds: Worlds, memory: jax.Array, plan_horizon: int) -> jax.Array:
        """The plan that the expert carries out from here.

        Args:
            worlds: N of them; they stay as they are.
            memory: float32 [N, width]: of each life so far, without what is seen now.
            plan_horizon: Tokens per plan H.

        Returns:
            int32 [N, H]: actions until the life ends, then END; all END where it is over.
        """
        game = self.expert.runner.game
        end = end_token(len(game.action_names))
        caps = jnp.full(len(worlds), game.max_episode_steps, jnp.int32)

        def advance(
            carry: tuple[Worlds, jax.Array], _: Any
        ) -> tuple[tuple[Worlds, jax.Array], jax.Array]:
            worlds, memory = carry
            memory, logits = self.expert.logits(memory, worlds, worlds.steps == 0)
            actions = self._chosen(logits, worlds.keys, worlds.steps)
            after, _ = self.expert.runner.step(worlds, actions, caps)
            return (after, memory), jnp.where(worlds.running, actions, end)

        _, tokens = jax.lax.scan(advance, (worlds, memory), None, length=plan_horizon)
        return tokens.T

    @partial(jax.jit, static_argnums=0)
    def follow(
        self,
        memory: jax.Array,
        before: Worlds,
        packed: dict[str, jax.Array],
        valid: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Look over the shoulders of lives that others lead.

        Args:
            memory: float32 [N, width]: of each life so far.
            before: The N worlds as they were before the first of the steps.
            packed: What was seen, by name [N, K, ...].
            valid: bool [N, K]: the step was taken; a row's first ones, as in a chunk.

        Returns:
            The memory after the valid steps [N, width]; the expert's action at every step, int32
            [N, K]; and its logits, float32 [N, K, actions].
        """
        flat = self.expert.runner.game.codec.expand(packed)

        def advance(
            carry: tuple[jax.Array, jax.Array], step: tuple[jax.Array, ...]
        ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
            memory, steps = carry
            seen, taken = step
            net, params = self.expert.net, self.expert.params
            after, logits, _ = act(net, params, memory, seen[None], (steps == 0)[None])
            actions = self._chosen(logits[0], before.keys, steps)
            kept = jnp.where(taken[:, None], after, memory)
            return (kept, steps + taken), (actions, logits[0])

        steps = tuple(jnp.swapaxes(array, 0, 1) for array in (flat, valid))
        (memory, _), (actions, logits) = jax.lax.scan(advance, (memory, before.steps), steps)
        return memory, actions.T, jnp.swapaxes(logits, 0, 1)

    def _chosen(self, logits: jax.Array, keys: jax.Array, steps: jax.Array) -> jax.Array:
        """An action of each of N lives at its step, int32 [N].

        Args:
            logits: float32 [N, actions].
            keys: uint32 [N, 2]: of the levels.
            steps: int32 [N].
        """
        if self.temperature == 0:
            return logits.argmax(-1).astype(jnp.int32)

        def draw(law: jax.Array, key: jax.Array, step: jax.Array) -> jax.Array:
            own = jax.random.fold_in(jax.random.fold_in(key, _DRAWS), step)
            return jax.random.categorical(own, law / self.temperature)

        return jax.vmap(draw)(logits, keys, steps).astype(jnp.int32)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless temperature >= 0."""
    if not temperature >= 0:
        raise ValueError(
            f"temperature must be at least 0, got {temperature}; set ExpertOracle.temperature."
        )
