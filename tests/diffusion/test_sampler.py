"""What every sampler must keep: END, locks, windows, exits (method table, 20, 26-30, 32)."""

from types import NoneType

import pytest
import torch
from torch import Tensor

from remdm.diffusion.classes import num_classes
from remdm.diffusion.decode import Decoder
from remdm.diffusion.grids import UniformAlpha, UniformTime
from remdm.diffusion.order import RandomOrder
from remdm.diffusion.presets import preset_knobs, preset_names, sampler_preset
from remdm.diffusion.remask import CapRemask, ConfRemask, RescaleRemask
from remdm.diffusion.remask_counted import BudgetedConfRemask, PathRemask, SwapRemask
from remdm.diffusion.remask_seed import FadingRemask, SeedRemask
from remdm.diffusion.reveal import (
    BernoulliReveal,
    CountReveal,
    EntropyBoundReveal,
    RedecideReveal,
)
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.schedules import CosineSchedule
from remdm.tokens import end_token, mask_token

A = 6
MASK, END = mask_token(A), end_token(A)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class RandomModel:
    """A small random net over tokens; every row has an observation of its own."""

    def __init__(self, batch_size: int, sharpness: float = 1.5, end_bias: float = 0.0) -> None:
        source = generator(11)
        self.embedding = torch.randn(A + 2, 16, generator=source)
        self.context = torch.randn(batch_size, 1, 16, generator=source)
        self.places = torch.randn(64, 16, generator=source)
        self.head = torch.randn(16, num_classes(A), generator=source) * sharpness / 2
        self.end_bias = end_bias
        self.times: list[Tensor] = []
        self.shares: list[Tensor] = []
        self.row_sets: list[Tensor | None] = []

    def __call__(self, tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        self.times.append(time.clone())
        self.shares.append((tokens == MASK).float().mean(-1))
        self.row_sets.append(rows)
        context = self.context[: len(tokens)] if rows is None else self.context[rows]
        hidden = self.embedding[tokens]
        # Products of single rows, so that a row's numbers do not depend on the batch's size.
        mixed = hidden + hidden.mean(1, keepdim=True) * 2 + context + self.places[: hidden.shape[1]]
        logits = (torch.tanh(mixed)[..., None] * self.head).sum(-2)
        logits[..., A] += self.end_bias
        return logits


def presets(num_denoise_steps: int, horizon: int = 64, **overrides: float) -> dict[str, Sampler]:
    """All presets; the one that counts without remasking refuses more calls than tokens."""
    samplers = {}
    for name in preset_names():
        steps = min(num_denoise_steps, horizon) if name == "count" else num_denoise_steps
        knobs = {"num_denoise_steps": steps} if "num_denoise_steps" in preset_knobs(name) else {}
        samplers[name] = sampler_preset(name, A, **knobs, **overrides)
    return samplers


@pytest.mark.parametrize("horizon", [1, 2, 8])
def test_no_mask_survives_and_all_is_end_after_end(horizon: int) -> None:
    # Method table, tests 26 and 28: every preset, every number of steps up to horizon + 3.
    model = RandomModel(6, end_bias=1.0)
    for num_steps in range(1, horizon + 4):
        for name, sampler in presets(num_steps, horizon).items():
            for window in {1, horizon}:
                sample = sampler.sample(model, 6, horizon, generator(), window=window)
                assert (sample.tokens != MASK).all(), name
                ended = sample.tokens == END
                assert (ended.long().diff(dim=-1) >= 0).all(), name
                assert sample.lengths.equal((~ended).sum(-1)), name
                assert (sample.lengths >= 1).all(), name
                beyond = torch.arange(horizon) > sample.lengths[:, None]
                assert (sample.token_log_probs[beyond] == 0).all(), name
                torch.testing.assert_close(sample.log_prob, sample.token_log_probs.sum(-1))


REMASKERS = [
    CapRemask(eta=1.0),
    RescaleRemask(eta=1.0),
    ConfRemask(eta=1.0),
    SeedRemask(eta=1.0),
    FadingRemask(eta=1.0),
    BudgetedConfRemask(eta=1.0),
    SwapRemask(swaps=3),
    SwapRemask(swaps=3, competitive=True),
    PathRemask(eta=1.0),
]


@pytest.mark.parametrize("prefix", [0, 3, 10])
@pytest.mark.parametrize("remask", [None, *REMASKERS], ids=lambda r: type(r).__name__)
def test_locked_tokens_never_change(prefix: int, remask: object) -> None:
    # Method table, test 27.
    locked = torch.full((5, 10), MASK)
    locked[:, :prefix] = torch.randint(A, (5, prefix), generator=generator(2))
    for reveal in (BernoulliReveal(), CountReveal(), RedecideReveal()):
        if remask is not None and remask.needs_counts and not reveal.counts:
            continue
        if reveal.redecides and not isinstance(remask, (NoneType, SeedRemask, FadingRemask)):
            continue
        sampler = Sampler(
            A, reveal=reveal, remask=remask, grid=UniformTime(num_steps=6), window_first=False
        )
        sample = sampler.sample(RandomModel(5), 5, 10, generator(), locked=locked, trace=True)
        assert (sample.tokens[:, :prefix] == locked[:, :prefix]).all()
        assert (sample.tokens != MASK).all()
        if prefix == 10:
            assert sample.nfe.tolist() == [0] * 5
            assert sample.trace == []


def test_counts_are_of_free_positions() -> None:
    locked = torch.full((2, 10), MASK)
    locked[:, :4] = 1
    sampler = Sampler(A, reveal=CountReveal(), grid=UniformTime(num_steps=3))
    for fused in (True, False):
        sampler = Sampler(A, reveal=CountReveal(), grid=UniformTime(num_steps=3), fused=fused)
        sample = sampler.sample(
            RandomModel(2), 2, 10, generator(), locked=locked, trace=True, allow_end=False
        )
        left = [(t.tokens == MASK).sum(-1).tolist() for t in sample.trace]
        assert left == [[4, 4], [2, 2], [0, 0]]


def masks_left(sampler: Sampler, horizon: int) -> list[int]:
    sample = sampler.sample(RandomModel(1), 1, horizon, generator(), allow_end=False, trace=True)
    return [int((t.tokens == MASK).sum()) for t in sample.trace]


def test_masks_left_follow_the_published_traces() -> None:
    # Method table, test 20: 64 tokens in 5 and in 10 steps.
    expected = {5: [52, 27, 0, 0, 0], 10: [58, 46, 27, 2, 0, 0, 0, 0, 0, 0]}
    for steps, left in expected.items():
        greedy = sampler_preset(
            "readme_minihack_greedy", A, num_denoise_steps=steps, early_exit=False
        )
        assert masks_left(greedy, 64) == left
        still = sampler_preset(
            "readme_minihack", A, num_denoise_steps=steps, eta=0.0, early_exit=False
        )
        assert masks_left(still, 64) == left
    for steps, left in {
        5: [51, 38, 26, 13, 0],
        10: [58, 51, 45, 38, 32, 26, 19, 13, 6, 0],
    }.items():
        for fused in (True, False):
            count = Sampler(A, reveal=CountReveal(), grid=UniformTime(num_steps=steps), fused=fused)
            assert masks_left(count, 64) == left


def test_even_alpha_grid_commits_evenly_under_any_schedule() -> None:
    count = Sampler(
        A, reveal=CountReveal(), grid=UniformAlpha(num_steps=4), schedule=CosineSchedule()
    )
    assert masks_left(count, 16) == [12, 8, 4, 0]


@pytest.mark.parametrize(("steps", "calls"), [(5, 3), (10, 5)])
@pytest.mark.parametrize("greedy", [True, False])
def test_early_exit_gives_the_same_plans_with_fewer_calls(
    steps: int, calls: int, greedy: bool
) -> None:
    # Method table, test 30.
    samples = []
    for early_exit in (True, False):
        sampler = sampler_preset(
            "readme_minihack_greedy", A, num_denoise_steps=steps, early_exit=early_exit
        )
        sampler.decoder.greedy = greedy
        samples.append(sampler.sample(RandomModel(4), 4, 64, generator(1), allow_end=False))
    early, late = samples
    assert early.tokens.equal(late.tokens)
    assert early.token_log_probs.equal(late.token_log_probs)
    assert early.nfe.tolist() == [calls] * 4
    assert late.nfe.tolist() == [steps] * 4


@pytest.mark.parametrize("fused", [True, False])
def test_window_exit_keeps_the_executed_tokens_of_the_full_run(fused: bool) -> None:
    # Without remasking a committed token never changes, so stopping early is exact for the window.
    model = RandomModel(64, end_bias=-0.5)
    short = Sampler(A, fused=fused).sample(model, 64, 16, generator(3), window=4)
    sampler = Sampler(A, fused=fused, early_exit=False)
    whole = sampler.sample(model, 64, 16, generator(3), window=4)
    before_end = torch.arange(4) < torch.minimum(short.lengths, whole.lengths)[:, None]
    assert (short.tokens[:, :4] == whole.tokens[:, :4]).all()
    assert short.token_log_probs[:, :4][before_end].equal(whole.token_log_probs[:, :4][before_end])
    assert float(short.nfe.float().mean()) < 0.6 * float(whole.nfe.float().mean())
    assert (short.nfe <= whole.nfe).all()


def test_tokens_beyond_the_window_are_a_guess_without_log_probability() -> None:
    sample = Sampler(A).sample(RandomModel(8), 8, 16, generator(), window=2, allow_end=False)
    guessed = sample.token_log_probs[:, 2:] == 0
    assert guessed.any()
    assert (sample.token_log_probs[:, :2] < 0).all()


def test_a_rows_plan_does_not_depend_on_its_batch() -> None:
    # Method table, test 32: with more rows beside it, compacted or not, bit for bit.
    model = RandomModel(96, end_bias=-0.5)
    for name in preset_names():
        few, many, kept = (
            presets(8, 12, compact_below=compact)[name].sample(
                model, rows, 12, generator(7), window=3
            )
            for rows, compact in ((5, 1.0), (96, 1.0), (96, 0.0))
        )
        assert many.tokens.equal(kept.tokens)
        assert many.token_log_probs.equal(kept.token_log_probs)
        assert many.nfe.equal(kept.nfe)
        assert few.tokens.equal(many.tokens[:5])


def test_finished_rows_leave_and_the_row_set_is_the_same_object_until_it_shrinks() -> None:
    model = RandomModel(64)
    Sampler(A, compact_below=0.5, reveal=EntropyBoundReveal(gamma=0.1)).sample(
        model, 64, 16, generator(), allow_end=False
    )
    sizes = [64 if rows is None else len(rows) for rows in model.row_sets]
    assert sizes[0] == 64
    assert sizes[-1] < 64
    for before, after in zip(model.row_sets, model.row_sets[1:], strict=False):
        if after is not None and before is not None and len(after) == len(before):
            assert after is before
        elif after is not None and before is not None:
            assert len(after) < 0.5 * len(before)


def test_closing_after_end_saves_calls() -> None:
    closing, waiting = (
        Sampler(A, close_after_end=close, reveal=EntropyBoundReveal(gamma=0.0)).sample(
            RandomModel(32, end_bias=2.0), 32, 16, generator()
        )
        for close in (True, False)
    )
    assert float(closing.nfe.float().mean()) < float(waiting.nfe.float().mean())


@pytest.mark.parametrize("fused", [True, False])
def test_masks_bar_classes(fused: bool) -> None:
    first = torch.zeros(20, num_classes(A), dtype=torch.bool)
    first[torch.arange(20), torch.arange(20) % A] = True
    sampler = Sampler(A, fused=fused)
    sample = sampler.sample(RandomModel(20), 20, 8, generator(), first_token_mask=first)
    assert sample.tokens[:, 0].tolist() == [i % A for i in range(20)]
    everywhere = torch.zeros(20, 8, num_classes(A), dtype=torch.bool)
    everywhere[..., 2] = True
    everywhere[:, 3:, A] = True
    sample = sampler.sample(
        RandomModel(20), 20, 8, generator(), token_mask=everywhere, allow_end=False
    )
    assert (sample.tokens == 2).all()
    ended = sampler.sample(
        RandomModel(20, end_bias=50.0), 20, 8, generator(), token_mask=everywhere
    )
    assert ended.tokens[0].tolist() == [2, 2, 2] + [END] * 5


def test_empty_plans_are_barred_unless_allowed() -> None:
    model = RandomModel(8, end_bias=50.0)
    assert (Sampler(A).sample(model, 8, 4, generator()).lengths == 1).all()
    allowed = Sampler(A, forbid_empty=False).sample(model, 8, 4, generator())
    assert (allowed.lengths == 0).all()
    without = Sampler(A).sample(model, 8, 4, generator(), allow_end=False)
    assert (without.lengths == 4).all()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("schedule", [None, CosineSchedule()])
def test_the_net_is_told_the_time_of_what_it_sees(fused: bool, schedule: object) -> None:
    # Method table, test 29: alpha^{-1}(commit fraction), at every call.
    model = RandomModel(8)
    Sampler(A, schedule=schedule, fused=fused).sample(model, 8, 16, generator(), allow_end=False)
    for time, share in zip(model.times, model.shares, strict=True):
        rate = share if schedule is None else schedule.inv_mask_rate(share)
        torch.testing.assert_close(time, rate, rtol=0, atol=1e-6)


def test_seed_and_paper_samplers_tell_the_nominal_time() -> None:
    for name, first, last in (
        ("readme_minihack", 0.9, 0.0),
        ("head_2026_08", 1.0, 0.1),
    ):
        model = RandomModel(1)
        sampler_preset(name, A, early_exit=False).sample(model, 1, 16, generator())
        assert float(model.times[0][0]) == pytest.approx(first)
        assert float(model.times[-1][0]) == pytest.approx(last)


def test_trace_accounts_for_every_change() -> None:
    for name, sampler in presets(6).items():
        sample = sampler.sample(RandomModel(4), 4, 10, generator(), trace=True, window=3)
        masked = torch.ones(4, 10, dtype=torch.bool)
        for entry in sample.trace:
            now = entry.tokens == MASK
            assert (entry.revealed == (masked & ~now)).all(), name
            assert (entry.remasked == (~masked & now)).all(), name
            assert entry.confidence.max() <= 1, name
            assert ((entry.believed >= 0) & (entry.believed <= END)).all(), name
            # A row that had left the batch believes nothing.
            assert (entry.believed == MASK).any(-1).equal(entry.confidence.amax(-1) == 0), name
            masked = now
        assert len(sample.trace) == int(sample.nfe.max()), name


def test_a_grid_that_stops_short_decides_the_rest_greedily() -> None:
    sampler = Sampler(
        A,
        reveal=BernoulliReveal(),
        grid=UniformTime(num_steps=2, end_time=0.5),
        window_first=False,
    )
    sample = sampler.sample(RandomModel(50), 50, 8, generator())
    assert (sample.tokens != MASK).all()
    assert set(sample.nfe.tolist()) <= {2, 3}
    assert int(sample.nfe.max()) == 3


def test_half_precision_logits_are_fine() -> None:
    model = RandomModel(4)
    sample = Sampler(A).sample(lambda *arguments: model(*arguments).bfloat16(), 4, 8, generator())
    assert (sample.tokens != MASK).all()


def test_same_seed_same_plans_and_another_seed_others() -> None:
    sampler = Sampler(A, order=RandomOrder(), decoder=Decoder())
    first, again, other = (
        sampler.sample(RandomModel(4), 4, 8, generator(seed)).tokens for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert not first.equal(other)
