"""Gymnasium's spaces in our words: observations as named arrays, actions as tokens or vectors."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from remdm.envs.actions import Actions
from remdm.maps import HISTORY_PREFIX, ArraySpec

OBSERVATION = "observation"
"""Name of the one array of an observation that is no dict."""


def _leaves(space: spaces.Space[Any], name: str) -> Iterator[tuple[str, ArraySpec]]:
    """The arrays of a space, by name."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            if "/" in str(key):
                raise ValueError(f"entries of a Dict space must have no '/' in names, got {key!r}")
            yield from _leaves(inner, f"{name}/{key}" if name else str(key))
    elif isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        assert space.dtype is not None
        dtype = np.dtype(space.dtype)
        # Nets read float32; the other half would only fill disks.
        kept = np.dtype(np.float32) if dtype == np.float64 else dtype
        yield name or OBSERVATION, ArraySpec(tuple(space.shape or ()), kept)
    else:
        raise ValueError(
            "observations must be made of Box, Discrete, MultiDiscrete, MultiBinary and Dict "
            f"spaces, got {space}; wrap the environment in "
            "gymnasium.wrappers.TransformObservation."
        )


def observation_arrays(space: spaces.Space[Any]) -> dict[str, ArraySpec]:
    """The arrays that hold one observation of a space.

    Entries of a Dict have their own names, those of nested ones `outer/inner`; an observation that
    is one array is called "observation".

    Raises:
        ValueError: If an observation is no fixed set of arrays.
    """
    found = dict(_leaves(space, ""))
    if any(name.startswith(HISTORY_PREFIX) for name in found) or not found:
        raise ValueError(
            f"observations need at least one array, and none called {HISTORY_PREFIX}..., got "
            f"{', '.join(found) or 'none'}; rename it by gymnasium.wrappers.TransformObservation."
        )
    return found


def named_arrays(observation: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The parts of an observation under the names of `observation_arrays`."""
    if isinstance(observation, Mapping):
        for key, inner in observation.items():
            yield from named_arrays(inner, f"{name}/{key}" if name else str(key))
    else:
        yield name or OBSERVATION, observation


def write_observation(observation: Any, out: Mapping[str, np.ndarray]) -> None:
    """Copy one observation into the arrays of `observation_arrays`."""
    for name, part in named_arrays(observation):
        out[name][...] = part


def actions_of(space: spaces.Space[Any]) -> Actions:
    """The actions of an environment.

    Raises:
        ValueError: If they are neither numbered nor vectors of real numbers.
    """
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Actions(tuple(str(i) for i in range(int(space.n))))
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f":
        low, high = (np.ravel(b).astype(np.float32) for b in (space.low, space.high))
        return Actions(("VECTOR",), low, high, tuple(space.shape))
    raise ValueError(
        f"actions must be a Discrete space from 0 on or a Box of floating-point numbers, got "
        f"{space}; wrap the environment in gymnasium.wrappers.TransformAction."
    )
