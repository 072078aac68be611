"""Scores of finished plans against slow references and enumerated models."""

import math

import gin
import pytest
import torch
from torch import Tensor

from remdm.diffusion.decode import Decoder
from remdm.diffusion.exact import ExactDenoiser, small_sudokus
from remdm.diffusion.grids import UniformTime
from remdm.diffusion.interface import PlanSample
from remdm.diffusion.order import RandomOrder
from remdm.diffusion.reveal import CountReveal
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.schedules import CosineSchedule
from remdm.diffusion.scorers import (
    LeaveOneOutScorer,
    LogProbScorer,
    MirrorScorer,
    Scorer,
    make_scorer,
    mirror_masks,
)
from remdm.tokens import end_token, mask_token
from tests.diffusion.enumerated import random_joint

A, H = 3, 6
MASK, END = mask_token(A), end_token(A)


class TableNet:
    """Logits that depend on the row and on every token; remembers what it was asked."""

    def __init__(self, rows: int) -> None:
        source = torch.Generator().manual_seed(3)
        self.table = torch.randn(rows, A + 2, H, H, A + 1, generator=source, dtype=torch.float64)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        self.asked.append((tokens.clone(), time.clone()))
        rows = torch.arange(len(tokens)) if rows is None else rows
        positions = torch.arange(H)
        return self.table[rows[:, None], tokens, positions].sum(1)


def plans(tokens: Tensor) -> PlanSample:
    zeros = torch.zeros(tokens.shape)
    return PlanSample(tokens, zeros.sum(-1).long(), zeros.sum(-1), zeros.sum(-1).long(), zeros)


PLANS = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 0, END, END, END], [1, END, END, END, END, END]])


def log_prob(net: TableNet, row: int, shown: Tensor, position: int) -> float:
    """Of the row's token at `position` where the net is shown `shown` [H]."""
    logits = net(shown[None], torch.ones(1), torch.tensor([row]))[0, position]
    token = int(PLANS[row, position])
    return float(logits.log_softmax(-1)[min(token, A)])


def counts(row: int, position: int) -> bool:
    """Whether no END stands before `position`."""
    return not bool((PLANS[row, :position] == END).any())


@pytest.mark.parametrize("window", [1, 2, 4, H])
def test_leave_one_out_is_the_pseudo_likelihood_token_by_token(window: int) -> None:
    net = TableNet(len(PLANS))
    expected = [0.0] * len(PLANS)
    for row, plan in enumerate(PLANS):
        for position in range(window):
            shown = plan.clone()
            shown[window:] = MASK
            shown[position] = MASK
            if counts(row, position):
                expected[row] += log_prob(net, row, shown, position)
    found = LeaveOneOutScorer()(net, plans(PLANS), window, A)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("draws", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 3, H])
def test_mirror_hides_by_the_digits_of_positions(draws: int, window: int) -> None:
    net = TableNet(len(PLANS))
    used = min(draws, max(1, math.ceil(math.log2(window))))
    expected = [0.0] * len(PLANS)
    for row, plan in enumerate(PLANS):
        for digit in range(used):
            for side in (0, 1):
                hidden = [p for p in range(window) if (p >> digit) % 2 == side]
                shown = plan.clone()
                shown[window:] = MASK
                shown[hidden] = MASK
                expected[row] += sum(
                    log_prob(net, row, shown, p) / used for p in hidden if counts(row, p)
                )
    found = MirrorScorer(draws=draws)(net, plans(PLANS), window, A)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("window", range(1, 18))
def test_mirror_masks_are_complementary_and_separate_all_positions(window: int) -> None:
    masks = mirror_masks(10, window, 20)
    assert not masks[:, window:].any()
    assert (masks[::2].long() + masks[1::2].long() == (torch.arange(20) < window)).all()
    inside = masks[:, :window].T
    assert len(inside.unique(dim=0)) == window


@pytest.mark.parametrize("scorer", [LeaveOneOutScorer(), MirrorScorer(draws=3)])
def test_guesses_behind_the_window_do_not_count(scorer: Scorer) -> None:
    net = TableNet(len(PLANS))
    other = PLANS.clone()
    other[0, 3:] = torch.tensor([2, 2, 2])
    first = scorer(net, plans(PLANS), 3, A)
    assert first.tolist() == scorer(net, plans(other), 3, A).tolist()
    assert first[0] != scorer(net, plans(PLANS), 4, A)[0]


