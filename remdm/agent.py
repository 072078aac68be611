"""Agents: a loss to learn by, and a plan for an observation.

`BaseAgent` is what `Experiment` trains and what roll-outs ask. `DiffusionPlannerAgent` writes whole
plans by masked diffusion. The observation is encoded once per plan; every denoising step and, in
training, every corrupted draw of the plan reads that one encoding.
"""

from abc import ABC, abstractmethod
from typing import Any

import gin
import numpy as np
import torch
from torch import Tensor, nn

from remdm.data.batch import Batch
from remdm.diffusion import (
    CountMasking,
    LinearSchedule,
    MaskedLoss,
    NoiseSchedule,
    PlanSample,
    sampler_preset,
)
from remdm.diffusion.corruption import Corruption
from remdm.maps import ArraySpec
from remdm.nets.autocast import InferencePrecision
from remdm.nets.denoiser import Context, Denoiser, select_rows
from remdm.nets.ego import EgoDenoiser
from remdm.nets.threads import on_one_thread
from remdm.planning_constraints import allowed_first_actions, heat

Observations = dict[str, np.ndarray] | dict[str, Tensor]


class BaseAgent(nn.Module, ABC):
    """A network that learns from labelled observations and plans for new ones.

    Attributes:
        plan_horizon: Tokens per plan.
        replan_every: Actions of a plan that are executed before the next plan is made.
        num_actions: Size of the action set.
        observation_keys: Names of the observation arrays that `plan` and `loss` read.
        action_constraints: Whether plans keep to `planning_constraints.allowed_first_actions`.
        loop_breaker: Whether `plan` wants `repeats`.
    """

    plan_horizon: int
    replan_every: int
    num_actions: int
    observation_keys: tuple[str, ...]
    action_constraints: bool = False
    loop_breaker: bool = False

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """What training minimises.

        Args:
            batch: Labelled observations on this module's device.
            generator: Source of randomness.

        Returns:
            A scalar, and detached scalars to log.
        """

    @abstractmethod
    def plan(
        self,
        observations: Observations,
        generator: torch.Generator,
        *,
        greedy: bool = False,
        collecting: bool = False,
        repeats: np.ndarray | None = None,
    ) -> PlanSample:
        """Write a plan for each of N observations.

        Args:
            observations: By name [N, ...]; arrays that are not read may be missing.
            generator: Source of randomness; each row gets a stream of its own.
            greedy: Take the most likely tokens instead of drawing them.
            collecting: The plan is for collecting training data, not for playing.
            repeats: int64 [N]: plans already made in the same state, from
                `remdm.planning_constraints.PlanMemory.count`; read only by a loop breaker.

        Returns:
            N plans on this module's device.
        """

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, so that wrappers of a module's call (precision, processes) see it."""
        return self.loss(batch, generator)

    def heat(self, repeats: np.ndarray | None, device: torch.device) -> Tensor | None:
        """Factor on the temperature, float32 [N, 1, 1]; None without a loop breaker."""
        if repeats is None or not self.loop_breaker:
            return None
        return torch.from_numpy(heat(repeats)[:, None, None]).to(device)

    def first_token_mask(self, observations: Observations, device: torch.device) -> Tensor | None:
        """Classes allowed first, bool [N, num_actions + 1]; None without constraints."""
        if not self.action_constraints:
            return None
        arrays = {key: np.asarray(value) for key, value in observations.items()}
        allowed = allowed_first_actions(arrays)
        end = np.ones((len(allowed), 1), np.bool_)
        return torch.from_numpy(np.concatenate([allowed, end], 1)).to(device)

    def on_device(self, observations: Observations) -> dict[str, Tensor]:
        """The arrays this agent reads, as tensors beside its parameters.

        Raises:
            ValueError: If one is missing.
        """
        missing = [key for key in self.observation_keys if key not in observations]
        if missing:
            raise ValueError(
                f"{type(self).__name__} reads {', '.join(self.observation_keys)}; the observation "
                f"lacks {', '.join(missing)}. Choose another DiffusionPlannerAgent.denoiser_type."
            )
        device = next(self.parameters()).device
        return {key: _as_tensor(observations[key]).to(device) for key in self.observation_keys}


