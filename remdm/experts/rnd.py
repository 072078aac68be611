"""Random network distillation (arXiv 1810.12894): a reward for seeing what is new.

A net that is never trained, the target, makes features of an observation; another one, the
predictor, learns to foretell them from what is visited. Where it still errs, the policy has hardly
been. As in Craftax_Baselines, and unlike the paper, neither observations nor bonuses are
normalised, and the error is a mean over features. Unlike in the baselines, the return of bonuses
beyond the last step is estimated by the value of bonuses, where theirs takes the value of rewards.
"""

from dataclasses import dataclass, replace
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from remdm.envs.craftax.tiles import TileCodec
from remdm.experts.nets import Params
from remdm.experts.rollout import Experience


class FeatureNet(nn.Module):
    """Three ReLU layers and a linear one, with flax's own initial weights.

    Attributes:
        width: Channels inside.
        features: Numbers that come out.
    """

    width: int
    features: int

    @nn.compact
    def __call__(self, flat: jax.Array) -> jax.Array:
        """Features float32 [..., features] of observations float32 [..., D]."""
        for _ in range(3):
            flat = nn.relu(nn.Dense(self.width)(flat))
        return nn.Dense(self.features)(flat)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Novelty:
    """What is known of how new things are.

    Attributes:
        target: Parameters of the net that stays as it was made.
        predictor: Parameters of the net that learns its features.
        optimiser: State of the predictor's Adam.
    """

    target: Params
    predictor: Params
    optimiser: Any


