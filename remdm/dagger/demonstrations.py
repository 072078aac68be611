"""Episodes that somebody has played already, as the first data of a training."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.folder import DatasetFolder, listed
from remdm.data.records import StepArrays
from remdm.data.shards import RecordingBuffer
from remdm.envs.gymnasium_env import GymnasiumEnv
from remdm.envs.spaces import write_observation
from remdm.oracles.recorded import PLAN, TAKEN, VECTOR, WEIGHT
from remdm.seeding import TRAINING_SEEDS
from remdm.tokens import end_token

COLLECTOR = "demonstrations"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One episode, as Gymnasium's loop sees it.

    Attributes:
        observations: T observations, each before an action, in the form of the environment's own.
        actions: T actions, which are what is learnt.
        rewards: T rewards; zeros when None.
        terminated: Whether the episode came to its own end.
    """

    observations: Sequence[Any]
    actions: Sequence[Any]
    rewards: Sequence[float] | None = None
    terminated: bool = True


Demonstrations = str | Path | Sequence[Demonstration]


def add_demonstrations(folder: DatasetFolder, given: Demonstrations, env: GymnasiumEnv) -> None:
    """Put demonstrations among the protected shards of a dataset, once.

    Args:
        folder: Of the dataset.
        given: Episodes, or the folder of another dataset, whose shards are copied.
        env: One environment of the kind that they are of.

    Raises:
        ValueError: If there is none, or they do not fit the environment.
    """
    if isinstance(given, (str, Path)):
        _copy(DatasetFolder(Path(given)), folder)
    elif not any(COLLECTOR in path.name for path in listed(folder.protected)):
        _write(folder, given, env)


def _copy(there: DatasetFolder, folder: DatasetFolder) -> None:
    paths = [*listed(there.shards), *listed(there.protected)]
    if not paths:
        raise ValueError(
            f"demonstrations must be episodes or the folder of a dataset, and {there.root} has no "
            "shards; give the folder that has shards/ in it."
        )
    folder.protected.mkdir(parents=True, exist_ok=True)
    for path in paths:
        target = folder.protected / path.name
        if not target.exists():
            partial = target.with_name(f".partial-{target.name}")
            shutil.copyfile(path, partial)
            partial.replace(target)


def _write(folder: DatasetFolder, episodes: Sequence[Demonstration], env: GymnasiumEnv) -> None:
    buffer = RecordingBuffer(folder.protected, env.action_names, COLLECTOR)
    for number, episode in enumerate(episodes):
        buffer.add(env.name, TRAINING_SEEDS.start + number, _steps(episode, env), won=False)
    if buffer.flush(0) is None:
        raise ValueError("demonstrations must be at least one episode, got none.")


def _steps(episode: Demonstration, env: GymnasiumEnv) -> StepArrays:
    """An episode's steps, with its own actions as the expert's."""
    count = len(episode.actions)
    if not count or len(episode.observations) != count:
        raise ValueError(
            "a demonstration needs as many observations as actions, at least one, got "
            f"{len(episode.observations)} and {count}; the last observation has no action."
        )
    arrays = {
        name: np.zeros((count, *spec.shape), spec.dtype)
        for name, spec in env.observation_spec.items()
    }
    for step, observation in enumerate(episode.observations):
        write_observation(observation, {name: array[step, ...] for name, array in arrays.items()})
    tokens, vectors = np.zeros(count, np.int8), np.asarray(episode.actions)
    if env.vector_size:
        vectors = vectors.reshape(count, env.vector_size).astype(np.float32)
        arrays |= {VECTOR: vectors, TAKEN: vectors}
    elif vectors.dtype.kind not in "iu" or not np.isin(vectors, range(env.num_actions)).all():
        raise ValueError(
            f"actions of a demonstration must be numbers below {env.num_actions}, got "
            f"{sorted(set(vectors.ravel().tolist()))[:8]}"
        )
    else:
        tokens = vectors.reshape(count).astype(np.int8)
    plans = np.full((count, 1), end_token(env.num_actions), np.int8)
    plans[:, 0] = tokens
    rewards = np.zeros(count) if episode.rewards is None else np.asarray(episode.rewards)
    terminated, truncated = np.zeros((2, count), np.bool_)
    terminated[-1], truncated[-1] = episode.terminated, not episode.terminated
    return StepArrays(
        arrays | {PLAN: plans, WEIGHT: np.ones(count, np.float32)},
        tokens,
        rewards.astype(np.float32),
        terminated,
        truncated,
    )
