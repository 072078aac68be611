"""Truncation rules and the categorical draw (method table, tests 23 and 24)."""

import math

import pytest
import torch

from remdm.diffusion import draws
from remdm.diffusion.decode import Decoder, draw_classes, nucleus


@pytest.mark.parametrize(
    ("probs", "top_p", "rule", "kept"),
    [
        ([0.5, 0.3, 0.15, 0.05], 0.9, "holtzman", [0, 1, 2]),
        ([0.5, 0.3, 0.15, 0.05], 0.5, "holtzman", [0]),
        ([0.85, 0.10, 0.05], 0.9, "holtzman", [0, 1]),
        ([0.85, 0.10, 0.05], 0.9, "official", [0]),
        ([0.05, 0.85, 0.10], 0.9, "holtzman", [1, 2]),
        ([0.95, 0.05], 0.9, "official", [0]),
        ([0.5, 0.5], 1.0, "holtzman", [0, 1]),
    ],
)
def test_nucleus_keeps_what_its_rule_says(
    probs: list[float], top_p: float, rule: str, kept: list[int]
) -> None:
    keep = nucleus(torch.tensor(probs, dtype=torch.float64), top_p, rule)
    assert keep.nonzero()[:, 0].tolist() == kept


def test_truncated_distributions_are_renormalised() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    torch.testing.assert_close(
        Decoder(top_k=2).distribution(logits),
        torch.tensor([0.625, 0.375, 0, 0], dtype=torch.float64),
        atol=1e-7,
        rtol=0,
    )
    torch.testing.assert_close(
        Decoder(top_p=0.75).distribution(logits),
        torch.tensor([0.625, 0.375, 0, 0], dtype=torch.float64),
        atol=1e-7,
        rtol=0,
    )


def test_temperature_divides_logits() -> None:
    logits = torch.tensor([0.0, 1.0], dtype=torch.float64)
    probs = Decoder(temperature=0.5).distribution(logits)
    assert float(probs[1]) == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-12)


def test_confidence_can_ignore_temperature_and_truncation() -> None:
    logits = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    for raw, expected in ((True, 1 / (1 + math.exp(-2))), (False, 1.0)):
        decoder = Decoder(temperature=0.5, top_k=1, raw_confidence=raw)
        probs = decoder.distribution(logits)
        confidence = decoder.confidence(logits, probs, torch.tensor([1]))
        assert float(confidence) == pytest.approx(expected, abs=1e-12)


def test_draws_follow_a_skewed_distribution_and_never_hit_zero() -> None:
    probs = torch.tensor(
        [0.0, 0.4, 0.2, 0.1, 0.0, 0.1, 0.1, 0.05, 0.03, 0.015, 0.004, 0.001],
        dtype=torch.float64,
    )
    keys = draws.row_keys(torch.Generator().manual_seed(0), 1000, torch.device("cpu"))
    uniform = draws.uniform(keys, 0, draws.TOKEN, 1000)
    counts = draw_classes(probs.expand(1000, 1000, -1), uniform).flatten().bincount(minlength=12)
    assert counts[[0, 4]].tolist() == [0, 0]
    positive = probs > 0
    expected = probs[positive] * 1e6
    # chi-square with 9 degrees of freedom exceeds 33.7 with probability 1e-4.
    assert float(((counts[positive] - expected) ** 2 / expected).sum()) < 33.7


def test_greedy_takes_the_likeliest_class_whatever_the_draw() -> None:
    probs = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).expand(100, -1)
    uniform = torch.linspace(0.01, 0.99, 100, dtype=torch.float64)
    assert (Decoder(greedy=True).choose(probs, uniform) == 1).all()
    cold = Decoder(temperature=1e-3).distribution(probs.log())
    assert (Decoder().choose(cold, uniform) == 1).all()


def test_uniform_numbers_are_uniform_and_differ_by_purpose_and_step() -> None:
    keys = draws.row_keys(torch.Generator().manual_seed(1), 2000, torch.device("cpu"))
    streams = [draws.uniform(keys, s, p, 50) for s in range(2) for p in range(3)]
    for numbers in streams:
        assert ((numbers > 0) & (numbers < 1)).all()
        counts = (numbers * 20).long().flatten().bincount(minlength=20).double()
        # chi-square with 19 degrees of freedom exceeds 57.2 with probability 1e-5.
        assert float(((counts - 5000) ** 2 / 5000).sum()) < 57.2
    together = torch.stack([s.flatten() for s in streams])
    correlation = torch.corrcoef(together).fill_diagonal_(0).abs().max()
    assert float(correlation) < 5 / math.sqrt(100_000)


def test_uniform_numbers_of_a_row_depend_on_its_key_only() -> None:
    keys = torch.tensor([5, -(2**63), 2**63 - 1])
    whole = draws.uniform(keys, 3, draws.REMASK, 7)
    assert whole[1:2].equal(draws.uniform(keys[1:2], 3, draws.REMASK, 7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "Decoder.greedy = True"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\]"),
        ({"nucleus_rule": "holzman"}, "did you mean 'holtzman'"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoder(**arguments)
