"""From a Minari dataset to shards, as demonstrations that any run can draw from.

What was exported by `remdm.data.minari_export` comes back as it was. A dataset of somebody else
fits if its observations are those of an environment of ours: a dict of boxes with the same names
and shapes, or one box where there is one array.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.folder import DatasetFolder
from remdm.data.minari_export import (
    ACTION_NAMES,
    COLLECTOR,
    ENV,
    FINAL,
    FIRST_STEP,
    LEVEL_SEED,
    POLICY_VERSION,
    WON,
    checked_id,
)
from remdm.data.records import Segment, StepArrays
from remdm.data.shard_file import write_shard
from remdm.data.shard_names import parsed_or_none, shard_name
from remdm.maps import ArraySpec
from remdm.registry import import_extra

SHARD_STEPS = 16_384
# Entries of `infos` that tell success, as most environments spell it.
SUCCESS_INFOS = ("success", "is_success")


@dataclass(frozen=True, slots=True)
class Kind:
    """What steps must look like.

    Attributes:
        action_names: One name per action.
        observation_spec: Arrays of one observation, by name.
    """

    action_names: tuple[str, ...]
    observation_spec: dict[str, ArraySpec]


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import.

    Attributes:
        shards: Shards that were written.
        episodes: Episodes in them.
        steps: Steps in them.
        won: Episodes that were won.
    """

    shards: list[Path]
    episodes: int
    steps: int
    won: int


class MinariSource:
    """A Minari dataset on this machine."""

    def __init__(self, dataset_id: str, env: str | None = None) -> None:
        """Open it; nothing is ever downloaded.

        Args:
            dataset_id: Minari's name for it.
            env: Environment of all episodes; None where the dataset says it.

        Raises:
            ValueError: If there is none, it cannot be read, or nothing says its environment.
            ImportError: If minari is missing.
        """
        minari = import_extra("minari", "minari")
        self.id = checked_id(dataset_id)
        try:
            self.dataset = minari.load_dataset(dataset_id, download=False)
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise ValueError(
                f"the Minari dataset {dataset_id} must be on this machine, below "
                f"MINARI_DATASETS_PATH, and cannot be opened: {error} "
                "'minari download' fetches one."
            ) from error
        spec = self.dataset.env_spec
        default = env or (None if spec is None else str(spec.id))
        indices = self.dataset.episode_indices
        self.attributes = list(self.dataset.storage.get_episode_metadata(indices))
        if env is not None:
            self.attributes = [{**a, ENV: env} for a in self.attributes]
        self.envs = sorted({str(a.get(ENV, default or "")) for a in self.attributes})
        if "" in self.envs or not self.envs:
            raise ValueError(
                f"the Minari dataset {dataset_id} does not say its environment, or is empty: "
                "name an environment of ours with --env."
            )
        self._default = default

    def check(self, kind: Kind) -> None:
        """See that the spaces fit.

        Raises:
            ValueError: If they do not; says what differs.
        """
        from gymnasium.spaces import Discrete

        actions, metadata = self.dataset.action_space, self.dataset.storage.metadata
        count = len(kind.action_names)
        if not isinstance(actions, Discrete) or [int(actions.n), int(actions.start)] != [count, 0]:
            raise ValueError(
                f"actions must be Discrete({count}) for {', '.join(self.envs)}, and {self.id} has "
                f"{actions}."
            )
        names = metadata.get(ACTION_NAMES)
        if names is not None and tuple(names) != kind.action_names:
            raise ValueError(
                f"actions must be {', '.join(kind.action_names)}, and {self.id} has "
                f"{', '.join(map(str, names))}."
            )
        for name, spec in kind.observation_spec.items():
            box = self._boxes(kind).get(name)
            if getattr(box, "shape", None) != spec.shape:
                raise ValueError(
                    f"{self.id} must have observations {name!r} of shape {list(spec.shape)} for "
                    f"{', '.join(self.envs)}, and has {'none' if box is None else box}."
                )

    def _boxes(self, kind: Kind) -> Mapping[str, Any]:
        from gymnasium.spaces import Box, Dict

        space = self.dataset.observation_space
        if isinstance(space, Dict):
            return {name: box for name, box in space.spaces.items() if isinstance(box, Box)}
        names = list(kind.observation_spec)
        return {names[0]: space} if isinstance(space, Box) and len(names) == 1 else {}

    def episodes(self, kind: Kind, collector: str) -> Iterator[tuple[Segment, StepArrays]]:
        """All episodes as what a shard holds.

        Raises:
            ValueError: If one does not fit; says which.
        """
        for episode, attributes in zip(self.dataset, self.attributes, strict=True):
            try:
                steps = _steps(episode, kind)
                yield self._segment(episode, attributes, steps, collector), steps
            except ValueError as error:
                raise ValueError(f"{self.id}, episode {episode.id}: {error}") from error

    def _segment(
        self, episode: Any, attributes: Mapping[str, Any], steps: StepArrays, collector: str
    ) -> Segment:
        ended = bool(steps.terminated[-1] or steps.truncated[-1])
        final = bool(attributes.get(FINAL, ended))
        if not final:  # what Minari was told in place of an end
            steps.truncated[-1] = False
        won = None
        if final:
            won = bool(attributes[WON]) if WON in attributes else _was_won(episode, steps)
        return Segment(
            env=str(attributes.get(ENV, self._default)),
            seed=int(attributes.get(LEVEL_SEED, attributes.get("seed", episode.id))),
            first_step=int(attributes.get(FIRST_STEP, 0)),
            length=len(steps),
            won=won,
            final=final,
            policy_version=int(attributes.get(POLICY_VERSION, 0)),
            collector=str(attributes.get(COLLECTOR, collector)),
        )


