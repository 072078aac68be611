"""Samplers by name: our defaults, the seed's, the paper's, and the seed's authors' latest.

Each preset is a function whose keyword arguments are the knobs it has, with the published values
as defaults. "The planners" of the literature are three different samplers under one name:
`readme_minihack` is what the seed describes, `head_2026_08` what its code became, `paper_*` what
ReMDM (arXiv 2503.00307) published.
"""

import inspect
from collections.abc import Callable
from typing import Any

import gin

from remdm.diffusion.decode import Decoder
from remdm.diffusion.grids import UniformTime
from remdm.diffusion.order import (
    EntropyOrder,
    MarginOrder,
    MaxProbOrder,
    PositionOrder,
    RandomOrder,
    SampledConfidenceOrder,
)
from remdm.diffusion.remask import (
    CapRemask,
    ConfRemask,
    NoRemask,
    Remask,
    RescaleRemask,
    SeedRemask,
)
from remdm.diffusion.reveal import BernoulliReveal, EntropyBoundReveal, SeedCountReveal
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.schedules import make_schedule
from remdm.registry import Registry, unknown_name_message

Parts = dict[str, Any]

ORDERS = Registry("order")
for _name, _order in {
    "entropy": EntropyOrder,
    "margin": MarginOrder,
    "max_prob": MaxProbOrder,
    "position": PositionOrder,
    "random": RandomOrder,
}.items():
    ORDERS.register(_name, _order)


def _default(
    *,
    gamma: float = 0.3,
    temperature: float = 0.5,
    top_k: int | None = None,
    top_p: float | None = None,
    order: str = "entropy",
) -> Parts:
    """Entropy-bounded reveal, window first."""
    return {
        "reveal": EntropyBoundReveal(gamma=gamma),
        "order": ORDERS.get(order)(),
        "decoder": Decoder(temperature=temperature, top_k=top_k, top_p=top_p),
    }


def _greedy(*, gamma: float = 0.3, temperature: float = 0.5, order: str = "entropy") -> Parts:
    """The default, but the likeliest token everywhere; nothing is random."""
    return {
        "reveal": EntropyBoundReveal(gamma=gamma),
        "order": ORDERS.get(order)(),
        "decoder": Decoder(temperature=temperature, greedy=True),
    }


def _readme_minihack(
    *,
    num_denoise_steps: int = 10,
    temperature: float = 0.5,
    top_k: int | None = 4,
    remask_strategy: str = "conf",
    eta: float = 0.15,
    noise_schedule: str = "linear",
) -> Parts:
    """The seed's evaluation sampler: MaskGIT counts used as increments, then remasking."""
    return {
        "grid": UniformTime(num_steps=num_denoise_steps),
        "reveal": SeedCountReveal(min_share=0.1),
        "order": SampledConfidenceOrder(),
        "remask": SeedRemask(strategy=remask_strategy, eta=eta),
        "decoder": Decoder(temperature=temperature, top_k=top_k),
        "schedule": make_schedule(noise_schedule),
        "time_input": "end",
        "window_first": False,
        "close_after_end": False,
    }


def _readme_minihack_greedy(*, num_denoise_steps: int = 5, noise_schedule: str = "linear") -> Parts:
    """The seed's sampler for collecting: argmax, most confident first, no remasking."""
    return {
        "grid": UniformTime(num_steps=num_denoise_steps),
        "reveal": SeedCountReveal(min_share=0.0),
        "order": SampledConfidenceOrder(),
        "decoder": Decoder(greedy=True),
        "schedule": make_schedule(noise_schedule),
        "time_input": "end",
        "window_first": False,
        "close_after_end": False,
    }


def _paper(remask: Remask, num_denoise_steps: int, top_p: float | None, schedule: str) -> Parts:
    """Algorithm 1 of ReMDM as its code runs it: an argmax pass after t = 1e-5."""
    return {
        "grid": UniformTime(num_steps=num_denoise_steps, end_time=1e-5),
        "reveal": BernoulliReveal(),
        "remask": remask,
        "decoder": Decoder(top_p=top_p, nucleus_rule="official"),
        "schedule": make_schedule(schedule),
        "time_input": "start",
        "window_first": False,
        "close_after_end": False,
    }


