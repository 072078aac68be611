"""Presets by name, and what their knobs accept."""

import gin
import pytest

from remdm.diffusion.presets import preset_knobs, preset_names, sampler_preset

NAMES = [
    "default",
    "greedy",
    "head_2026_08",
    "paper_cap",
    "paper_conf",
    "paper_mdlm",
    "paper_rescale",
    "readme_minihack",
    "readme_minihack_greedy",
]


def test_names_are_the_published_ones() -> None:
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
    assert preset_knobs("default")["gamma"] == 0.3
    assert preset_knobs("default")["temperature"] == 0.5
    assert [preset_knobs(f"paper_{n}")["eta"] for n in ("cap", "rescale")] == [0.008, 0.015]


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
        ("readme_minihack", {"eta": 2.0}, "eta"),
        ("readme_minihack", {"remask_strategy": "loop"}, "strategy"),
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