def _as_tensor(value: np.ndarray | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    # torch cannot wrap read-only or negatively strided memory.
    if not value.flags.writeable or not value.flags.c_contiguous:
        value = value.copy()
    return torch.from_numpy(value)


def check_replan_every(agent: str, replan_every: int, plan_horizon: int) -> None:
    """Raise ValueError unless 1 <= replan_every <= plan_horizon."""
    if not 1 <= replan_every <= plan_horizon:
        raise ValueError(
            f"replan_every must be in 1..plan_horizon={plan_horizon}, got {replan_every}; "
            f"set {agent}.replan_every lower or {agent}.plan_horizon higher."
        )


class PlanDenoiser:
    """The network as a sampler sees it: bound to the encoding of N observations."""

    def __init__(
        self,
        denoiser: Denoiser,
        context: Context,
        precision: InferencePrecision,
        heat: Tensor | None = None,
    ) -> None:
        """Args:
        denoiser: The network.
        context: Its encoding of N observations.
        precision: Of the calls.
        heat: float32 [N, 1, 1] extra factor on the sampler's temperature, or None.
        """
        self.denoiser = denoiser
        self.context = context
        self.precision = precision
        self.heat = heat
        self._rows: Tensor | None = None
        self._part: Context = ()
        self._part_heat = heat

    def __call__(self, tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        """See `remdm.diffusion.Denoise`."""
        if rows is not self._rows or not self._part:
            self._select(rows, self.precision.is_low(tokens.numel()))
        with self.precision.denoising(tokens.numel()):
            logits = self.denoiser.denoise(self._part, tokens, time)
        return logits if self._part_heat is None else logits / self._part_heat

    def _select(self, rows: Tensor | None, low: bool) -> None:
        """Keep the part of the encoding that the next calls read, in the precision they use."""
        self._rows = rows
        part, self._part_heat = self.context, self.heat
        if rows is not None:
            part = select_rows(part, rows)
            self._part_heat = None if self.heat is None else self.heat[rows]
        self._part = part if low else tuple(value.float() for value in part)


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions"])
class DiffusionPlannerAgent(BaseAgent):
    """Plans by denoising a row of MASK tokens; learns by filling in masked tokens of labels."""

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        *,
        plan_horizon: int = 16,
        replan_every: int = 4,
        denoiser_type: type[Denoiser] = EgoDenoiser,
        schedule_type: type[NoiseSchedule] = LinearSchedule,
        corruption_type: type[Corruption] = CountMasking,
        loss_type: type[MaskedLoss] = MaskedLoss,
        sampler: str = "default",
        sampler_collect: str = "default",
        sampler_greedy: str = "greedy",
        sampler_options: dict[str, Any] | None = None,
        sampler_collect_options: dict[str, Any] | None = None,
        action_constraints: bool = False,
        loop_breaker: bool = False,
        autocast_inference: str = "auto",
    ) -> None:
        """Args:
            observation_spec: Arrays of one observation.
            num_actions: Size of the action set.
            plan_horizon: Tokens per plan.
            replan_every: Actions executed before the next plan.
            denoiser_type: The network.
            schedule_type: Noise schedule; only nets and samplers with a time notice it.
            corruption_type: What is masked in training.
            loss_type: How the answers are scored.
            sampler: Preset that plans when playing; see `remdm.diffusion.preset_names`.
            sampler_collect: Preset that plans when collecting training data.
            sampler_greedy: Preset behind `plan(greedy=True)`.
            sampler_options: Knobs of `sampler` unlike the preset's, as {"temperature": 1.0}.
            sampler_collect_options: The same for `sampler_collect`.
            action_constraints: Never plan a first action that the remembered map rules out.
            loop_breaker: Plan more randomly each time the same state comes back.
            autocast_inference: "bfloat16", "off" or "auto": bfloat16 where the processor
                multiplies it fast and the batch is not tiny.

        Raises:
            ValueError: If `replan_every` is outside 1..plan_horizon or a name is unknown.
        """
        super().__init__()
        check_replan_every("DiffusionPlannerAgent", replan_every, plan_horizon)
        self.num_actions = num_actions
        self.plan_horizon = plan_horizon
        self.replan_every = replan_every
        # One token more than is executed: it directs a KICK or OPEN at the last executed place.
        self.window = min(replan_every + 1, plan_horizon)
        self.denoiser = denoiser_type(observation_spec, num_actions, plan_horizon)
        self.observation_keys = self.denoiser.observation_keys
        self.schedule = schedule_type()
        self.corruption = corruption_type(num_actions)
        self.masked_loss = loss_type(num_actions)
        self.sampler = sampler_preset(sampler, num_actions, **(sampler_options or {}))
        self.sampler_collect = sampler_preset(
            sampler_collect, num_actions, **(sampler_collect_options or {})
        )
        self.sampler_greedy = sampler_preset(sampler_greedy, num_actions)
        self.action_constraints = action_constraints
        self.loop_breaker = loop_breaker
        self.autocast_inference = InferencePrecision.checked(autocast_inference)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy on masked tokens of several corrupted draws per label; see `BaseAgent`."""
        observations = self.on_device(batch.observations)
        corrupted = self.corruption(batch.plans, self.schedule, generator)
        context = self.denoiser.encode(observations)
        logits = self.denoiser.denoise(context, corrupted.tokens, corrupted.time)
        loss, metrics = self.masked_loss(logits, batch.plans, corrupted, batch.weights)
        for name, value in self.denoiser.auxiliary_loss(context, observations).items():
            loss = loss + value
            metrics[name] = value.detach()
        return loss, metrics

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
    ) -> PlanSample:
        """See `BaseAgent.plan`."""
        tensors = self.on_device(observations)
        count = len(tensors[self.observation_keys[0]])
        device = tensors[self.observation_keys[0]].device
        if greedy:
            sampler = self.sampler_greedy
        else:
            sampler = self.sampler_collect if collecting else self.sampler
        precision = InferencePrecision(self.autocast_inference, device)
        with precision.encoding():
            context = self.denoiser.encode(tensors)
        return sampler.sample(
            PlanDenoiser(self.denoiser, context, precision, self.heat(repeats, device)),
            count,
            self.plan_horizon,
            generator,
            window=self.window,
            first_token_mask=self.first_token_mask(observations, device),
            allow_end=self.denoiser.predicts_end,
            device=device,
        )
