"""What a window holds besides its plan, and where that lies in the shards."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remdm.data.shard_file import Shard
from remdm.maps import HISTORY_ACTIONS, HISTORY_PREFIX
from remdm.tokens import mask_token


@dataclass(frozen=True, slots=True)
class WindowContents:
    """What a window holds besides the plan wanted there.

    Attributes:
        observation_keys: Observation arrays, `history/...` among them; when None, all stored ones.
        past_actions: Actions before the step; none when 0.
        history: Steps before the drawn one in arrays `history/...`.
        history_keys: More arrays `history/...`. When None, and `observation_keys` is None too,
            those of the actions and of all stored arrays, if `history` is not 0.
    """

    observation_keys: tuple[str, ...] | None = None
    past_actions: int = 0
    history: int = 0
    history_keys: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError: If it is not said how many steps a history has, or a name is none."""
        wrong = [k for k in self.history_keys or () if not k.startswith(HISTORY_PREFIX)]
        if self.history < 0 or wrong:
            raise ValueError(
                f"a history needs a length >= 0 and arrays named {HISTORY_PREFIX}..., got "
                f"{self.history} and {wrong}; see DiskTrajDataset.configure(history_keys=...)"
            )
        asked = [k for k in self.observation_keys or () if k.startswith(HISTORY_PREFIX)]
        if not self.history and (asked or self.history_keys):
            raise ValueError(
                f"windows with {', '.join(asked or self.history_keys or ())} need to know how many "
                "steps that looks back; call DiskTrajDataset.configure(history=...)"
            )

    def names(self, stored: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Observation arrays of a window: of the step itself, and (prefixed) of those before it.

        Args:
            stored: Arrays that the shards have.
        """
        wanted = [*(self.observation_keys or stored), *(self.history_keys or ())]
        if not self.observation_keys and self.history_keys is None and self.history:
            wanted += [HISTORY_PREFIX + key for key in stored] + [HISTORY_ACTIONS]
        past = tuple(dict.fromkeys(k for k in wanted if k.startswith(HISTORY_PREFIX)))
        return tuple(k for k in wanted if not k.startswith(HISTORY_PREFIX)), past


def stored_arrays(shard: Shard, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The observation arrays of a shard.

    Raises:
        ValueError: If one of `keys` is missing.
    """
    observations = shard.steps.observations
    missing = [key for key in keys if key not in observations]
    if missing:
        raise ValueError(
            f"{shard.path} must hold the observation arrays {', '.join(keys)}; it lacks "
            f"{', '.join(missing)}. Move it away, or set another Experiment.buffer_dir."
        )
    return observations


def past_arrays(shard: Shard, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What the arrays `history/...` are made of."""
    sources = {k: k.removeprefix(HISTORY_PREFIX) for k in keys if k != HISTORY_ACTIONS}
    stored = stored_arrays(shard, tuple(sources.values()))
    arrays = {key: stored[source] for key, source in sources.items()}
    if HISTORY_ACTIONS in keys:
        arrays[HISTORY_ACTIONS] = shard.steps.actions
    return arrays


def past_fills(action_names: Sequence[str]) -> dict[str, int]:
    """What bytes of arrays `history/...` are before a segment, where they are not 0."""
    # An int8 action is one byte, so that a byte that is MASK is an action that is MASK.
    return {HISTORY_ACTIONS: mask_token(len(action_names))}
