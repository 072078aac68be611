"""Worlds of one Craftax game, advanced together: the compiled functions behind `CraftaxVecEnv`.

What happens in a world depends on its level seed and the actions alone, never on its neighbours or
on the size of the batch: step `t` of level `s` draws from the key made of `s` and `t`. Nothing here
resets by itself. A reset inside a compiled step makes a whole new world for every world at every
step, to throw nearly all of them away; that costs twenty times the step.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from remdm.envs.craftax.game import Game, load_game

RESET_BATCH = 8  # worlds made by one call; more are made call after call
_WORLD, _STEPS = 0, 1  # what the two keys of a level are for


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Worlds:
    """N worlds as arrays; a value like any other, to be kept, copied and gone back to.

    Attributes:
        state: The game's own state, a tree of arrays [N, ...].
        keys: uint32 [N, 2]: key of each level's steps.
        steps: int32 [N]: steps taken.
        running: bool [N]: the life is not over.
        observations: What is seen now, by name [N, ...].
    """

    state: Any
    keys: jax.Array
    steps: jax.Array
    running: jax.Array
    observations: dict[str, jax.Array]

    def __len__(self) -> int:
        """Number of worlds."""
        return len(self.steps)

    def take(self, rows: jax.Array | np.ndarray) -> "Worlds":
        """Some of the worlds, any of them several times: branches that go on independently."""
        index = jnp.asarray(rows)
        return jax.tree.map(lambda array: array[index], self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Trace:
    """What K steps of N worlds did; all [N, K, ...].

    Attributes:
        observations: What was seen before each step, by name.
        rewards: float32.
        terminated: bool: the life ended here, by death or by beating the game.
        truncated: bool: the time was up.
        valid: bool: the step was taken.
    """

    observations: dict[str, jax.Array]
    rewards: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array


def level_keys(seeds: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys of a level's world and of its steps.

    Args:
        seeds: uint32 [n, 2]: high and low half of each level seed.

    Returns:
        Two arrays uint32 [n, 2].
    """

    def one(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.PRNGKey(seed[0]), seed[1])
        return jax.random.fold_in(key, _WORLD), jax.random.fold_in(key, _STEPS)

    return jax.vmap(one)(seeds)


def seed_halves(seeds: np.ndarray) -> np.ndarray:
    """Level seeds int64 [n], at least 0, as uint32 [n, 2]."""
    return np.stack([seeds >> 32, seeds & 0xFFFFFFFF], -1).astype(np.uint32)


