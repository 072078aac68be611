"""What a warm start keeps of the old plan, and that keeping it leaves the law of plans as it is."""

import gin
import pytest
import torch
from torch import Tensor

from remdm.diffusion.decode import Decoder
from remdm.diffusion.exact import ExactDenoiser
from remdm.diffusion.grids import UniformTime
from remdm.diffusion.order import RandomOrder
from remdm.diffusion.reveal import CountReveal
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.schedules import CosineSchedule, LinearSchedule, NoiseSchedule
from remdm.diffusion.warm_start import WarmStart
from remdm.tokens import end_token, mask_token
from tests.diffusion.enumerated import random_joint

A, H = 3, 8
MASK, END = mask_token(A), end_token(A)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unasked(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
    raise AssertionError("the net was asked")


def started(
    warm: WarmStart,
    previous: Tensor,
    confidence: Tensor | None = None,
    schedule: NoiseSchedule | None = None,
    seed: int = 0,
) -> Tensor:
    return warm(previous, confidence, unasked, schedule or LinearSchedule(), seeded(seed), A)


def actions(rows: int) -> Tensor:
    return torch.randint(0, A, (rows, H), generator=seeded(9))


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_each_token_is_kept_with_probability_alpha(time: float, schedule: NoiseSchedule) -> None:
    previous = actions(2000)
    start = started(WarmStart(time=time), previous, schedule=schedule)
    kept = start != MASK
    assert torch.equal(start[kept], previous[kept])
    alpha = float(schedule.alpha(torch.tensor(time)))
    # Four standard errors per position (8 positions, 6 cases: 3e-3 that any fails; seed fixed).
    band = 4 * (alpha * (1 - alpha) / 2000) ** 0.5
    assert (kept.double().mean(0) - alpha).abs().max() < band
    # Kept independently: the number kept has the variance of a binomial, 10 % being 4.5 s.e.
    assert float(kept.sum(-1).double().var()) == pytest.approx(H * alpha * (1 - alpha), rel=0.15)


def test_at_time_one_nothing_is_kept_and_nothing_is_invented() -> None:
    assert bool((started(WarmStart(time=1.0), actions(50)) == MASK).all())
    previous = actions(50)
    previous[:, 5:] = MASK
    for warm in (WarmStart(time=0.1), WarmStart(time=0.1, rule="confidence")):
        start = started(warm, previous, torch.ones(50, H))
        assert bool((start[:, 5:] == MASK).all())


@pytest.mark.parametrize(("known", "kept"), [(8, 4), (5, 3), (4, 2), (1, 1), (0, 0)])
def test_the_most_confident_share_is_kept_exactly(known: int, kept: int) -> None:
    previous = actions(20)
    previous[:, known:] = MASK
    confidence = torch.rand(20, H, generator=seeded(4))
    start = started(WarmStart(time=0.5, rule="confidence"), previous, confidence)
    for row in range(20):
        best = confidence[row, :known].argsort(descending=True)[:kept].sort().values
        assert (start[row] != MASK).nonzero()[:, 0].tolist() == best.tolist()
        assert torch.equal(start[row, best], previous[row, best])


def test_equal_confidences_keep_the_earlier_tokens() -> None:
    start = started(WarmStart(time=0.75, rule="confidence"), actions(5), torch.ones(5, H))
    assert ((start != MASK) == (torch.arange(H) < 2)).all()


def test_a_plan_that_is_over_leaves_nothing() -> None:
    previous = torch.full((3, H), END)
    previous[1, 0] = 2
    previous[2] = 1
    for warm in (WarmStart(time=1e-9), WarmStart(time=1e-9, rule="confidence")):
        start = started(warm, previous, torch.ones(3, H))
        assert bool((start[0] == MASK).all())
        assert torch.equal(start[1:], previous[1:])


@pytest.mark.parametrize("gate", [0.15, 0.25, 0.35])
def test_the_gate_drops_what_the_net_no_longer_believes(gate: float) -> None:
    probs = torch.tensor([0.5, 0.3, 0.1, 0.1], dtype=torch.float64)
    asked: list[tuple[Tensor, Tensor]] = []

    def net(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        assert rows is None
        asked.append((tokens, time))
        return probs.log().expand(*tokens.shape, A + 1)

    previous = actions(20)
    previous[:, 6:] = END
    warm = WarmStart(time=1e-9, gate=gate)
    start = warm(previous, None, net, LinearSchedule(), seeded(), A)
    believed = probs[previous.clamp(max=A)] >= gate
    assert torch.equal(start, torch.where(believed, previous, MASK))
    assert len(asked) == warm.calls == 1
    assert bool((asked[0][0] == MASK).all())
    assert asked[0][1].tolist() == [1.0] * 20
    assert WarmStart().calls == 0


def test_a_rows_start_does_not_depend_on_the_other_rows() -> None:
    previous = actions(10)
    whole = started(WarmStart(), previous)
    assert torch.equal(whole[:4], started(WarmStart(), previous[:4]))
    changed = previous.clone()
    changed[4:] = 0
    assert torch.equal(whole[:4], started(WarmStart(), changed)[:4])
    assert not torch.equal(whole, started(WarmStart(), previous, seed=1))


@pytest.mark.parametrize("time", [0.3, 0.7])
def test_a_start_from_a_plan_of_the_model_gives_a_plan_of_the_model(time: float) -> None:
    # Hiding tokens at random and drawing them anew from the exact conditionals leaves the law as
    # it is, whatever the time. Old plans are drawn from the law itself.
    length, count = 3, 20_000
    law = torch.from_numpy(random_joint(A, length))
    model = ExactDenoiser.over_all(law, A, length)
    old = model.sequences[law.multinomial(count, replacement=True, generator=seeded(1))]
    start = WarmStart(time=time)(old, None, model, LinearSchedule(), seeded(2), A)
    sampler = Sampler(
        A,
        reveal=CountReveal(),
        order=RandomOrder(),
        grid=UniformTime(num_steps=length),
        decoder=Decoder(temperature=1.0),
        window_first=False,
    )
    sample = sampler.sample(model, count, length, seeded(3), start=start, allow_end=False)
    assert torch.equal(sample.tokens[start != MASK], start[start != MASK])
    index = (sample.tokens * torch.tensor([9, 3, 1])).sum(-1)
    expected = law * count
    excess = (index.bincount(minlength=27) - expected) ** 2 / expected
    # chi-square with at most 26 degrees of freedom exceeds 75 with probability 1e-6.
    assert float(excess[expected >= 5].sum()) < 75


def test_a_warm_start_saves_net_calls() -> None:
    law = torch.full((A**6,), A**-6.0, dtype=torch.float64)
    model = ExactDenoiser.over_all(law, A, 6)
    old = actions(200)[:, :6]
    warm = WarmStart(time=0.5, rule="confidence")
    start = warm(old, torch.rand(200, 6, generator=seeded()), model, LinearSchedule(), seeded(), A)
    sampler = Sampler(A)
    cold = sampler.sample(model, 200, 6, seeded(), allow_end=False)
    after = sampler.sample(
        model, 200, 6, seeded(), start=start, start_time=warm.time, allow_end=False
    )
    # Six uniform tokens one at a time, or the three that were not kept.
    assert cold.nfe.unique().tolist() == [6]
    assert after.nfe.unique().tolist() == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time": 0.0}, r"WarmStart\.time must be in \(0, 1\], got 0\.0"),
        ({"time": 1.5}, r"WarmStart\.time"),
        ({"gate": 1.0}, r"WarmStart\.gate must be in \[0, 1\), got 1\.0"),
        ({"gate": -0.1}, r"WarmStart\.gate"),
        ({"rule": "confident"}, "did you mean 'confidence'"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmStart(**arguments)


@pytest.mark.parametrize("confidence", [None, torch.ones(2, H)])
def test_the_confidence_rule_needs_confidences(confidence: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"needs the old tokens' confidences \[5, 8\]"):
        started(WarmStart(rule="confidence"), actions(5), confidence)


def test_gin_reaches_the_warm_start() -> None:
    gin.parse_config("WarmStart.time = 0.25\nWarmStart.rule = 'confidence'\nWarmStart.gate = 0.1")
    warm = WarmStart()
    assert (warm.time, warm.rule, warm.gate) == (0.25, "confidence", 0.1)
