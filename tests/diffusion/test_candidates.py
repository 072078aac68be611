"""Best of N: what it buys on enumerated models, and that rows and candidates stay apart."""

from typing import Any

import pytest
import torch
from torch import Tensor

from remdm.diffusion.candidates import best_of
from remdm.diffusion.exact import ExactDenoiser, room_paths, small_sudokus
from remdm.diffusion.grids import UniformTime
from remdm.diffusion.interface import NonFiniteLogitsError, PlanSample
from remdm.diffusion.order import RandomOrder
from remdm.diffusion.reveal import CountReveal
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.scorers import LeaveOneOutScorer, LogProbScorer, MirrorScorer
from remdm.tokens import mask_token

A, H = 4, 8
MASK = mask_token(A)
CASES = {
    # name: plans, actions, calls, least success with four candidates
    "room": (room_paths(), 2, 4, 0.97),
    "shidoku": (small_sudokus(), 4, 7, 0.88),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counting(num_actions: int, calls: int) -> Sampler:
    """Count-scheduled, random order, temperature 0.5."""
    return Sampler(
        num_actions,
        reveal=CountReveal(),
        order=RandomOrder(),
        grid=UniformTime(num_steps=calls),
        window_first=False,
    )


class RowNet:
    """Each observation wants one token everywhere, more or less; remembers its calls."""

    def __init__(self, wanted: list[int], strength: float = 2.0) -> None:
        self.wanted = torch.tensor(wanted)
        self.strength = strength
        self.sizes: list[int] = []
        self.rows: list[Tensor | None] = []

    def __call__(self, tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        self.sizes.append(len(tokens))
        self.rows.append(rows)
        wanted = self.wanted if rows is None else self.wanted[rows]
        logits = torch.zeros(*tokens.shape, A + 1, dtype=torch.float64)
        # What is visible matters too, so that candidates differ in more than their draws.
        logits[..., 0] += 0.3 * (tokens == 1).sum(-1, keepdim=True)
        return logits.scatter_add(
            -1,
            wanted[:, None, None].expand(*tokens.shape, 1),
            torch.full((*tokens.shape, 1), self.strength, dtype=torch.float64),
        )


def draw(net: Any, count: int, candidates: int = 3, **conditioning: Any) -> PlanSample:
    arguments = {"scorer": LogProbScorer(), "allow_end": False} | conditioning
    return best_of(Sampler(A), net, count, H, seeded(), candidates=candidates, **arguments)


def drawn(case: str, candidates: int, rows: int = 1000) -> tuple[float, Tensor]:
    """Share of sound plans, and which rows had a sound candidate."""
    plans, num_actions, calls, _ = CASES[case]
    sampler, horizon = counting(num_actions, calls), plans.shape[1]
    model = ExactDenoiser(None, plans, num_actions)
    best = best_of(
        sampler,
        model,
        rows,
        horizon,
        seeded(),
        candidates=candidates,
        scorer=LeaveOneOutScorer(),
        allow_end=False,
    )
    every = sampler.sample(model, rows * candidates, horizon, seeded(), allow_end=False)
    sound = model.contains(every.tokens).view(rows, candidates)
    assert torch.equal(model.contains(best.tokens), sound.any(-1))
    return float(sound.any(-1).double().mean()), sound


@pytest.mark.parametrize("case", CASES)
def test_success_rises_with_candidates_as_the_chance_of_at_least_one(case: str) -> None:
    # Method 1.6, row best-of-4 at 5 and 8 calls, one of them the scorer's: 98.4 and 94.4 %. An
    # exact leave-one-out score finds a sound candidate whenever there is one (checked in `drawn`).
    success = [drawn(case, n)[0] for n in (1, 2, 4)]
    for n, share in zip((2, 4), success[1:], strict=True):
        expected = 1 - (1 - success[0]) ** n
        # Both shares are from 1000 rows of their own: four standard errors of the difference.
        slope = n * (1 - success[0]) ** (n - 1)
        spread = expected * (1 - expected) + slope**2 * success[0] * (1 - success[0])
        assert share == pytest.approx(expected, abs=4 * (spread / 1000) ** 0.5)
    assert success[2] >= CASES[case][3]


def test_candidates_of_a_row_are_drawn_apart() -> None:
    # Independent candidates agree in being sound as often as chance has it.
    share, sound = drawn("shidoku", 2)
    single = float(sound.double().mean())
    both = float(sound.all(-1).double().mean())
    # Four standard errors of a share of 1000 rows near a quarter.
    assert both == pytest.approx(single**2, abs=4 * (0.25 * 0.75 / 1000) ** 0.5)
    assert share > single


def test_one_candidate_is_the_sampler_itself_and_is_not_scored() -> None:
    net = RowNet([0, 1, 2])
    plain = Sampler(A).sample(net, 3, H, seeded(), window=4, allow_end=False)
    calls = len(net.sizes)
    alone = draw(net, 3, candidates=1, window=4, scorer=LeaveOneOutScorer())
    assert len(net.sizes) == 2 * calls
    for name in ("tokens", "lengths", "log_prob", "nfe", "token_log_probs"):
        assert torch.equal(getattr(plain, name), getattr(alone, name))


def test_a_rows_plan_does_not_depend_on_the_other_rows() -> None:
    for scorer in (LogProbScorer(), LeaveOneOutScorer(), MirrorScorer()):
        whole = draw(RowNet([0, 1, 2, 3, 0]), 5, scorer=scorer)
        fewer = draw(RowNet([0, 1]), 2, scorer=scorer)
        others = draw(RowNet([0, 1, 3, 1, 2], 2.0), 5, scorer=scorer)
        assert torch.equal(whole.tokens[:2], fewer.tokens)
        assert torch.equal(whole.tokens[:2], others.tokens[:2])
        assert torch.equal(whole.nfe[:2], fewer.nfe)


def test_every_candidate_is_asked_about_its_own_observation() -> None:
    wanted = [3, 1, 0, 2]
    sample = draw(RowNet(wanted, strength=50.0), 4, scorer=LeaveOneOutScorer())
    assert sample.tokens.tolist() == [[token] * H for token in wanted]


def test_the_first_call_asks_once_per_observation() -> None:
    net = RowNet([0, 1, 2])
    sample = draw(net, 3, candidates=4)
    assert net.sizes[0] == 3
    assert net.rows[0] is None
    assert set(net.sizes[1:]) != {3}
    plain = RowNet([0] * 4 + [1] * 4 + [2] * 4)
    every = Sampler(A).sample(plain, 12, H, seeded(), allow_end=False)
    best = every.token_log_probs.double().sum(-1).view(3, 4).argmax(-1) + torch.arange(3) * 4
    assert torch.equal(sample.tokens, every.tokens[best])
    assert torch.equal(sample.token_log_probs, every.token_log_probs[best])


def test_the_same_rows_come_as_the_same_object() -> None:
    net = RowNet([0, 1, 2], strength=0.5)
    best_of(
        counting(A, H),
        net,
        3,
        H,
        seeded(),
        candidates=2,
        scorer=LogProbScorer(),
        allow_end=False,
    )
    assert len(net.rows) == H
    assert all(rows is net.rows[1] for rows in net.rows[1:])


def test_calls_in_sequence_are_those_of_the_deepest_candidate_and_the_scorer() -> None:
    for scorer, calls in ((LogProbScorer(), 0), (LeaveOneOutScorer(), 1)):
        net = RowNet([0] * 3 + [1] * 3 + [2] * 3, strength=0.5)
        every = Sampler(A).sample(net, 9, H, seeded(), allow_end=False)
        sample = draw(RowNet([0, 1, 2], strength=0.5), 3, scorer=scorer)
        assert torch.equal(sample.nfe, every.nfe.view(3, 3).amax(-1) + calls)


def test_conditioning_reaches_every_candidate() -> None:
    locked = torch.full((3, H), MASK)
    locked[0, 2] = 3
    locked[1] = 2
    start = torch.full((3, H), MASK)
    start[2, 1] = 0
    first = torch.ones(3, A + 1, dtype=torch.bool)
    first[2] = torch.tensor([False, False, False, True, False])
    by_position = torch.ones(3, H, A + 1, dtype=torch.bool)
    by_position[0, 4] = torch.tensor([False, True, False, False, False])
    sample = draw(
        RowNet([0, 1, 2]),
        3,
        scorer=LeaveOneOutScorer(),
        locked=locked,
        start=start,
        first_token_mask=first,
        token_mask=by_position,
    )
    assert sample.tokens[0, [2, 4]].tolist() == [3, 1]
    assert sample.tokens[1].tolist() == [2] * H
    assert sample.tokens[2, :2].tolist() == [3, 0]
    shared = draw(RowNet([0, 1, 2]), 3, first_token_mask=first[2])
    assert shared.tokens[:, 0].tolist() == [3, 3, 3]


def test_doubts_are_asked_about_observations() -> None:
    asked: list[tuple[int, Tensor]] = []

    def implausible(tokens: Tensor, rows: Tensor | None) -> Tensor:
        assert rows is not None
        asked.append((len(tokens), rows))
        return torch.zeros(tokens.shape, dtype=torch.bool)

    sample = draw(RowNet([0, 1, 2]), 3, implausible=implausible)
    assert torch.equal(sample.tokens, draw(RowNet([0, 1, 2]), 3).tokens)
    assert asked[0][1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(count == len(rows) for count, rows in asked)


def test_the_trace_is_that_of_the_chosen_plans() -> None:
    sample = draw(RowNet([0, 1, 2]), 3, trace=True)
    assert sample.trace is not None
    assert torch.equal(sample.trace[-1].tokens, sample.tokens)
    assert all(step.believed.shape == (3, H) for step in sample.trace)


def test_equal_scores_keep_the_first_candidate() -> None:
    def indifferent(denoise: Any, sample: PlanSample, window: int, num_actions: int) -> Tensor:
        return torch.zeros(len(sample.tokens), dtype=torch.float64)

    indifferent.calls = 0  # type: ignore[attr-defined]
    net = RowNet([0] * 3 + [1] * 3)
    every = Sampler(A).sample(net, 6, H, seeded(), allow_end=False)
    assert torch.equal(draw(RowNet([0, 1]), 2, scorer=indifferent).tokens, every.tokens[::3])


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"candidates must be at least 1, got 0"):
        draw(RowNet([0]), 1, candidates=0)
    with pytest.raises(ValueError, match=r"locked must have one row per observation, 3, got"):
        draw(RowNet([0, 1, 2]), 3, locked=torch.full((2, H), MASK))

    def undecided(denoise: Any, sample: PlanSample, window: int, num_actions: int) -> Tensor:
        return torch.full((len(sample.tokens),), float("nan"))

    with pytest.raises(
        ValueError, match=r"one number per plan, \[6\] and no NaN, got \[6\] with 6"
    ):
        draw(RowNet([0, 1]), 2, scorer=undecided)


def test_logits_that_are_not_finite_name_the_observation() -> None:
    def broken(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        logits = RowNet([0, 1, 2])(tokens, time, rows)
        logits[(torch.arange(3) if rows is None else rows) == 2] = float("nan")
        return logits

    with pytest.raises(NonFiniteLogitsError, match="row 2 of the batch"):
        draw(broken, 3)
