"""The index of all windows of a dataset, kept up to date shard by shard."""

import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from remdm.data.folder import DatasetFolder
from remdm.data.generation import Manifest, ShardEntry
from remdm.data.labels import LabelIdentity, Labels
from remdm.data.level_split import steps_kept_back
from remdm.data.opened import OpenFiles
from remdm.data.sampling import Balance, WindowIndex
from remdm.data.shard_file import Shard
from remdm.data.shard_windows import ShardWindows, WindowRules, shard_windows
from remdm.data.windows import won_steps

logger = logging.getLogger(__name__)

_CLOSED_AT_ONCE = 64


@dataclass(slots=True)
class _Part:
    """A shard of the manifest, and the windows that were made of it.

    Attributes:
        entry: What the manifest tells of it.
        shard: The steps.
        labels: Their labels, if they are those that are wanted.
        windows: None where nothing can be learnt from it.
        kept_back: Those of them that are for validation; None where nothing is.
        allowed: Steps that were allowed to be drawn then; None for all.
    """

    entry: ShardEntry
    shard: Shard
    labels: Labels | None
    windows: ShardWindows | None = None
    kept_back: ShardWindows | None = None
    allowed: np.ndarray | None = None


class WindowStore:
    """Makes the index of a manifest, and keeps what each shard contributes for the next one.

    Attributes:
        damage_found: Whether something in the newest index turned out damaged.
        val_index: The windows that the newest index leaves out for validation; None without any.
    """

    def __init__(
        self,
        folder: DatasetFolder,
        files: OpenFiles,
        rules: WindowRules,
        balance: Balance,
        won_only: bool,
        action_names: tuple[str, ...] | None,
    ) -> None:
        """Args:
        folder: The dataset.
        files: What is open already; it is told of damaged files.
        rules: Which steps may be drawn, and what a window holds.
        balance: See `WindowIndex`.
        won_only: Whether only episodes that were won in the end are drawn from.
        action_names: Shards of another action set are refused; when None, the first shard's.
        """
        self.files, self.rules = files, rules
        self.balance, self.won_only, self.action_names = balance, won_only, action_names
        # Texts are joined much faster than paths.
        self._shards, self._protected, self._labels = (
            f"{place}{os.sep}" for place in (folder.shards, folder.protected, folder.labels)
        )
        self._parts: dict[str, _Part] = {}
        self._stored: tuple[str, ...] | None = None
        self.damage_found = False
        self.val_index: WindowIndex | None = None

    def index(
        self,
        manifest: Manifest,
        wanted: LabelIdentity | None,
        agree: Callable[[dict[str, bool]], dict[str, bool]],
    ) -> WindowIndex | None:
        """All windows of a manifest; None if there is no shard that could have any.

        Args:
            manifest: Which shards, and in which order.
            wanted: Only these labels are learnt from.
            agree: Makes of what this process lacks what any process of the run lacks: names of
                shards, and whether the shard itself is there, without its labels.

        Raises:
            ValueError: If shards have another action set, or do not fit together.
        """
        before, self.damage_found, self.val_index = self._parts, False, None
        self._parts, lacking = self._opened(manifest, wanted)
        for name, there in agree(lacking).items():
            if not there:
                self._parts.pop(name, None)
            elif (part := self._parts.get(name)) is not None:
                part.labels = part.windows = part.kept_back = None
        gone = self._forget(before)
        parts = list(self._parts.values())
        if self.won_only:
            allowed = won_steps([part.shard.table for part in parts])
            for part, steps in zip(parts, allowed, strict=True):
                self._find_windows(part, steps)
        else:
            for part in [part for part in parts if part.windows is None]:
                self._find_windows(part, None)
        index = self._index_of([part.windows for part in parts])
        if self.rules.val_share:
            self.val_index = self._index_of([part.kept_back for part in parts])
        if index is not None and len(gone) > _CLOSED_AT_ONCE:
            # To unmap thousands of files takes a while, for which nobody needs to wait.
            threading.Thread(target=gone.clear, daemon=True).start()
        return index

    def _index_of(self, windows: Sequence[ShardWindows | None]) -> WindowIndex | None:
        there = [own for own in windows if own is not None]
        if not there:
            return None
        believed = all(part.entry.all_verified for part in self._parts.values())
        return WindowIndex(
            there,
            balance=self.balance,
            history=self.rules.contents.history,
            verify=None if believed else self._verify,
        )

    def mean_policy_version(self, but: Collection[str]) -> float | None:
        """Mean version of the policies behind all steps, without the shards of some names.

        None if no other steps are there.
        """
        tables = [p.shard.table for name, p in self._parts.items() if name not in but]
        if not tables:
            return None
        lengths = np.concatenate([table.lengths for table in tables])
        return float(
            np.average(np.concatenate([t.policy_version for t in tables]), weights=lengths)
        )

    def _forget(self, before: dict[str, _Part]) -> list[object]:
        """What there was of shards that are drawn from no more; their files close with it."""
        places = (self._shards, self._protected, self._labels)
        gone: list[object] = []
        if before:
            names = before.keys() - self._parts.keys()
            gone += [before.pop(name) for name in names]
            gone += self.files.drop(*[place + name for place in places for name in names])
        else:
            self.files.keep_only([place + name for place in places for name in self._parts])
        return gone

    def _opened(
        self, manifest: Manifest, wanted: LabelIdentity | None
    ) -> tuple[dict[str, _Part], dict[str, bool]]:
        """The shards of a manifest by name and in order, and what it tells of and is not here."""
        before = self._parts
        parts: dict[str, _Part] = {}
        lacking: dict[str, bool] = {}
        for entry in manifest.shards:
            part = before.get(entry.name)
            labelled = entry.labels is not None and entry.labels.identity == wanted
            if (
                part is None
                or (part.entry is not entry and part.entry != entry)
                or (part.labels is not None) != labelled
            ):
                part = self._open(entry, wanted if labelled else None)
                if part is None:
                    lacking[entry.name] = False
                    continue
                if labelled and part.labels is None:
                    lacking[entry.name] = True
            part.entry = entry
            parts[entry.name] = part
        return parts, lacking

    def _open(self, entry: ShardEntry, wanted: LabelIdentity | None) -> _Part | None:
        trusted = {entry.checksum} if entry.verified else set()
        place = self._protected if entry.protected else self._shards
        shard = self.files.shard(place + entry.name, trusted, entry.checksum)
        if shard is None:
            logger.warning(
                "%s is in the manifest and not on disk; training goes on without it. "
                "DiskTrajDataset.unlink_after keeps evicted files for longer.",
                entry.name,
            )
            return None
        self._check_actions(shard)
        labels = None
        if entry.labels is not None and wanted is not None:
            trusted = {entry.labels.checksum} if entry.labels.verified else set()
            labels = self.files.labels(self._labels + entry.name, trusted, entry.labels.checksum)
            if labels is not None and not (labels.identity == wanted and labels.belongs_to(shard)):
                labels = None
        return _Part(entry, shard, labels)

    def _find_windows(self, part: _Part, allowed: np.ndarray | None) -> None:
        """Find the windows of a shard, unless they were found before and are the same."""
        if part.labels is None and self.rules.target != "executed":
            return
        same = allowed is part.allowed or (
            allowed is not None
            and part.allowed is not None
            and np.array_equal(allowed, part.allowed)
        )
        if part.windows is not None and same:
            return
        if self._stored is None:
            self._stored = tuple(part.shard.steps.observations)
        part.windows = shard_windows(part.shard, part.labels, self.rules, self._stored, allowed)
        part.allowed = allowed
        if self.rules.val_share:
            back = steps_kept_back(part.shard.table, self.rules.val_share)
            part.kept_back = part.windows.among(back)
            part.windows = part.windows.among(~back)

    def _verify(self, windows: ShardWindows) -> bool:
        """Whether the contents of a shard and its labels are what was written."""
        whole = self.files.verify(windows.shard) and (
            windows.labels is None or self.files.verify(windows.labels)
        )
        if not whole:
            # What is put in its place may look the same to a manifest.
            self._parts.pop(windows.shard.path.name, None)
            self.damage_found = True
        return whole

    def _check_actions(self, shard: Shard) -> None:
        if self.action_names is None:
            self.action_names = shard.action_names
        if shard.action_names != self.action_names:
            raise ValueError(
                f"all shards must have the actions {', '.join(self.action_names)}; {shard.path} "
                f"has {', '.join(shard.action_names)}. Move it away, or set another "
                "Experiment.buffer_dir."
            )
