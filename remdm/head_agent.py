"""A plain policy: a net, a head, one action. What DAgger trains where nobody needs plans."""

from collections.abc import Callable
from typing import Protocol

import gin
import numpy as np
import torch
from torch import Tensor, nn

from remdm.base_agent import BaseAgent, Observations
from remdm.continuation import Continuation
from remdm.data.batch import Batch
from remdm.diffusion import PlanSample
from remdm.envs.actions import Actions
from remdm.maps import ArraySpec
from remdm.nets.heads import CategoricalHead, GaussianHead, Head
from remdm.nets.mlp import MLP
from remdm.nets.threads import on_one_thread
from remdm.oracles.recorded import VECTOR


class FeatureNet(Protocol):
    """What `HeadAgent.net_type` makes, beside being an `nn.Module`.

    Attributes:
        observation_keys: Names of the observation arrays that it reads.
        width: Channels of the features [B, width] that its call returns.
    """

    observation_keys: tuple[str, ...]
    width: int

    def __call__(self, observations: dict[str, Tensor]) -> Tensor: ...  # noqa: D102


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions", "actions"])
class HeadAgent(BaseAgent):
    """A policy of single actions, learnt from an expert's (behaviour cloning, DAgger).

    Where actions are numbered it has a `CategoricalHead`, where they are vectors a `GaussianHead`,
    which learns from the expert's vectors in the observations.

    Attributes:
        net: Makes features of observations.
        head: Makes actions of features.
    """

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        actions: Actions | None = None,
        *,
        net_type: Callable[[dict[str, ArraySpec]], nn.Module] = MLP,
        deterministic: bool = True,
    ) -> None:
        """Args:
        observation_spec: Arrays of one observation.
        num_actions: Size of the action set.
        actions: What can be done, where actions are vectors; None where they are numbered.
        net_type: Class of the net; see `FeatureNet`. A class of your own needs
            `@gin.configurable` to be found again when a saved policy is loaded.
        deterministic: Play by the likeliest actions; while data is collected they are drawn.
        """
        super().__init__()
        self.num_actions = num_actions
        self.plan_horizon = self.replan_every = 1
        self.deterministic = deterministic
        self.net = net_type(observation_spec)
        made: FeatureNet = self.net  # type: ignore[assignment]
        self.observation_keys = tuple(made.observation_keys)
        self.head: Head
        if actions is None or actions.low is None or actions.high is None:
            self.head = CategoricalHead(made.width, num_actions)
        else:
            self.head = GaussianHead(made.width, actions.low, actions.high)
            self.label_keys = (VECTOR,)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """See `BaseAgent.loss`; that of the head."""
        features = self.net(self.on_device(batch.observations))
        if self.label_keys:
            wanted = batch.observations[VECTOR].to(features.device)
            return self.head.loss(features, wanted, batch.weights, batch.ranks)
        first = batch.plans[:, 0]
        weights = batch.weights * (first < self.num_actions)
        wanted = first.clamp(max=self.num_actions - 1)
        return self.head.loss(features, wanted, weights, batch.ranks)

    @on_one_thread
    @torch.inference_mode()
    def plan(
        self,
        observations: Observations,
        generator: torch.Generator,
        *,
        greedy: bool = False,
        collecting: bool = False,
        repeats: np.ndarray | None = None,
        continuation: Continuation | None = None,
    ) -> PlanSample:
        """See `BaseAgent.plan`; one token.

        Raises:
            ValueError: If an array is missing, or the net's features are not finite.
        """
        features = self.net(self.on_device(observations))
        if not bool(torch.isfinite(features).all()):
            raise ValueError(
                "the net's features are not finite; look at its weights and at the observations, "
                "or lower Experiment.learning_rate."
            )
        greedy = greedy or (self.deterministic and not collecting)
        drawn, log_prob = self.head.draw(features, generator, greedy=greedy)
        vectors = drawn if self.label_keys else None
        tokens = torch.zeros_like(drawn[:, 0], dtype=torch.int64) if self.label_keys else drawn
        return PlanSample(
            tokens=tokens[:, None],
            lengths=torch.ones_like(tokens),
            log_prob=log_prob,
            nfe=torch.ones_like(tokens),
            token_log_probs=log_prob[:, None],
            vectors=vectors,
        )
