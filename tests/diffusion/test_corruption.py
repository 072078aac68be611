"""The forward process: rates, exact counts, what is never hidden (method table, tests 2, 25)."""

import math

import pytest
import torch

from remdm.diffusion.corruption import (
    PAD_MODES,
    BernoulliMasking,
    CountMasking,
    bernoulli_mask,
    count_mask,
)
from remdm.diffusion.schedules import CosineSchedule, LinearSchedule
from remdm.tokens import end_token, mask_token

A = 5
MASK, END = mask_token(A), end_token(A)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plans(batch_size: int, horizon: int) -> torch.Tensor:
    """Plans of lengths 1, 2, ... horizon, repeated."""
    tokens = torch.randint(A, (batch_size, horizon), generator=generator(9))
    lengths = torch.arange(batch_size) % horizon + 1
    return torch.where(torch.arange(horizon) < lengths[:, None], tokens, END)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_bernoulli_masks_at_the_given_rate(rate: float) -> None:
    # Method table, test 2: 12 800 tokens that may be hidden, and some that may not.
    free = torch.ones(200, 80, dtype=torch.bool)
    free[:, ::5] = False
    masked = bernoulli_mask(torch.full((200, 1), rate), free, generator())
    count = int(free.sum())
    assert count == 12_800
    # Four standard deviations, .0177 at a rate of .5: one in 16 000 runs would fail by chance,
    # and the seed is fixed.
    bound = 4 * math.sqrt(rate * (1 - rate) / count)
    assert abs(int(masked.sum()) / count - rate) <= bound
    assert not (masked & ~free).any()


def test_count_mask_hides_exactly_n_and_every_set_equally_often() -> None:
    free = torch.tensor([True, True, False, True, True]).expand(60_000, -1)
    masked = count_mask(torch.full((60_000, 1), 2), free, generator())
    assert (masked.sum(-1) == 2).all()
    codes = (masked * 2 ** torch.arange(5)).sum(-1)
    counts = codes.bincount(minlength=32)
    counts = counts[counts > 0].double()
    assert len(counts) == 6
    # chi-square with 5 degrees of freedom exceeds 33.1 with probability 3.6e-6.
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 33.1


def test_counts_are_spread_evenly_over_the_batch() -> None:
    batch = torch.zeros(160, 16, dtype=torch.int64)
    corrupted = CountMasking(A, draws=2, full_draws=1)(batch, LinearSchedule(), generator())
    assert corrupted.tokens.shape == (2, 160, 16)
    assert (corrupted.tokens[0] == MASK).all()
    assert (corrupted.counts[1].bincount() == torch.tensor([0] + [10] * 16)).all()
    assert (corrupted.counts == corrupted.masked.sum(-1)).all()
    # In random order: position in the batch says nothing about the count.
    assert not (corrupted.counts[1].diff() >= 0).all()


def test_independent_counts_are_uniform_and_not_spread_over_the_batch() -> None:
    batch = torch.zeros(16_000, 16, dtype=torch.int64)
    corruption = CountMasking(A, draws=1, full_draws=0, low_discrepancy=False)
    counts = corruption(batch, LinearSchedule(), generator()).counts[0].bincount(minlength=17)
    assert counts[0] == 0
    # chi-square with 15 degrees of freedom exceeds 50 with probability 1.2e-5.
    statistic = float(((counts[1:].double() - 1000) ** 2 / 1000).sum())
    assert 0 < statistic < 50


