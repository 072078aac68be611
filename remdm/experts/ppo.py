"""PPO (arXiv 1707.06347) on Craftax, one compiled update; with a memory or a novelty bonus."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax

from remdm.envs.craftax.game import CLASSIC
from remdm.envs.craftax.worlds import Worlds, runner_of
from remdm.experts.nets import POLICIES, Params
from remdm.experts.rnd import RND, Novelty
from remdm.experts.rollout import Actors, Experience, Lives, act, advantages, collect, new_actors
from remdm.registry import unknown_name_message
from remdm.seeding import TRAINING_SEEDS


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Training:
    """All that a training is in; written down, it goes on as if it had not stopped.

    Attributes:
        params: Of the policy.
        optimiser: State of Adam.
        actors: Worlds and memories.
        key: Of all that is still to be drawn.
        updates: int32 []: updates done.
        novelty: What the bonus is made of; None without one.
    """

    params: Params
    optimiser: Any
    actors: Actors
    key: jax.Array
    updates: jax.Array
    novelty: Novelty | None = None


@gin.configurable(module="remdm")
class PPO:
    """Trains an expert. Defaults are those of Craftax_Baselines but for the smaller batch.

    Lives that end go on in worlds of a pool, which is what the baselines call optimistic resets.
    They make `num_envs / reset_ratio` worlds at every step, with a ratio of 16, and share them
    among lives if more than that end with the step. Here `pool_size` worlds are made for a whole
    update, and each is used once before any is used again; so lives share a world only if more
    than `pool_size` of them end in one update, of which `lives/count` tells.
    """

    def __init__(
        self,
        *,
        algorithm: str = "ppo_rnn",
        env_name: str = CLASSIC,
        total_timesteps: int = 10_000_000,
        num_envs: int = 256,
        num_steps: int = 64,
        update_epochs: int = 4,
        num_minibatches: int = 8,
        width: int = 512,
        learning_rate: float = 2e-4,
        anneal: bool = True,
        gamma: float = 0.99,
        gae_lambda: float = 0.8,
        clip: float = 0.2,
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        grad_clip: float = 1.0,
        pool_size: int = 64,
        max_episode_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        """Args:
            algorithm: "ppo", "ppo_rnn" with a memory, or "ppo_rnd" with a bonus for novelty,
                whose settings are those of `RND`.
            env_name: Game.
            total_timesteps: Env steps, rounded down to whole updates.
            num_envs: Worlds side by side.
            num_steps: Steps of each between updates.
            update_epochs: Passes over the experience.
            num_minibatches: Parts of a pass; must divide `num_envs`.
            width: Channels of the net.
            learning_rate: Of Adam, at the beginning.
            anneal: Let it fall linearly to 0.
            gamma: Discount.
            gae_lambda: Of the advantages.
            clip: Of the policy's ratio and of the value's change.
            value_weight: Of the value loss.
            entropy_weight: Of the entropy bonus.
            grad_clip: Largest norm of the gradient.
            pool_size: Worlds made before each update, for lives to go on in.
            max_episode_steps: Steps after which a life is cut; the game's own limit when None.
            seed: All randomness follows from it.

        Raises:
            ValueError: If a value makes no sense, or the steps are not enough for one update.
        """
        if algorithm not in POLICIES:
            raise ValueError(unknown_name_message("PPO.algorithm", algorithm, POLICIES))
        counts = {
            "num_envs": num_envs,
            "num_steps": num_steps,
            "update_epochs": update_epochs,
            "num_minibatches": num_minibatches,
            "width": width,
            "pool_size": pool_size,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}; set PPO.{name}.")
        if num_envs % num_minibatches:
            raise ValueError(
                f"num_minibatches must divide num_envs={num_envs}, since whole worlds go into a "
                f"part, got {num_minibatches}; set PPO.num_minibatches."
            )
        self.total_timesteps = total_timesteps
        self.frames_per_update = num_envs * num_steps
        self.num_updates = total_timesteps // self.frames_per_update
        if not self.num_updates:
            raise ValueError(
                f"total_timesteps={total_timesteps} is less than one update of num_envs * "
                f"num_steps = {self.frames_per_update} steps; set PPO.total_timesteps."
            )
        self.algorithm, self.env_name, self.seed = algorithm, env_name, seed
        self.num_envs, self.num_steps, self.width = num_envs, num_steps, width
        self.update_epochs, self.num_minibatches = update_epochs, num_minibatches
        self.gamma, self.gae_lambda, self.clip = gamma, gae_lambda, clip
        self.value_weight, self.entropy_weight = value_weight, entropy_weight
        self.pool_size = pool_size
        self.runner = runner_of(env_name)
        game = self.runner.game
        self.rnd: RND | None = None
        if algorithm == "ppo_rnd":
            self.rnd = RND(game.codec, num_minibatches, grad_clip)
        self._settings = (
            algorithm, env_name, total_timesteps, num_envs, num_steps, update_epochs,
            num_minibatches, width, learning_rate, anneal, gamma, gae_lambda, clip, value_weight,
            entropy_weight, grad_clip, pool_size, max_episode_steps, seed,
            self.rnd.settings if self.rnd else None,
        )  # fmt: skip
        cap = max_episode_steps or game.max_episode_steps
        self.caps = np.full(num_envs, min(cap, game.max_episode_steps), np.int32)
        self.net = POLICIES[algorithm](len(game.action_names), width)
        rate: Any = learning_rate
        if anneal:
            steps = self.num_updates * update_epochs * num_minibatches
            rate = optax.linear_schedule(learning_rate, 0.0, steps)
        self.optimiser = optax.chain(
            optax.clip_by_global_norm(grad_clip), optax.adam(rate, eps=1e-5)
        )

    def __eq__(self, other: object) -> bool:
        """Equal settings share one compiled update."""
        return isinstance(other, PPO) and self._settings == other._settings

    def __hash__(self) -> int:
        """See `__eq__`."""
        return hash(self._settings)

    @property
    def rounding(self) -> str:
        """What the budget comes to, in words."""
        whole = self.num_updates * self.frames_per_update
        cut = f" (total_timesteps={self.total_timesteps:,} rounded down)"
        return (
            f"{self.num_updates:,} updates of {self.frames_per_update:,} env steps: {whole:,}"
            + cut * (whole != self.total_timesteps)
        )

    @property
    def recurrent(self) -> bool:
        """Whether the policy has a memory."""
        return self.algorithm == "ppo_rnn"

    def start(self) -> Training:
        """A training that has not begun."""
        key, for_net = jax.random.split(jax.random.PRNGKey(self.seed))
        flat = jnp.zeros((1, 1, self.runner.game.codec.flat_size))
        params = self.net.init(for_net, jnp.zeros((1, self.width)), flat, jnp.zeros((1, 1), bool))
        worlds = self.runner.make_many(self._levels(0, self.num_envs))
        novelty = None
        if self.rnd is not None:
            key, for_novelty = jax.random.split(key)
            novelty = self.rnd.start(for_novelty)
        return Training(
            params=params,
            optimiser=self.optimiser.init(params),
            actors=new_actors(worlds, self.width),
            key=key,
            updates=jnp.zeros((), jnp.int32),
            novelty=novelty,
        )

    def _levels(self, first: int, count: int) -> np.ndarray:
        """Level seeds number `first` and following of this training, int64 [count]."""
        rng = np.random.default_rng(self.seed)
        start = int(rng.integers(len(TRAINING_SEEDS)))
        return TRAINING_SEEDS.start + (start + first + np.arange(count)) % len(TRAINING_SEEDS)

    def pool(self, updates: int) -> Worlds:
        """The worlds that lives go on in during update number `updates`, from 0."""
        first = self.num_envs + updates * self.pool_size
        return self.runner.make_many(self._levels(first, self.pool_size))

    def advance(self, training: Training) -> tuple[Training, dict[str, jax.Array], Lives]:
        """One update: experience, advantages, and some passes over them.

        Returns:
            The training after it, scalars to log, and the lives that ended.
        """
        return self._advance(training, self.pool(int(training.updates)))

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _advance(
        self, training: Training, pool: Worlds
    ) -> tuple[Training, dict[str, jax.Array], Lives]:
        key, for_actions, for_batches = jax.random.split(training.key, 3)
        began, novelty = training.actors, training.novelty
        actors, experience, lives = collect(
            self.net,
            training.params,
            self.runner,
            began,
            pool,
            self.caps,
            for_actions,
            self.num_steps,
        )
        rewarded = experience
        of_bonus: dict[str, jax.Array] = {}
        if self.rnd is not None:
            assert novelty is not None  # `start` made it
            key, for_novelty = jax.random.split(key)
            novelty, rewarded, of_bonus = self.rnd.advance(
                novelty, experience, actors.worlds.observations, for_novelty
            )
        data = (began.hidden, experience, *self._judged(training.params, rewarded, actors))

        def epoch(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            return jax.lax.scan(self._minibatch, carry, self._parts(data, key))

        carry = training.params, training.optimiser
        keys = jax.random.split(for_batches, self.update_epochs)
        (params, optimiser), scalars = jax.lax.scan(epoch, carry, keys)
        after = Training(params, optimiser, actors, key, training.updates + 1, novelty)
        return after, jax.tree.map(jnp.mean, scalars) | of_bonus, lives

    def _judged(
        self, params: Params, rewarded: Experience, actors: Actors
    ) -> tuple[jax.Array, jax.Array]:
        """Advantages [T, N] and targets of the values, of an experience that `actors` ended in."""
        flat = self.runner.game.codec.expand(actors.worlds.observations)[None]
        _, _, last = act(self.net, params, actors.hidden, flat, actors.begins[None])
        gained, targets = advantages(rewarded, last[0], gamma=self.gamma, lam=self.gae_lambda)
        return gained if self.rnd is None else self.rnd.joined(gained), targets

    def _parts(self, data: Any, key: jax.Array) -> Any:
        """Shuffled minibatches, the first axis: whole worlds, so that memories stay whole.

        A policy without a memory gets every step as a world of its own.
        """
        hidden, *rest = data
        if not self.recurrent:
            hidden = jnp.zeros((self.frames_per_update, 1))
            rest = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), rest)
        order = jax.random.permutation(key, len(hidden))

        def split(array: jax.Array, axis: int) -> jax.Array:
            mixed = jnp.take(array, order, axis)
            shape = (*mixed.shape[:axis], self.num_minibatches, -1, *mixed.shape[axis + 1 :])
            return jnp.moveaxis(mixed.reshape(shape), axis, 0)

        return split(hidden, 0), *jax.tree.map(partial(split, axis=1), rest)

    def _minibatch(self, carry: Any, part: Any) -> tuple[Any, dict[str, jax.Array]]:
        params, optimiser = carry
        (_, scalars), gradient = jax.value_and_grad(self._loss, has_aux=True)(params, *part)
        change, optimiser = self.optimiser.update(gradient, optimiser, params)
        return (optax.apply_updates(params, change), optimiser), scalars

    def _loss(
        self,
        params: Params,
        hidden: jax.Array,
        experience: Experience,
        gained: jax.Array,
        targets: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Clipped objective, clipped value error and entropy bonus (equation 9).

        With several values, the value error is the sum of theirs.
        """
        flat = self.runner.game.codec.expand(experience.packed)
        _, logits, values = act(self.net, params, hidden, flat, experience.begins)
        log_law = jax.nn.log_softmax(logits)
        log_probs = jnp.take_along_axis(log_law, experience.actions[..., None], -1)[..., 0]
        ratio = jnp.exp(log_probs - experience.log_probs)
        gained = (gained - gained.mean()) / (gained.std() + 1e-8)
        held = jnp.clip(ratio, 1.0 - self.clip, 1.0 + self.clip)
        policy = -jnp.minimum(ratio * gained, held * gained).mean()
        moved = jnp.clip(values - experience.values, -self.clip, self.clip)
        errors = jnp.maximum((values - targets) ** 2, (experience.values + moved - targets) ** 2)
        value = 0.5 * errors.mean((0, 1)).sum()
        entropy = -(jnp.exp(log_law) * log_law).sum(-1).mean()
        loss = policy + self.value_weight * value - self.entropy_weight * entropy
        return loss, {"policy_loss": policy, "value_loss": value, "entropy": entropy}
