"""Remasking probabilities and the marginals they keep (method table, tests 3-5, 7 and 21)."""

import numpy as np
import pytest
import torch

from remdm.diffusion.grids import UniformTime
from remdm.diffusion.presets import sampler_preset
from remdm.diffusion.remask import (
    CapRemask,
    ConfRemask,
    NoRemask,
    Remask,
    RescaleRemask,
    sigma_max,
    unmask_probability,
)
from remdm.diffusion.remask_seed import FadingRemask, SeedRemask
from remdm.diffusion.schedules import LinearSchedule, make_schedule
from remdm.diffusion.step import Step


def step_at(alpha_t: float, alpha_s: float, confidence: torch.Tensor, masked: torch.Tensor) -> Step:
    return Step(
        index=3,
        num_steps=10,
        alpha_t=alpha_t,
        alpha_s=alpha_s,
        schedule=LinearSchedule(),
        masked=masked,
        free=torch.ones_like(masked),
        probs=torch.full((*masked.shape, 2), 0.5, dtype=torch.float64),
        classes=torch.zeros_like(masked, dtype=torch.int64),
        sampled_confidence=confidence,
        committed_confidence=confidence,
        keys=torch.zeros(len(masked), dtype=torch.int64),
    )


def uniform_step(alpha_t: float, alpha_s: float) -> Step:
    return step_at(alpha_t, alpha_s, torch.ones(1, 1).double(), torch.zeros(1, 1).bool())


def random_alphas(count: int) -> np.ndarray:
    """Pairs alpha_t < alpha_s."""
    return np.sort(np.random.default_rng(0).uniform(0, 1, (count, 2)), axis=1)


def test_sigma_up_to_its_bound_gives_probabilities() -> None:
    # Method table, test 3 (ReMDM eq. 7).
    rng = np.random.default_rng(1)
    for alpha_t, alpha_s in random_alphas(10_000):
        bound = sigma_max(alpha_t, alpha_s)
        assert 0 <= bound <= 1
        unmask = unmask_probability(alpha_t, alpha_s, bound * rng.uniform())
        assert -1e-12 <= unmask <= 1 + 1e-12
        if bound < 1:
            assert abs(unmask_probability(alpha_t, alpha_s, bound) - 1) <= 1e-12


@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine_sq"])
@pytest.mark.parametrize(
    "remask",
    [NoRemask(), CapRemask(eta=0.3), RescaleRemask(eta=0.5), RescaleRemask(eta=1.0)],
    ids=["none", "cap", "rescale", "max"],
)
def test_uniform_remasking_keeps_the_marginals_of_the_forward_process(
    schedule: str, remask: Remask
) -> None:
    # Method table, test 4.
    steps = UniformTime(num_steps=10).steps(make_schedule(schedule))
    realised = 0.0
    for grid_step in steps:
        step = uniform_step(grid_step.alpha_t, grid_step.alpha_s)
        sigma = 0.0 if isinstance(remask, NoRemask) else remask.sigma(step)
        realised = realised * (1 - sigma) + (1 - realised) * remask(step).unmask
        assert abs(realised - grid_step.alpha_s) <= 1e-12


def test_confidence_remasking_falls_behind_the_schedule_as_published() -> None:
    # Method table, test 5: sigma 0 at masked positions breaks the marginal.
    deficits, realised = [], 0.0
    for k in range(10):
        alpha_t, alpha_s = k / 10, (k + 1) / 10
        unmask = ConfRemask(eta=0.15)(uniform_step(alpha_t, alpha_s)).unmask
        mean_sigma = 0.15 * sigma_max(alpha_t, alpha_s)
        realised = realised * (1 - mean_sigma) + (1 - realised) * unmask
        deficits.append(realised - alpha_s)
    expected = [0, -0.0150, -0.0409, -0.0739, -0.1105, -0.1351, -0.1362, -0.1150, -0.0703, 0]
    np.testing.assert_allclose(deficits, expected, atol=1e-4)


def test_the_reverse_step_is_the_posterior_of_a_forward_process() -> None:
    # Method table, test 7: a joint with these conditionals has q(z_s | x) as its marginal and
    # a proper forward transition q(z_t | z_s, x). States: 0 visible, 1 masked.
    for alpha_t, alpha_s in random_alphas(300):
        sigma = 0.7 * sigma_max(alpha_t, alpha_s)
        unmask = unmask_probability(alpha_t, alpha_s, sigma)
        at_t = np.array([alpha_t, 1 - alpha_t])
        reverse = np.array([[1 - sigma, sigma], [unmask, 1 - unmask]])
        joint = at_t[:, None] * reverse
        at_s = joint.sum(0)
        np.testing.assert_allclose(at_s, [alpha_s, 1 - alpha_s], atol=1e-12)
        forward = joint / at_s
        assert (forward >= -1e-12).all()
        np.testing.assert_allclose(forward.sum(0), 1, atol=1e-12)


def test_confidence_remasking_prefers_doubtful_tokens_and_spends_at_most_eta() -> None:
    confidence = torch.tensor([[0.9, 0.2, 0.5, 0.1]], dtype=torch.float64)
    masked = torch.tensor([[False, False, False, True]])
    sigma = ConfRemask(eta=0.4).sigma(step_at(0.2, 0.3, confidence, masked))
    expected = 0.4 * torch.softmax(-confidence[:, :3], -1)
    torch.testing.assert_close(sigma[:, :3], expected)
    assert float(sigma[0, 3]) == 0
    nothing = ConfRemask().sigma(step_at(0.2, 0.3, confidence, torch.ones_like(masked)))
    assert (nothing == 0).all()


