"""What must hold in a shard, whoever wrote it. All raise ValueError where it does not."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from remdm.data.plain_json import counted, typed
from remdm.data.records import OBSERVATION_PREFIX, STEP_DTYPES, Segment
from remdm.data.segment_table import UNKNOWN, SegmentTable

_OFFSETS_DTYPE = np.dtype(np.int64)
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
    names = names_of(metadata, "action_names")
    if not 1 <= len(names) <= MOST_ACTIONS:
        raise ValueError(f"it must have 1 to {MOST_ACTIONS} actions, got {len(names)}")
    return names


def segments_of(metadata: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The segments that the metadata of a shard of schema version 1 tell.

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


def names_of(metadata: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The list of words that metadata have under a name.

    Raises:
        ValueError: If there is none.
    """
    found = typed(metadata, name, list)
    if not all(type(word) is str for word in found):
        raise ValueError(f"its {name} are not all words")
    return _one_of_each(tuple(found))


@lru_cache(maxsize=4096)
def _one_of_each(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same tuple for the same words: thousands of shards have them."""
    return words


def check_steps(table: SegmentTable, tensors: Mapping[str, np.ndarray], num_actions: int) -> None:
    """See that segments and steps tell one story.

    Args:
        table: The segments; one at least.
        tensors: The arrays of a shard.
        num_actions: Number of actions.

    Raises:
        ValueError: If they do not.
    """
    offsets = table.offsets
    _check_form("offsets", offsets, _OFFSETS_DTYPE)
    for name, dtype in STEP_DTYPES.items():
        _check_form(name, tensors[name], dtype)
    count = len(tensors["actions"])
    for name, array in tensors.items():
        of_steps = name in STEP_DTYPES or name.startswith(OBSERVATION_PREFIX)
        if of_steps and len(array) != count:
            raise ValueError(f"{name} has {len(array)} steps, actions have {count}")
    table.check()
    fits = len(offsets) == len(table.rows) + 1 and offsets[0] == 0 and offsets[-1] == count
    # Compared, not subtracted: what is too large could come round to the right number.
    if not fits or not (offsets[1:] > offsets[:-1]).all():
        raise ValueError("its offsets do not match its segments")
    ends = (tensors["terminated"] | tensors["truncated"]).nonzero()[0]
    final = offsets[1:][table.outcome != UNKNOWN] - 1
    if len(ends) != len(final) or not (ends == final).all():
        raise ValueError("episodes end elsewhere than at the end of final segments")
    # What is negative is large as an unsigned number.
    if tensors["actions"].view(np.uint8).max() >= num_actions:
        raise ValueError(f"it has actions outside 0..{num_actions - 1}")


def _check_form(name: str, array: np.ndarray, dtype: object) -> None:
    """Raises: ValueError: If an array has another dtype, or not one axis."""
    if array.dtype != dtype:
        raise ValueError(f"{name} has dtype {array.dtype}, it must be {dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, it must have one axis")
