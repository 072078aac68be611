"""The planner's left-to-right twin: the same encoder and decoder, one token after the other.

It is there to be compared with: it has the planner's numbers, is trained on the same labels, and
makes one call of the net per token, where the planner decides several tokens in one call.
"""

from collections.abc import Callable

import gin
import torch
from torch import Tensor

from remdm.base_agent import (
    DenoiserAgent,
    PlanRequest,
    check_history,
    check_replan_every,
    history_read,
)
from remdm.data.batch import Batch
from remdm.diffusion import PlanSample, classes_to_tokens, draws, tokens_to_classes
from remdm.diffusion.decode import draw_classes
from remdm.diffusion.loss import token_cross_entropy
from remdm.maps import Action, ArraySpec, history_spec
from remdm.nets.autocast import InferencePrecision
from remdm.nets.causal import CausalEgoDenoiser, TokenByToken, moved_right
from remdm.nets.cross_denoiser import CrossDenoiser
from remdm.nets.diagnosis import first_fault
from remdm.outputs import Outputs
from remdm.token_masks import counting
from remdm.tokens import end_token, mask_token

# Actions that ask for a direction, which then comes along (see `PlanVecEnv.execute`).
DIRECTED = (int(Action.OPEN), int(Action.KICK))


@gin.configurable(module="remdm", denylist=["observation_spec", "num_actions"])
class AutoregressiveAgent(DenoiserAgent):
    """Draws each token given those before it; learns them from the true ones before them."""

    denoiser: CrossDenoiser

    def __init__(
        self,
        observation_spec: dict[str, ArraySpec],
        num_actions: int,
        *,
        plan_horizon: int = 16,
        replan_every: int = 4,
        replan_every_collect: int | None = None,
        denoiser_type: Callable[..., CrossDenoiser] = CausalEgoDenoiser,
        temperature: float = 0.5,
        history: int = 0,
        action_constraints: bool = False,
        loop_breaker: bool = False,
        autocast_inference: str = "auto",
    ) -> None:
        """Args:
            observation_spec: Arrays of one observation.
            num_actions: Size of the action set.
            plan_horizon: Tokens per plan.
            replan_every: Actions executed before the next plan; no more tokens are drawn, except
                for a direction that the last one asks for.
            replan_every_collect: The same while collecting training data; `replan_every` when None.
            denoiser_type: The network, of causal layers.
            temperature: Divides the logits when a token is drawn; above 0.
            history: See `DiffusionPlannerAgent`.
            action_constraints: See `DiffusionPlannerAgent`.
            loop_breaker: See `DiffusionPlannerAgent`.
            autocast_inference: See `DiffusionPlannerAgent`.

        Raises:
            ValueError: If `temperature` is not above 0, or `replan_every` outside 1..plan_horizon.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; set "
                "AutoregressiveAgent.temperature, or plan with greedy=True for the likeliest token."
            )
        self.num_actions = num_actions
        self.plan_horizon = plan_horizon
        self.replans_after(replan_every)
        self.replan_every_collect = replan_every_collect
        check_replan_every(
            "AutoregressiveAgent", replan_every_collect or replan_every, plan_horizon
        )
        check_history("AutoregressiveAgent", history)
        seen = observation_spec | history_spec(observation_spec, history)
        self.denoiser = denoiser_type(seen, num_actions, plan_horizon)
        self.observation_keys = self.denoiser.observation_keys
        self.history = history_read("AutoregressiveAgent", history, self.observation_keys)
        self.temperature = temperature
        self.action_constraints = action_constraints
        self.loop_breaker = loop_breaker
        self.reads_continuation = self.memory_size > 0
        self.autocast_inference = InferencePrecision.checked(autocast_inference)

    def replans_after(self, replan_every: int) -> None:
        """Play so many actions of a plan before the next, and draw no more than this takes."""
        check_replan_every("AutoregressiveAgent", replan_every, self.plan_horizon)
        self.replan_every = replan_every

    def outputs(self, batch: Batch, generator: torch.Generator) -> Outputs:
        """All tokens of the labels, each given those before it; see `DenoiserAgent`."""
        observations = self.on_device(batch.observations)
        context, before = self.encode_batch(observations, batch)
        tokens = moved_right(batch.plans, self.num_actions)
        logits = self.denoiser.denoise(context, tokens)[None]
        tail = (batch.plans == end_token(self.num_actions)).cumsum(-1) > 1
        classes = tokens_to_classes(batch.plans, self.num_actions)
        real, plans = counting(~tail[None], batch.token_mask), batch.plans
        asked = observations, context, tokens[None], None, logits, plans, classes, real
        return Outputs(*asked, stretch=batch.stretch, memory=before)

    def answer(self, outputs: Outputs) -> Tensor:
        """See `DenoiserAgent.answer`."""
        context = self.encode_again(outputs)
        return self.denoiser.denoise(context, outputs.tokens[0])[None]

    def token_loss(self, batch: Batch, outputs: Outputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross-entropy of all tokens up to and including the first END."""
        logits, classes = outputs.logits[0], outputs.classes
        scored = outputs.real[0] & (batch.weights > 0)[:, None]
        nats = token_cross_entropy(logits.float().log_softmax(-1)[None], classes, scored[None])[0]
        correct = (logits.detach().argmax(-1) == classes) & scored
        used, first = scored.any(-1), scored[:, 0]
        sums = {
            "nll": (nats.detach().sum(), used.sum()),
            "token_accuracy": (correct.sum(), scored.sum()),
            "first_token_accuracy": (correct[:, 0].sum(), first.sum()),
        }
        weighed = (scored * batch.weights[:, None]).sum()
        counts = batch.ranks.means(weighed, *(count.float() for _, count in sums.values()))
        total, *rest = (torch.where(count == 0, 1.0, count) for count in counts)
        metrics = {name: s[0] / n for (name, s), n in zip(sums.items(), rest, strict=True)}
        return (nats.sum(-1) * batch.weights).sum() / total, metrics

    def write_plans(self, request: PlanRequest, generator: torch.Generator) -> PlanSample:
        """Token after token, until each plan has ended or as many are drawn as will be executed.

        What was not drawn is END.
        """
        every = (request.collecting and self.replan_every_collect) or self.replan_every
        count, device = request.count, request.device
        context = self.encode_now(request, request.tensors)
        net = TokenByToken(self.denoiser, context, low=request.precision.is_low(count))
        keys = draws.row_keys(generator, count, device)
        end = end_token(self.num_actions)
        tokens = torch.full((count, self.plan_horizon), end, device=device)
        log_probs = torch.zeros(count, self.plan_horizon, device=device)
        nfe = torch.zeros(count, dtype=torch.int64, device=device)
        last = torch.full((count,), mask_token(self.num_actions), device=device)
        rows = torch.arange(count, device=device)  # that are not finished
        for position in range(min(every + 1, self.plan_horizon)):
            going_on = last < end
            if position == every:
                going_on &= torch.isin(last, torch.tensor(DIRECTED, device=device))
            if not bool(going_on.all()):
                kept = going_on.nonzero()[:, 0]
                net.keep(kept)
                rows, last = rows[kept], last[kept]
            if not len(rows):
                break
            with request.precision.denoising(count):
                logits = net(last)
            probs = self._law(logits, request, rows, position)
            uniform = draws.uniform(keys[rows], position, draws.TOKEN, 1)[:, 0]
            classes = probs.argmax(-1) if request.greedy else draw_classes(probs, uniform)
            last = classes_to_tokens(classes, self.num_actions)
            tokens[rows, position] = last
            chosen = probs.gather(-1, classes[:, None])[:, 0]
            log_probs[rows, position] = chosen.log().float()
            nfe[rows] += 1
        return PlanSample(
            tokens=tokens,
            lengths=(tokens < end).sum(-1),
            log_prob=log_probs.sum(-1),
            nfe=nfe,
            token_log_probs=log_probs,
            trace=None,
        )

    def _law(self, logits: Tensor, request: PlanRequest, rows: Tensor, position: int) -> Tensor:
        """Probabilities of the next token, float64 [n, num_actions + 1]; no plan is empty.

        Raises:
            ValueError: If the logits are not finite.
        """
        self._check_finite(logits, request, rows)
        if position == 0:
            logits = logits.clone()
            logits[:, self.num_actions] = -torch.inf
            if request.first_token_mask is not None:
                logits = logits.masked_fill(~request.first_token_mask[rows], -torch.inf)
        if request.heat is not None:
            logits = logits / request.heat[rows, 0]
        return (logits.double() / self.temperature).softmax(-1)

    def _check_finite(self, logits: Tensor, request: PlanRequest, rows: Tensor) -> None:
        finite = torch.isfinite(logits).all(-1)
        if bool(finite.all()):
            return
        row = int(rows[(~finite).nonzero()[0, 0]])
        shape = (request.count, self.plan_horizon)
        blank = torch.full(shape, mask_token(self.num_actions), device=request.device)
        fault = first_fault(self.denoiser, lambda: self.denoiser(request.tensors, blank, 1.0))
        begin = "" if fault is None else f". The first number that is not finite is {fault}"
        raise ValueError(
            f"the net's logits are not finite: row {row} of the batch{begin}. Look at the net's "
            "weights and at that row's observation."
        )
