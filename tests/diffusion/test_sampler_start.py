"""Tokens to start from, positions to doubt, and errors that say which row."""

import pytest
import torch
from torch import Tensor

from remdm.diffusion.decode import Decoder
from remdm.diffusion.grids import LoopGrid, UniformTime
from remdm.diffusion.interface import NonFiniteLogitsError
from remdm.diffusion.order import MarginOrder
from remdm.diffusion.remask import RescaleRemask
from remdm.diffusion.remask_counted import SwapRemask
from remdm.diffusion.reveal import (
    BernoulliReveal,
    CountReveal,
    EntropyBoundReveal,
    ThresholdReveal,
)
from remdm.diffusion.sampler import Sampler
from tests.diffusion.test_sampler import END, MASK, A, RandomModel, generator


def half_known(rows: int = 5) -> Tensor:
    start = torch.full((rows, 10), MASK)
    start[:, ::2] = torch.randint(A, (rows, 5), generator=generator(4))
    return start


@pytest.mark.parametrize("fused", [True, False])
def test_start_tokens_stay_when_nothing_remasks_and_bear_no_log_probability(fused: bool) -> None:
    start = half_known()
    sampler = Sampler(A, fused=fused, reveal=EntropyBoundReveal(gamma=0.0))
    sample = sampler.sample(
        RandomModel(5), 5, 10, generator(), start=start, allow_end=False, trace=True
    )
    assert (sample.tokens[:, ::2] == start[:, ::2]).all()
    assert (sample.token_log_probs[:, ::2] == 0).all()
    assert sample.nfe.tolist() == [5] * 5
    # What was given was not revealed by any step.
    assert not torch.stack([t.revealed for t in sample.trace]).any(0)[:, ::2].any()


def test_start_tokens_may_be_masked_again_and_locked_ones_may_not() -> None:
    start, locked = half_known(200), torch.full((200, 10), MASK)
    locked[:, 0] = (start[:, 0] + 1) % A
    sampler = Sampler(
        A,
        reveal=CountReveal(),
        remask=RescaleRemask(eta=1.0),
        grid=UniformTime(num_steps=8),
    )
    sample = sampler.sample(
        RandomModel(200), 200, 10, generator(), start=start, start_time=0.5, locked=locked
    )
    assert (sample.tokens[:, 0] == locked[:, 0]).all()
    assert (sample.tokens[:, 2:] != start[:, 2:])[:, ::2].any(0).all()


@pytest.mark.parametrize(
    ("start_time", "first_call"), [(1.0, 1.0), (0.75, 0.75), (0.7, 0.5), (0.25, 0.25), (0.1, 0.25)]
)
def test_a_grid_begins_at_its_first_step_not_before_the_start_time(
    start_time: float, first_call: float
) -> None:
    model = RandomModel(5)
    sampler = Sampler(
        A,
        reveal=BernoulliReveal(),
        grid=UniformTime(num_steps=4),
        window_first=False,
        time_input="start",
    )
    sample = sampler.sample(model, 5, 10, generator(), start=half_known(), start_time=start_time)
    assert [float(t[0]) for t in model.times] == [
        t for t in (1.0, 0.75, 0.5, 0.25) if t <= first_call
    ]
    assert (sample.tokens != MASK).all()


def test_starting_late_takes_the_same_draws_as_the_late_steps_of_a_whole_run() -> None:
    # The chance of a step is a function of its number, so a run can be cut and joined.
    sampler = Sampler(A, reveal=CountReveal(), grid=UniformTime(num_steps=5), close_after_end=False)
    whole = sampler.sample(RandomModel(5), 5, 10, generator(), trace=True)
    rest = sampler.sample(
        RandomModel(5), 5, 10, generator(), start=whole.trace[1].tokens, start_time=0.6
    )
    assert rest.tokens.equal(whole.tokens)
    assert rest.nfe.tolist() == [3] * 5


