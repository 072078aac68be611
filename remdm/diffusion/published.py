"""The published samplers as parts, with their published values as defaults.

"The planners" of the literature are several different samplers under one name: `readme_minihack`
and `readme_craftax_*` are what the seeds describe, `head_2026_08` what the MiniHack seed's code
became, `paper_*` what ReMDM (arXiv 2503.00307) published.
"""

from collections.abc import Callable
from typing import Any

from remdm.diffusion.decode import Decoder
from remdm.diffusion.grids import LoopGrid, SwitchGrid, TimeGrid, UniformTime
from remdm.diffusion.order import SampledConfidenceOrder
from remdm.diffusion.remask import CapRemask, ConfRemask, NoRemask, Remask, RescaleRemask
from remdm.diffusion.remask_seed import FadingRemask, SeedRemask
from remdm.diffusion.reveal import BernoulliReveal, RedecideReveal, SeedCountReveal
from remdm.diffusion.schedules import make_schedule
from remdm.registry import unknown_name_message

Parts = dict[str, Any]

PAPER_END_TIME = 1e-5


def readme_minihack(
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


def readme_minihack_greedy(*, num_denoise_steps: int = 5, noise_schedule: str = "linear") -> Parts:
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


def _on_paper_grid(num_denoise_steps: int) -> TimeGrid:
    """As the code of ReMDM runs it: what is left at t = 1e-5 takes an argmax pass."""
    return UniformTime(num_steps=num_denoise_steps, end_time=PAPER_END_TIME)


def _paper(remask: Remask, grid: TimeGrid, top_p: float | None, schedule: str) -> Parts:
    """Algorithm 1 of ReMDM: each token on its own, nucleus before mixing."""
    return {
        "grid": grid,
        "reveal": BernoulliReveal(),
        "remask": remask,
        "decoder": Decoder(top_p=top_p, nucleus_rule="official"),
        "schedule": make_schedule(schedule),
        "time_input": "start",
        "window_first": False,
        "close_after_end": False,
    }


def paper_mdlm(
    *,
    num_denoise_steps: int = 1024,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """Ancestral sampling of MDLM, without remasking."""
    return _paper(NoRemask(), _on_paper_grid(num_denoise_steps), top_p, noise_schedule)


def paper_cap(
    *,
    num_denoise_steps: int = 1024,
    eta: float = 0.008,
    redraws: float | None = None,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """ReMDM-cap."""
    return _paper(
        CapRemask(eta=eta, redraws=redraws),
        _on_paper_grid(num_denoise_steps),
        top_p,
        noise_schedule,
    )


def paper_rescale(
    *,
    num_denoise_steps: int = 1024,
    eta: float = 0.015,
    redraws: float | None = None,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """ReMDM-rescale."""
    return _paper(
        RescaleRemask(eta=eta, redraws=redraws),
        _on_paper_grid(num_denoise_steps),
        top_p,
        noise_schedule,
    )


def paper_conf(
    *,
    num_denoise_steps: int = 1024,
    eta: float = 1.0,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """ReMDM-conf; confidence after truncation, and no eta, as in the published code."""
    return _paper(ConfRemask(eta=eta), _on_paper_grid(num_denoise_steps), top_p, noise_schedule)


def paper_loop(
    *,
    num_denoise_steps: int = 1024,
    eta: float = 0.02,
    redraws: float | None = None,
    t_on: float = 0.55,
    t_off: float = 0.05,
    alpha_on: float | None = 0.9,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """ReMDM-loop; its phases end with a step, and it ends at t = 0 without an argmax pass."""
    grid = LoopGrid(num_steps=num_denoise_steps, t_on=t_on, t_off=t_off, alpha_on=alpha_on)
    return _paper(CapRemask(eta=eta, redraws=redraws), grid, top_p, noise_schedule)


def paper_switch(
    *,
    num_denoise_steps: int = 1024,
    eta: float = 0.008,
    redraws: float | None = None,
    t_switch: float = 0.55,
    top_p: float | None = 0.9,
    noise_schedule: str = "linear",
) -> Parts:
    """ReMDM-switch over cap; the numbers are ours, as no code was published."""
    grid = SwitchGrid(num_steps=num_denoise_steps, t_switch=t_switch, end_time=PAPER_END_TIME)
    return _paper(CapRemask(eta=eta, redraws=redraws), grid, top_p, noise_schedule)


def head_2026_08(
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


def readme_craftax_eval(
    *,
    num_denoise_steps: int = 10,
    temperature: float = 0.5,
    top_p: float | None = 0.95,
    eta: float = 0.15,
    noise_schedule: str = "cosine",
) -> Parts:
    """The Craftax seed's evaluation: all tokens decided anew in every call.

    Its strategy, eta and loop settings had no effect there; the 0.15 was built in.
    """
    return {
        "grid": UniformTime(num_steps=num_denoise_steps),
        "reveal": RedecideReveal(),
        "remask": FadingRemask(eta=eta),
        "decoder": Decoder(temperature=temperature, top_p=top_p, raw_confidence=True),
        "schedule": make_schedule(noise_schedule),
        "time_input": "end",
        "window_first": False,
        "close_after_end": False,
    }


CRAFTAX_STRATEGIES: dict[str, Callable[..., Remask]] = {
    "rescale": RescaleRemask,
    "cap": CapRemask,
    "conf": ConfRemask,
}


def readme_craftax_loop(
    *,
    num_denoise_steps: int = 15,
    temperature: float = 0.5,
    top_p: float | None = 0.95,
    remask_strategy: str = "rescale",
    eta: float = 0.5,
    t_on: float = 0.7,
    t_off: float = 0.3,
    noise_schedule: str = "cosine",
) -> Parts:
    """The Craftax seed's sampler while training: a loop whose last phase jumps ahead.

    The seed made one more net call at t = 0, in which nothing was left to decide.
    """
    if remask_strategy not in CRAFTAX_STRATEGIES:
        raise ValueError(
            unknown_name_message(
                "readme_craftax_loop.remask_strategy", remask_strategy, CRAFTAX_STRATEGIES
            )
        )
    grid = LoopGrid(
        num_steps=num_denoise_steps, t_on=t_on, t_off=t_off, alpha_on=None, continuous=False
    )
    return {
        "grid": grid,
        "reveal": BernoulliReveal(),
        "remask": CRAFTAX_STRATEGIES[remask_strategy](eta=eta),
        "decoder": Decoder(temperature=temperature, top_p=top_p, raw_confidence=True),
        "schedule": make_schedule(noise_schedule),
        "time_input": "start",
        "window_first": False,
        "close_after_end": False,
    }
