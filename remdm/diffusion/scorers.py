"""How good a finished plan is by the net's own lights, to choose among several.

A scorer sees what will be executed: the tokens of the window up to the first END. Tokens behind the
window are hidden from the net when it is asked again, because a sampler that stops at the window
fills them with guesses. Scores are sums of log-probabilities in nats, without the sampler's
temperature and masks, and compare plans of the same observation only.
"""

import math
from typing import Protocol

import gin
import torch
from torch import Tensor

from remdm.diffusion.classes import tokens_to_classes
from remdm.diffusion.interface import Denoise, PlanSample
from remdm.diffusion.schedules import LinearSchedule, NoiseSchedule
from remdm.registry import Registry
from remdm.tokens import end_token, mask_token


class Scorer(Protocol):
    """Rates plans.

    Attributes:
        calls: Net calls it makes one after another; one that is cut up to save memory counts once.
    """

    calls: int

    def __call__(
        self, denoise: Denoise, sample: PlanSample, window: int, num_actions: int
    ) -> Tensor:
        """Scores of the plans.

        Args:
            denoise: The net, bound to one observation per plan.
            sample: R plans.
            window: Leading tokens that count.
            num_actions: Size of the action set A.

        Returns:
            float64 [R], higher is better, never NaN. A row's score depends on that row only.
        """


@gin.configurable(module="remdm")
class LogProbScorer:
    """The log-probability that the window's tokens were drawn with; costs nothing.

    Tokens that one call decided together were drawn without regard to each other, and so are they
    rated here: this tells likely plans from unlikely ones, not sound plans from broken ones. Where
    many tokens are decided per call it can choose the broken ones (exact model of an open room in
    3.5 calls: success falls from 50 % to 24 % with four candidates, and rises to 93 % with
    `LeaveOneOutScorer`).
    """

    calls = 0

    def __call__(
        self, denoise: Denoise, sample: PlanSample, window: int, num_actions: int
    ) -> Tensor:
        """See `Scorer.__call__`; with the sampler's temperature and masks."""
        return sample.token_log_probs[:, :window].double().sum(-1)


class _Rescorer:
    """Hides some tokens of each plan, asks the net for them, and adds up their log-probabilities.

    Attributes:
        calls: See `Scorer`.
    """

    calls = 1

    def __init__(self, schedule: NoiseSchedule | None, rows_per_call: int) -> None:
        """Args:
            schedule: Turns the share of hidden tokens into the time told to the net.
            rows_per_call: Most rows in one net call.

        Raises:
            ValueError: If `rows_per_call` is below 1.
        """
        if rows_per_call < 1:
            raise ValueError(
                f"{type(self).__name__}.rows_per_call must be at least 1, got {rows_per_call}"
            )
        self.schedule = schedule or LinearSchedule()
        self.rows_per_call = rows_per_call

    def _log_probs_of_hidden(
        self, denoise: Denoise, sample: PlanSample, hidden: Tensor, window: int, num_actions: int
    ) -> Tensor:
        """Log-probability of each hidden token of the window given the tokens that are not hidden.

        Args:
            denoise: The net.
            sample: R plans.
            hidden: bool [P, H]: patterns to hide, in addition to all behind the window.
            window: Leading tokens that count.
            num_actions: Size of the action set A.

        Returns:
            float64 [R, P, H]; 0 where a token was shown or does not count.
        """
        tokens = sample.tokens
        horizon = tokens.shape[1]
        mask = mask_token(num_actions)
        behind = torch.arange(horizon, device=tokens.device) >= window
        asked = hidden & counted(tokens, window, num_actions)[:, None]
        shown = tokens[:, None].expand(asked.shape).masked_fill(hidden | behind, mask)
        owner = torch.arange(len(tokens), device=tokens.device)[:, None].expand(asked.shape[:2])
        # Only rows that ask for something: END and short windows leave patterns empty.
        wanted = asked.any(-1)
        total = torch.zeros(asked.shape, dtype=torch.float64, device=tokens.device)
        parts = [
            self._ask(denoise, *part, num_actions)
            for part in zip(
                shown[wanted].split(self.rows_per_call),
                owner[wanted].split(self.rows_per_call),
                tokens[owner[wanted]].split(self.rows_per_call),
                strict=True,
            )
        ]
        total[wanted] = torch.cat(parts)
        # Not a product: minus infinity at a position that does not count must become 0.
        return torch.where(asked, total, 0.0)

    def _ask(
        self, denoise: Denoise, shown: Tensor, rows: Tensor, tokens: Tensor, num_actions: int
    ) -> Tensor:
        """Log-probability of `tokens` [b, H] where the net sees `shown` [b, H], float64 [b, H]."""
        share = (shown == mask_token(num_actions)).float().mean(-1)
        logits = denoise(shown, self.schedule.inv_mask_rate(share), rows).detach().double()
        classes = tokens_to_classes(tokens, num_actions)
        return logits.log_softmax(-1).gather(-1, classes[..., None])[..., 0]


