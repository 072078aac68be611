"""Which parts of a sampler do not go together, and what to set instead."""

from remdm.diffusion.grids import TimeGrid
from remdm.diffusion.order import Order
from remdm.diffusion.remask import Remask
from remdm.diffusion.reveal import Reveal
from remdm.registry import unknown_name_message

TIME_INPUTS = ("realised", "start", "end")


def refuse_misfits(
    reveal: Reveal,
    order: Order | None,
    remask: Remask,
    grid: TimeGrid | None,
    time_input: str,
    window_first: bool,
) -> None:
    """Check the parts of a `remdm.diffusion.sampler.Sampler` against each other.

    Raises:
        ValueError: If any do not fit; says why and what to set.
    """
    if time_input not in TIME_INPUTS:
        raise ValueError(unknown_name_message("Sampler.time_input", time_input, TIME_INPUTS))
    if reveal.needs_grid:
        _refuse_on_a_grid(reveal, remask, grid)
    else:
        _refuse_without_a_grid(reveal, remask, grid, time_input)
    if not reveal.needs_order and (order is not None or window_first):
        raise ValueError(
            f"{_name(reveal)} chooses every position on its own, so Sampler.order must be None and "
            f"Sampler.window_first False, got {_name(order)} and {window_first}"
        )


def _refuse_on_a_grid(reveal: Reveal, remask: Remask, grid: TimeGrid | None) -> None:
    if grid is None:
        raise ValueError(
            f"{_name(reveal)} follows a time grid: set Sampler.grid, for example @UniformTime()"
        )
    if grid.needs_remask and not remask.can_remask:
        raise ValueError(
            f"{_name(grid)} says when committed tokens are masked again, but {_name(remask)} never "
            "does: set Sampler.remask = @RescaleRemask() or Sampler.grid = @UniformTime()"
        )
    if remask.needs_counts and not reveal.counts:
        raise ValueError(
            f"{_name(remask)} gives tokens back for as many others, which {_name(reveal)} does not "
            "count: set Sampler.reveal = @CountReveal()"
        )
    if reveal.redecides and remask.can_remask and not remask.after_reveal:
        raise ValueError(
            f"{_name(reveal)} decides every position anew, so remasking comes after it: set "
            f"Sampler.remask = @FadingRemask() or @NoRemask(), got {_name(remask)}"
        )


def _refuse_without_a_grid(
    reveal: Reveal, remask: Remask, grid: TimeGrid | None, time_input: str
) -> None:
    if grid is not None:
        raise ValueError(
            f"{_name(reveal)} decides by itself how many calls it needs, so Sampler.grid must be "
            f"None, got {_name(grid)}"
        )
    if remask.can_remask:
        raise ValueError(
            f"{_name(remask)} takes its probabilities from a time grid, which {_name(reveal)} does "
            "not follow: set Sampler.reveal = @CountReveal() or Sampler.remask = @NoRemask()"
        )
    if time_input != "realised":
        raise ValueError(
            f"{_name(reveal)} has no time grid to take a step's {time_input!r} from: set "
            "Sampler.time_input = 'realised'"
        )


def refuse_idle_steps(reveal: Reveal, remask: Remask, num_steps: int, horizon: int) -> None:
    """Refuse more steps than there are tokens to decide, where a step without one does nothing.

    Raises:
        ValueError: If steps would have to pass without a decision.
    """
    if reveal.counts and not remask.can_remask and num_steps > horizon:
        raise ValueError(
            f"{_name(reveal)} decides at least one of {horizon} tokens in each step that does "
            f"anything, so {num_steps - horizon} of {num_steps} net calls would decide nothing: "
            f"set the grid's num_steps to at most {horizon}, for example UniformTime.num_steps = "
            f"{horizon}, or choose a rule that remasks"
        )


def checked_window(batch_size: int, horizon: int, window: int | None) -> int:
    """`window`, or the whole plan when None.

    Raises:
        ValueError: If it is outside the plan, or there is no row or no token.
    """
    if batch_size < 1 or horizon < 1:
        raise ValueError(
            f"a sampler needs at least one row and one token, got batch_size={batch_size} "
            f"and horizon={horizon}"
        )
    if window is not None and not 1 <= window <= horizon:
        raise ValueError(
            f"window must be in 1..{horizon} (the plan's horizon), got {window}; it is "
            "usually replan_every"
        )
    return window or horizon


def _name(part: object) -> str:
    return type(part).__name__