def test_seed_remasking_grows_towards_the_end_and_stops_before_the_last_step() -> None:
    confidence = torch.tensor([[0.9, 0.2]], dtype=torch.float64)
    step = step_at(0.3, 0.4, confidence, torch.zeros(1, 2).bool())
    assert float(SeedRemask(strategy="rescale", eta=0.5).sigma(step)) == pytest.approx(0.2)
    assert float(SeedRemask(strategy="cap", eta=0.5).sigma(step)) == pytest.approx(0.4)
    torch.testing.assert_close(
        SeedRemask(strategy="conf", eta=0.5).sigma(step), 0.2 * (1 - confidence)
    )
    step.index = 9
    assert SeedRemask().sigma(step) == 0.0


def count_remasked(name: str, **overrides: object) -> torch.Tensor:
    """Tokens masked again per plan of 64, over 1500 plans of a uniform model."""
    sampler = sampler_preset(name, 4, num_denoise_steps=10, **overrides)

    def uniform_model(tokens: torch.Tensor, time: torch.Tensor, rows: None) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 5)

    sample = sampler.sample(
        uniform_model, 1500, 64, torch.Generator().manual_seed(0), allow_end=False, trace=True
    )
    return torch.stack([t.remasked.sum(-1) for t in sample.trace]).sum(0).double()


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("head_2026_08", {"eta": 0.15}, 0.857),
        ("paper_rescale", {"eta": 0.5}, 64 * 1.0),
        ("paper_cap", {"eta": 0.15}, 64 * 0.52),
        ("paper_rescale", {"redraws": 1.5}, 64 * 1.5),
        ("paper_cap", {"redraws": 0.25}, 64 * 0.25),
    ],
)
def test_expected_number_of_remasked_tokens(
    name: str, overrides: dict[str, float], expected: float
) -> None:
    # Method table, test 21: draws per token 1 + sum of sigma * alpha. The linear grid's cap .15
    # reaches .52 = .15 * (.1 + ... + .8) - (.15 - .125) * .8 exactly.
    counts = count_remasked(name, **overrides)
    error = float(counts.std()) / len(counts) ** 0.5
    # Four standard errors: fails by chance once in 16 000 seeds, and the seed is fixed. The
    # analytic value for "conf" supposes at least one committed token, true but for 1e-3 of rows.
    assert abs(float(counts.mean()) - expected) <= 4 * error + 0.002 * expected


@pytest.mark.parametrize("kind", [CapRemask, RescaleRemask, ConfRemask, SeedRemask, FadingRemask])
@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_the_unit_interval_is_refused(kind: type, eta: float) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}.eta must be in \[0, 1\], got {eta}"):
        kind(eta=eta)


def test_fading_remasking_shrinks_to_nothing_in_the_last_step() -> None:
    step = step_at(0.3, 0.4, torch.ones(1, 2).double(), torch.zeros(1, 2).bool())
    assert FadingRemask(eta=0.5).sigma(step) == pytest.approx(0.5 * 0.6)
    step.index = 9
    assert FadingRemask(eta=0.5).sigma(step) == 0.0


def test_a_sigma_above_its_bound_is_refused_with_the_bound() -> None:
    # From alpha .5 to .8 at most .2 / .5 may be masked again (ReMDM eq. 7).
    assert unmask_probability(0.5, 0.8, 0.4) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"sigma must be in \[0, 0\.4\] .* got 0\.41"):
        unmask_probability(0.5, 0.8, 0.41)
    with pytest.raises(ValueError, match="probability -"):
        unmask_probability(0.5, 0.8, -0.7)


@pytest.mark.parametrize("kind", [CapRemask, RescaleRemask])
@pytest.mark.parametrize("redraws", [0.0, 0.3, 1.0])
def test_redraws_are_what_the_sum_of_sigma_times_alpha_says(
    kind: type[CapRemask], redraws: float
) -> None:
    # Method 1.7: expected draws per token are 1 + sum over steps of sigma_k alpha_k.
    for schedule in ("linear", "cosine"):
        steps = UniformTime(num_steps=10).steps(make_schedule(schedule))
        solved = kind(redraws=redraws).fitted(steps)
        assert solved.expected_redraws(solved.eta, steps) == pytest.approx(redraws, abs=1e-12)
    half = RescaleRemask(redraws=1.0).fitted(UniformTime(num_steps=10).steps(LinearSchedule()))
    # Rescale redraws 2 eta times on ten linear steps: sigma_max alpha is .1 ... .5 ... .1.
    assert half.eta == pytest.approx(0.5, abs=0.01)


def test_redraws_out_of_reach_name_the_most_that_can_be_had() -> None:
    steps = UniformTime(num_steps=10).steps(LinearSchedule())
    most = RescaleRemask().expected_redraws(1.0, steps)
    with pytest.raises(ValueError, match=rf"redraws must be at most {most:.4g} .*10 steps.*got 5"):
        RescaleRemask(redraws=5.0).fitted(steps)
    with pytest.raises(ValueError, match=r"CapRemask\.redraws must be at least 0"):
        CapRemask(redraws=-1.0)


def test_unknown_seed_strategy_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'conf'"):
        SeedRemask(strategy="confi")