class WorldRunner:
    """The compiled functions of one game. Made once per game, because compiling takes seconds."""

    def __init__(self, game: Game) -> None:
        """Args:
        game: Whose worlds to run.
        """
        self.game = game

    @partial(jax.jit, static_argnums=0)
    def make(self, seeds: jax.Array) -> Worlds:
        """New worlds of the levels `seeds`, uint32 [n, 2] of `seed_halves`."""
        world_keys, step_keys = level_keys(seeds)
        flat, state = jax.vmap(self.game.env.reset_env, (0, None))(world_keys, self.game.params)
        count = len(seeds)
        return Worlds(
            # As a step leaves it: Python's numbers in a new state would make `run` compile again.
            state=jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state),
            keys=step_keys,
            steps=jnp.zeros(count, jnp.int32),
            running=jnp.ones(count, bool),
            observations=self.game.codec.encode(flat),
        )

    @partial(jax.jit, static_argnums=0)
    def put(self, worlds: Worlds, rows: jax.Array, new: Worlds, count: jax.Array) -> Worlds:
        """`worlds` with the first `count` worlds of `new` at `rows`, int32 [len(new)]."""
        index = jnp.where(jnp.arange(len(rows)) < count, rows, len(worlds.steps))
        return jax.tree.map(lambda old, fresh: old.at[index].set(fresh, mode="drop"), worlds, new)

    def make_many(self, seeds: np.ndarray) -> Worlds:
        """New worlds of the levels `seeds`, int64 [n], in calls of one compiled size."""
        halves = seed_halves(seeds)
        padding = -len(halves) % RESET_BATCH
        padded = np.concatenate([halves, np.zeros((padding, 2), np.uint32)])
        parts = [self.make(part) for part in np.split(padded, len(padded) // RESET_BATCH)]
        whole = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
        return jax.tree.map(lambda array: array[: len(seeds)], whole)

    def replace(self, worlds: Worlds, rows: np.ndarray, seeds: np.ndarray) -> Worlds:
        """`worlds` with new ones of the levels `seeds`, int64 [n], at `rows`, int64 [n]."""
        halves = seed_halves(seeds)
        for start in range(0, len(rows), RESET_BATCH):
            part = slice(start, start + RESET_BATCH)
            count = len(rows[part])
            index, half = np.zeros(RESET_BATCH, np.int32), np.zeros((RESET_BATCH, 2), np.uint32)
            index[:count], half[:count] = rows[part], halves[part]
            worlds = self.put(worlds, index, self.make(half), np.int32(count))
        return worlds

    def step(
        self, worlds: Worlds, actions: jax.Array, caps: jax.Array | np.ndarray
    ) -> tuple[Worlds, tuple[jax.Array, ...]]:
        """One step of the worlds that run and get an action; inside a compiled function.

        Args:
            worlds: N worlds.
            actions: int32 [N]; whatever is no action of the game leaves a world as it is.
            caps: int32 [N]: steps after which a life is truncated.

        Returns:
            The worlds after it; rewards float32, terminated, truncated, valid bool, all [N].
        """
        game = self.game
        valid = worlds.running & (actions >= 0) & (actions < game.env.num_actions)
        keys = jax.vmap(jax.random.fold_in)(worlds.keys, worlds.steps)
        flat, state, rewards, done, _ = jax.vmap(game.env.step_env, (0, 0, 0, None))(
            keys, worlds.state, jnp.where(valid, actions, 0), game.params
        )
        steps = worlds.steps + 1
        terminated = valid & done & (state.timestep < game.params.max_timesteps)
        truncated = valid & ~terminated & (done | (steps >= caps))
        after = Worlds(
            state=state,
            keys=worlds.keys,
            steps=steps,
            running=worlds.running & ~(terminated | truncated),
            observations=game.codec.encode(flat),
        )
        kept = jax.tree.map(partial(_choose, valid), after, worlds)
        return kept, (jnp.where(valid, rewards, 0.0), terminated, truncated, valid)

    @partial(jax.jit, static_argnums=0)
    def run(self, worlds: Worlds, plans: jax.Array, caps: jax.Array) -> tuple[Worlds, Trace]:
        """Run each world's plan until its first token that is no action, or its life's end.

        Args:
            worlds: N worlds.
            plans: int32 [N, K].
            caps: int32 [N]: steps after which a life is truncated.

        Returns:
            The worlds afterwards, and what happened.
        """
        acts = (plans >= 0) & (plans < self.game.env.num_actions)
        plans = jnp.where(jnp.cumprod(acts, 1).astype(bool), plans, -1)

        def advance(worlds: Worlds, actions: jax.Array) -> tuple[Worlds, Any]:
            after, results = self.step(worlds, actions, caps)
            return after, (worlds.observations, *results)

        worlds, steps = jax.lax.scan(advance, worlds, plans.T)
        return worlds, Trace(*jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), steps))


def _choose(where: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` in the rows where `where` [N] is true, `old` elsewhere."""
    return jnp.where(where.reshape(-1, *[1] * (new.ndim - 1)), new, old)


@lru_cache(maxsize=2)
def runner_of(name: str) -> WorldRunner:
    """The runner of the game called `name`; see `load_game` for what it raises."""
    return WorldRunner(load_game(name))