@gin.configurable(module="remdm")
class LeaveOneOutScorer(_Rescorer):
    """The pseudo-likelihood: each token's log-probability given all the others of the window.

    Exact, with one row per token (Besag 1975), and all rows in one call. It is low where two tokens
    do not go together, which is what drawing them in the same call brings about.
    """

    def __init__(self, *, schedule: NoiseSchedule | None = None, rows_per_call: int = 512) -> None:
        """Args:
        schedule: Noise schedule of a net that reads the time; linear when None.
        rows_per_call: Most rows in one net call; more are asked one part after another.
        """
        super().__init__(schedule, rows_per_call)

    def __call__(
        self, denoise: Denoise, sample: PlanSample, window: int, num_actions: int
    ) -> Tensor:
        """See `Scorer.__call__`."""
        horizon = sample.tokens.shape[1]
        hidden = torch.eye(horizon, dtype=torch.bool, device=sample.tokens.device)[:window]
        found = self._log_probs_of_hidden(denoise, sample, hidden, window, num_actions)
        return found.sum((1, 2))


@gin.configurable(module="remdm")
class MirrorScorer(_Rescorer):
    """Pairs of complementary masks: half of the window given the other half, and the reverse.

    Two rows per draw instead of one per token. Draw d hides the positions whose d-th binary digit
    is 1, then the others, so that nothing is random, all candidates are asked the same, and with as
    many draws as digits every two positions are told apart at least once.
    """

    def __init__(
        self,
        *,
        draws: int = 1,
        schedule: NoiseSchedule | None = None,
        rows_per_call: int = 512,
    ) -> None:
        """Args:
            draws: Pairs of masks; no more are used than the window's positions have digits.
            schedule: Noise schedule of a net that reads the time; linear when None.
            rows_per_call: Most rows in one net call; more are asked one part after another.

        Raises:
            ValueError: If `draws` is below 1.
        """
        super().__init__(schedule, rows_per_call)
        if draws < 1:
            raise ValueError(f"MirrorScorer.draws must be at least 1, got {draws}")
        self.draws = draws

    def __call__(
        self, denoise: Denoise, sample: PlanSample, window: int, num_actions: int
    ) -> Tensor:
        """See `Scorer.__call__`; the mean over draws."""
        hidden = mirror_masks(self.draws, window, sample.tokens.shape[1]).to(sample.tokens.device)
        found = self._log_probs_of_hidden(denoise, sample, hidden, window, num_actions)
        return found.sum((1, 2)) / (len(hidden) // 2)


def mirror_masks(draws: int, window: int, horizon: int) -> Tensor:
    """Complementary patterns over the window, bool [2 * draws, horizon].

    Patterns 2d and 2d + 1 hide every position of the window exactly once; there are at most as
    many draws as binary digits of the window's last position, and one for a window of one token.
    """
    digits = max(1, math.ceil(math.log2(window)))
    positions = torch.arange(horizon)
    digit = torch.arange(min(draws, digits))[:, None]
    first = (positions >> digit) & 1 == 1
    pairs = torch.stack([first, ~first], 1).flatten(0, 1)
    return pairs & (positions < window)


def counted(tokens: Tensor, window: int, num_actions: int) -> Tensor:
    """Positions that say something of a plan: in the window, up to its first END; bool [R, H]."""
    ended = (tokens == end_token(num_actions)).long()
    before = ended.cumsum(-1) - ended == 0
    return before & (torch.arange(tokens.shape[1], device=tokens.device) < window)


SCORERS = Registry("scorer")
SCORERS.register("log_prob", LogProbScorer)
SCORERS.register("leave_one_out", LeaveOneOutScorer)
SCORERS.register("mirror", MirrorScorer)


def make_scorer(name: str) -> Scorer:
    """The scorer called "log_prob", "leave_one_out" or "mirror", with its gin bindings.

    Raises:
        ValueError: If there is none of that name; shows the nearest.
    """
    scorer: Scorer = SCORERS.get(name)()
    return scorer