def test_a_complete_start_takes_no_call_unless_it_can_be_masked_again() -> None:
    start = torch.zeros(3, 6, dtype=torch.int64)
    still = Sampler(A).sample(RandomModel(3), 3, 6, generator(), start=start)
    assert still.tokens.equal(start)
    assert still.nfe.tolist() == [0] * 3
    loop = Sampler(
        A,
        reveal=BernoulliReveal(),
        remask=RescaleRemask(eta=1.0),
        grid=LoopGrid(num_steps=6, alpha_on=0.5),
        window_first=False,
    )
    assert (loop.sample(RandomModel(3), 3, 6, generator(), start=start).nfe > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": torch.zeros(4, 7)}, r"start must be int64 \[4, 8\]"),
        ({"start": torch.full((4, 8), END + 1)}, "values from 8 to 8"),
        ({"start_time": 0.0}, r"start_time must be in \(0, 1\] or None, got 0"),
        ({"start_time": 1.5}, "got 1.5"),
        ({"implausible": lambda tokens, rows: tokens}, r"implausible must return bool \[4, 8\]"),
    ],
)
def test_starts_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(A).sample(RandomModel(4), 4, 8, generator(), **arguments)


def doubt_action_zero(tokens: Tensor, rows: Tensor | None) -> Tensor:
    return tokens == 0


@pytest.mark.parametrize("reveal", [EntropyBoundReveal(gamma=50.0), ThresholdReveal(tau=0.0)])
def test_doubted_tokens_wait_for_calls_of_their_own(reveal: object) -> None:
    sampler = Sampler(A, reveal=reveal, decoder=Decoder(temperature=4.0))
    sample, plain = (
        sampler.sample(
            RandomModel(50), 50, 10, generator(), implausible=doubts, allow_end=False, trace=True
        )
        for doubts in (doubt_action_zero, None)
    )
    # Unbounded, one call decides all but the doubted ones; then one doubted one per call, and
    # those drawn anew without doubt.
    waiting = (sample.trace[0].tokens == MASK).sum(-1)
    assert plain.nfe.tolist() == [1] * 50
    assert waiting.equal((plain.tokens == 0).sum(-1))
    assert int(waiting.max()) > 1
    assert (sample.nfe <= 1 + waiting).all()
    assert (sample.tokens != MASK).all()
    assert int((sample.tokens == 0).sum()) < 0.5 * int((plain.tokens == 0).sum())


def test_a_doubted_token_is_taken_back_first() -> None:
    sampler = Sampler(
        A,
        reveal=CountReveal(),
        order=MarginOrder(),
        remask=SwapRemask(swaps=1),
        grid=UniformTime(num_steps=8),
        close_after_end=False,
    )
    seen: list[Tensor] = []

    def doubt_the_first_token_in_call_five(tokens: Tensor, rows: Tensor | None) -> Tensor:
        seen.append(tokens.clone())
        return ((torch.arange(8) == 0) & (len(seen) == 5)).expand_as(tokens)

    sample = sampler.sample(
        RandomModel(20),
        20,
        8,
        generator(),
        implausible=doubt_the_first_token_in_call_five,
        trace=True,
    )
    # The plans shown hold committed tokens and, elsewhere, those chosen in the call.
    assert all((tokens != MASK).all() for tokens in seen)
    for tokens, entry in zip(seen[1:], sample.trace, strict=False):
        committed = entry.tokens != MASK
        assert tokens[committed].equal(entry.tokens[committed])
    had_it = sample.trace[3].tokens[:, 0] != MASK
    assert int(had_it.sum()) > 3
    assert sample.trace[4].remasked[had_it, 0].all()


def test_an_error_of_the_net_carries_what_it_was_shown() -> None:
    model = RandomModel(4)
    shown: list[Tensor] = []

    def broken(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        shown.append(tokens.clone())
        logits = model(tokens, time, rows)
        if len(shown) == 3:
            logits[1] = float("nan")
        return logits

    for fused in (True, False):
        shown.clear()
        sampler = Sampler(A, reveal=EntropyBoundReveal(gamma=0.0), fused=fused, compact_below=0.0)
        with pytest.raises(NonFiniteLogitsError) as failure:
            sampler.sample(broken, 4, 8, generator(), allow_end=False)
        assert (failure.value.row, failure.value.call) == (1, 2)
        assert failure.value.tokens.equal(shown[2][1:2])
        assert failure.value.time.shape == (1,)
