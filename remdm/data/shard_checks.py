"""What must hold in a shard, whoever wrote it. All raise ValueError where it does not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from remdm.data.plain_json import counted, typed
from remdm.data.records import STEP_DTYPES, Segment, StepArrays

# MASK and END follow the actions, and plans are int8.
MOST_ACTIONS = int(np.iinfo(np.int8).max) - 2
_SEGMENT_TYPES: dict[str, tuple[type, ...]] = {
    "env": (str,),
    "seed": (int,),
    "first_step": (int,),
    "length": (int,),
    "won": (bool, type(None)),
    "final": (bool,),
    "policy_version": (int,),
    "collector": (str,),
}


def action_names_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the actions that metadata tell.

    Raises:
        ValueError: If there are none, or more than plans can hold.
    """
    names = typed(metadata, "action_names", list)
    if not all(type(name) is str for name in names):
        raise ValueError("its action_names are not all words")
    if not 1 <= len(names) <= MOST_ACTIONS:
        raise ValueError(f"it must have 1 to {MOST_ACTIONS} actions, got {len(names)}")
    return tuple(names)


def segments_of(metadata: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The segments that metadata tell.

    Raises:
        ValueError: If there are none, or one of them makes no sense.
    """
    found = typed(metadata, "segments", list)
    if not found:
        raise ValueError("it has no segments")
    return tuple(_segment(values) for values in found)


def _segment(values: Any) -> Segment:
    if not isinstance(values, dict) or len(values) != len(_SEGMENT_TYPES):
        raise ValueError(f"a segment must have {', '.join(_SEGMENT_TYPES)}")
    for name in ("first_step", "length"):
        counted(values, name)
    return Segment(**{name: typed(values, name, *kinds) for name, kinds in _SEGMENT_TYPES.items()})


def check_steps(
    segments: Sequence[Segment], offsets: np.ndarray, steps: StepArrays, num_actions: int
) -> None:
    """See that segments, offsets and steps tell one story.

    Args:
        segments: At least one.
        offsets: What should be int64 [S + 1].
        steps: What should be T steps.
        num_actions: Number of actions.

    Raises:
        ValueError: If they do not.
    """
    _check_form("offsets", offsets, np.dtype(np.int64))
    for name, dtype in STEP_DTYPES.items():
        _check_form(name, getattr(steps, name), dtype)
    for name, array in steps.named().items():
        if len(array) != len(steps):
            raise ValueError(f"{name} has {len(array)} steps, actions have {len(steps)}")
    lengths = [s.length for s in segments]
    # No length beyond all steps: sums of larger ones could come round to the right number.
    fits = len(offsets) == len(segments) + 1 and max(lengths) <= len(steps)
    if not fits or offsets[0] != 0 or offsets[-1] != len(steps):
        raise ValueError("its offsets do not match its segments")
    if not np.array_equal(np.diff(offsets), lengths):
        raise ValueError("its offsets do not match its segments")
    ends = np.flatnonzero(steps.terminated | steps.truncated)
    final = np.array([s.final for s in segments])
    if not np.array_equal(ends, offsets[1:][final] - 1):
        raise ValueError("episodes end elsewhere than at the end of final segments")
    if steps.actions.min() < 0 or steps.actions.max() >= num_actions:
        raise ValueError(f"it has actions outside 0..{num_actions - 1}")


def _check_form(name: str, array: np.ndarray, dtype: object) -> None:
    if array.dtype != dtype:
        raise ValueError(f"{name} has dtype {array.dtype}, it must be {dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, it must have one axis")
