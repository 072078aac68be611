"""Presets by name, and what their knobs accept."""

import gin
import pytest

from remdm.agent import DiffusionPlannerAgent
from remdm.diffusion.grids import LoopGrid, SwitchGrid
from remdm.diffusion.presets import make_sampler, preset_knobs, preset_names, sampler_preset
from remdm.diffusion.remask import CapRemask, NoRemask, RescaleRemask
from remdm.diffusion.sampler import Sampler
from remdm.maps import map_observation_spec

NAMES = [
    "balanced",
    "count",
    "default",
    "greedy",
    "head_2026_08",
    "paper_cap",
    "paper_conf",
    "paper_loop",
    "paper_mdlm",
    "paper_rescale",
    "paper_switch",
    "path",
    "readme_craftax_eval",
    "readme_craftax_loop",
    "readme_minihack",
    "readme_minihack_greedy",
    "swap",
    "threshold",
]


def test_names_are_the_published_ones_and_the_strategies_of_the_field() -> None:
    assert preset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_takes_its_own_defaults_as_overrides(name: str) -> None:
    sampler_preset(name, 12, **preset_knobs(name))


def test_published_values() -> None:
    assert preset_knobs("readme_minihack") == {
        "num_denoise_steps": 10,
        "temperature": 0.5,
        "top_k": 4,
        "remask_strategy": "conf",
        "eta": 0.15,
        "noise_schedule": "linear",
    }
    assert preset_knobs("readme_minihack_greedy")["num_denoise_steps"] == 5
    assert preset_knobs("readme_craftax_eval") == {
        "num_denoise_steps": 10,
        "temperature": 0.5,
        "top_p": 0.95,
        "eta": 0.15,
        "noise_schedule": "cosine",
    }
    assert preset_knobs("readme_craftax_loop") == {
        "num_denoise_steps": 15,
        "temperature": 0.5,
        "top_p": 0.95,
        "remask_strategy": "rescale",
        "eta": 0.5,
        "t_on": 0.7,
        "t_off": 0.3,
        "noise_schedule": "cosine",
    }
    assert preset_knobs("paper_loop") == {
        "num_denoise_steps": 1024,
        "eta": 0.02,
        "redraws": None,
        "t_on": 0.55,
        "t_off": 0.05,
        "alpha_on": 0.9,
        "top_p": 0.9,
        "noise_schedule": "linear",
    }
    assert preset_knobs("default")["gamma"] == 0.3
    assert preset_knobs("default")["temperature"] == 0.5
    assert [preset_knobs(f"paper_{n}")["eta"] for n in ("cap", "rescale")] == [0.008, 0.015]


def test_published_redraws_per_token() -> None:
    # Method 1.7: about 3.8, 4.1 and 9.2 extra draws at 1024 steps.
    for name, expected in (("paper_rescale", 3.8), ("paper_cap", 4.1), ("paper_loop", 9.2)):
        sampler = sampler_preset(name, 12)
        assert isinstance(sampler.remask, (CapRemask, RescaleRemask))
        steps = sampler.grid.steps(sampler.schedule)
        redraws = sampler.remask.expected_redraws(sampler.remask.eta, steps)
        assert redraws == pytest.approx(expected, abs=0.06)


def test_remasking_can_be_given_as_redraws() -> None:
    sampler = sampler_preset("paper_rescale", 12, num_denoise_steps=10, redraws=1.0)
    steps = sampler.grid.steps(sampler.schedule)
    eta = sampler.remask.eta
    assert sampler.remask.expected_redraws(eta, steps) == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(ValueError, match=r"RescaleRemask\.redraws must be at most 2"):
        sampler_preset("paper_rescale", 12, num_denoise_steps=10, redraws=9.0)


def test_loop_and_switch_have_their_grids() -> None:
    assert isinstance(sampler_preset("paper_loop", 12).grid, LoopGrid)
    assert isinstance(sampler_preset("paper_switch", 12).grid, SwitchGrid)
    seed = sampler_preset("readme_craftax_loop", 12).grid
    assert seed.phases == (5, 6, 4)
    assert not seed.continuous


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'readme_minihack'"):
        sampler_preset("readme_minihac", 12)


def test_unknown_knob_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"knob of the sampler preset 'default'.*'temperature'"):
        sampler_preset("default", 12, temprature=0.1)


def test_a_knob_of_another_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown knob of the sampler preset 'default' 'eta'"):
        sampler_preset("default", 12, eta=0.1)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("default", {"gamma": -1.0}, "gamma"),
        ("default", {"temperature": 0.0}, "temperature"),
        ("default", {"order": "entropie"}, "did you mean 'entropy'"),
        ("threshold", {"tau": 1.5}, r"ThresholdReveal.tau must be a probability in \[0, 1\]"),
        ("readme_minihack", {"eta": 2.0}, "eta"),
        ("readme_minihack", {"remask_strategy": "loop"}, "strategy"),
        ("readme_craftax_loop", {"remask_strategy": "resale"}, "did you mean 'rescale'"),
        ("readme_craftax_eval", {"eta": 2.0}, r"FadingRemask.eta must be in \[0, 1\]"),
        ("readme_minihack", {"num_denoise_steps": 0}, "num_steps must be at least 1"),
        ("paper_cap", {"top_p": 0.0}, "top_p"),
        ("paper_cap", {"noise_schedule": "cosin"}, "cosine"),
    ],
)
def test_values_out_of_range_are_refused(name: str, override: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler_preset(name, 12, **override)


def test_gin_reaches_presets_and_parts() -> None:
    gin.parse_config(
        """
        sampler_preset.temperature = 0.25
        Sampler.compact_below = 0.5
        """
    )
    sampler = sampler_preset("default", 12)
    assert sampler.decoder.temperature == 0.25
    assert sampler.compact_below == 0.5


def test_gin_builds_a_sampler_of_parts() -> None:
    gin.parse_config(
        """
        Sampler.grid = @LoopGrid()
        Sampler.reveal = @CountReveal()
        Sampler.order = @NoisyOrder()
        NoisyOrder.order = @MarginOrder()
        Sampler.remask = @CapRemask()
        CapRemask.redraws = 0.5
        LoopGrid.alpha_on = 0.8
        """
    )
    sampler = gin.get_configurable("Sampler")(12)
    steps = sampler.grid.steps(sampler.schedule)
    assert sampler.grid.alpha_on == 0.8
    assert sampler.remask.expected_redraws(sampler.remask.eta, steps) == pytest.approx(0.5)


def test_an_agent_plans_with_a_sampler_of_parts_and_its_presets_stay_whole() -> None:
    gin.parse_config(
        """
        DiffusionPlannerAgent.sampler = @Sampler
        Sampler.grid = @UniformAlpha()
        UniformAlpha.num_steps = 8
        Sampler.reveal = @CountReveal()
        Sampler.order = @RandomOrder()
        Sampler.remask = @SwapRemask()
        SwapRemask.swaps = 2
        """
    )
    agent = DiffusionPlannerAgent(map_observation_spec(9, 9), 12)
    assert (agent.sampler.grid.num_steps, agent.sampler.remask.swaps) == (8, 2)
    for preset in (agent.sampler_collect, agent.sampler_greedy):
        assert preset.grid is None
        assert type(preset.remask) is NoRemask


def test_options_are_refused_for_a_sampler_of_parts() -> None:
    with pytest.raises(ValueError, match="knobs of a preset, got temperature for the class Samp"):
        make_sampler(Sampler, 12, {"temperature": 1.0})