def test_time_is_the_schedules_time_of_the_realised_mask_rate() -> None:
    corrupted = CountMasking(A)(plans(32, 16), CosineSchedule(), generator())
    rate = corrupted.counts / corrupted.free
    torch.testing.assert_close(corrupted.rate, rate)
    torch.testing.assert_close(
        CosineSchedule().mask_rate(corrupted.time), rate.float(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", [CountMasking, BernoulliMasking])
@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_frozen_positions_stay_visible_and_bear_no_loss(kind: type, pad_mode: str) -> None:
    batch = plans(64, 16)
    frozen = torch.zeros_like(batch, dtype=torch.bool)
    frozen[:, :3] = batch[:, :3] != END
    corrupted = kind(A, draws=4, pad_mode=pad_mode)(batch, LinearSchedule(), generator(), frozen)
    assert (corrupted.tokens == batch)[:, frozen].all()
    assert not corrupted.masked[:, frozen].any()
    assert (corrupted.tokens[corrupted.masked] == MASK).all()
    untouched = ~corrupted.masked
    if pad_mode == "always_mask":
        assert (corrupted.tokens[:, batch == END] == MASK).all()
        untouched &= batch != END
    assert (corrupted.tokens == batch)[untouched].all()
    if pad_mode != "predict":
        assert not corrupted.masked[:, batch == END].any()


@pytest.mark.parametrize("kind", [CountMasking, BernoulliMasking])
def test_a_frozen_end_stays_visible_in_every_pad_mode(kind: type) -> None:
    batch = plans(8, 8)
    frozen = torch.ones_like(batch, dtype=torch.bool)
    for pad_mode in PAD_MODES:
        corrupted = kind(A, pad_mode=pad_mode)(batch, LinearSchedule(), generator(), frozen)
        assert corrupted.tokens.equal(batch.expand_as(corrupted.tokens))


def test_only_predicted_ends_hide_how_long_a_plan_is() -> None:
    # Method table, test 25: at t = 1 the net must not see the answer's length. With visible PAD,
    # the seed's way, it does: what is shown differs between any two lengths.
    batch = plans(16, 16)
    inputs = {
        mode: CountMasking(A, pad_mode=mode)(batch, LinearSchedule(), generator()).tokens[0]
        for mode in PAD_MODES
    }
    for mode in ("predict", "always_mask"):
        assert (inputs[mode] == MASK).all()
    hidden = (inputs["visible"] == MASK).sum(-1)
    assert hidden.equal(torch.arange(16) + 1)


def test_rows_with_nothing_free_come_out_untouched() -> None:
    batch = torch.full((3, 8), END)
    corrupted = CountMasking(A, pad_mode="visible")(batch, LinearSchedule(), generator())
    assert (corrupted.tokens == END).all()
    assert not corrupted.masked.any()
    assert (corrupted.elbo_weight == 0).all()


def test_low_discrepancy_times_are_one_per_stratum() -> None:
    batch = torch.zeros(50, 4, dtype=torch.int64)
    corrupted = BernoulliMasking(A, min_rate=0.0)(batch, LinearSchedule(), generator())
    strata = (corrupted.time[0].double() * 50).floor().long().sort().values
    assert (strata == torch.arange(50)).all()


def test_bernoulli_tells_the_rate_that_it_masked_at() -> None:
    batch = torch.zeros(400, 50, dtype=torch.int64)
    for uniform_in in ("mask_rate", "time"):
        corrupted = BernoulliMasking(A, uniform_in=uniform_in)(batch, CosineSchedule(), generator())
        torch.testing.assert_close(
            CosineSchedule().mask_rate(corrupted.time), corrupted.rate, rtol=1e-4, atol=1e-6
        )
        share = corrupted.counts / 50
        # Within 5 standard deviations of a share of 50 tokens: P < 1e-3 in 400 rows.
        assert ((share - corrupted.rate).abs() < 5 * 0.5 / math.sqrt(50)).all()


def test_clamped_times_pile_up_at_both_ends_as_in_the_seed() -> None:
    batch = torch.zeros(4000, 2, dtype=torch.int64)
    corruption = BernoulliMasking(
        A, uniform_in="time", low_discrepancy=False, min_rate=0.25, clamped=True
    )
    time = corruption(batch, LinearSchedule(), generator()).time
    assert time.min() == 0.25
    assert time.max() == 0.75
    for end in (0.25, 0.75):
        # Four standard deviations of a share of 1/4 in 4000: P = 6e-5.
        assert abs(float((time == end).float().mean()) - 0.25) < 4 * math.sqrt(0.1875 / 4000)


def test_floor_bounds_the_weight_of_a_time() -> None:
    # The figure of the method table, test 35; clipped at 1000 it would not change.
    batch = torch.zeros(20_000, 2, dtype=torch.int64)
    corruption = BernoulliMasking(A, uniform_in="time", weight_floor=1e-5)
    corrupted = corruption(batch, CosineSchedule(), generator())
    assert float(corrupted.time_weight.max()) == pytest.approx(702.5, abs=10)
    assert corrupted.elbo_weight.max() <= corrupted.time_weight.max()


@pytest.mark.parametrize("kind", [CountMasking, BernoulliMasking])
@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_an_empty_batch_stays_empty(kind: type, pad_mode: str) -> None:
    corrupted = kind(A, draws=3, pad_mode=pad_mode)(plans(0, 8), LinearSchedule(), generator())
    assert corrupted.tokens.shape == (3, 0, 8)
    assert corrupted.counts.shape == corrupted.time.shape == (3, 0)


def test_same_generator_same_masks() -> None:
    batch = plans(8, 16)
    first, second = (CountMasking(A)(batch, LinearSchedule(), generator(4)) for _ in range(2))
    assert first.tokens.equal(second.tokens)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (CountMasking, {"draws": 1, "full_draws": 1}, "CountMasking.draws to at least 2"),
        (CountMasking, {"full_draws": -1}, "0 <= full_draws < draws"),
        (CountMasking, {"pad_mode": "predicted"}, "did you mean 'predict'"),
        (BernoulliMasking, {"uniform_in": "rate"}, "mask_rate"),
        (BernoulliMasking, {"min_rate": 1.0}, "0 <= min_rate < 1"),
        (BernoulliMasking, {"draws": 0}, "draws >= 1"),
        (BernoulliMasking, {"weight_floor": -1e-5}, "weight_floor >= 0"),
        (BernoulliMasking, {"clamped": True, "min_rate": 0.6}, "at most 0.5 with clamped=True"),
    ],
)
def test_bad_settings_are_refused(kind: type, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(A, **arguments)
