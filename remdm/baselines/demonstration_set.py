"""Demonstrations within a budget of env steps, as arrays to learn from.

They are made and kept by `remdm.training.demonstrations`, as those of `remdm collect`; a folder
that this command has filled can be learnt from, too.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from remdm.data.folder import DatasetFolder, listed
from remdm.data.plain_json import parsed_object, typed
from remdm.data.shard_file import Shard
from remdm.evaluation.suite import ORACLE_HORIZON
from remdm.oracles.contract import Oracle
from remdm.training.demonstration_pieces import Manner
from remdm.training.demonstration_records import (
    PIECE_EPISODES,
    RECORDS_FOLDER,
    DemonstrationRecords,
    Record,
)
from remdm.training.demonstrations import Demonstrations
from remdm.training.level_guard import check_levels


@dataclass(frozen=True, slots=True)
class Episodes:
    """Where the episodes of a set lie among its steps.

    Attributes:
        starts: int64 [E]: first step of each.
        lengths: int64 [E].
        won: bool [E].
    """

    starts: np.ndarray
    lengths: np.ndarray
    won: np.ndarray

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.starts)

    def of(self, chosen: np.ndarray) -> "Episodes":
        """Some of them; bool [E]."""
        return Episodes(self.starts[chosen], self.lengths[chosen], self.won[chosen])


class DemonstrationSet:
    """Steps of many shards under one number each; observations stay in the mapped files.

    Attributes:
        env_steps: What it cost to play, lost episodes included.
        episodes: What its steps belong to.
        actions: int64 [steps].
    """

    def __init__(
        self, shards: Sequence[Shard], env_steps: int, action_names: Sequence[str]
    ) -> None:
        """Args:
        shards: At least one, their contents are checked here.
        env_steps: What it cost to play them.
        action_names: Those of the environments to learn in.

        Raises:
            DamagedFileError: If a shard is damaged.
            ValueError: If there are none, or their actions are others.
        """
        if not shards:
            raise ValueError(
                "no demonstration was won within the budget; raise Experiment.total_timesteps."
            )
        for shard in shards:
            shard.verify()
            if tuple(shard.action_names) != tuple(action_names):
                raise ValueError(
                    f"demonstrations must have the actions {tuple(action_names)}, got "
                    f"{shard.action_names} in {shard.file.path}; set Experiment.buffer_dir."
                )
        self.env_steps = env_steps
        self._steps = [shard.steps for shard in shards]
        self._firsts = np.cumsum([0, *(shard.num_steps for shard in shards)])
        self.actions = np.concatenate([s.actions.astype(np.int64) for s in self._steps])
        segments = [segment for shard in shards for segment in shard.segments]
        lengths = np.array([segment.length for segment in segments], np.int64)
        won = np.array([bool(segment.won) for segment in segments], np.bool_)
        self.episodes = Episodes(np.cumsum(lengths) - lengths, lengths, won)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.actions)

    def observations(self, steps: np.ndarray, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """What was seen before some steps.

        Args:
            steps: int64 [n].
            keys: Arrays of an observation.

        Returns:
            Copies [n, ...] by name.
        """
        first = self._steps[0].observations
        found = {k: np.empty((len(steps), *first[k].shape[1:]), first[k].dtype) for k in keys}
        shard_of = np.searchsorted(self._firsts, steps, side="right") - 1
        for shard in np.unique(shard_of).tolist():
            at = np.flatnonzero(shard_of == shard)
            local = steps[at] - self._firsts[shard]
            for key in keys:
                found[key][at] = self._steps[shard].observations[key][local]
        return found


def collected(
    root: Path,
    oracle: Oracle,
    envs: Sequence[str],
    budget: int,
    seed: int,
    action_names: Sequence[str],
    *,
    keep_lost: bool,
    stop: Callable[[], bool],
    shown: bool = True,
) -> DemonstrationSet | None:
    """Play demonstrations, the same number of levels in each environment, up to the budget.

    Args:
        root: Folder of the dataset; what is there is not played again.
        oracle: Who plays.
        envs: Environments.
        budget: Env steps.
        seed: All levels follow from it.
        action_names: Those of the environments.
        keep_lost: Keep lost episodes as well.
        stop: Whether somebody asked to stop.
        shown: Show a progress bar on a terminal.

    Returns:
        The set; None where somebody asked to stop before.

    Raises:
        ValueError: If not even a few episodes fit into the budget.
    """
    manner = Manner(ORACLE_HORIZON, 1, None, keep_lost)
    most = min(PIECE_EPISODES, max(1, budget // (100 * len(envs))))
    with (
        Demonstrations(root, oracle, seed, manner) as demonstrations,
        tqdm(
            total=budget, desc="demonstrations", unit="step", unit_scale=True,
            disable=None if shown else True,
        ) as bar,
    ):  # fmt: skip
        records, spent = demonstrations.records.records, 0
        for count in itertools.count(most, most):
            for env in envs:
                if not demonstrations.collect(env, count, lambda ended, won: stop()):
                    return None
                before, spent = spent, sum(record.steps for record in records)
                bar.update(spent - before)
                if stop():
                    return None
            if spent >= budget:
                break
        return _within(demonstrations.folder, records, envs, budget, action_names)


def existing(
    root: Path, envs: Sequence[str], budget: int, action_names: Sequence[str]
) -> DemonstrationSet:
    """Demonstrations that `remdm collect` has made, as many as the budget would have paid for.

    Raises:
        ValueError: If there are none, or fewer than the budget.
    """
    folder = DatasetFolder(root)
    found = sorted((root / RECORDS_FOLDER).glob("*.json"))
    if not found:
        raise ValueError(
            f"{root} must hold demonstrations of `remdm collect`, and has no {RECORDS_FOLDER}/; "
            "set Experiment.buffer_dir, or None to have them made."
        )
    try:
        settings = typed(parsed_object(found[0].read_bytes()), "settings", dict)
    except ValueError as error:
        raise ValueError(f"{found[0]} must be a record of demonstrations: {error}") from error
    records = DemonstrationRecords(folder, settings).records
    steps = sum(record.steps for record in records if record.piece.env in envs)
    if steps < budget:
        raise ValueError(
            f"{root} holds demonstrations of {steps} env steps in these environments, less than "
            f"the budget of {budget}; collect more, or lower Experiment.total_timesteps."
        )
    return _within(folder, records, envs, budget, action_names)


def _within(
    folder: DatasetFolder,
    records: Sequence[Record],
    envs: Sequence[str],
    budget: int,
    action_names: Sequence[str],
) -> DemonstrationSet:
    """The first pieces of all environments, in turn, that the budget pays for.

    Raises:
        ValueError: If they were played to measure, or there are none.
    """
    order = sorted(
        (record for record in records if record.piece.env in envs),
        key=lambda r: (r.piece.seed, r.piece.first, list(envs).index(r.piece.env)),
    )
    spent, names = 0, []
    for record in order:
        if spent + record.steps > budget:
            break
        spent += record.steps
        if record.shard is not None:
            names.append(record.shard)
    there = {path.name for path in listed(folder.protected)}
    shards = [Shard.open(folder.protected / name) for name in names if name in there]
    check_levels(shards, envs)
    return DemonstrationSet(shards, spent, action_names)
