"""From shards to a Minari dataset, which other offline learners read.

One Minari episode is one episode, put together from the pieces that collectors wrote. Minari wants
to see what came after the last step, which shards do not keep: there the last observation stands
twice. An episode whose end is not there counts as truncated. Both are undone by
`remdm.data.minari_import`, and so are the names and outcomes that episodes carry as attributes.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.folder import DatasetFolder
from remdm.data.records import OBSERVATION_PREFIX, Segment, StepArrays
from remdm.data.shard_file import Shard
from remdm.registry import import_extra

BATCH_EPISODES = 64
# Names of what episodes and datasets carry beside what Minari knows.
ENV, LEVEL_SEED, WON, FINAL, FIRST_STEP, POLICY_VERSION, COLLECTOR = (
    "env", "level_seed", "won", "final", "first_step", "policy_version", "collector",
)  # fmt: skip
ACTION_NAMES = "remdm_action_names"
_DESCRIPTION = (
    "Exported by remdm. The last observation of an episode repeats the one before; an episode of "
    "which the end was not recorded is marked as truncated, and has final = False."
)


@dataclass(slots=True)
class JoinedEpisode:
    """An episode in the pieces that are there.

    Attributes:
        first: Its first piece.
        parts: Steps of the pieces, in order.
        last: Its last piece.
    """

    first: Segment
    parts: list[StepArrays]
    last: Segment

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class ExportedDataset:
    """What came of an export.

    Attributes:
        path: Where the dataset lies.
        episodes: Episodes in it.
        steps: Steps in it.
    """

    path: Path
    episodes: int
    steps: int


@dataclass(slots=True)
class EpisodeJoiner:
    """Puts pieces of episodes together that lie in one shard or in several."""

    _open: dict[tuple[str, str, int], JoinedEpisode] = field(default_factory=dict)

    def add(self, segment: Segment, steps: StepArrays) -> Iterator[JoinedEpisode]:
        """Take a piece; what is complete with it, or can get no further."""
        name = (segment.collector, segment.env, segment.seed)
        episode = self._open.pop(name, None)
        if episode is not None and segment.first_step == _stop(episode.last):
            episode.parts.append(steps)
            episode.last = segment
        else:
            if episode is not None:
                yield episode
            episode = JoinedEpisode(segment, [steps], segment)
        if segment.final:
            yield episode
        else:
            self._open[name] = episode

    def rest(self) -> list[JoinedEpisode]:
        """Episodes whose end never came."""
        left, self._open = list(self._open.values()), {}
        return left


def _stop(segment: Segment) -> int:
    return segment.first_step + segment.length


def export_minari(
    folder: DatasetFolder,
    dataset_id: str,
    algorithm_name: str | None = None,
    progress: Callable[[int], None] = lambda steps: None,
) -> ExportedDataset:
    """Write all shards of a folder as a Minari dataset.

    It lies where Minari looks for datasets: below the environment variable `MINARI_DATASETS_PATH`,
    or in `~/.minari/datasets`.

    Args:
        folder: The dataset.
        dataset_id: Minari's name for it, such as `remdm/minihack/memory-v0`.
        algorithm_name: Who played.
        progress: Told of the steps of episodes as they are written.

    Raises:
        ValueError: If there is nothing to export, shards do not fit together, or there is such a
            dataset or the name is none.
        ImportError: If minari is missing.
    """
    checked_id(dataset_id)
    paths = folder.shard_paths()
    if not paths:
        raise ValueError(f"{folder.root} must have shards in protected/ or shards/, and has none.")
    minari = import_extra("minari", "minari")
    writer = _Writer(minari, dataset_id, Shard.open(paths[0]), algorithm_name)
    try:
        for episode in _episodes(paths):
            writer.add(episode)
            progress(episode.num_steps)
        return writer.finish()
    except BaseException:  # half a dataset would pass for a whole one
        writer.discard()
        raise


def checked_id(dataset_id: str) -> str:
    """A Minari name that stays in Minari's folder.

    Raises:
        ValueError: If it is none.
    """
    parse = import_extra("minari.dataset.minari_dataset", "minari").parse_dataset_id
    try:
        parse(dataset_id)  # knows neither dots nor a slash at the beginning
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"a Minari dataset is named like 'remdm/minihack/memory-v0', got {dataset_id!r}."
        ) from error
    return dataset_id


def _episodes(paths: list[Path]) -> Iterator[JoinedEpisode]:
    joiner = EpisodeJoiner()
    first = None
    for path in paths:
        shard = Shard.open(path)
        kind = (shard.action_names, _kind(shard.steps))
        first = first or kind
        if kind != first:
            raise ValueError(
                f"all shards must have the same actions and observations, and {path} has others; "
                "collect environments of other kinds into folders of their own."
            )
        steps = shard.steps
        for segment, start in zip(shard.segments, shard.offsets.tolist(), strict=False):
            yield from joiner.add(segment, steps[start : start + segment.length])
    yield from joiner.rest()


def _kind(steps: StepArrays) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (a.dtype.str, a.shape[1:]) for name, a in steps.observations.items()}


class _Writer:
    """Writes episodes in portions, so that no more than one lies in memory."""

    def __init__(
        self, minari: Any, dataset_id: str, shard: Shard, algorithm_name: str | None
    ) -> None:
        self._minari, self._id = minari, dataset_id
        self._dataset: Any = None
        self._waiting: list[JoinedEpisode] = []
        self._episodes = self._steps = 0
        self._action_names = shard.action_names
        self._algorithm_name = algorithm_name
        self._observation_space = _observation_space(shard.steps)
        path = import_extra("minari.storage.datasets_root_dir", "minari").get_dataset_path
        self._path = Path(path(dataset_id))
        if self._path.exists():
            raise ValueError(
                f"there is a Minari dataset {dataset_id} at {self._path}; delete it, or take "
                "another name or version."
            )

    def add(self, episode: JoinedEpisode) -> None:
        """Write an episode now or soon."""
        self._waiting.append(episode)
        if len(self._waiting) == BATCH_EPISODES:
            self._write()

    def finish(self) -> ExportedDataset:
        """Write the rest."""
        if self._waiting:
            self._write()
        return ExportedDataset(self._path, self._episodes, self._steps)

    def discard(self) -> None:
        """Delete what is there."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _write(self) -> None:
        batch, self._waiting = self._waiting, []
        buffers = [self._buffer(episode) for episode in batch]
        if self._dataset is None:
            self._dataset = self._create(buffers)
        else:
            self._dataset.update_dataset_from_buffer(buffers)
        numbers = range(self._episodes, self._episodes + len(batch))
        self._dataset.storage.update_episode_metadata([_attributes(e) for e in batch], numbers)
        self._episodes += len(batch)
        self._steps += sum(episode.num_steps for episode in batch)

    def _create(self, buffers: list[Any]) -> Any:
        from gymnasium.spaces import Discrete

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about an author it was not told of
            dataset = self._minari.create_dataset_from_buffers(
                self._id,
                buffers,
                observation_space=self._observation_space,
                action_space=Discrete(len(self._action_names)),
                algorithm_name=self._algorithm_name,
                description=_DESCRIPTION,
                jpeg_encoding=False,  # it would change maps
            )
        dataset.storage.update_metadata({ACTION_NAMES: list(self._action_names)})
        return dataset

    def _buffer(self, episode: JoinedEpisode) -> Any:
        named = [part.named() for part in episode.parts]

        def whole(name: str) -> np.ndarray:
            return np.concatenate([arrays[name] for arrays in named])

        seen = {name: whole(OBSERVATION_PREFIX + name) for name in episode.parts[0].observations}
        steps = episode.num_steps
        truncated = whole("truncated")
        truncated[-1] |= not episode.last.final
        return self._minari.data_collector.EpisodeBuffer(
            seed=episode.first.seed if episode.first.seed >= 0 else None,
            observations={name: np.concatenate([a, a[-1:]]) for name, a in seen.items()},
            actions=whole("actions").astype(np.int64),
            rewards=whole("rewards"),
            terminations=whole("terminated"),
            truncations=truncated,
            infos={
                LEVEL_SEED: np.full(steps + 1, episode.first.seed, np.int64),
                ENV: [episode.first.env] * (steps + 1),
            },
        )


def _observation_space(steps: StepArrays) -> Any:
    """Raises: ValueError: If an array has a type or name that Minari has no space for."""
    from gymnasium import spaces

    found: dict[str, spaces.Space[Any]] = {}
    for name, array in steps.observations.items():
        if array.dtype.kind not in "iuf" or "/" in name:
            raise ValueError(
                f"Minari has no space for an observation array {name!r} of {array.dtype}."
            )
        low, high = -np.inf, np.inf
        if array.dtype.kind in "iu":
            low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
        found[name] = spaces.Box(low, high, array.shape[1:], array.dtype.type)
    return spaces.Dict(found)


def _attributes(episode: JoinedEpisode) -> dict[str, Any]:
    first, last = episode.first, episode.last
    won = {} if last.won is None else {WON: last.won}
    return {
        ENV: first.env,
        LEVEL_SEED: first.seed,
        FINAL: last.final,
        FIRST_STEP: first.first_step,
        POLICY_VERSION: first.policy_version,
        COLLECTOR: first.collector,
        **won,
    }
