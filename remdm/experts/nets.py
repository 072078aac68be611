"""Policies of the Craftax experts, with the shapes and parameter names of Craftax_Baselines.

All read the game's own flat observation. Weights are orthogonal, biases zero, so that checkpoints
of the baselines load as they are and ours start as theirs did.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.initializers import constant, orthogonal

Params = Any  # a tree of arrays
ROOT_TWO = float(np.sqrt(2.0))


def _dense(features: int, scale: float) -> nn.Dense:
    return nn.Dense(features, kernel_init=orthogonal(scale), bias_init=constant(0.0))


class ScannedRNN(nn.Module):
    """A GRU over time that forgets where a life begins."""

    @partial(
        nn.scan,
        variable_broadcast="params",
        in_axes=0,
        out_axes=0,
        split_rngs={"params": False},
    )
    @nn.compact
    def __call__(
        self, hidden: jax.Array, inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """One step: hidden [B, L]; what comes in [B, L], and where a life begins, bool [B]."""
        embedding, begins = inputs
        hidden = jnp.where(begins[:, None], 0.0, hidden)
        # The name it has in the baselines, where another one only made the first state.
        return nn.GRUCell(hidden.shape[-1], name="GRUCell_1")(hidden, embedding)


class ActorCriticRNN(nn.Module):
    """Embedding, GRU, and two towers: the policy of PPO-RNN.

    Attributes:
        num_actions: Size of the action set.
        width: Channels L everywhere.
    """

    num_actions: int
    width: int

    @nn.compact
    def __call__(
        self, hidden: jax.Array, flat: jax.Array, begins: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A stretch of time.

        Args:
            hidden: float32 [B, L].
            flat: Observations float32 [T, B, D].
            begins: bool [T, B]: the observation is the first of a life.

        Returns:
            The state after the stretch [B, L], logits [T, B, A] and values [T, B].
        """
        width = self.width
        embedding = nn.relu(_dense(width, ROOT_TWO)(flat))
        hidden, embedding = ScannedRNN()(hidden, (embedding, begins))
        actor = nn.relu(_dense(width, 2.0)(embedding))
        actor = nn.relu(_dense(width, 2.0)(actor))
        logits = _dense(self.num_actions, 0.01)(actor)
        critic = nn.relu(_dense(width, 2.0)(embedding))
        critic = nn.relu(_dense(width, 2.0)(critic))
        return hidden, logits, _dense(1, 1.0)(critic)[..., 0]


def _tower(x: jax.Array, width: int, out: int, scale: float) -> jax.Array:
    for _ in range(3):
        x = nn.tanh(_dense(width, ROOT_TWO)(x))
    return _dense(out, scale)(x)


class ActorCritic(nn.Module):
    """Two towers of three tanh layers: the policy of PPO. It has no memory to carry.

    Attributes:
        num_actions: Size of the action set.
        width: Channels L everywhere.
        two_values: Also value what a novelty bonus will bring, as PPO-RND does.
    """

    num_actions: int
    width: int
    two_values: bool = False

    @nn.compact
    def __call__(
        self, hidden: jax.Array, flat: jax.Array, begins: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `ActorCriticRNN.__call__`; values are [T, B, 2] with `two_values`."""
        logits = _tower(flat, self.width, self.num_actions, 0.01)
        values = _tower(flat, self.width, 1, 1.0)[..., 0]
        if self.two_values:
            values = jnp.stack([values, _tower(flat, self.width, 1, 1.0)[..., 0]], -1)
        return hidden, logits, values


POLICIES: dict[str, Callable[[int, int], nn.Module]] = {
    "ppo": ActorCritic,
    "ppo_rnn": ActorCriticRNN,
    "ppo_rnd": partial(ActorCritic, two_values=True),
}