def _paper_mdlm(
    *,
    num_denoise_steps: int = 1024,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """Ancestral sampling of MDLM, without remasking."""
    return _paper(NoRemask(), num_denoise_steps, top_p, noise_schedule)


def _paper_cap(
    *,
    num_denoise_steps: int = 1024,
    eta: float = 0.008,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """ReMDM-cap."""
    return _paper(CapRemask(eta=eta), num_denoise_steps, top_p, noise_schedule)


def _paper_rescale(
    *,
    num_denoise_steps: int = 1024,
    eta: float = 0.015,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """ReMDM-rescale."""
    return _paper(RescaleRemask(eta=eta), num_denoise_steps, top_p, noise_schedule)


def _paper_conf(
    *,
    num_denoise_steps: int = 1024,
    eta: float = 1.0,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """ReMDM-conf; confidence after truncation, and no eta, as in the published code."""
    return _paper(ConfRemask(eta=eta), num_denoise_steps, top_p, noise_schedule)


def _head_2026_08(
    *,
    num_denoise_steps: int = 10,
    temperature: float = 0.5,
    top_p: float | None = 0.9,
    eta: float = 0.15,
    noise_schedule: str = "linear",
) -> Parts:
    """The seed's authors' later sampler: Algorithm 1 with eta * softmax(-confidence)."""
    return {
        "grid": UniformTime(num_steps=num_denoise_steps),
        "reveal": BernoulliReveal(),
        "remask": ConfRemask(eta=eta),
        "decoder": Decoder(temperature=temperature, top_p=top_p, raw_confidence=True),
        "schedule": make_schedule(noise_schedule),
        "time_input": "start",
        "window_first": False,
        "close_after_end": False,
    }


PRESETS = Registry("sampler preset")
_BUILDERS: tuple[Callable[..., Parts], ...] = (
    _default,
    _greedy,
    _readme_minihack,
    _readme_minihack_greedy,
    _paper_mdlm,
    _paper_cap,
    _paper_rescale,
    _paper_conf,
    _head_2026_08,
)
for _builder in _BUILDERS:
    PRESETS.register(_builder.__name__.removeprefix("_"), _builder)

# What every preset lets the caller change, beside its own knobs.
SAMPLER_KNOBS = (
    "window_first",
    "close_after_end",
    "forbid_empty",
    "early_exit",
    "time_input",
    "compact_below",
    "fused",
)


def preset_names() -> list[str]:
    """All presets, sorted."""
    return PRESETS.names()


def preset_knobs(name: str) -> dict[str, Any]:
    """The knobs of a preset and their defaults, without the ones all samplers have.

    Raises:
        ValueError: If there is no such preset.
    """
    parameters = inspect.signature(PRESETS.get(name)).parameters
    return {knob: parameter.default for knob, parameter in parameters.items()}


@gin.configurable(module="remdm", denylist=["name", "num_actions"])
def sampler_preset(name: str, num_actions: int, **overrides: Any) -> Sampler:
    """A sampler by name.

    Args:
        name: One of `preset_names()`.
        num_actions: Size of the action set.
        **overrides: Knobs of the preset (`preset_knobs`) or of every sampler (`SAMPLER_KNOBS`).

    Raises:
        ValueError: If the preset is unknown or has no such knob; shows the nearest names.
    """
    builder = PRESETS.get(name)
    knobs = preset_knobs(name)
    for knob in overrides:
        if knob not in knobs and knob not in SAMPLER_KNOBS:
            raise ValueError(
                unknown_name_message(
                    f"knob of the sampler preset {name!r}", knob, (*knobs, *SAMPLER_KNOBS)
                )
            )
    parts = builder(**{k: v for k, v in overrides.items() if k in knobs})
    parts |= {k: v for k, v in overrides.items() if k not in knobs}
    return Sampler(num_actions, **parts)
