"""Laws over single actions: what they learn, draw and refuse."""

import numpy as np
import pytest
import torch

from remdm.nets.heads import CategoricalHead, GaussianHead
from remdm.ranks import ALONE

ALIKE = torch.zeros(1, 4)  # features of every row: only the bias speaks


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def categorical(probabilities: list[float], **knobs: float) -> CategoricalHead:
    head = CategoricalHead(4, len(probabilities), **knobs)
    head.logits.bias.data = torch.tensor(probabilities).log()
    return head


def test_actions_are_drawn_by_their_probabilities_and_the_likeliest_is_taken() -> None:
    head, count = categorical([0.2, 0.5, 0.3]), 40_000
    drawn, log_prob = head.draw(ALIKE.expand(count, 4), chance(), greedy=False)
    shares = torch.bincount(drawn, minlength=3) / count
    # Five standard deviations of a share at 1/2: three such fail with probability below 2e-6.
    assert (shares - torch.tensor([0.2, 0.5, 0.3])).abs().max() < 5 * 0.5 / count**0.5
    torch.testing.assert_close(log_prob.exp(), torch.tensor([0.2, 0.5, 0.3])[drawn])
    assert head.draw(ALIKE, chance(), greedy=True)[0].tolist() == [1]


def test_cross_entropy_is_the_weighted_mean_and_nothing_counts_as_nothing() -> None:
    head = categorical([0.25, 0.75])
    wanted, weights = torch.tensor([0, 1, 0]), torch.tensor([1.0, 3.0, 0.0])
    loss, metrics = head.loss(ALIKE.expand(3, 4), wanted, weights, ALONE)
    assert loss.item() == pytest.approx(-(np.log(0.25) + 3 * np.log(0.75)) / 4)
    assert metrics["first_token_accuracy"].item() == pytest.approx(0.75)
    nothing, _ = head.loss(ALIKE.expand(3, 4), wanted, torch.zeros(3), ALONE)
    assert nothing.item() == 0.0


def gaussian() -> GaussianHead:
    low = np.array([-2.0, -np.inf], np.float32)
    return GaussianHead(4, low, np.array([6.0, np.inf], np.float32))


def test_vectors_are_drawn_around_their_mean_in_units_of_the_bounds() -> None:
    head, count = gaussian(), 40_000
    head.law.bias.data = torch.tensor([0.5, 3.0, 0.0, 0.0])  # means, then spreads
    spread = 0.1  # half way between 0.01 and 1 on the scale of logarithms
    vectors, log_prob = head.draw(ALIKE.expand(count, 4), chance(), greedy=False)
    mean, std = torch.tensor([2.0 + 4 * 0.5, 3.0]), torch.tensor([4 * spread, spread])
    # Five standard errors each; all four together fail with probability below 3e-6.
    assert ((vectors.mean(0) - mean).abs() < 5 * std / count**0.5).all()
    assert ((vectors.std(0) - std).abs() < 5 * std / (2 * count) ** 0.5).all()
    law = torch.distributions.Normal(mean, std)
    torch.testing.assert_close(log_prob, law.log_prob(vectors).sum(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(head.draw(ALIKE, chance(), greedy=True)[0][0], mean)


def test_the_pull_on_the_mean_does_not_depend_on_the_spread() -> None:
    wanted, pulls = torch.tensor([[2.0, 1.0]]), []
    for spread in (-4.0, 4.0):
        head = gaussian()
        head.law.bias.data = torch.tensor([0.1, 0.2, spread, spread])
        loss, metrics = head.loss(ALIKE, wanted, torch.ones(1), ALONE)
        loss.backward()
        assert head.law.bias.grad is not None
        pulls.append(head.law.bias.grad[:2].clone())
        # (2 - 2) / 4 - 0.1 and 1 - 0.2, squared, and their mean.
        assert metrics["squared_error"].item() == pytest.approx((0.1**2 + 0.8**2) / 2)
    torch.testing.assert_close(pulls[0], pulls[1])


def test_an_expert_that_errs_is_told_by_the_spread() -> None:
    torch.manual_seed(0)
    head = GaussianHead(4, np.array([-1.0], np.float32), np.array([1.0], np.float32))
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    features = torch.randn(512, 4)
    wanted = 0.3 + 0.2 * torch.randn(512, 1)
    for _ in range(300):
        optimiser.zero_grad()
        loss, metrics = head.loss(features * 0, wanted, torch.ones(512), ALONE)
        loss.backward()
        optimiser.step()
    assert metrics["spread"].item() == pytest.approx(wanted.std().item(), rel=0.05)


def test_knobs_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set CategoricalHead\.temperature"):
        CategoricalHead(4, 2, temperature=0.0)
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match=r"set GaussianHead\.least_spread"):
        GaussianHead(4, -one, one, least_spread=0.0)
