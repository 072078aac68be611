"""Behaviour cloning: the likeliest action at each state of demonstrations that were won."""

import math
from typing import Any, cast

import gin
import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy

from remdm.baselines.actors import ActorCriticActor
from remdm.baselines.demonstration_set import DemonstrationSet
from remdm.baselines.learner import Learner, Task
from remdm.baselines.reinforcement import make_policy
from remdm.baselines.supervised import (
    SupervisedTraining,
    check_numbers,
    demonstrations_of,
    epochs_of,
)
from remdm.baselines.watch import Watch


@gin.configurable(module="remdm", denylist=["task"])
class BehaviourCloning(Learner):
    """The policy of `ppo`, trained on what the oracle did where it won."""

    def __init__(
        self,
        task: Task,
        *,
        epochs: float = 50,
        updates: int | None = None,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        grad_clip: float = 1.0,
    ) -> None:
        """Args:
        task: What to learn.
        epochs: How often each step is drawn.
        updates: Instead of `epochs`: updates of the weights.
        batch_size: Steps per update.
        learning_rate: Of AdamW, at first; a cosine leads to zero.
        grad_clip: Largest norm of the gradient.

        Raises:
            ValueError: If a number is not above 0.
        """
        check_numbers(
            "BehaviourCloning",
            epochs=epochs,
            updates=updates,
            batch_size=batch_size,
            learning_rate=learning_rate,
            grad_clip=grad_clip,
        )
        self.task, self.epochs, self.updates = task, epochs, updates
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.grad_clip = grad_clip
        self.module = make_policy(task, MultiInputActorCriticPolicy)

    def actor(self, generator: torch.Generator, *, greedy: bool, name: str) -> ActorCriticActor:
        """See `Learner.actor`."""
        return ActorCriticActor(
            self.module,
            self.task.kind.action_names,
            self.task.features_type.keys,
            generator,
            greedy=greedy,
            name=name,
        )

    def train(self, watch: Watch) -> bool:
        """See `Learner.train`."""
        found = demonstrations_of(self.task, watch.stop, keep_lost=False)
        if found is None:
            return False
        steps = won_steps(found)
        total = self.updates or math.ceil(self.epochs * len(steps) / self.batch_size)
        batches = epochs_of(len(steps), self.batch_size, total, self.task.settings.seed, "cloning")
        training = SupervisedTraining(self.module, self.learning_rate, self.grad_clip, total)
        return training.run(
            watch, found.env_steps, batches, lambda batch: self.loss(found, steps[batch])
        )

    def loss(self, found: DemonstrationSet, steps: np.ndarray) -> torch.Tensor:
        """Mean of -log p(action) over some steps."""
        policy = cast("ActorCriticPolicy", self.module)
        policy.set_training_mode(True)
        arrays: Any = found.observations(steps, self.task.features_type.keys)
        tensors, _ = policy.obs_to_tensor(arrays)
        actions = torch.from_numpy(found.actions[steps]).to(policy.device)
        _, log_prob, _ = policy.evaluate_actions(tensors, actions)
        return -log_prob.mean()


def won_steps(found: DemonstrationSet) -> np.ndarray:
    """int64: the steps of all episodes that were won.

    Raises:
        ValueError: If there are none.
    """
    won = found.episodes.of(found.episodes.won)
    if not len(won):
        raise ValueError(
            "no demonstration was won within the budget; raise Experiment.total_timesteps."
        )
    spans = zip(won.starts.tolist(), won.lengths.tolist(), strict=True)
    return np.concatenate([np.arange(start, start + length) for start, length in spans])
