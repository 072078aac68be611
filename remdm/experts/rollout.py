"""Experience for policy gradients: a policy acts in many worlds, and lives follow one another.

A life that ends goes on in a world from a pool that was made before, because making one inside of
every step would cost more than all else. More lives may end than the pool has worlds; then worlds
of the pool are used again.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from remdm.envs.craftax.worlds import WorldRunner, Worlds
from remdm.experts.nets import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Actors:
    """N worlds and the policy's memory of them.

    Attributes:
        worlds: Where they are.
        hidden: float32 [N, L]: the policy's state.
        begins: bool [N]: the next observation is the first of a life.
        returns: float32 [N]: of the life so far.
        pool_next: int32 []: the next world of the pool to be used.
    """

    worlds: Worlds
    hidden: jax.Array
    begins: jax.Array
    returns: jax.Array
    pool_next: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Lives:
    """Sums over the lives that ended in a stretch.

    Attributes:
        count: int32 [].
        returns: float32 [].
        steps: int32 [].
        achievements: int32 [achievements].
    """

    count: jax.Array
    returns: jax.Array
    steps: jax.Array
    achievements: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Experience:
    """T steps of N actors; all [T, N, ...].

    Attributes:
        packed: Observations before each step, by name.
        begins: bool: the observation is the first of a life.
        actions: int32.
        log_probs: float32: of the actions under the policy that acted.
        values: float32, with one axis more for several values.
        rewards: float32, with one axis more for several kinds of rewards.
        ends: bool: the life ended with the step; with the axes of `rewards`.
    """

    packed: dict[str, jax.Array]
    begins: jax.Array
    actions: jax.Array
    log_probs: jax.Array
    values: jax.Array
    rewards: jax.Array
    ends: jax.Array


def act(
    net: nn.Module, params: Params, hidden: jax.Array, flat: jax.Array, begins: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a policy makes of a stretch of time; see `remdm.experts.nets.ActorCriticRNN`."""
    made: tuple[jax.Array, jax.Array, jax.Array] = net.apply(params, hidden, flat, begins)  # type: ignore[assignment]
    return made


def new_actors(worlds: Worlds, width: int) -> Actors:
    """Actors at the beginning of their lives."""
    count = len(worlds)
    return Actors(
        worlds=worlds,
        hidden=jnp.zeros((count, width)),
        begins=jnp.ones(count, bool),
        returns=jnp.zeros(count),
        pool_next=jnp.zeros((), jnp.int32),
    )


def collect(
    net: nn.Module,
    params: Params,
    runner: WorldRunner,
    actors: Actors,
    pool: Worlds,
    caps: jax.Array | np.ndarray,
    key: jax.Array,
    num_steps: int,
) -> tuple[Actors, Experience, Lives]:
    """Let the policy act for `num_steps` steps; inside a compiled function.

    Args:
        net: One of `remdm.experts.nets.POLICIES`.
        params: Its parameters.
        runner: Of the game.
        actors: N of them.
        pool: Worlds for lives to go on in.
        caps: int32 [N]: steps after which a life is cut.
        key: Draws the actions.
        num_steps: T.
    """
    expand = runner.game.codec.expand

    def advance(actors: Actors, key: jax.Array) -> tuple[Actors, tuple[Experience, Lives]]:
        worlds = actors.worlds
        flat = expand(worlds.observations)[None]
        hidden, logits, values = act(net, params, actors.hidden, flat, actors.begins[None])
        actions = jax.random.categorical(key, logits[0]).astype(jnp.int32)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits[0]), actions[:, None], axis=1)[
            :, 0
        ]
        after, (rewards, terminated, truncated, _) = runner.step(worlds, actions, caps)
        ends = terminated | truncated
        returns = actors.returns + rewards
        achieved = after.state.achievements.astype(jnp.int32)
        lives = Lives(
            count=ends.sum(),
            returns=(returns * ends).sum(),
            steps=(after.steps * ends).sum(),
            achievements=(achieved * ends[:, None]).sum(0),
        )
        following = (actors.pool_next + jnp.cumsum(ends) - 1) % len(pool)
        after = jax.lax.cond(
            ends.any(), lambda w: _renewed(w, pool, ends, following), lambda w: w, after
        )
        step = Experience(
            packed=worlds.observations,
            begins=actors.begins,
            actions=actions,
            log_probs=log_probs,
            values=values[0],
            rewards=rewards,
            ends=ends,
        )
        moved = Actors(
            worlds=after,
            hidden=hidden,
            begins=ends,
            returns=jnp.where(ends, 0.0, returns),
            pool_next=(actors.pool_next + ends.sum()) % len(pool),
        )
        return moved, (step, lives)

    actors, (steps, lives) = jax.lax.scan(advance, actors, jax.random.split(key, num_steps))
    return actors, steps, jax.tree.map(lambda array: array.sum(0), lives)


def _renewed(worlds: Worlds, pool: Worlds, ends: jax.Array, following: jax.Array) -> Worlds:
    """`worlds` with those of the pool at `following` [N] where `ends` [N] is true."""

    def pick(old: jax.Array, fresh: jax.Array) -> jax.Array:
        where = ends.reshape(-1, *[1] * (old.ndim - 1))
        return jnp.where(where, fresh[following], old)

    return jax.tree.map(pick, worlds, pool)


def advantages(
    experience: Experience,
    last_values: jax.Array,
    *,
    gamma: float,
    lam: float,
) -> tuple[jax.Array, jax.Array]:
    """Generalised advantage estimation (arXiv 1506.02438) and the targets of the values.

    A life that was cut counts as ended, as in the baselines.

    Args:
        experience: T steps; rewards, values and ends have the same axes, and what is on a third
            one is kept apart.
        last_values: float32 [N, ...]: of what is seen after the last step.
        gamma: Discount.
        lam: Share of longer estimates.

    Returns:
        Two arrays float32 [T, N, ...].
    """

    def back(carry: tuple[Any, Any], step: tuple[Any, ...]) -> tuple[tuple[Any, Any], Any]:
        advantage, following = carry
        reward, value, ends = step
        goes_on = 1.0 - ends
        surprise = reward + gamma * following * goes_on - value
        advantage = surprise + gamma * lam * goes_on * advantage
        return (advantage, value), advantage

    steps = (experience.rewards, experience.values, experience.ends.astype(jnp.float32))
    start = (jnp.zeros_like(last_values), last_values)
    _, found = jax.lax.scan(back, start, steps, reverse=True)
    return found, found + experience.values