@pytest.mark.parametrize("size", [1, 4, 7])
def test_parts_give_the_same_scores_as_one_call(size: int) -> None:
    for make in (LeaveOneOutScorer, MirrorScorer):
        net = TableNet(len(PLANS))
        whole = make()(net, plans(PLANS), H, A)
        assert len(net.asked) == make().calls == 1
        parts = make(rows_per_call=size)(net, plans(PLANS), H, A)
        assert all(len(tokens) <= size for tokens, _ in net.asked[1:])
        assert parts.tolist() == pytest.approx(whole.tolist(), abs=1e-12)


def test_only_tokens_that_count_are_asked_for() -> None:
    net = TableNet(len(PLANS))
    LeaveOneOutScorer()(net, plans(PLANS), H, A)
    assert len(net.asked[0][0]) == 6 + 4 + 2  # tokens up to the first END of the three plans


def test_the_net_is_told_the_time_of_the_hidden_share() -> None:
    net = TableNet(len(PLANS))
    LeaveOneOutScorer(schedule=CosineSchedule())(net, plans(PLANS[:1]), 4, A)
    share = torch.tensor(3 / H)  # one of the window, and two behind it
    expected = CosineSchedule().inv_mask_rate(share)
    assert torch.allclose(net.asked[0][1], expected.expand(4))


def independent_model() -> ExactDenoiser:
    law = random_joint(A, 1, seed=5)
    joint = torch.from_numpy(law)
    for _ in range(H - 1):
        joint = (joint[:, None] * torch.from_numpy(law)).flatten()
    return ExactDenoiser.over_all(joint, A, H)


def test_all_scorers_give_the_log_probability_where_tokens_are_independent() -> None:
    model = independent_model()
    sampler = Sampler(A, decoder=Decoder(temperature=1.0))
    sample = sampler.sample(model, 50, H, torch.Generator().manual_seed(0), allow_end=False)
    index = (sample.tokens * A ** torch.arange(H - 1, -1, -1)).sum(-1)
    expected = model.probabilities[index].log()
    for scorer in (LeaveOneOutScorer(), MirrorScorer(draws=3), LogProbScorer()):
        found = scorer(model, sample, H, A)
        assert torch.allclose(found, expected, atol=1e-5)


def test_log_prob_is_the_plans_log_probability_at_one_token_per_call() -> None:
    # Chain rule: the product of the conditionals each token was drawn from.
    model = ExactDenoiser.over_all(random_joint(A, 3), A, 3)
    sampler = Sampler(
        A,
        reveal=CountReveal(),
        order=RandomOrder(),
        grid=UniformTime(num_steps=3),
        decoder=Decoder(temperature=1.0),
        window_first=False,
    )
    sample = sampler.sample(model, 100, 3, torch.Generator().manual_seed(0), allow_end=False)
    index = (sample.tokens * torch.tensor([9, 3, 1])).sum(-1)
    found = LogProbScorer()(model, sample, 3, A)
    assert torch.allclose(found, model.probabilities[index].log(), atol=1e-5)
    assert LogProbScorer.calls == 0


def test_leave_one_out_tells_sound_plans_from_broken_ones() -> None:
    # Every 4 x 4 Sudoku follows from any 15 of its digits: exactly 0 nats, and less with one wrong.
    grids = small_sudokus()
    model = ExactDenoiser(None, grids, 4)
    sound = LeaveOneOutScorer()(model, plans(grids), 16, 4)
    assert sound.tolist() == pytest.approx([0.0] * 288, abs=1e-9)
    broken = grids.clone()
    cells = torch.arange(288) % 16
    broken[torch.arange(288), cells] = (broken[torch.arange(288), cells] + 1) % 4
    assert bool((LeaveOneOutScorer()(model, plans(broken), 16, 4) == -torch.inf).all())


def test_scorers_have_names() -> None:
    gin.parse_config("MirrorScorer.draws = 4")
    made = [make_scorer(name) for name in ("log_prob", "leave_one_out", "mirror")]
    assert [type(s) for s in made] == [LogProbScorer, LeaveOneOutScorer, MirrorScorer]
    assert isinstance(made[2], MirrorScorer)
    assert made[2].draws == 4
    with pytest.raises(ValueError, match="unknown scorer 'miror': did you mean 'mirror'"):
        make_scorer("miror")


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"LeaveOneOutScorer\.rows_per_call must be at least 1"):
        LeaveOneOutScorer(rows_per_call=0)
    with pytest.raises(ValueError, match=r"MirrorScorer\.draws must be at least 1, got 0"):
        MirrorScorer(draws=0)
