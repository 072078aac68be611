"""Craftax steps per second in plan chunks, against a bare scan and one that resets itself.

All three run random actions in as many worlds. Ours packs the observation before every step, stops
worlds whose life is over, and hands everything to torch without a copy: what is seen now as
`CraftaxVecEnv.tensors`, the arrays of the chunk through DLPack as well. The bare scan returns the
game's own observations; the last one is how the baselines run it, with a reset inside of every
step.
"""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.harness import options, report, summarize
from remdm.envs.craftax.game import CLASSIC, GAME_NAMES, Game, load_game
from remdm.envs.craftax.vec_env import CraftaxVecEnv
from remdm.registry import import_extra


def timed(run: Callable[[int], Any], steps: int, repeats: int) -> float:
    """Steps per second: the median over repeats of one call each, after one that compiles."""
    run(0)
    seconds = []
    for repeat in range(1, repeats + 1):
        start = time.perf_counter()
        run(repeat)
        seconds.append(time.perf_counter() - start)
    return steps / summarize(seconds).median


def ours(name: str, worlds: int, num_steps: int, chunks: int, repeats: int) -> float:
    """`execute` with everything delivered to torch; resets happen outside of the clock's turns."""
    actions = len(load_game(name).action_names)
    with closing(CraftaxVecEnv([name] * worlds)) as envs:
        envs.reset(list(range(worlds)))

        def run(turn: int) -> None:
            rng = np.random.default_rng(turn)
            for _ in range(chunks):
                chunk = envs.execute(rng.integers(actions, size=(worlds, num_steps)), num_steps)
                _ = envs.tensors
                for array in (*chunk.observations.values(), chunk.rewards):
                    torch.from_dlpack(array)
                over = np.flatnonzero(chunk.done)
                if len(over):
                    envs.reset((1000 + over).tolist(), over.tolist())

        return timed(run, worlds * num_steps * chunks, repeats)


def bare(
    game: Game, step: Callable[..., Any], state: Any, worlds: int, num_steps: int, chunks: int
) -> Callable[[int], None]:
    """A scan over the game's own step; worlds that end go on as they are."""
    actions = len(game.action_names)

    @jax.jit
    def scan(state: Any, key: jax.Array) -> Any:
        def advance(state: Any, key: jax.Array) -> Any:
            chosen = jax.random.randint(key, (worlds,), 0, actions)
            keys = jax.random.split(key, worlds)
            seen, state, reward, done, _ = jax.vmap(step, (0, 0, 0, None))(
                keys, state, chosen, game.params
            )
            return state, (seen, reward, done)

        return jax.lax.scan(advance, state, jax.random.split(key, num_steps))

    kept = [state]

    def run(turn: int) -> None:
        for chunk in range(chunks):
            key = jax.random.fold_in(jax.random.PRNGKey(turn), chunk)
            kept[0], made = scan(kept[0], key)
            jax.block_until_ready(made)

    return run


def compare(name: str, worlds: int, num_steps: int, chunks: int, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    game = load_game(name)
    make = import_extra("craftax.craftax_env", "craftax").make_craftax_env_from_name
    resetting = make(name, auto_reset=True)
    keys = jax.random.split(jax.random.PRNGKey(0), worlds)
    _, state = jax.jit(jax.vmap(game.env.reset_env, (0, None)))(keys, game.params)
    state = jax.tree.map(lambda x: jax.lax.convert_element_type(jnp.asarray(x), x.dtype), state)
    steps = worlds * num_steps
    mine = ours(name, worlds, num_steps, chunks, repeats)
    scan = partial(bare, game, worlds=worlds, num_steps=num_steps)
    reference = timed(scan(game.env.step_env, state, chunks=chunks), steps * chunks, repeats)
    # So slow that one chunk is enough.
    reset = timed(scan(resetting.step, state, chunks=1), steps, min(repeats, 3))
    return {
        "game": name,
        "worlds": worlds,
        "ours, steps/s": mine,
        "bare scan, steps/s": reference,
        "auto-reset scan, steps/s": reset,
        "of the bare scan": mine / reference,
        "times the auto-reset scan": mine / reset,
    }


def main() -> None:
    args = options(__doc__, worlds=64, num_steps=16)
    chunks, repeats = (4, 3) if args.quick else (20, 5)
    names = (CLASSIC,) if args.quick else GAME_NAMES
    rows = [compare(name, args.worlds, args.num_steps, chunks, repeats) for name in names]
    first = rows[0]
    line = {
        "name": "craftax_step",
        "value": round(first["ours, steps/s"]),
        "unit": "steps/s",
        "reference": "lax.scan of the game's own step",
        "reference_value": round(first["bare scan, steps/s"]),
        "ratio": round(first["of the bare scan"], 2),
        "auto_reset_ratio": round(first["times the auto-reset scan"], 1),
        "games": {row["game"]: round(row["of the bare scan"], 2) for row in rows},
    }
    report(rows, line, args.json)


if __name__ == "__main__":
    main()
