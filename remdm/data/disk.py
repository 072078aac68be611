"""The dataset on disk: shards that collectors write, labels, and windows drawn from both."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import gin

from remdm.data.contents import WindowContents
from remdm.data.eviction import Limits
from remdm.data.folder import DatasetFolder
from remdm.data.following import ManifestFollower
from remdm.data.generation import Manifest
from remdm.data.labels import LabelIdentity, Labeller, label_shard
from remdm.data.limit_checks import check_limits
from remdm.data.manifest import go_on_from_manifest, rewind_manifest
from remdm.data.opened import OpenFiles
from remdm.data.sampling import Balance, WindowIndex
from remdm.data.scan import Scanner
from remdm.data.shard_windows import WindowRules
from remdm.data.stretch_dataset import StretchDataset
from remdm.data.stretches import rows_of
from remdm.data.targets import check_end_after, check_return_weight_cap, check_target
from remdm.data.tensor_file import DamagedFileError
from remdm.data.unlabelled import LabelQueue
from remdm.data.window_store import WindowStore
from remdm.maps import HISTORY_PREFIX

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Processes(Protocol):
    """The part of `accelerate.Accelerator` that a dataset uses."""

    @property
    def num_processes(self) -> int: ...  # noqa: D102
    @property
    def process_index(self) -> int: ...  # noqa: D102
    def wait_for_everyone(self) -> None: ...  # noqa: D102


@gin.configurable(module="remdm", denylist=["dset_root", "dset_name"])
class DiskTrajDataset(StretchDataset):
    """Windows drawn from shards and label files in a folder.

    Below `dset_root/dset_name` lie `shards/`, `labels/`, `protected/` (shards that are never
    evicted and not counted against the limits), `quarantine/` and the manifests.
    """

    def __init__(
        self,
        dset_root: str | Path,
        dset_name: str = "buffer",
        *,
        dset_max_timesteps: int | None = None,
        dset_max_cycles: float | None = None,
        dset_max_bytes: int | None = None,
        dset_min_timesteps: int = 1,
        balance: Balance = "env",
        target: str = "plan",
        end_after: str = "won",
        return_weight_cap: float | None = None,
        won_only: bool = False,
        stretch_steps: int | None = None,
        stretches: str = "walk",
        padded_sampling: str = "none",
        val_share: float = 0.0,
        unlink_after: int = 1,
        stale_after_minutes: float = 30.0,
    ) -> None:
        """Args:
        dset_root: Folder that holds the dataset's folder.
        dset_name: Name of the dataset's folder.
        dset_max_timesteps: Steps to keep; the oldest shards beyond go. None keeps all.
        dset_max_cycles: The same in epochs of collecting, however many actors there are.
        dset_max_bytes: Bytes of shards and labels to keep, likewise.
        dset_min_timesteps: Drawable steps from which on training begins.
        balance: "env" draws equally often from every environment, "timestep" every step equally
            often; or a share for each environment by name.
        target: "plan" learns the oracle's plans; "oracle_actions" the actions the oracle would
            take at this step and the next ones; "executed" the actions that were taken.
        end_after: Where windows of the last two go over an episode's end, with END after it: where
            it was "won", or wherever it "ended" by itself, by death for example. Where a limit
            cut it, and where it was not "won" otherwise, they are not drawn.
        return_weight_cap: Weigh windows by their return: with R the sum of the rewards of a plan's
            steps, at least 0, by clip(R / mean R, 0.1, this). None weighs all alike.
        won_only: Only draw from episodes that were won in the end.
        stretch_steps: Consecutive steps of an episode that a row of a batch shows, of which
            `Experiment.batch_size` must be a multiple; None draws windows singly. Steps without a
            label are then shown, too, with weight 0.
        stretches: "walk" lets every row walk through an episode, batch after batch, so that a net
            with memory carries it on; each pass shows every episode once, and `balance` only says
            which environments are left out. Where data change, all rows begin anew. "random"
            draws stretches around windows.
        padded_sampling: Borders of an episode that a random stretch may lie over: "none", "left",
            "right" or "both". One of a shorter episode always lies over its end.
        val_share: Share of the levels (environment and level seed) that are not trained on; see
            `Experiment.val_loss_batches`. Which ones depends on nothing else.
        unlink_after: Manifest generations that an evicted file outlives its eviction. With at
            least the number of epochs between checkpoints, a resumed run finds all its data.
        stale_after_minutes: Age from which a temporary file counts as left by a killed writer.
        """
        check_limits(
            dset_max_timesteps, dset_max_cycles, dset_max_bytes, dset_min_timesteps, unlink_after
        )
        check_target(target)
        check_end_after(end_after)
        check_return_weight_cap(return_weight_cap)
        super().__init__(balance, stretch_steps, stretches, padded_sampling, val_share)
        self.folder = DatasetFolder(Path(dset_root) / dset_name)
        self.limits = Limits(
            dset_max_timesteps, dset_max_bytes, unlink_after, stale_after_minutes * 60
        )
        self.dset_min_timesteps, self.dset_max_cycles = dset_min_timesteps, dset_max_cycles
        self.target, self.won_only = target, won_only
        self.end_after, self.return_weight_cap = end_after, return_weight_cap
        self.manifest = Manifest()
        self.index: WindowIndex | None = None
        self._files = OpenFiles(self._on_damage)
        self._scanner = Scanner(self.folder, self._files)
        self._follower = ManifestFollower(self.folder)
        self._windows: WindowStore | None = None
        self._plan_horizon: int | None = None
        self._oracle: Labeller | None = None
        self._queue: LabelQueue | None = None
        self._processes: Processes | None = None
        self._may_edit = True

    def configure(
        self,
        plan_horizon: int,
        *,
        oracle: Labeller | None = None,
        observation_keys: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
        processes: Processes | None = None,
        may_edit: bool = True,
        past_actions: int = 0,
        history: int = 0,
        history_keys: Sequence[str] | None = None,
    ) -> None:
        """Say what windows are needed.

        Args:
            plan_horizon: Tokens per plan.
            oracle: Only its labels are drawn; when None, those of whoever labelled last.
            observation_keys: Observation arrays of a window; all when None. Those called
                `history/...` are made of the steps before, as `remdm.envs.history` makes them.
            action_names: Shards of another action set are refused; when None, the first shard's.
            processes: The processes of this run; this one alone when None.
            may_edit: Whether to write manifests, evict, quarantine. Otherwise another run does,
                and its newest manifest is followed.
            past_actions: Executed actions before the observation that a window holds.
            history: Steps that arrays `history/...` look back; 0 where there are none.
            history_keys: Arrays `history/...` besides those among `observation_keys`. When both
                are None and `history` is not 0, all there can be.

        Raises:
            ValueError: If arrays `history/...` are asked for without `history`.
        """
        self._plan_horizon, self._oracle = plan_horizon, oracle
        contents = WindowContents(
            None if observation_keys is None else tuple(observation_keys),
            past_actions,
            history,
            None if history_keys is None else tuple(history_keys),
        )
        rules = WindowRules(
            plan_horizon,
            self.target,
            self.end_after,
            self.return_weight_cap,
            contents,
            self.stretch_steps is not None,
            self.val_share,
        )
        names = None if action_names is None else tuple(action_names)
        self._windows = WindowStore(
            self.folder, self._files, rules, self.balance, self.won_only, names
        )
        self._processes, self._may_edit = processes, may_edit
        self.index = None
        if may_edit:
            self.folder.make()

    def configure_from_experiment(self, experiment: Any) -> None:
        """See `RLDataset`. An augmentation may need arrays that no agent reads: it gets all."""
        agents = [trainer.agent for trainer in experiment.trainers.values()]
        keys = {key for agent in agents for key in (*agent.observation_keys, *agent.label_keys)}
        if self.target == "plan" and not experiment.oracle.gives_plans:
            raise ValueError(
                f"target 'plan' learns whole plans, and oracle {experiment.oracle.name!r} only "
                "gives next actions; set DiskTrajDataset.target = 'oracle_actions', or "
                "ExpertOracle.labels = 'branched'."
            )
        if self.dset_max_cycles is not None:
            kept = experiment.budget.frames.steps_in(self.dset_max_cycles)
            self.limits = replace(self.limits, max_steps=kept)
        if self.stretch_steps is not None:
            rows_of(experiment.batch_size, self.stretch_steps)
        past = sorted(key for key in keys if key.startswith(HISTORY_PREFIX))
        self.configure(
            experiment.agent.plan_horizon,
            oracle=experiment.oracle,
            observation_keys=None if experiment.augment is not None else sorted(keys),
            action_names=experiment.kind.action_names,
            processes=experiment.accelerator,
            may_edit=experiment.has_dset_edit_rights and experiment.role.learns,
            past_actions=max(agent.past_actions for agent in agents),
            history=max(agent.history for agent in agents),
            history_keys=past,
        )

    @property
    def save_new_trajs_to(self) -> Path:
        """Folder for new shards."""
        return self.folder.shards

    @property
    def ready_for_training(self) -> bool:
        """Whether at least `dset_min_timesteps` steps can be drawn."""
        count = 0 if self.index is None or not self.index.shares.any() else self.index.num_windows
        return count >= max(1, self.dset_min_timesteps)

    @property
    def env_names(self) -> tuple[str, ...]:
        """Environments that occur; `Window.env_ids` are places in it."""
        return () if self.index is None else self.index.env_names

    def get_description(self) -> str:
        """One line for the summary of a run."""
        shards = self.manifest.shards
        steps = sum(e.steps for e in shards)
        return f"{steps:,} steps in {len(shards)} shards in {self.folder.root} ({self.target})"

    def current_index(self) -> WindowIndex:
        """See `StretchDataset`."""
        if self.index is None:
            raise RuntimeError(
                f"{self.folder.root} has nothing to draw from yet; collect and label first, then "
                "call on_end_of_collection() or refresh()"
            )
        return self.index

    def current_val_index(self) -> WindowIndex | None:
        """See `StretchDataset`."""
        return None if self._windows is None else self._windows.val_index

    def label_new(self, oracle: Labeller, plan_horizon: int) -> int:
        """See `RLDataset`. With several processes, each labels a part of the shards."""
        rank, count = 0, 1
        if self._processes is not None:
            # Everybody must have written what it collected before the folder is listed.
            self._processes.wait_for_everyone()
            rank, count = self._processes.process_index, self._processes.num_processes
        wanted, steps = LabelIdentity(oracle.name, oracle.version, plan_horizon), 0
        if self._queue is None or self._queue.wanted != wanted:
            self._queue = LabelQueue(self.folder, wanted, self._on_damage)
        waiting = self._queue.waiting()
        if count > 1:
            # All list alike now, but may see that others have labelled: each takes a part of all.
            own = set(self.folder.shard_paths()[rank::count])
            waiting = [path for path in waiting if path in own]
        for path in waiting:
            shard = self._files.shard(path)
            if shard is not None and self._files.verify(shard):
                label_shard(shard, oracle, plan_horizon, self.folder.labels)
                steps += shard.num_steps
        return steps

    def on_end_of_collection(self, experiment: Any) -> dict[str, float]:
        """See `RLDataset`."""
        return self.refresh()

    def refresh(self) -> dict[str, float]:
        """Take in what is on disk; returns metrics. Called by all processes.

        Raises:
            RuntimeError: If `configure` was not called.
            ValueError: If shards have another action set, or do not fit together.
            OSError: If the manifest cannot be written, e.g. because the disk is full.
        """
        main = self._processes is None or self._processes.process_index == 0
        newest = Manifest()
        if main and self._may_edit:
            newest = self._scanner.refresh(self.limits)
        elif main:
            newest = self._follower.newest()
        self._draw_from(self._agree_on(newest))
        if main and self._may_edit:
            self._scanner.bury(self.limits)
        return self._metrics()

    def mean_policy_version(self, but: Collection[str] = ()) -> float | None:
        """See `WindowStore.mean_policy_version`."""
        return None if self._windows is None else self._windows.mean_policy_version(but)

    def _agree_on(self, manifest: Manifest) -> Manifest:
        """The main process's manifest, in every process."""
        if self._processes is None or self._processes.num_processes == 1:
            return manifest
        from accelerate.utils import broadcast_object_list

        box = broadcast_object_list([manifest.to_json()], from_process=0)
        return Manifest.from_json(box[0])

    def _draw_from(self, manifest: Manifest) -> None:
        if self._windows is None:
            raise RuntimeError("a dataset must know the plan horizon; call configure() first")
        same = manifest == self.manifest and self.index is not None
        if all(self._of_all(same and not self._windows.damage_found)):
            return
        self.manifest, self.index = manifest, None
        wanted = self._wanted_labels(manifest)
        self.index = self._windows.index(manifest, wanted, self._lacking_anywhere)

    def _lacking_anywhere(self, lacking: dict[str, bool]) -> dict[str, bool]:
        """What some process cannot read, as on a network disk that shows it new files late.

        All leave it out until the next refresh: they must draw alike.
        """
        merged: dict[str, bool] = {}
        for own in self._of_all(lacking):
            merged |= {name: there and merged.get(name, True) for name, there in own.items()}
        return merged

    def _of_all(self, value: T) -> list[T]:
        """The values of all processes, which must all call this."""
        if self._processes is None or self._processes.num_processes == 1:
            return [value]
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object([value])
        return gathered

    def _wanted_labels(self, manifest: Manifest) -> LabelIdentity | None:
        if self._oracle is not None and self._plan_horizon is not None:
            return LabelIdentity(self._oracle.name, self._oracle.version, self._plan_horizon)
        found = [e.labels.identity for e in manifest.shards if e.labels]
        return next((i for i in reversed(found) if i.plan_horizon == self._plan_horizon), None)

    def _on_damage(self, error: DamagedFileError) -> None:
        if self._may_edit:
            self.folder.set_aside(error)
        else:
            logger.warning("%s; left out", error)

    def _metrics(self) -> dict[str, float]:
        shards, index = self.manifest.shards, self.index
        counts = {} if index is None else dict(zip(index.env_names, index.counts, strict=True))
        return {
            "buffer/timesteps": float(sum(e.steps for e in shards)),
            "buffer/bytes": float(sum(e.total_bytes for e in shards)),
            "buffer/shards": float(len(shards)),
            "buffer/windows": float(sum(counts.values())),
            **{f"buffer/windows/{env}": float(count) for env, count in counts.items()},
            **self.val_metrics(),
            "buffer/evicted_timesteps": float(self.manifest.evicted_steps),
            "buffer/quarantined_files": float(self.folder.num_quarantined),
        }

    def delete(self) -> None:
        """Delete all but `protected/` and what others keep in the same folder."""
        self._scanner.wait()
        self.folder.delete()
        self.manifest, self.index = Manifest(), None
        if self._windows is not None:
            self._windows.index(self.manifest, None, lambda lacking: lacking)

    def state(self) -> dict[str, Any]:
        """See `RLDataset`: the manifest, and the shards that are on disk, drawn from or not."""
        names = [path.name for path in self.folder.shard_paths()]
        return {"manifest": self.manifest.to_json(), "shards": names, **self.walk_state()}

    def restore(self, state: Mapping[str, Any], *, keep_newer: bool = False) -> None:
        """See `RLDataset`. What was made since moves to `superseded/`, unless it is kept.

        What is kept is taken in by the next refresh, and manifests are numbered on from the newest
        one on disk.
        """
        manifest = Manifest.from_json(state["manifest"])
        self.restore_walk(state)
        self._scanner.wait()
        main = self._processes is None or self._processes.process_index == 0
        if main and self._may_edit and keep_newer:
            go_on_from_manifest(self.folder, manifest)
        elif main and self._may_edit:
            rewind_manifest(self.folder, manifest, state["shards"])
        if self._processes is not None:
            self._processes.wait_for_everyone()
        self._draw_from(manifest)
