"""The planner: whole plans by masked diffusion.

The observation is encoded once per plan; every denoising step and, in training, every corrupted
draw of the plan reads that one encoding. How a plan hangs on what was executed before is told in
`remdm.anchors`; the rest of what a plan can be conditioned on is off unless a config asks for it.
"""

from dataclasses import replace
from typing import Any

import gin
import numpy as np
import torch
from torch import Tensor

from remdm.anchors import token_mask_behind, without_prefix
from remdm.base_agent import BaseAgent as BaseAgent
from remdm.base_agent import (
    DenoiserAgent,
    PlanRequest,
    check_history,
    check_replan_every,
    history_read,
)
from remdm.base_agent import Observations as Observations
from remdm.conditioning import (
    behind_past,
    check_anchor,
    check_conditioning,
    check_stretch,
    dropped,
    hazards,
    joined,
    usable_start,
)
from remdm.data.batch import Batch
from remdm.diffusion import (
    CountMasking,
    LinearSchedule,
    MaskedLoss,
    NoiseSchedule,
    PlanSample,
    Sampler,
    make_sampler,
    plan_nelbo,
)
from remdm.diffusion.candidates import best_of
from remdm.diffusion.classes import end_class, tokens_to_classes
from remdm.diffusion.corruption import Corruption, nelbo_masking
from remdm.diffusion.guidance import Guidance
from remdm.diffusion.interface import Denoise, NonFiniteLogitsError
from remdm.diffusion.scorers import Scorer
from remdm.diffusion.warm_start import WarmStart
from remdm.maps import ArraySpec, history_spec
from remdm.nets.autocast import InferencePrecision
from remdm.nets.compiled import CompiledDenoise
from remdm.nets.denoiser import OFFSET_KEY, Denoiser
from remdm.nets.diagnosis import first_fault
from remdm.nets.ego import EgoDenoiser
from remdm.outputs import Outputs
from remdm.plan_denoiser import PlanDenoiser as PlanDenoiser
from remdm.soft_targets import LOGITS_KEY, check_soft_targets, soft_target_loss
from remdm.token_masks import counted
from remdm.tokens import mask_token


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions"])
class DiffusionPlannerAgent(DenoiserAgent):
    """Plans by denoising a row of MASK tokens; learns by filling in masked tokens of labels."""

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        *,
        plan_horizon: int = 16,
        replan_every: int = 4,
        replan_every_collect: int | None = None,
        denoiser_type: type[Denoiser] = EgoDenoiser,
        schedule_type: type[NoiseSchedule] = LinearSchedule,
        corruption_type: type[Corruption] = CountMasking,
        loss_type: type[MaskedLoss] = MaskedLoss,
        sampler: str | type[Sampler] = "default",
        sampler_collect: str | type[Sampler] = "default",
        sampler_greedy: str | type[Sampler] = "greedy",
        sampler_options: dict[str, Any] | None = None,
        sampler_collect_options: dict[str, Any] | None = None,
        inpaint_anchor: str = "none",
        aligned_share: float = 0.5,
        history: int = 0,
        soft_target_weight: float = 0.0,
        condition_dropout: float = 0.0,
        guidance_type: type[Guidance] | None = None,
        candidates: int = 1,
        scorer_type: type[Scorer] | None = None,
        warm_start_type: type[WarmStart] | None = None,
        physics_penalty: bool = False,
        action_constraints: bool = False,
        loop_breaker: bool = False,
        autocast_inference: str = "auto",
        compile_denoise: bool = False,
    ) -> None:
        """Args:
            observation_spec: Arrays of one observation.
            num_actions: Size of the action set.
            plan_horizon: Tokens per plan.
            replan_every: Actions executed before the next plan.
            replan_every_collect: The same while collecting training data; `replan_every` when None.
            denoiser_type: The network.
            schedule_type: Noise schedule; only nets and samplers with a time notice it.
            corruption_type: What is masked in training.
            loss_type: How the answers are scored.
            sampler: What plans when playing: a preset (`remdm.diffusion.preset_names`), or
                `Sampler` itself, whose parts are bound one by one.
            sampler_collect: What plans when collecting training data.
            sampler_greedy: What is behind `plan(greedy=True)`.
            sampler_options: Knobs of `sampler` unlike the preset's, as {"temperature": 1.0}.
            sampler_collect_options: The same for `sampler_collect`.
            inpaint_anchor: How a plan hangs on the actions before it: "none", "legacy" or
                "aligned"; see `remdm.anchors`. With the last two the whole plan is decided.
            aligned_share: Share of training samples with a prefix of past actions; only
                "aligned" reads it.
            history: Earlier observations and actions of the episode that the net is shown; only
                some nets read them.
            soft_target_weight: Weight of a loss that teaches the first token the expert's whole law
                of its next action; needs data recorded beside an expert.
            condition_dropout: Share of training samples whose encoding is zeroed, so that the
                net learns to plan without an observation.
            guidance_type: Classifier-free guidance; needs `condition_dropout`. None for none.
            candidates: Plans drawn for each one that is played; the best is kept.
            scorer_type: What says which candidate is best. None where there is one.
            warm_start_type: Begins with a part of the last plan, whose tokens are all decided
                then. None begins with MASK.
            physics_penalty: While denoising, doubt moves that the remembered map speaks against;
                see `remdm.planning_constraints.hazardous_moves`.
            action_constraints: Never plan a first action that the remembered map rules out.
            loop_breaker: Plan more randomly each time the same state comes back.
            autocast_inference: "bfloat16", "off" or "auto": bfloat16 where the processor
                multiplies it fast and the batch is not tiny.
            compile_denoise: Plan with compiled denoising calls; see `remdm.nets.compiled`.

        Raises:
            ValueError: If `replan_every` is outside 1..plan_horizon, a name is unknown, or what
                is switched on does not fit together.
        """
        super().__init__()
        check_anchor(inpaint_anchor, aligned_share)
        self.num_actions = num_actions
        self.plan_horizon = plan_horizon
        self.replans_after(replan_every)
        self.replan_every_collect = replan_every_collect
        check_replan_every(
            "DiffusionPlannerAgent", replan_every_collect or replan_every, plan_horizon
        )
        self.inpaint_anchor = inpaint_anchor
        self.aligned_share = aligned_share
        check_history("DiffusionPlannerAgent", history)
        seen = observation_spec | history_spec(observation_spec, history)
        if inpaint_anchor == "aligned":
            self.past_actions = plan_horizon - 1
            seen = seen | {OFFSET_KEY: ArraySpec((), np.dtype(np.int64))}
        self.denoiser = denoiser_type(seen, num_actions, plan_horizon)
        self.observation_keys = tuple(k for k in self.denoiser.observation_keys if k != OFFSET_KEY)
        self.history = history_read("DiffusionPlannerAgent", history, self.observation_keys)
        self.schedule = schedule_type()
        self.corruption = corruption_type(num_actions)
        self.masked_loss = loss_type(num_actions)
        self.sampler = make_sampler(sampler, num_actions, sampler_options)
        self.sampler_collect = make_sampler(sampler_collect, num_actions, sampler_collect_options)
        self.sampler_greedy = make_sampler(sampler_greedy, num_actions)
        check_soft_targets("DiffusionPlannerAgent", soft_target_weight)
        self.soft_target_weight = soft_target_weight
        self.label_keys = (LOGITS_KEY,) if soft_target_weight else ()
        self.condition_dropout = condition_dropout
        self.guidance = None if guidance_type is None else guidance_type()
        self.candidates = candidates
        self.scorer = None if scorer_type is None else scorer_type()
        self.warm_start = None if warm_start_type is None else warm_start_type()
        self.physics_penalty = physics_penalty
        self.action_constraints = action_constraints
        self.loop_breaker = loop_breaker
        self.reads_continuation = (
            inpaint_anchor != "none" or self.warm_start is not None or self.memory_size > 0
        )
        self.autocast_inference = InferencePrecision.checked(autocast_inference)
        self.compiled = CompiledDenoise() if compile_denoise else None
        check_conditioning(self, observation_spec)

    def replans_after(self, replan_every: int) -> None:
        """Play so many actions of a plan before the next, and decide no more than this takes."""
        check_replan_every("DiffusionPlannerAgent", replan_every, self.plan_horizon)
        self.replan_every = replan_every

    def outputs(self, batch: Batch, generator: torch.Generator) -> Outputs:
        """Several corrupted draws of each label, and what the net says; see `DenoiserAgent`.

        Raises:
            ValueError: If an aligned agent gets a batch without past actions.
        """
        observations = self.on_device(batch.observations)
        plans, frozen = batch.plans, None
        if self.inpaint_anchor == "aligned":
            plans, offsets = behind_past(self, batch, generator)
            frozen = torch.arange(self.plan_horizon, device=plans.device) < offsets[:, None]
            observations[OFFSET_KEY] = offsets
        corrupted = self.corruption(plans, self.schedule, generator, frozen, batch.ranks)
        corrupted = counted(corrupted, batch.token_mask, self.corruption, plans, frozen)
        context, before = self.encode_batch(observations, batch)
        shown = context
        if self.condition_dropout:
            shown = dropped(context, self.condition_dropout, generator, batch.ranks)
        tokens, time, hidden = corrupted.tokens, corrupted.time, corrupted.masked
        logits = self.denoiser.denoise_hidden(shown, tokens, time, hidden)
        logits = logits.reshape(*hidden.shape, logits.shape[-1])
        classes = tokens_to_classes(plans, self.num_actions)
        real = hidden & ((classes == end_class(self.num_actions)).cumsum(-1) <= 1)
        asked = observations, context, tokens, time, logits, plans, classes, real, corrupted
        return Outputs(*asked, batch.stretch, before)

    def token_loss(self, batch: Batch, outputs: Outputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy on masked tokens, by `MaskedLoss`; see `DenoiserAgent`."""
        logits, corrupted = outputs.logits, outputs.corrupted
        assert corrupted is not None
        loss, metrics = self.masked_loss(
            logits, outputs.plans, corrupted, batch.weights, batch.ranks
        )
        if self.soft_target_weight:
            draws = corrupted.full_draws or len(corrupted.masked)
            soft = soft_target_loss(logits[:draws, :, 0], batch, corrupted.masked[:draws, :, 0])
            loss = loss + self.soft_target_weight * soft
            metrics["soft_target_loss"] = soft.detach()
        return loss, metrics

    @torch.inference_mode()
    def nelbo(self, batch: Batch, generator: torch.Generator, *, draws: int = 16) -> Tensor:
        """Upper bounds of `-log p(plan | observation)`; see `remdm.diffusion.plan_nelbo`.

        Args:
            batch: Labelled observations; weights are not read.
            generator: Draws the masks.
            draws: Masks per plan; their counts are spread evenly over the batch.

        Returns:
            Nats, float32 [B].

        Raises:
            ValueError: If the net has a memory and the batch no stretch.
        """
        check_stretch(self, batch)
        batch = batch.to(next(self.parameters()).device)
        corruption = nelbo_masking(self.num_actions, draws, self.corruption.pad_mode)
        corrupted = corruption(batch.plans, self.schedule, generator)
        observations = self.on_device(batch.observations)
        if OFFSET_KEY in self.denoiser.observation_keys:
            observations[OFFSET_KEY] = torch.zeros_like(batch.env_ids)
        context, _ = self.encode_batch(observations, batch)
        logits = self.denoiser.denoise(context, corrupted.tokens, corrupted.time)
        return plan_nelbo(logits, batch.plans, corrupted, self.num_actions)

    def write_plans(self, request: PlanRequest, generator: torch.Generator) -> PlanSample:
        """See `BaseAgent.plan`.

        Plans with a warm start begin in the middle of a sampler's grid, fresh ones at its
        beginning, so each kind is made on its own.
        """
        start = self._start(request)
        if start is None or self._sampler(request).grid is None:
            return self._written(request, start, generator)
        warm = (start != mask_token(self.num_actions)).any(1)
        rows = [kind.nonzero()[:, 0] for kind in (warm, ~warm) if bool(kind.any())]
        starts = [start[index] if bool(warm[index[0]]) else None for index in rows]
        parts = [
            self._written(request.part(index), some, generator)
            for index, some in zip(rows, starts, strict=True)
        ]
        return joined(parts, rows)

    def _written(
        self, request: PlanRequest, start: Tensor | None, generator: torch.Generator
    ) -> PlanSample:
        """Plans that all begin alike: with what is left of the plan before, or with nothing."""
        offsets = self._offsets(request)
        seen = request.tensors
        if offsets is not None and OFFSET_KEY in self.denoiser.observation_keys:
            seen = {**seen, OFFSET_KEY: offsets}
        context = self.encode_now(request, seen)
        net = PlanDenoiser(self.denoiser, context, request.precision, request.heat, self.compiled)
        try:
            sample = self._sample(net, request, offsets, start, generator)
        except NonFiniteLogitsError as error:
            self._explain(error, seen)
            raise
        return sample if offsets is None else without_prefix(sample, offsets, self.num_actions)

    def _offsets(self, request: PlanRequest) -> Tensor | None:
        """Executed actions in each plan window, int64 [N]; None without an anchor."""
        if self.inpaint_anchor == "none":
            return None
        if request.continuation is None:
            return torch.zeros(request.count, dtype=torch.int64, device=request.device)
        return torch.from_numpy(request.continuation.num_executed).to(request.device)

    def _sample(
        self,
        net: PlanDenoiser,
        request: PlanRequest,
        offsets: Tensor | None,
        start: Tensor | None,
        generator: torch.Generator,
    ) -> PlanSample:
        """Canvases, with their prefix."""
        sampler = self._sampler(request)
        denoise: Denoise = net
        if self.guidance is not None:
            denoise = self.guidance(net, net.without_condition())
        given: dict[str, Any] = {
            "window": self._window(request),
            "first_token_mask": request.first_token_mask,
            "allow_end": self.denoiser.predicts_end,
            "device": request.device,
        }
        if offsets is not None:
            given |= self._behind(request, offsets)
        if self.warm_start is not None:
            given["window"] = None  # the next plan starts from all of this one
            if start is not None:
                given |= self._warm(self.warm_start, start, request, denoise, generator)
        if self.physics_penalty:
            given["implausible"] = hazards(
                request.observations, offsets, request.device, self.num_actions
            )
        call = denoise, request.count, self.plan_horizon, generator
        if self.scorer is None or request.greedy or request.collecting:
            sample = sampler.sample(*call, **given)
        else:
            sample = best_of(
                sampler, *call, candidates=self.candidates, scorer=self.scorer, **given
            )
        if start is None or self.warm_start is None:
            return sample
        return replace(sample, nfe=sample.nfe + self.warm_start.calls)

    def _window(self, request: PlanRequest) -> int:
        """Tokens to decide. One more than is executed: it directs a KICK or OPEN at the end."""
        every = (request.collecting and self.replan_every_collect) or self.replan_every
        return min(every + 1, self.plan_horizon)

    def _sampler(self, request: PlanRequest) -> Sampler:
        if request.greedy:
            return self.sampler_greedy
        return self.sampler_collect if request.collecting else self.sampler

    def _behind(self, request: PlanRequest, offsets: Tensor) -> dict[str, Any]:
        """What the sampler is told of a locked prefix.

        The whole plan is wanted: one window that suits all rows would have to be as long as the
        longest prefix, and a row's plan must not depend on its neighbours.
        """
        allowed = token_mask_behind(
            request.first_token_mask, offsets, self.plan_horizon, self.num_actions
        )
        given = {"window": None, "first_token_mask": None, "token_mask": allowed}
        if request.continuation is not None:
            given["locked"] = torch.from_numpy(request.continuation.executed).to(request.device)
        return given

    def _start(self, request: PlanRequest) -> Tensor | None:
        """What is left of the plans before, int64 [N, H]; None without a warm start."""
        if self.warm_start is None or request.continuation is None:
            return None
        previous = torch.from_numpy(request.continuation.previous).to(request.device)
        return usable_start(previous, request.first_token_mask, self.num_actions)

    def _warm(
        self,
        warm_start: WarmStart,
        start: Tensor,
        request: PlanRequest,
        denoise: Denoise,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        """What the sampler is told of the plan before."""
        assert request.continuation is not None
        confidence = torch.from_numpy(request.continuation.confidence).to(request.device)
        schedule = self._sampler(request).schedule
        kept = warm_start(start, confidence, denoise, schedule, generator, self.num_actions)
        return {"start": kept, "start_time": warm_start.time}

    def _explain(self, error: NonFiniteLogitsError, seen: dict[str, Tensor]) -> None:
        """Raise an error that names the layer where it began, if the same call fails again."""
        one = {key: value[error.row : error.row + 1] for key, value in seen.items()}
        fault = first_fault(self.denoiser, lambda: self.denoiser(one, error.tokens, error.time))
        if fault is not None:
            raise ValueError(f"{error}. The first number that is not finite is {fault}.") from error
