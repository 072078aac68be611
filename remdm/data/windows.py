"""Plan targets made from actions, and which steps may be drawn. Pure functions on arrays."""

from collections.abc import Sequence

import numba
import numpy as np

from remdm.data.records import Segment
from remdm.data.segment_table import UNKNOWN, WON, SegmentTable

# A window that earned nothing still counts for a little.
LEAST_RETURN_FACTOR = 0.1


def action_windows(
    actions: np.ndarray,
    known: np.ndarray,
    offsets: np.ndarray,
    ended: np.ndarray,
    plan_horizon: int,
    end: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The next `plan_horizon` actions at every step, within the step's own segment.

    After the last step of a segment that ended for good comes END. A window that would need the
    unknown (the steps after a piece of an unfinished episode, an action that is not known) is not
    drawable. Where an action is END itself, the plan ends there.

    Args:
        actions: Integer [T].
        known: bool [T]: whether the action of a step is known.
        offsets: int64 [S + 1]: where segments start and end.
        ended: bool [S]: whether nothing is left to do after a segment.
        plan_horizon: Tokens per plan.
        end: The END token.

    Returns:
        plans: int8 [T, plan_horizon].
        drawable: bool [T].
    """
    plans = np.empty((len(actions), plan_horizon), np.int8)
    drawable = np.empty(len(actions), np.bool_)
    _fill_windows(actions, known, offsets, ended, end, plans, drawable)
    return plans, drawable


@numba.njit(nogil=True, cache=True)
def _fill_windows(
    actions: np.ndarray,
    known: np.ndarray,
    offsets: np.ndarray,
    ended: np.ndarray,
    end: int,
    plans: np.ndarray,
    drawable: np.ndarray,
) -> None:
    horizon = plans.shape[1]
    for segment in range(len(ended)):
        stop = offsets[segment + 1]
        for step in range(offsets[segment], stop):
            over, fits = False, True
            for position in range(horizon):
                source = step + position
                if not over:
                    if source < stop:
                        fits = fits and known[source]
                        over = actions[source] == end
                    else:
                        fits = fits and ended[segment]
                        over = True
                plans[step, position] = end if over else actions[source]
            drawable[step] = fits


def past_windows(actions: np.ndarray, offsets: np.ndarray, count: int, mask: int) -> np.ndarray:
    """The `count` actions before every step, within the step's own segment.

    Args:
        actions: int8 [T].
        offsets: int64 [S + 1]: where segments start and end.
        count: How far to look back.
        mask: The MASK token, for what lies before the segment.

    Returns:
        int8 [T, count]: the action one step before, two steps before, ...
    """
    total = len(actions)
    starts = np.repeat(offsets[:-1], np.diff(offsets))
    past = np.full((total, count), mask, np.int8)
    steps = np.arange(total)
    for back in range(1, count + 1):
        inside = steps - back >= starts
        past[inside, back - 1] = actions[steps[inside] - back]
    return past


def history_known(first_steps: np.ndarray, offsets: np.ndarray, count: int) -> np.ndarray:
    """Whether the `count` steps before each step are here, as far as the episode had begun.

    They are not for the first steps of a piece whose episode began before it.

    Args:
        first_steps: Integer [S]: steps of the episode before each segment.
        offsets: int64 [S + 1]: where segments start and end.
        count: How far to look back.

    Returns:
        bool [T].
    """
    lengths = np.diff(offsets)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return (within >= count) | np.repeat(first_steps == 0, lengths)


def window_returns(rewards: np.ndarray, offsets: np.ndarray, plan_horizon: int) -> np.ndarray:
    """Sum of the rewards of the next `plan_horizon` steps at every step, within its own segment.

    Args:
        rewards: float32 [T].
        offsets: int64 [S + 1]: where segments start and end.
        plan_horizon: Steps to add up.

    Returns:
        float64 [T].
    """
    # In float64, sums of float32 are exact as long as rewards are of comparable size; so a window
    # without rewards has a return of exactly 0.
    sums = np.concatenate([np.zeros(1), np.cumsum(rewards, dtype=np.float64)])
    starts = np.arange(len(rewards))
    stops = np.minimum(starts + plan_horizon, np.repeat(offsets[1:], np.diff(offsets)))
    return sums[stops] - sums[starts]


def return_factors(returns: np.ndarray, drawable: np.ndarray, cap: float) -> np.ndarray:
    """How much more than others a window counts for what it earned.

    With R = max(0, return): clip(R / mean of R over the drawable windows, 0.1, cap).

    Args:
        returns: float64 [T].
        drawable: bool [T].
        cap: Largest factor, at least `LEAST_RETURN_FACTOR`.

    Returns:
        float64 [T]; all `LEAST_RETURN_FACTOR` where no drawable window earned anything.
    """
    earned = np.maximum(returns, 0.0)
    total = earned[drawable].sum()
    if not total > 0:
        return np.full(len(returns), LEAST_RETURN_FACTOR)
    return np.clip(earned / (total / drawable.sum()), LEAST_RETURN_FACTOR, cap)


def episode_outcomes(segments: Sequence[Segment]) -> list[bool | None]:
    """Whether the episode each segment belongs to was won in the end; None if not known.

    Pieces of one episode have the same collector, environment and seed, and each begins with the
    step after the last one of the piece before.

    Args:
        segments: In the order in which they were recorded, over all shards.
    """
    outcomes: list[bool | None] = [None] * len(segments)
    waiting: dict[tuple[str, str, int, int], list[int]] = {}
    for index, s in enumerate(segments):
        episode = (s.collector, s.env, s.seed)
        before = waiting.pop((*episode, s.first_step), []) if s.first_step else []
        chain = [*before, index]
        if s.final:
            for piece in chain:
                outcomes[piece] = s.won
        else:
            waiting[(*episode, s.first_step + s.length)] = chain
    return outcomes


def won_steps(tables: Sequence[SegmentTable]) -> list[np.ndarray]:
    """For each shard bool [T]: the step belongs to an episode that was won in the end.

    Args:
        tables: The segments of all shards, in the order in which they were recorded.
    """
    # Most segments are whole episodes, which tell their outcome themselves.
    pieces = [
        np.flatnonzero((table.first_step > 0) | (table.outcome == UNKNOWN)) for table in tables
    ]
    segments = [
        segment
        for table, places in zip(tables, pieces, strict=True)
        for segment in table.segments(places.tolist())
    ]
    outcomes, start, flags = episode_outcomes(segments), 0, []
    for table, places in zip(tables, pieces, strict=True):
        won = table.outcome == WON
        own = outcomes[start : start + len(places)]
        won[places] = [outcome is True for outcome in own]
        start += len(places)
        flags.append(won.repeat(table.lengths))
    return flags