@gin.configurable(module="remdm", denylist=["codec", "num_minibatches", "grad_clip"])
class RND:
    """The novelty bonus of `PPO.algorithm = "ppo_rnd"`. Defaults are those of the baselines."""

    def __init__(
        self,
        codec: TileCodec,
        num_minibatches: int,
        grad_clip: float,
        *,
        learning_rate: float = 3e-4,
        reward_weight: float = 1.0,
        loss_weight: float = 0.01,
        advantage_weight: float = 0.01,
        update_epochs: int = 1,
        width: int = 256,
        features: int = 512,
        episodic: bool = False,
    ) -> None:
        """Args:
            codec: Expands the observations.
            num_minibatches: Parts of a pass; must divide the steps of an update.
            grad_clip: Largest norm of the predictor's gradient.
            learning_rate: Of the predictor's Adam; it stays the same.
            reward_weight: Bonus for an error of one.
            loss_weight: Of the predictor's loss.
            advantage_weight: Of the bonuses' advantage beside that of the rewards.
            update_epochs: The predictor's passes over the experience of an update.
            width: Channels of both nets.
            features: Numbers that the predictor learns to foretell.
            episodic: Let the return of bonuses stop where a life ends. It goes on by default:
                death is then no loss of novelty, and what follows it counts.

        Raises:
            ValueError: If a value makes no sense.
        """
        counts = {"update_epochs": update_epochs, "width": width, "features": features}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}; set RND.{name}.")
        weights = {
            "learning_rate": learning_rate,
            "reward_weight": reward_weight,
            "loss_weight": loss_weight,
            "advantage_weight": advantage_weight,
        }
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name} must be at least 0, got {weight}; set RND.{name}.")
        self.codec, self.num_minibatches = codec, num_minibatches
        self.reward_weight, self.loss_weight = reward_weight, loss_weight
        self.advantage_weight, self.update_epochs = advantage_weight, update_epochs
        self.episodic = episodic
        self.settings = (*counts.values(), *weights.values(), episodic)
        self.sizes = {"width": width, "features": features}
        self.net = FeatureNet(width, features)
        self.optimiser = optax.chain(
            optax.clip_by_global_norm(grad_clip), optax.adam(learning_rate, eps=1e-5)
        )

    def start(self, key: jax.Array) -> Novelty:
        """Two nets that have nothing in common."""
        flat = jnp.zeros((1, self.codec.flat_size))
        target, predictor = (self.net.init(one, flat) for one in jax.random.split(key))
        return Novelty(target, predictor, self.optimiser.init(predictor))

    def advance(
        self,
        novelty: Novelty,
        experience: Experience,
        last: dict[str, jax.Array],
        key: jax.Array,
    ) -> tuple[Novelty, Experience, dict[str, jax.Array]]:
        """Give bonuses for an experience, then learn from it; inside a compiled function.

        Args:
            novelty: Before the experience.
            experience: T steps of N actors.
            last: Their observations after the last step, by name [N, ...].
            key: Draws the minibatches.

        Returns:
            Novelty after it, the experience with rewards as in `rewarded`, and scalars to log.
        """
        after = jax.tree.map(
            lambda steps, end: jnp.concatenate([steps[1:], end[None]]), experience.packed, last
        )
        visits = (after, experience.ends)
        # Step by step, since expanded observations of a whole update would fill the memory.
        errors = jax.lax.map(lambda step: self.errors(novelty, *step), visits)
        bonuses = self.reward_weight * errors
        novelty, losses = self.learn(novelty, visits, key)
        scalars = {"intrinsic_reward": bonuses.mean(), "rnd_loss": losses.mean()}
        return novelty, self.rewarded(experience, bonuses), scalars

    def errors(self, novelty: Novelty, packed: dict[str, jax.Array], ends: jax.Array) -> jax.Array:
        """How badly features are foretold (section 2.2).

        Args:
            novelty: With the predictor to be measured.
            packed: Observations after a step, by name [..., *].
            ends: bool [...]: a life ended with the step. What is seen then is no doing of the
                policy but another life's beginning, and its error counts as zero.

        Returns:
            float32 [...]: mean squared errors.
        """
        flat = self.codec.expand(packed)
        wanted: jax.Array = self.net.apply(novelty.target, flat)  # type: ignore[assignment]
        foretold: jax.Array = self.net.apply(novelty.predictor, flat)  # type: ignore[assignment]
        return jnp.square(wanted - foretold).mean(-1) * ~ends

    def learn(self, novelty: Novelty, visits: Any, key: jax.Array) -> tuple[Novelty, jax.Array]:
        """Some passes of the predictor over what was visited.

        Args:
            novelty: Before.
            visits: Arguments of `errors` for T steps of N actors.
            key: Draws the minibatches.

        Returns:
            Novelty after it, and the loss of each minibatch.
        """
        rows = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), visits)

        def epoch(novelty: Novelty, key: jax.Array) -> tuple[Novelty, jax.Array]:
            order = jax.random.permutation(key, rows[1].size).reshape(self.num_minibatches, -1)
            return jax.lax.scan(minibatch, novelty, order)

        def minibatch(novelty: Novelty, order: jax.Array) -> tuple[Novelty, jax.Array]:
            part = jax.tree.map(lambda array: array[order], rows)

            def loss(predictor: Params) -> jax.Array:
                errors = self.errors(replace(novelty, predictor=predictor), *part)
                return self.loss_weight * errors.mean()

            value, gradient = jax.value_and_grad(loss)(novelty.predictor)
            change, optimiser = self.optimiser.update(gradient, novelty.optimiser)
            predictor = optax.apply_updates(novelty.predictor, change)
            return Novelty(novelty.target, predictor, optimiser), value

        made: tuple[Novelty, jax.Array] = jax.lax.scan(
            epoch, novelty, jax.random.split(key, self.update_epochs)
        )
        return made

    def rewarded(self, experience: Experience, bonuses: jax.Array) -> Experience:
        """The experience with two kinds of rewards and of ends, the last axis (section 2.3).

        Args:
            experience: T steps of N actors.
            bonuses: float32 [T, N].

        Returns:
            The same with rewards and ends [T, N, 2], first those of the game.
        """
        ends = experience.ends if self.episodic else jnp.zeros_like(experience.ends)
        return replace(
            experience,
            rewards=jnp.stack([experience.rewards, bonuses], -1),
            ends=jnp.stack([experience.ends, ends], -1),
        )

    def joined(self, gained: jax.Array) -> jax.Array:
        """One advantage [T, N] from those of both kinds of rewards [T, N, 2]."""
        return gained[..., 0] + self.advantage_weight * gained[..., 1]
