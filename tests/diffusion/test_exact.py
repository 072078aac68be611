"""Enumerated models: their answers are the posterior, and what they enumerate is complete."""

import itertools
import math

import numpy as np
import pytest
import torch

from remdm.diffusion.exact import LEAST_LOGIT, ExactDenoiser, room_paths, small_sudokus
from tests.diffusion.enumerated import random_joint

V, L = 3, 3
MASK, END = V, V + 1


def test_answers_are_the_posterior_of_every_partly_masked_plan() -> None:
    """Bayes by hand on a 3 x 3 joint, all 64 states."""
    joint = random_joint(V, L)
    denoise = ExactDenoiser.over_all(joint, V, L)
    plans = list(itertools.product(range(V), repeat=L))
    for state in itertools.product(range(V + 1), repeat=L):
        answer = denoise(torch.tensor([state]))[0].exp()
        agreeing = [
            (plan, weight)
            for plan, weight in zip(plans, joint, strict=True)
            if all(s in (MASK, p) for s, p in zip(state, plan, strict=True))
        ]
        total = sum(weight for _, weight in agreeing)
        for position, symbol in itertools.product(range(L), range(V)):
            share = sum(w for plan, w in agreeing if plan[position] == symbol) / total
            assert float(answer[position, symbol]) == pytest.approx(share, abs=1e-12)
        assert bool((answer[:, V] == 0).all())  # END never occurs
    assert denoise.calls == (V + 1) ** L


def test_end_is_a_class_of_its_own() -> None:
    plans = torch.tensor([[0, END, END], [1, 1, END], [2, 2, 2]])
    denoise = ExactDenoiser(np.array([0.5, 0.25, 0.25]), plans, V)
    answer = denoise(torch.tensor([[MASK, MASK, END], [MASK, END, MASK], [MASK] * 3])).exp()
    third = 1 / 3
    torch.testing.assert_close(
        answer[0],
        torch.tensor([[2 * third, third, 0, 0], [0, third, 0, 2 * third], [0, 0, 0, 1]]).double(),
        atol=1e-7,
        rtol=0,
    )
    assert answer[1].argmax(-1).tolist() == [0, V, V]
    assert answer[2, 2].tolist() == [0, 0, 0.25, 0.75]


def test_noise_mixes_the_uniform_distribution_of_the_classes_that_occur() -> None:
    paths = room_paths()
    state = torch.full((1, 10), 2)
    state[0, :5] = 0  # five times east: the rest is south
    clean = ExactDenoiser(None, paths, 2)(state).exp()
    noisy = ExactDenoiser(None, paths, 2, noise=0.08)(state).exp()
    assert clean[0, 7].tolist() == [0, 1, 0]
    np.testing.assert_allclose(noisy[0, 7].numpy(), [0.04, 0.96, 0], atol=1e-15)
    np.testing.assert_allclose(noisy[0, 0].numpy(), [0.96, 0.04, 0], atol=1e-15)


def test_what_no_plan_agrees_with_is_answered_all_the_same() -> None:
    """Parallel draws do get there; visible tokens stay and the rest is uniform, never NaN."""
    state = torch.full((2, 10), 2)
    state[0, :6] = 0  # six times east in a room that is five wide
    answer = ExactDenoiser(None, room_paths(), 2)(state).exp()
    assert answer[0, 0].tolist() == [1, 0, 0]
    assert answer[0, 9].tolist() == [0.5, 0.5, 0]
    expected = torch.tensor([0.5, 0.5, 0]).double().expand(10, -1)
    torch.testing.assert_close(answer[1], expected, atol=1e-12, rtol=0)


def test_single_precision_stays_finite_and_says_the_same() -> None:
    grids = small_sudokus()
    state = grids[:50].clone()
    state[:, ::2] = 4
    exact = ExactDenoiser(None, grids, 4)(state)
    single = ExactDenoiser(None, grids, 4, dtype=torch.float32)(state)
    assert single.dtype == torch.float32
    assert float(single.min()) == LEAST_LOGIT
    torch.testing.assert_close(single.double().exp(), exact.exp(), atol=1e-6, rtol=0)


def test_room_has_every_order_of_its_moves_once() -> None:
    paths = room_paths()
    assert paths.shape == (252, 10)
    assert paths.dtype == torch.int64
    assert bool((paths.sum(-1) == 5).all())
    assert torch.equal(paths.unique(dim=0), paths)  # distinct and in lexicographic order
    assert room_paths(3).tolist() == [
        [0, 0, 1, 1],
        [0, 1, 0, 1],
        [0, 1, 1, 0],
        [1, 0, 0, 1],
        [1, 0, 1, 0],
        [1, 1, 0, 0],
    ]


def test_small_sudokus_are_the_288_grids() -> None:
    """Method table, test 18: the size of the support, by the rules themselves."""
    grids = small_sudokus()
    assert torch.equal(grids.unique(dim=0), grids)
    square = grids.view(-1, 4, 4)
    blocks = square.view(-1, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4, 4)
    for groups in (square, square.transpose(1, 2), blocks):
        assert bool((groups.sort(-1).values == torch.arange(4)).all())
    assert len(grids) == 288


@pytest.mark.parametrize(("plans", "nats"), [(room_paths(), 5.529), (small_sudokus(), 5.663)])
def test_entropy_is_what_a_net_can_reach(plans: torch.Tensor, nats: float) -> None:
    """Method 4, check 2: ln 252 and ln 288."""
    entropy = ExactDenoiser(None, plans, int(plans.max()) + 1).entropy
    assert entropy == pytest.approx(math.log(len(plans)), abs=1e-12)
    assert entropy == pytest.approx(nats, abs=5e-4)


def test_contains_tells_plans_that_are_possible() -> None:
    paths = room_paths()
    probabilities = torch.full((252,), 1 / 251, dtype=torch.float64)
    probabilities[0] = 0
    denoise = ExactDenoiser(probabilities, paths, 2)
    assert denoise.contains(paths).tolist() == [False] + [True] * 251
    assert not bool(denoise.contains(torch.zeros(1, 10).long()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sequences": torch.zeros(3).long()}, r"sequences \[N, H\]"),
        ({"sequences": torch.zeros(0, 3).long()}, "N at least 1"),
        ({"probabilities": [0.5, 0.6]}, "sum to 1, got a sum of 1.1"),
        ({"probabilities": [1.5, -0.5]}, "at least 0"),
        ({"probabilities": [1.0]}, r"\(2, 3\) and \(1,\)"),
        ({"sequences": torch.full((2, 3), MASK)}, "no MASK"),
        ({"sequences": torch.full((2, 3), END + 1)}, "num_actions=3"),
        ({"noise": 1.0}, r"noise must be in \[0, 1\)"),
    ],
)
def test_what_is_no_distribution_is_refused(arguments: dict[str, object], said: str) -> None:
    given = {"probabilities": None, "sequences": torch.zeros(2, 3).long(), "num_actions": V}
    with pytest.raises(ValueError, match=said):
        ExactDenoiser(**(given | arguments))  # type: ignore[arg-type]


def test_smallest_room_is_two_cells_wide() -> None:
    assert room_paths(2).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match="at least 2, got 1"):
        room_paths(1)
