"""Samplers by name: our defaults, the strategies of the field, and the published variants.

Each preset is a function whose keyword arguments are the knobs it has, with the published values
as defaults. The published ones are in `remdm.diffusion.published`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gin

from remdm.diffusion import published
from remdm.diffusion.decode import Decoder
from remdm.diffusion.grids import UniformAlpha, UniformTime
from remdm.diffusion.order import (
    EntropyOrder,
    MarginOrder,
    MaxProbOrder,
    NoisyOrder,
    PositionOrder,
    RandomOrder,
    SampledConfidenceOrder,
)
from remdm.diffusion.published import Parts
from remdm.diffusion.remask_counted import BudgetedConfRemask, PathRemask, SwapRemask
from remdm.diffusion.reveal import BernoulliReveal, CountReveal, EntropyBoundReveal, ThresholdReveal
from remdm.diffusion.sampler import Sampler
from remdm.registry import Registry, unknown_name_message

ORDERS = Registry("order")
for _name, _order in {
    "entropy": EntropyOrder,
    "margin": MarginOrder,
    "max_prob": MaxProbOrder,
    "position": PositionOrder,
    "random": RandomOrder,
    "sampled_confidence": SampledConfidenceOrder,
}.items():
    ORDERS.register(_name, _order)


def default(
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


def greedy(*, gamma: float = 0.3, temperature: float = 0.5, order: str = "entropy") -> Parts:
    """The default, but the likeliest token everywhere; nothing is random."""
    return {
        "reveal": EntropyBoundReveal(gamma=gamma),
        "order": ORDERS.get(order)(),
        "decoder": Decoder(temperature=temperature, greedy=True),
    }


def threshold(*, tau: float = 0.9, temperature: float = 0.5, order: str = "max_prob") -> Parts:
    """Every token the net is sure enough of, at least one a call (Fast-dLLM)."""
    return {
        "reveal": ThresholdReveal(tau=tau),
        "order": ORDERS.get(order)(),
        "decoder": Decoder(temperature=temperature),
    }


def count(
    *,
    num_denoise_steps: int = 10,
    temperature: float = 0.5,
    order: str = "margin",
    noise: float = 1e-3,
) -> Parts:
    """Equally many tokens a call, no remasking; noise decides between equal scores."""
    return {
        "grid": UniformAlpha(num_steps=num_denoise_steps),
        "reveal": CountReveal(),
        "order": NoisyOrder(order=ORDERS.get(order)(), scale=noise),
        "decoder": Decoder(temperature=temperature),
    }


def swap(
    *,
    num_denoise_steps: int = 10,
    temperature: float = 0.5,
    order: str = "margin",
    noise: float = 1e-3,
    swaps: int = 1,
    competitive: bool = False,
) -> Parts:
    """Equally many tokens a call, and the least certain ones are taken back."""
    parts = count(
        num_denoise_steps=num_denoise_steps, temperature=temperature, order=order, noise=noise
    )
    return parts | {"remask": SwapRemask(swaps=swaps, competitive=competitive)}


def path(*, num_denoise_steps: int = 10, temperature: float = 0.5, eta: float = 1.0) -> Parts:
    """P2 (arXiv 2502.03540): all tokens compete for the places at every step."""
    parts = count(num_denoise_steps=num_denoise_steps, temperature=temperature)
    return parts | {"remask": PathRemask(eta=eta)}


def balanced(
    *,
    num_denoise_steps: int = 10,
    temperature: float = 0.5,
    eta: float = 0.5,
    doubt_temperature: float = 0.1,
) -> Parts:
    """Confidence remasking with a budget; the expected counts follow the schedule."""
    return {
        "grid": UniformTime(num_steps=num_denoise_steps),
        "reveal": BernoulliReveal(),
        "remask": BudgetedConfRemask(eta=eta, temperature=doubt_temperature),
        "decoder": Decoder(temperature=temperature),
        "window_first": False,
    }


PRESETS = Registry("sampler preset")
_BUILDERS: tuple[Callable[..., Parts], ...] = (
    default,
    greedy,
    threshold,
    count,
    swap,
    path,
    balanced,
    published.readme_minihack,
    published.readme_minihack_greedy,
    published.readme_craftax_eval,
    published.readme_craftax_loop,
    published.paper_mdlm,
    published.paper_cap,
    published.paper_rescale,
    published.paper_conf,
    published.paper_loop,
    published.paper_switch,
    published.head_2026_08,
)
for _builder in _BUILDERS:
    PRESETS.register(_builder.__name__, _builder)

# A preset is a whole sampler: what it does not name is absent, whatever `Sampler.*` gin binds for
# a sampler of parts beside it.
NO_PARTS: Parts = dict.fromkeys(("reveal", "order", "remask", "decoder", "grid", "schedule"))

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
    parts = NO_PARTS | builder(**{k: v for k, v in overrides.items() if k in knobs})
    parts |= {k: v for k, v in overrides.items() if k not in knobs}
    return Sampler(num_actions, **parts)


def make_sampler(
    sampler: str | type[Sampler], num_actions: int, options: Mapping[str, Any] | None = None
) -> Sampler:
    """A sampler as a config names it: a preset, or a class whose parts gin binds.

    Args:
        sampler: A preset's name, or `Sampler` (in gin `@Sampler`, with `Sampler.grid =
            @UniformAlpha()` and so on) or a subclass of it.
        num_actions: Size of the action set.
        options: Knobs of a preset.

    Raises:
        ValueError: If the preset or a knob is unknown, options are given for a class, or the parts
            do not fit together.
    """
    if isinstance(sampler, str):
        return sampler_preset(sampler, num_actions, **(options or {}))
    if options:
        raise ValueError(
            f"sampler options are knobs of a preset, got {', '.join(options)} for the class "
            f"{sampler.__name__}; bind them where they belong, as in Decoder.temperature = 0.5."
        )
    return sampler(num_actions)
