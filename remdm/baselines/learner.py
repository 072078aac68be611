"""What every baseline is to the rest: weights, somebody who acts by them, and a way to train."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
from torch import nn

from remdm.baselines.features import ENCODERS, MapFeatures
from remdm.baselines.vec_env import observation_space
from remdm.baselines.watch import Watch
from remdm.envs.contract import EnvKind
from remdm.evaluation.policies import Policy
from remdm.training.settings import ExperimentSettings


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be learnt, and with which eyes.

    Attributes:
        settings: Environments, seed, budget and how to measure, as of any run.
        kind: Actions and observations of the environments.
        features_type: Makes the encoder.
        device: Where nets are.
        folder: Of the run.
    """

    settings: ExperimentSettings
    kind: EnvKind
    features_type: type[MapFeatures]
    device: torch.device
    folder: Path

    @property
    def low_precision(self) -> bool:
        """Whether encoders run in bfloat16."""
        return self.settings.mixed_precision == "bf16"

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        """What the encoder reads."""
        return observation_space(self.kind.observation_spec, self.features_type.keys)

    @property
    def budget(self) -> int:
        """Env steps that may be spent."""
        assert self.settings.total_timesteps is not None
        return self.settings.total_timesteps

    @property
    def features_arguments(self) -> dict[str, Any]:
        """What the encoder is made with, besides `observation_space`."""
        return {
            "observation_spec": self.kind.observation_spec,
            "low_precision": self.low_precision,
        }

    def features(self) -> MapFeatures:
        """A new encoder."""
        return self.features_type(self.observation_space, **self.features_arguments)


def features_type(encoder: str) -> type[MapFeatures]:
    """The class of the encoder called so.

    Raises:
        ValueError: If there is none; offers the nearest names.
    """
    found: type[MapFeatures] = ENCODERS.get(encoder)
    return found


class Learner(ABC):
    """A baseline.

    Attributes:
        task: What it learns.
        module: All its weights.
    """

    task: Task
    module: nn.Module

    @abstractmethod
    def actor(self, generator: torch.Generator, *, greedy: bool, name: str) -> Policy:
        """Who acts by the weights of `module`, as they are at every plan.

        Args:
            generator: Draws the actions.
            greedy: Take the likeliest action instead.
            name: For tables.
        """

    @abstractmethod
    def train(self, watch: Watch) -> bool:
        """Spend the budget; returns whether it is spent (and not stopped before)."""
