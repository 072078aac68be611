"""The honest baseline of the planner: the same encoder and decoder, asked for one action."""

import gin
import torch
import torch.nn.functional as F
from torch import Tensor

from remdm.base_agent import (
    DenoiserAgent,
    PlanRequest,
    check_history,
    check_replan_every,
    history_read,
)
from remdm.data.batch import Batch
from remdm.diffusion import PlanSample
from remdm.maps import NUM_ACTIONS, ArraySpec, history_spec
from remdm.nets.autocast import InferencePrecision
from remdm.nets.denoiser import Context, Denoiser
from remdm.nets.diagnosis import first_fault
from remdm.nets.ego import EgoDenoiser
from remdm.nets.heads import raced
from remdm.outputs import Outputs
from remdm.planning_constraints import door_directions
from remdm.soft_targets import LOGITS_KEY, check_soft_targets, soft_target_loss
from remdm.token_masks import counting
from remdm.tokens import end_token, mask_token


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions"])
class PolicyAgent(DenoiserAgent):
    """A categorical policy trained on the first action of each label (behaviour cloning).

    One learned query, the MASK token of a plan of length one, attends to the observation through
    the denoiser's own layers. `plan` returns that action, then END; it replans every step.

    KICK and OPEN ask for a direction, which a plan of one action does not have and without which
    they are cancelled: it is that of the door beside the agent. A planner writes it itself.
    """

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        *,
        plan_horizon: int = 16,
        denoiser_type: type[Denoiser] = EgoDenoiser,
        temperature: float = 0.5,
        label_smoothing: float = 0.0,
        history: int = 0,
        soft_target_weight: float = 0.0,
        action_constraints: bool = False,
        loop_breaker: bool = False,
        autocast_inference: str = "auto",
    ) -> None:
        """Args:
            observation_spec: Arrays of one observation.
            num_actions: Size of the action set.
            plan_horizon: Width of the plans returned and of the labels read.
            denoiser_type: The network; made with a plan of length one.
            temperature: Divides the logits when an action is drawn; above 0.
            label_smoothing: Share of the target spread over all actions.
            history: See `DiffusionPlannerAgent`.
            soft_target_weight: See `DiffusionPlannerAgent`.
            action_constraints: See `DiffusionPlannerAgent`.
            loop_breaker: See `DiffusionPlannerAgent`.
            autocast_inference: See `DiffusionPlannerAgent`.

        Raises:
            ValueError: If `temperature` is not above 0.
        """
        super().__init__()
        check_replan_every("PolicyAgent", 1, plan_horizon)
        if not temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; set PolicyAgent.temperature, "
                "or plan with greedy=True for the most likely action."
            )
        self.num_actions = num_actions
        self.plan_horizon = plan_horizon
        self.directs = num_actions == NUM_ACTIONS  # those of `remdm.maps.Action`
        self.replan_every = 1
        check_history("PolicyAgent", history)
        seen = observation_spec | history_spec(observation_spec, history)
        self.denoiser = denoiser_type(seen, num_actions, 1)
        self.observation_keys = self.denoiser.observation_keys
        self.history = history_read("PolicyAgent", history, self.observation_keys)
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        check_soft_targets("PolicyAgent", soft_target_weight)
        self.soft_target_weight = soft_target_weight
        self.label_keys = (LOGITS_KEY,) if soft_target_weight else ()
        self.action_constraints = action_constraints
        self.loop_breaker = loop_breaker
        self.reads_continuation = self.memory_size > 0
        self.autocast_inference = InferencePrecision.checked(autocast_inference)

    def action_logits(self, context: Context) -> Tensor:
        """Float32 logits [B, num_actions] of B encoded states."""
        first = context[0]
        query = torch.full((len(first), 1), mask_token(self.num_actions), device=first.device)
        logits = self.denoiser.denoise(context, query, 1.0)
        return logits[:, 0, : self.num_actions]

    def outputs(self, batch: Batch, generator: torch.Generator) -> Outputs:
        """The one question of every state; see `DenoiserAgent`."""
        observations = self.on_device(batch.observations)
        context, before = self.encode_batch(observations, batch)
        logits = self.action_logits(context)
        actions = batch.plans[:, :1]
        query = torch.full_like(actions, mask_token(self.num_actions))[None]
        real = counting((actions < self.num_actions)[None], batch.token_mask)
        logits = logits[None, :, None]
        asked = observations, context, query, 1.0, logits, actions, actions, real
        return Outputs(*asked, stretch=batch.stretch, memory=before)

    def token_loss(self, batch: Batch, outputs: Outputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross-entropy of the labels' first actions, where there is one."""
        logits, real = outputs.logits[0, :, 0], outputs.real[0, :, 0]
        weights = batch.weights * real
        target = outputs.classes[:, 0].clamp(max=self.num_actions - 1)
        token_loss = F.cross_entropy(
            logits, target, reduction="none", label_smoothing=self.label_smoothing
        )
        used = (weights > 0).float()
        total, count = (
            torch.where(number == 0, 1.0, number)
            for number in batch.ranks.means(weights.sum(), used.sum())
        )
        loss = (token_loss * weights).sum() / total
        correct = (logits.detach().argmax(-1) == target).float() * used
        metrics = {"first_token_accuracy": correct.sum() / count}
        if self.soft_target_weight:
            soft = soft_target_loss(logits, batch, real)
            loss = loss + self.soft_target_weight * soft
            metrics["soft_target_loss"] = soft.detach()
        return loss, metrics

    def write_plans(self, request: PlanRequest, generator: torch.Generator) -> PlanSample:
        """One action and END per observation; see `BaseAgent.plan`."""
        count, device = request.count, request.device
        context = self.encode_now(request, request.tensors)
        with request.precision.encoding():
            logits = self.action_logits(context)
        self._check_finite(logits, request.tensors)
        if request.first_token_mask is not None:
            ruled_out = ~request.first_token_mask[:, : self.num_actions]
            logits = logits.masked_fill(ruled_out, -torch.inf)
        if request.heat is not None:
            logits = logits / request.heat[:, 0]
        log_probs = (logits.double() / self.temperature).log_softmax(-1)
        actions = log_probs.argmax(-1) if request.greedy else raced(log_probs, generator)
        tokens = torch.full((count, self.plan_horizon), end_token(self.num_actions), device=device)
        tokens[:, 0] = actions
        if self.directs and self.plan_horizon > 1 and "terrain" in request.observations:
            chosen, end = actions.cpu().numpy(), end_token(self.num_actions)
            directions = door_directions(chosen, request.observations, end)
            tokens[:, 1] = torch.from_numpy(directions).to(device)
        token_log_probs = torch.zeros(count, self.plan_horizon, device=device)
        token_log_probs[:, 0] = log_probs.gather(1, actions[:, None])[:, 0].float()
        return PlanSample(
            tokens=tokens,
            lengths=1 + (tokens[:, 1:2] != end_token(self.num_actions)).sum(1),
            log_prob=token_log_probs[:, 0].clone(),
            nfe=torch.ones_like(actions),
            token_log_probs=token_log_probs,
            trace=None,
        )

    def _check_finite(self, logits: Tensor, tensors: dict[str, Tensor]) -> None:
        """Raise ValueError, with the layer where it began, unless all logits are finite."""
        finite = torch.isfinite(logits).all(-1)
        if bool(finite.all()):
            return
        row = int((~finite).nonzero()[0, 0])
        query = torch.full((len(logits), 1), mask_token(self.num_actions), device=logits.device)
        fault = first_fault(self.denoiser, lambda: self.denoiser(tensors, query, 1.0))
        begin = "" if fault is None else f". The first number that is not finite is {fault}"
        raise ValueError(
            f"the net's logits are not finite: row {row} of the batch{begin}. Look at the net's "
            "weights and at that row's observation."
        )