def _was_won(episode: Any, steps: StepArrays) -> bool:
    """Success as the environment told it; else an end by the task itself, with a reward."""
    for name in SUCCESS_INFOS:
        if name in (episode.infos or {}):
            return bool(np.any(episode.infos[name]))
    return bool(steps.terminated[-1] and steps.rewards[-1] > 0)


def _steps(episode: Any, kind: Kind) -> StepArrays:
    """Raises: ValueError: If the arrays are not those of an episode, or lose something."""
    count = len(episode.rewards)
    if not count:
        raise ValueError("it has no steps.")
    seen = episode.observations
    if not isinstance(seen, dict):
        seen = {next(iter(kind.observation_spec)): seen}
    steps = StepArrays(
        {
            name: _exact(name, np.asarray(seen[name])[:count], spec.dtype, (count, *spec.shape))
            for name, spec in kind.observation_spec.items()
        },
        _exact("actions", np.asarray(episode.actions), np.dtype(np.int8), (count,)),
        np.asarray(episode.rewards).astype(np.float32),
        _exact("terminations", np.asarray(episode.terminations), np.dtype(np.bool_), (count,)),
        _exact("truncations", np.asarray(episode.truncations), np.dtype(np.bool_), (count,)),
    )
    if not ((steps.actions >= 0) & (steps.actions < len(kind.action_names))).all():
        raise ValueError(f"actions must be in 0..{len(kind.action_names) - 1}.")
    if (steps.terminated | steps.truncated)[:-1].any():
        raise ValueError("an episode may end at its last step only.")
    return steps


def _exact(
    name: str, array: np.ndarray, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> np.ndarray:
    """An array in another type; a copy.

    Raises:
        ValueError: If it has another shape, or a value has no place in the type.
    """
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(array.shape)}.")
    cast = array.astype(dtype)
    if not np.array_equal(cast, array, equal_nan=array.dtype.kind == "f"):
        raise ValueError(f"{name} must fit into {dtype}, and does not.")
    return cast


def collector_of(dataset_id: str) -> str:
    """Names the shards of an import."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", dataset_id)[-80:]
    return f"minari-{plain}-{zlib.crc32(dataset_id.encode()):08x}"


def import_minari(
    source: MinariSource,
    folder: DatasetFolder,
    kind: Kind,
    progress: Callable[[int], None] = lambda steps: None,
) -> Imported:
    """Write all episodes of a Minari dataset into `protected/`.

    Args:
        source: The dataset.
        folder: Where to; made if missing.
        kind: What steps must look like.
        progress: Told of the steps of each shard as it is written.

    Raises:
        ValueError: If something does not fit, or the dataset was imported before; then nothing is
            left behind.
    """
    source.check(kind)
    folder.make()
    collector = collector_of(source.id)
    for path in folder.protected.iterdir():
        name = parsed_or_none(path.name)
        if name is not None and name.collector == collector:
            raise ValueError(
                f"{source.id} is in {folder.root} already, perhaps in part: delete "
                f"{folder.protected}/*-{collector}-* to import it again."
            )
    writer = _ShardWriter(folder, collector, kind.action_names, progress)
    try:
        for segment, steps in source.episodes(kind, collector):
            writer.add(segment, steps)
        return writer.finish()
    except BaseException:
        writer.discard()
        raise


class _ShardWriter:
    """Writes episodes in shards of some size."""

    def __init__(
        self,
        folder: DatasetFolder,
        collector: str,
        action_names: tuple[str, ...],
        progress: Callable[[int], None],
    ) -> None:
        self._folder, self._collector = folder, collector
        self._action_names, self._progress = action_names, progress
        self._written: list[Path] = []
        self._segments: list[Segment] = []
        self._parts: list[StepArrays] = []
        self._waiting = self._episodes = self._steps = self._won = 0

    def add(self, segment: Segment, steps: StepArrays) -> None:
        """Write an episode now or soon."""
        self._segments.append(segment)
        self._parts.append(steps)
        self._waiting += len(steps)
        self._episodes += 1
        self._won += segment.won is True
        if self._waiting >= SHARD_STEPS:
            self._write()

    def finish(self) -> Imported:
        """Write the rest."""
        if self._segments:
            self._write()
        return Imported(self._written, self._episodes, self._steps, self._won)

    def discard(self) -> None:
        """Delete what was written."""
        for path in self._written:
            path.unlink()

    def _write(self) -> None:
        name = shard_name(0, self._collector, len(self._written), self._waiting)
        path = self._folder.protected / name
        write_shard(path, self._segments, self._parts, self._action_names)
        self._written.append(path)
        self._progress(self._waiting)
        self._steps += self._waiting
        self._segments, self._parts, self._waiting = [], [], 0
