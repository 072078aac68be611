"""From logits to a token: temperature, truncation, and the draw itself. All in float64."""

import gin
import torch
from torch import Tensor
from torch.nn import functional

from remdm.registry import unknown_name_message

NUCLEUS_RULES = ("holtzman", "official")


@gin.configurable(module="remdm")
class Decoder:
    """Turns the logits of a position into the distribution its token is drawn from."""

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        nucleus_rule: str = "holtzman",
        greedy: bool = False,
        raw_confidence: bool = False,
    ) -> None:
        """Args:
            temperature: Divides the logits; above 0.
            top_k: Keep the k most likely classes (and those as likely as the last of them).
            top_p: Keep the most likely classes up to this probability; in (0, 1].
            nucleus_rule: "holtzman" keeps the class that crosses `top_p` (arXiv 1904.09751),
                "official" drops it unless it is the first (the ReMDM code).
            greedy: Take the most likely class instead of drawing; entropies and margins still
                come from the tempered distribution.
            raw_confidence: Confidence in a token is its probability before temperature and
                truncation.

        Raises:
            ValueError: If a value is out of range or unknown.
        """
        if not temperature > 0:
            raise ValueError(
                f"Decoder.temperature must be above 0, got {temperature}; for the most likely "
                "token set Decoder.greedy = True"
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"Decoder.top_k must be at least 1 or None, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"Decoder.top_p must be in (0, 1] or None, got {top_p}")
        if nucleus_rule not in NUCLEUS_RULES:
            raise ValueError(
                unknown_name_message("Decoder.nucleus_rule", nucleus_rule, NUCLEUS_RULES)
            )
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.nucleus_rule = nucleus_rule
        self.greedy = greedy
        self.raw_confidence = raw_confidence

    def distribution(self, logits: Tensor) -> Tensor:
        """Probabilities to draw from.

        Args:
            logits: Floating [..., C]; minus infinity bars a class.

        Returns:
            float64 [..., C].
        """
        logits = logits.double() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            threshold = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        probs = logits.softmax(-1)
        if self.top_p is not None:
            probs = probs * nucleus(probs, self.top_p, self.nucleus_rule)
            probs = probs / probs.sum(-1, keepdim=True)
        return probs

    def choose(self, probs: Tensor, uniform: Tensor) -> Tensor:
        """One class per position.

        Args:
            probs: float64 [..., C].
            uniform: float64 [...], each strictly between 0 and 1.

        Returns:
            int64 [...].
        """
        return probs.argmax(-1) if self.greedy else draw_classes(probs, uniform)

    def confidence(self, logits: Tensor, probs: Tensor, classes: Tensor) -> Tensor:
        """Confidence in the chosen classes, float64 [...]."""
        source = logits.double().softmax(-1) if self.raw_confidence else probs
        return source.gather(-1, classes[..., None])[..., 0]


def nucleus(probs: Tensor, top_p: float, rule: str) -> Tensor:
    """Which classes stay.

    Args:
        probs: Floating [..., C], each row sums to 1.
        top_p: Probability to keep.
        rule: "holtzman" or "official", see `Decoder`.

    Returns:
        bool [..., C]; the most likely class always stays.
    """
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    total = ordered.cumsum(-1)
    before = functional.pad(total[..., :-1], (1, 0))
    keep = before < top_p if rule == "holtzman" else total <= top_p
    keep[..., 0] = True
    return torch.zeros_like(keep).scatter(-1, index, keep)


def draw_classes(probs: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution at `uniform`; a class of probability 0 is never drawn.

    Args:
        probs: float64 [..., C], not necessarily normalised.
        uniform: float64 [...], each strictly between 0 and 1.

    Returns:
        int64 [...].
    """
    cumulative = probs.cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    return (cumulative <= threshold).sum(-1)
