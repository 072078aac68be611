"""A trained expert that acts: from a folder to a function of what is seen."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from remdm.envs.craftax.game import load_game
from remdm.envs.craftax.worlds import WorldRunner, Worlds, runner_of
from remdm.evaluation.lives import FirstLives
from remdm.experts.checkpoint import POLICY_FILE, expert_facts, load_tree
from remdm.experts.nets import POLICIES, Params
from remdm.experts.rollout import act
from remdm.registry import unknown_name_message
from remdm.training.checkpoint import CheckpointError


@dataclass(frozen=True, slots=True)
class Expert:
    """A policy and the game it is for.

    Attributes:
        net: One of `remdm.experts.nets.POLICIES`.
        params: Its parameters.
        runner: Of its game.
        width: Channels of its memory.
        facts: What its checkpoint says of it.
    """

    net: nn.Module
    params: Params
    runner: WorldRunner
    width: int
    facts: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, *, env_name: str | None = None) -> "Expert":
        """Read an expert.

        Args:
            folder: From `remdm.experts.checkpoint.save_expert`.
            env_name: Game that it has to be for.

        Raises:
            CheckpointError: If there is none, it is damaged, or it is for another game.
        """
        facts = expert_facts(folder)
        if env_name is not None and facts["env_name"] != env_name:
            raise CheckpointError(
                f"the expert in {folder} plays {facts['env_name']}, and {env_name} was asked for; "
                "train one with PPO.env_name or choose its game"
            )
        algorithm, width = facts["algorithm"], int(facts["width"])
        if algorithm not in POLICIES:
            raise CheckpointError(
                f"{folder}: " + unknown_name_message("algorithm", str(algorithm), POLICIES)
            )
        game = load_game(facts["env_name"])
        net = POLICIES[algorithm](len(game.action_names), width)
        like = jax.eval_shape(partial(blank_params, net, width, game.codec.flat_size))
        params = load_tree(folder / POLICY_FILE, like)
        return cls(net, params, runner_of(game.name), width, facts)

    def logits(
        self, hidden: jax.Array, worlds: Worlds, begins: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What it makes of N worlds.

        Args:
            hidden: float32 [N, width].
            worlds: Whose observations it sees.
            begins: bool [N]: the observation is the first of a life.

        Returns:
            The memory afterwards [N, width], and logits [N, actions].
        """
        flat = self.runner.game.codec.expand(worlds.observations)[None]
        hidden, logits, _ = act(self.net, self.params, hidden, flat, begins[None])
        return hidden, logits[0]


def blank_params(net: nn.Module, width: int, flat_size: int, seed: int = 0) -> Params:
    """Parameters of a net that has learnt nothing."""
    flat, begins = jnp.zeros((1, 1, flat_size)), jnp.zeros((1, 1), bool)
    return net.init(jax.random.PRNGKey(seed), jnp.zeros((1, width)), flat, begins)


def play_first_lives(
    expert: Expert,
    seeds: np.ndarray,
    *,
    max_steps: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> FirstLives:
    """Play the levels `seeds` until every life is over or `max_steps` long.

    Args:
        expert: Who plays.
        seeds: Level seeds, int64 [N].
        max_steps: Steps after which a life is left as it is.
        temperature: Divides the logits; 0 takes the likeliest action.
        seed: Of the actions.
    """
    stretch = 64
    run = jax.jit(partial(_stretch, expert, stretch, temperature))
    worlds = expert.runner.make_many(seeds)
    state = (worlds, jnp.zeros((len(seeds), expert.width)), jnp.zeros(len(seeds)))
    caps = np.full(len(seeds), max_steps, np.int32)
    begins, ended = jnp.ones(len(seeds), bool), jnp.zeros(len(seeds), bool)
    for turn in range(-(-max_steps // stretch)):
        key = jax.random.fold_in(jax.random.PRNGKey(seed), turn)
        state, ended_now = run(state, begins, caps, key)
        ended = ended | ended_now
        begins = jnp.zeros(len(seeds), bool)
        if not bool(state[0].running.any()):
            break
    return FirstLives(
        returns=np.asarray(state[2]),
        steps=np.asarray(state[0].steps).astype(np.int64),
        achievements=np.asarray(state[0].state.achievements).astype(bool),
        ended=np.asarray(ended),
    )


def _stretch(
    expert: Expert,
    num_steps: int,
    temperature: float,
    state: tuple[Worlds, jax.Array, jax.Array],
    begins: jax.Array,
    caps: jax.Array,
    key: jax.Array,
) -> tuple[tuple[Worlds, jax.Array, jax.Array], jax.Array]:
    """Some steps of all lives that are not over; and which of them ended."""

    def advance(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        worlds, hidden, returns, begins = carry
        hidden, logits = expert.logits(hidden, worlds, begins)
        drawn = jax.random.categorical(key, logits / max(temperature, 1e-8))
        actions = drawn if temperature > 0 else logits.argmax(-1)
        after, (rewards, terminated, _, _) = expert.runner.step(
            worlds, actions.astype(jnp.int32), caps
        )
        return (after, hidden, returns + rewards, jnp.zeros_like(begins)), terminated

    carry, ends = jax.lax.scan(advance, (*state, begins), jax.random.split(key, num_steps))
    return carry[:3], ends.any(0)
