"""Beginning a plan from what is left of the plan before, instead of from all MASK.

The old plan is taken back to the diffusion time t: each token stays visible with probability
alpha(t), as if the forward process had hidden the others, and the sampler goes on from there
(temporal diffusion planning, arXiv 2511.21054). If the old plan was drawn from the net's law for
the new observation too, so is the new one, whatever t. As far as the observation changed, it is an
approximation, and `gate` drops the tokens that the net no longer believes in.
"""

import gin
import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.diffusion.classes import tokens_to_classes
from remdm.diffusion.interface import Denoise
from remdm.diffusion.schedules import NoiseSchedule
from remdm.registry import unknown_name_message
from remdm.tokens import end_token, mask_token

RULES = ("random", "confidence")


@gin.configurable(module="remdm")
class WarmStart:
    """Chooses the tokens of the old plan that the new one starts with.

    Attributes:
        time: What to give `Sampler.sample` as `start_time`.
    """

    def __init__(self, *, time: float = 0.5, rule: str = "random", gate: float = 0.0) -> None:
        """Args:
            time: Diffusion time that the old plan is taken back to, in (0, 1]: the smaller, the
                more is kept; 1 keeps nothing.
            rule: "random" keeps each token with probability alpha(time), which leaves the law of
                plans as it is; "confidence" keeps the most confident share alpha(time) of them.
            gate: Drop tokens that the net, shown nothing, gives a lower probability than this, in
                [0, 1); costs one net call, 0 costs none. Where many plans are equally good, each
                token is unlikely on its own: keep it well below 1 / (number of actions).

        Raises:
            ValueError: If a value is out of range or unknown.
        """
        if not 0.0 < time <= 1.0:
            raise ValueError(
                f"WarmStart.time must be in (0, 1], got {time}; to start from nothing set "
                "DiffusionPlannerAgent.warm_start_type = None"
            )
        if rule not in RULES:
            raise ValueError(unknown_name_message("WarmStart.rule", rule, RULES))
        if not 0.0 <= gate < 1.0:
            raise ValueError(f"WarmStart.gate must be in [0, 1), got {gate}")
        self.time = time
        self.rule = rule
        self.gate = gate

    @property
    def calls(self) -> int:
        """Net calls of one start: what it adds to a plan's `nfe`."""
        return int(self.gate > 0.0)

    @torch.no_grad()
    def __call__(
        self,
        previous: Tensor,
        confidence: Tensor | None,
        denoise: Denoise,
        schedule: NoiseSchedule,
        generator: torch.Generator,
        num_actions: int,
    ) -> Tensor:
        """Tokens to start from, for `Sampler.sample(start=..., start_time=self.time)`.

        A plan whose next token is END is over: nothing of it is kept.

        Args:
            previous: int64 [B, H]: the old plans without the tokens that were executed; MASK where
                nothing is known.
            confidence: Floating [B, H]: confidence in those tokens; read by the rule "confidence".
            denoise: The net, bound to the new observations; read by the gate.
            schedule: Gives alpha(time).
            generator: Gives one key per row; a row's tokens depend on its key only.
            num_actions: Size of the action set.

        Returns:
            int64 [B, H]: `previous` where it is kept, MASK elsewhere.

        Raises:
            ValueError: If the rule needs confidences and there are none of the right shape.
        """
        mask = mask_token(num_actions)
        known = previous != mask
        known &= previous[:, :1] != end_token(num_actions)
        share = float(schedule.alpha(torch.tensor(self.time, dtype=torch.float64)))
        kept = known
        if self.gate > 0.0:
            kept = kept & self._believed(previous, denoise, num_actions)
        if self.rule == "random":
            keys = draws.row_keys(generator, len(previous), previous.device)
            kept = kept & (draws.uniform(keys, 0, draws.REMASK, previous.shape[1]) < share)
        else:
            kept = kept & _most_confident(known, _checked(confidence, previous), share)
        return previous.masked_fill(~kept, mask)

    def _believed(self, previous: Tensor, denoise: Denoise, num_actions: int) -> Tensor:
        """Tokens that the net gives at least the probability `gate`, bool [B, H]."""
        blank = torch.full_like(previous, mask_token(num_actions))
        time = torch.ones(len(previous), device=previous.device)
        probs = denoise(blank, time, None).detach().double().softmax(-1)
        classes = tokens_to_classes(previous, num_actions)
        return probs.gather(-1, classes[..., None])[..., 0] >= self.gate


def _checked(confidence: Tensor | None, previous: Tensor) -> Tensor:
    """`confidence`, if it fits.

    Raises:
        ValueError: If it is missing or has another shape.
    """
    if confidence is None or confidence.shape != previous.shape:
        shape = None if confidence is None else list(confidence.shape)
        raise ValueError(
            f"the rule 'confidence' needs the old tokens' confidences {list(previous.shape)}, got "
            f"{shape}; set WarmStart.rule = 'random'"
        )
    return confidence


def _most_confident(known: Tensor, confidence: Tensor, share: float) -> Tensor:
    """The most confident share of each row's known tokens, rounded half up; bool [B, H].

    Equal confidences keep the earlier position.
    """
    ranked = confidence.double().masked_fill(~known, -torch.inf)
    ranks = ranked.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    count = torch.floor(share * known.sum(-1) + 0.5)
    return known & (ranks < count[:, None])
