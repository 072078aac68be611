"""Best of N: draw several plans for each observation in one batch and keep the best.

The candidates cost batch, not depth: N times the work of a plan, in as many calls one after another
as the deepest candidate takes, and one more for a scorer that asks the net.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from remdm.diffusion.interface import (
    Denoise,
    Implausible,
    NonFiniteLogitsError,
    PlanSample,
    TraceStep,
)
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.scorers import Scorer

# What `Sampler.sample` takes one of per row; each candidate gets its row's.
PER_ROW = ("locked", "start", "first_token_mask", "token_mask")


@torch.no_grad()
def best_of(
    sampler: Sampler,
    denoise: Denoise,
    batch_size: int,
    horizon: int,
    generator: torch.Generator,
    *,
    candidates: int,
    scorer: Scorer,
    window: int | None = None,
    **conditioning: Any,
) -> PlanSample:
    """Draw `candidates` plans per row and keep the one with the highest score.

    Row b's candidates have streams of their own, taken from the generator one row after another:
    they depend neither on the other rows nor on how many there are. With one candidate this is
    `Sampler.sample`, and nothing is scored. Candidates of a sampler in which nothing is random are
    all the same.

    Args:
        sampler: Draws the candidates.
        denoise: The net, bound to B observations.
        batch_size: Number of rows B.
        horizon: Tokens per plan H.
        generator: Source of randomness.
        candidates: Plans per row N.
        scorer: Rates them; equal scores keep the first.
        window: See `Sampler.sample`; also what is scored.
        **conditioning: All else that `Sampler.sample` takes, one row per observation.

    Returns:
        The chosen plans. `nfe` counts calls in sequence: the row's deepest candidate and the
        scorer's. A trace shows the chosen candidates only.

    Raises:
        ValueError: If `candidates` is below 1, conditioning has another number of rows, or the
            scorer returns another shape or NaN; and whatever `Sampler.sample` refuses.
    """
    if candidates < 1:
        raise ValueError(
            f"candidates must be at least 1, got {candidates}; set "
            "DiffusionPlannerAgent.candidates = 1 for plans as they are drawn"
        )
    if candidates == 1:
        return sampler.sample(
            denoise, batch_size, horizon, generator, window=window, **conditioning
        )
    repeated = {k: _repeated(k, v, batch_size, candidates) for k, v in conditioning.items()}
    if conditioning.get("implausible") is not None:
        repeated["implausible"] = _OnCandidates(conditioning["implausible"], candidates)
    on_candidates = _DenoiseCandidates(denoise, batch_size, candidates)
    try:
        sample = sampler.sample(
            on_candidates, batch_size * candidates, horizon, generator, window=window, **repeated
        )
    except NonFiniteLogitsError as error:
        row = error.row // candidates
        raise NonFiniteLogitsError(row, error.call, error.tokens, error.time) from None
    scores = scorer(on_candidates, sample, window or horizon, sampler.num_actions)
    best = _best(scores, batch_size, candidates)
    chosen = _rows_of(sample, best)
    nfe = sample.nfe.view(batch_size, candidates).amax(-1) + scorer.calls
    return PlanSample(
        tokens=chosen["tokens"],
        lengths=chosen["lengths"],
        log_prob=chosen["log_prob"],
        nfe=nfe,
        token_log_probs=chosen["token_log_probs"],
        trace=None if sample.trace is None else [_traced(step, best) for step in sample.trace],
    )


class _OwnerRows:
    """Translates rows of candidates into rows of observations: row b * N + n belongs to b.

    The same object comes out while the same comes in, so that a denoiser may go by identity.
    """

    def __init__(self, candidates: int) -> None:
        self.candidates = candidates
        self._rows: Tensor | None = None
        self._owners: Tensor | None = None

    def __call__(self, rows: Tensor | None, count: int, device: torch.device) -> Tensor:
        if self._owners is None or rows is not self._rows:
            self._rows = rows
            of_candidates = torch.arange(count, device=device) if rows is None else rows
            self._owners = of_candidates // self.candidates
        return self._owners


class _DenoiseCandidates:
    """A `Denoise` over B * N candidates on top of one over B observations."""

    def __init__(self, denoise: Denoise, batch_size: int, candidates: int) -> None:
        self.denoise = denoise
        self.batch_size = batch_size
        self.candidates = candidates
        self.owners = _OwnerRows(candidates)
        self.is_first = True

    def __call__(self, tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        """See `Denoise`."""
        is_first, self.is_first = self.is_first, False
        if is_first and rows is None:
            # All candidates of a row begin alike: asking once per row answers for all of them.
            n = self.candidates
            return self.denoise(tokens[::n], time[::n], None).repeat_interleave(n, 0)
        return self.denoise(tokens, time, self.owners(rows, len(tokens), tokens.device))


class _OnCandidates:
    """Asks an `implausible` of B observations about candidates."""

    def __init__(self, implausible: Implausible, candidates: int) -> None:
        self.implausible = implausible
        self.owners = _OwnerRows(candidates)

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Positions to doubt, bool [b, H]."""
        return self.implausible(tokens, self.owners(rows, len(tokens), tokens.device))


def _repeated(name: str, value: Any, batch_size: int, candidates: int) -> Any:
    """`value` with each row once per candidate; things that all rows share stay as they are."""
    if name not in PER_ROW or value is None:
        return value
    if name == "first_token_mask" and (value.ndim == 1 or len(value) == 1):
        return value
    if len(value) != batch_size:
        raise ValueError(
            f"{name} must have one row per observation, {batch_size}, got {list(value.shape)}; "
            "best_of repeats it for the candidates"
        )
    return value.repeat_interleave(candidates, 0)


def _best(scores: Tensor, batch_size: int, candidates: int) -> Tensor:
    """Number of each row's best candidate in the whole batch, int64 [B]."""
    if scores.shape != (batch_size * candidates,) or bool(scores.isnan().any()):
        raise ValueError(
            f"a scorer must return one number per plan, [{batch_size * candidates}] and no NaN, "
            f"got {list(scores.shape)} with {int(scores.isnan().sum())} NaN; set "
            "DiffusionPlannerAgent.scorer_type to another one or look at the net's weights"
        )
    winner = scores.view(batch_size, candidates).argmax(-1)
    return torch.arange(batch_size, device=scores.device) * candidates + winner


def _rows_of(record: PlanSample | TraceStep, rows: Tensor) -> dict[str, Tensor]:
    """The tensors of a record by name, at some rows."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value[rows] for name, value in values.items() if isinstance(value, Tensor)}


def _traced(step: TraceStep, rows: Tensor) -> TraceStep:
    """The trace of some rows."""
    return TraceStep(**_rows_of(step, rows))
