"""Tiny Gymnasium environments whose right actions are known, and experts that know them."""

from typing import Any, ClassVar

import gin
import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from remdm.maps import ArraySpec

LENGTH = 6


class Echo(gymnasium.Env[Any, Any]):
    """Six steps; the reward is 1 for the action that the observation names, else 0."""

    observation_space = spaces.Dict(
        {
            "wanted": spaces.Discrete(3),
            "inner": spaces.Dict({"noise": spaces.Box(-1.0, 1.0, (2,), np.float64)}),
        }
    )
    action_space: spaces.Space[Any] = spaces.Discrete(3)

    def _seen(self) -> dict[str, Any]:
        self.wanted = int(self.np_random.integers(3))
        noise = self.np_random.uniform(-1, 1, 2)
        return {"wanted": self.wanted, "inner": {"noise": noise}}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def reward(self, action: Any) -> float:
        return float(action == self.wanted)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.reward(action)
        self.steps += 1
        return self._seen(), reward, self.steps == LENGTH, False, {"is_success": True}


class Follow(Echo):
    """The same with vectors: minus the squared distance to [wanted - 1, 1 - wanted]."""

    taken: ClassVar[list[np.ndarray]] = []

    def __init__(self) -> None:
        low, high = np.array([[-1.0, -2.0]]), np.array([[1.0, 2.0]])
        self.action_space = spaces.Box(low, high, dtype=np.float64)

    def reward(self, action: Any) -> float:
        assert self.action_space.contains(action)
        self.taken.append(action)
        wanted = self.wanted - 1.0
        return -float(np.square(action[0] - [wanted, -wanted]).sum())


class EchoExpert:
    """Says what the observation names; asked about many at once."""

    def __init__(self) -> None:
        self.asked = 0

    def act(self, obs: Any, deterministic: bool) -> np.ndarray:
        assert deterministic
        assert obs["inner"]["noise"].shape == (len(obs["wanted"]), 2)
        self.asked += len(obs["wanted"])
        return obs["wanted"]


class FollowExpert(EchoExpert):
    def act(self, obs: Any, deterministic: bool) -> np.ndarray:
        wanted = super().act(obs, deterministic) - 1.0
        return np.stack([wanted, -wanted], 1)[:, None]


class Predicting:
    """An expert of the form that models of Stable-Baselines3 have."""

    def predict(self, obs: Any, deterministic: bool = False) -> tuple[np.ndarray, None]:
        return EchoExpert().act(obs, deterministic), None


@gin.configurable(denylist=["observation_spec"])
class OneHot(nn.Module):
    """A net of a user: reads one array only."""

    observation_keys = ("wanted",)

    def __init__(self, observation_spec: dict[str, ArraySpec], *, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.layer = nn.Linear(3, width)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        hot = torch.nn.functional.one_hot(observations["wanted"].long(), 3).float()
        features: Tensor = torch.tanh(self.layer(hot))
        return features
