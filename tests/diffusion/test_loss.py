"""The objective against enumeration (method table, tests 8-12, 25 and 34)."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from remdm.diffusion.classes import classes_to_tokens, num_classes, tokens_to_classes
from remdm.diffusion.corruption import BernoulliMasking, Corrupted, CountMasking
from remdm.diffusion.loss import MaskedLoss
from remdm.diffusion.schedules import SCHEDULES, LinearSchedule, make_schedule
from remdm.tokens import end_token, mask_token
from tests.diffusion.enumerated import ExactDenoiser, random_joint


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corrupted_by(masks: Tensor, plans: Tensor, num_actions: int, weight: Tensor) -> Corrupted:
    """The draws `masks` [D, L] of every plan, with ELBO weights [D]."""
    masked = masks[:, None].expand(-1, len(plans), -1)
    shape = masked.shape[:2]
    return Corrupted(
        tokens=plans.expand_as(masked).masked_fill(masked, mask_token(num_actions)),
        masked=masked,
        time=torch.zeros(shape),
        rate=masked.double().mean(-1),
        counts=masked.sum(-1),
        free=torch.full((len(plans),), plans.shape[1]),
        elbo_weight=weight[:, None].expand(shape),
        time_weight=torch.ones(shape),
        full_draws=0,
    )


def nelbo_of_each_plan(denoiser: ExactDenoiser, plans: Tensor, weight_of_count: Tensor) -> Tensor:
    """`nelbo` when every set of hidden tokens is a draw, weighed by its size."""
    horizon = plans.shape[1]
    masks = torch.tensor(list(itertools.product([False, True], repeat=horizon))[1:])
    corrupted = corrupted_by(
        masks, plans, denoiser.num_actions, len(masks) * weight_of_count[masks.sum(-1)]
    )
    logits = denoiser(corrupted.tokens.flatten(0, 1), None, None)
    loss = MaskedLoss(denoiser.num_actions)
    nelbos = []
    for b in range(len(plans)):
        one = torch.zeros(len(plans), dtype=torch.float64)
        one[b] = 1
        nelbos.append(loss(logits.nan_to_num(neginf=-1e9), plans, corrupted, one)[1]["nelbo"])
    return torch.stack(nelbos)


def count_weights(horizon: int) -> Tensor:
    """L / n times the probability of one set of size n: the any-order form of the NELBO."""
    return torch.tensor(
        [0.0] + [1 / (n * math.comb(horizon, n)) for n in range(1, horizon + 1)],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("size", [3, 4])
def test_nelbo_of_an_exact_denoiser_is_the_negative_log_likelihood(size: int) -> None:
    # Method table, test 8 (equation of 2.1): equality, for every sequence.
    joint = random_joint(size, size)
    denoiser = ExactDenoiser.over_all(joint, size, size)
    chosen = range(27) if size == 3 else range(0, 256, 17)
    plans = denoiser.sequences[list(chosen)]
    nelbo = nelbo_of_each_plan(denoiser, plans, count_weights(size))
    expected = -denoiser.probabilities[list(chosen)].log()
    torch.testing.assert_close(nelbo, expected, rtol=0, atol=1e-10)


def test_nelbo_does_not_depend_on_the_schedule() -> None:
    # Method table, test 9: the time integral by Gauss-Legendre quadrature, which is exact here
    # up to rounding because the integrand is smooth.
    horizon = 3
    denoiser = ExactDenoiser.over_all(random_joint(3, 3), 3, 3)
    nodes, node_weights = np.polynomial.legendre.leggauss(60)
    time = torch.from_numpy((nodes + 1) / 2)
    node_weights = torch.from_numpy(node_weights / 2)
    counts = torch.arange(1, horizon + 1)[:, None]
    expected = -denoiser.probabilities.log()
    for name in SCHEDULES.names():
        schedule = make_schedule(name)
        rate = schedule.mask_rate(time)
        integrand = schedule.weight(time) * rate**counts * (1 - rate) ** (horizon - counts)
        weight = torch.cat([torch.zeros(1).double(), (integrand * node_weights).sum(-1)])
        nelbo = nelbo_of_each_plan(denoiser, denoiser.sequences, weight)
        torch.testing.assert_close(nelbo, expected, rtol=0, atol=1e-8)


def test_a_wrong_denoiser_only_makes_the_nelbo_larger() -> None:
    # Method table, test 12.
    truth = random_joint(3, 3, seed=0)
    other = random_joint(3, 3, seed=1)
    denoiser = ExactDenoiser.over_all(other, 3, 3)
    nelbo = nelbo_of_each_plan(denoiser, denoiser.sequences, count_weights(3))
    gap = float((torch.from_numpy(truth) * (nelbo + torch.from_numpy(truth).log())).sum())
    assert gap >= -1e-10


CORRUPTIONS = {
    "count": CountMasking(3, draws=1, full_draws=0),
    "count with full draws": CountMasking(3, draws=3, full_draws=1),
    "count with more full draws": CountMasking(3, draws=4, full_draws=3),
    "bernoulli in rate": BernoulliMasking(3, low_discrepancy=False),
    "bernoulli in rate, even": BernoulliMasking(3, draws=2),
    "bernoulli in time": BernoulliMasking(3, low_discrepancy=False, uniform_in="time"),
    "bernoulli in time, even": BernoulliMasking(3, uniform_in="time"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_every_corruption_estimates_the_nelbo_without_bias(name: str, schedule: str) -> None:
    # Method table, test 10, on one sequence whose negative log-likelihood is known.
    denoiser = ExactDenoiser.over_all(random_joint(3, 3), 3, 3)
    plan = denoiser.sequences[5]
    expected = -float(denoiser.probabilities[5].log())
    estimates = []
    source = generator(3)
    for _ in range(100):
        plans = plan.expand(200, -1)
        corrupted = CORRUPTIONS[name](plans, make_schedule(schedule), source)
        logits = denoiser(corrupted.tokens.flatten(0, 1), None, None)
        metrics = MaskedLoss(3)(logits.clamp(min=-1e9), plans, corrupted)[1]
        estimates.append(float(metrics["nelbo"]))
    error = np.std(estimates, ddof=1) / math.sqrt(len(estimates))
    # The floor of 1e-5 on the mask rate leaves out at most that share of the integral.
    assert abs(np.mean(estimates) - expected) <= 4.5 * error + 1e-4


def test_counting_has_no_variance_where_every_token_costs_the_same() -> None:
    # Method table, test 11: relative variance 0 by count, .0923 by independent times.
    plans = torch.zeros(4000, 64, dtype=torch.int64)
    by_count = CountMasking(3, draws=1, full_draws=0)(plans, LinearSchedule(), generator())
    estimate = by_count.elbo_weight * by_count.counts
    torch.testing.assert_close(estimate, torch.full_like(estimate, 64.0), rtol=1e-6, atol=0)
    iid = BernoulliMasking(3, low_discrepancy=False, min_rate=1e-3)
    drawn = [iid(plans, LinearSchedule(), generator(s)) for s in range(10)]
    relative = torch.cat([(d.elbo_weight * d.counts)[0] for d in drawn]) / 64
    assert float(relative.var()) == pytest.approx(0.0923, rel=0.1)


def test_stratified_counts_beat_low_discrepancy_times() -> None:
    # Method table, 2.2: variance of a batch mean, cost proportional to the mask rate.
    plans = torch.zeros(64, 64, dtype=torch.int64)
    variances = {}
    for corruption in (CountMasking(3, draws=1, full_draws=0), BernoulliMasking(3)):
        source = generator(1)
        means = []
        for _ in range(200):
            c = corruption(plans, LinearSchedule(), source)
            means.append(float((c.elbo_weight * c.counts * c.counts / 64).double().mean()))
        variances[type(corruption).__name__] = np.var(means)
    assert variances["CountMasking"] < variances["BernoulliMasking"]


A, H = 4, 6
END = end_token(A)


def short_plans() -> Tensor:
    tokens = torch.randint(A, (10, H), generator=generator(7))
    lengths = torch.arange(10) % H + 1
    return torch.where(torch.arange(H) < lengths[:, None], tokens, END)


def random_logits(draws: int, seed: int = 1) -> Tensor:
    shape = (draws, 10, H, num_classes(A))
    return torch.randn(shape, generator=generator(seed), requires_grad=True)


def test_flat_loss_is_the_weighted_mean_over_hidden_tokens() -> None:
    plans, logits = short_plans(), random_logits(2)
    corrupted = CountMasking(A)(plans, LinearSchedule(), generator())
    weights = torch.linspace(0, 2, 10)
    loss, _ = MaskedLoss(A, tail_weight=0.25)(logits, plans, corrupted, weights)
    total = norm = 0.0
    for d, b, h in itertools.product(range(2), range(10), range(H)):
        if not corrupted.masked[d, b, h]:
            continue
        ended = bool((plans[b, :h] == END).any())
        weight = float(weights[b]) * (0.25 if ended else 1.0)
        target = min(int(plans[b, h]), A)
        total += weight * -float(logits.detach()[d, b, h].log_softmax(-1)[target])
        norm += weight
    assert float(loss.detach()) == pytest.approx(total / norm, rel=1e-5)


def test_elbo_loss_is_nats_per_free_token() -> None:
    plans, logits = short_plans(), random_logits(2)
    corrupted = CountMasking(A)(plans, LinearSchedule(), generator())
    loss, metrics = MaskedLoss(A, weighting="elbo", tail_weight=1.0)(logits, plans, corrupted)
    assert float(loss.detach()) * H == pytest.approx(float(metrics["nelbo"]), rel=1e-5)


def test_subs_loss_clips_its_weight_and_averages_within_each_plan() -> None:
    plans, logits = short_plans(), random_logits(1)
    corrupted = BernoulliMasking(A)(plans, LinearSchedule(), generator())
    loss, _ = MaskedLoss(A, weighting="subs", tail_weight=1.0, weight_clip=2.0)(
        logits, plans, corrupted
    )
    cross_entropy = torch.nn.functional.cross_entropy(
        logits[0].flatten(0, 1), tokens_to_classes(plans, A).flatten(), reduction="none"
    ).view(10, H)
    masked = corrupted.masked[0]
    means = (cross_entropy * masked).sum(-1) / masked.sum(-1).clamp_min(1)
    expected = ((1 / corrupted.time[0]).clamp(max=2.0) * means).mean()
    torch.testing.assert_close(loss, expected)


def test_visible_pads_have_no_gradient_and_no_influence() -> None:
    # Method table, test 25.
    plans, logits = short_plans(), random_logits(2)
    corrupted = CountMasking(A, pad_mode="visible")(plans, LinearSchedule(), generator())
    for weighting in ("flat", "elbo", "subs"):
        objective = MaskedLoss(A, weighting=weighting)
        loss, _ = objective(logits, plans, corrupted)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient[:, plans == END] == 0).all()
        changed = logits.detach().clone()
        changed[:, plans == END] += 3.0
        assert objective(changed, plans, corrupted)[0].equal(loss.detach())


def test_the_tail_after_the_first_end_weighs_little() -> None:
    plans = torch.tensor([[0, END, END, END, END, END]])
    corrupted = CountMasking(A, draws=2)(plans, LinearSchedule(), generator())
    logits = torch.zeros(2, 1, H, num_classes(A), requires_grad=True)
    loss, _ = MaskedLoss(A, tail_weight=0.1)(logits, plans, corrupted)
    (gradient,) = torch.autograd.grad(loss, logits)
    size = gradient[0, 0].abs().sum(-1)
    torch.testing.assert_close(size[2:] / size[1], torch.full((4,), 0.1))
    torch.testing.assert_close(size[0], size[1])


def test_nothing_hidden_gives_a_zero_that_can_be_differentiated() -> None:
    plans = torch.full((10, H), END)
    corrupted = CountMasking(A, pad_mode="visible")(plans, LinearSchedule(), generator())
    for weighting in ("flat", "elbo", "subs"):
        logits = random_logits(2)
        loss, metrics = MaskedLoss(A, weighting=weighting)(logits, plans, corrupted)
        loss.backward()
        assert float(loss.detach()) == 0
        assert (logits.grad == 0).all()
        assert all(torch.isfinite(value) for value in metrics.values())


def test_plans_of_weight_zero_do_not_count() -> None:
    plans, logits = short_plans(), random_logits(2)
    corrupted = CountMasking(A)(plans, LinearSchedule(), generator())
    weights = (torch.arange(10) < 5).float()
    changed = logits.detach().clone()
    changed[:, 5:] *= -3
    for weighting in ("flat", "elbo", "subs"):
        objective = MaskedLoss(A, weighting=weighting)
        first = objective(logits.detach(), plans, corrupted, weights)
        second = objective(changed, plans, corrupted, weights)
        assert first[0].equal(second[0])
        assert all(first[1][key].equal(second[1][key]) for key in first[1])


def test_label_smoothing_has_its_closed_form_and_never_enters_evaluation() -> None:
    # Method table, test 34: a perfect prediction still pays the smoothed cross-entropy.
    plans = short_plans()
    eps, classes = 0.3, num_classes(A)
    target = torch.nn.functional.one_hot(tokens_to_classes(plans, A), classes).double()
    soft = (1 - eps) * target + eps / classes
    corrupted = CountMasking(A, draws=1, full_draws=0)(plans, LinearSchedule(), generator())
    logits = soft.log()[None]
    objective = MaskedLoss(A, label_smoothing=eps, tail_weight=1.0)
    entropy = -float((soft[0, 0] * soft[0, 0].log()).sum())
    assert float(objective(logits, plans, corrupted)[0]) == pytest.approx(entropy, abs=1e-12)
    right = 1 - eps + eps / classes
    plain = objective(logits, plans, corrupted, evaluating=True)[0]
    assert float(plain) == pytest.approx(-math.log(right), abs=1e-12)
    nelbo = objective(logits, plans, corrupted)[1]["nelbo"]
    assert float(nelbo) == pytest.approx(-H * math.log(right), rel=1e-6)


def test_accuracies_count_hidden_real_tokens() -> None:
    plans = short_plans()
    corrupted = CountMasking(A)(plans, LinearSchedule(), generator())
    logits = torch.nn.functional.one_hot(tokens_to_classes(plans, A), num_classes(A)).float()
    wrong_first = logits.clone()
    wrong_first[:4, 0] = logits[:4, 0].roll(1, -1)
    _, metrics = MaskedLoss(A)(wrong_first.expand(2, -1, -1, -1), plans, corrupted)
    assert float(metrics["first_token_accuracy"]) == pytest.approx(0.6)
    real = corrupted.masked & ((plans == END).cumsum(-1) <= 1)
    wrong = real[:, :4, 0].sum() / real.sum()
    assert float(metrics["token_accuracy"]) == pytest.approx(1 - float(wrong))


def test_classes_and_tokens_translate_both_ways() -> None:
    tokens = torch.tensor([0, A - 1, END])
    assert tokens_to_classes(tokens, A).tolist() == [0, A - 1, A]
    assert classes_to_tokens(tokens_to_classes(tokens, A), A).equal(tokens)
    assert mask_token(A) not in classes_to_tokens(torch.arange(num_classes(A)), A)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weighting": "elob"}, "did you mean 'elbo'"),
        ({"tail_weight": -1.0}, "tail_weight >= 0"),
        ({"label_smoothing": 1.0}, "label_smoothing < 1"),
        ({"weight_clip": 0.0}, "weight_clip > 0"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedLoss(A, **arguments)
