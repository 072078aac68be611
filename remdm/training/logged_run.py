"""What a run tells: metrics for curves, sentences for people."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list

from remdm import config
from remdm.artifacts import checkpoint_name, publish_artifact
from remdm.envs.contract import PlanVecEnv
from remdm.evaluation.rollout import Progress
from remdm.training.assembly import PLANNER, AssembledRun
from remdm.training.heldout import heldout_metrics
from remdm.training.metric_names import MetricNames
from remdm.training.progress import time_text
from remdm.training.trackers import WANDB
from remdm.training.tracking import reduce_metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LoggedRun(AssembledRun):
    """An assembled run that tells how it is doing."""

    _told = ""
    _told_seconds = 0.0
    _heldout_envs: PlanVecEnv | None = None

    def x_axis_metrics(self) -> dict[str, float]:
        """What curves are drawn against."""
        return {
            "epoch": self.progress.epoch,
            "env_steps": self.progress.env_steps,
            "updates": self.trainers[PLANNER].updates if self.role.learns else self.acting_updates,
        }

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Write a line of metrics, and tell the trackers."""
        if self.accelerator.is_main_process:
            if self.owned and self.ownership.lost:
                self.must_own()
            line = {**self.x_axis_metrics(), **metrics}
            self.tracking.tell(line, self.metrics_log.write(line))

    def epoch_line(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What an epoch has measured, with what follows from it and how far the run is.

        Args:
            metrics: Of all its steps.
        """
        seconds, before = self.progress.seconds, self._told_seconds
        self._told_seconds = seconds
        line = {"seconds": seconds, **metrics, "epoch_seconds": seconds - before}
        line["progress"] = self.share_done()
        if collected := metrics.get("collect/steps_per_second"):
            line["collect/seconds"] = metrics["collect/env_steps"] / collected
        if per_batch := metrics.get("train/seconds_per_batch"):
            rows = metrics.get("schedule/Experiment.batch_size", self.batch_size)
            rows *= self.accelerator.num_processes
            line["train/seconds"] = per_batch * self.train_batches_per_epoch
            line["train/samples_per_second"] = rows / per_batch
            line["train/updates_per_second"] = 1.0 / (per_batch * self.batches_per_update)
        if self.DEVICE.type == "cuda":
            line["train/gpu_memory_mb"] = torch.cuda.max_memory_allocated(self.DEVICE) / 2**20
        facts = self.trainers[PLANNER].describe()
        return line | {f"model/{name}": value for name, value in facts.items()}

    def share_done(self) -> float:
        """How much of the budget is used up after the present epoch, from 0 to 1."""
        done = self.progress.epoch + 1
        if self.budget.spent(done, self.progress.env_steps):
            return 1.0
        return min(1.0, done / self.num_epochs)

    def heldout_metrics(self, progress: Progress) -> dict[str, float]:
        """See `remdm.training.heldout`."""
        return heldout_metrics(self, progress)

    def heldout_vec_env(self) -> PlanVecEnv:
        """The held-out environments, made when they are first played."""
        if self._heldout_envs is None:
            rows = min(self.val_rows, self.val_episodes)
            self._heldout_envs = self.make_vec_env(
                [e for e in self.heldout_envs for _ in range(rows)]
            )
            self._open.callback(self._heldout_envs.close)
        return self._heldout_envs

    def start_trackers(self) -> None:
        """Let the trackers that were asked for follow the run, from where it stands."""
        self._told_seconds, self._heldout_envs = self.progress.seconds, None
        collects = self.start_collecting_at_epoch < self.num_epochs
        windows = self.batch_size * self.batches_per_update * self.accelerator.num_processes
        self.tracking.names = MetricNames(
            self.metric_names, self.ckpt_interval, 0 if collects else windows
        )
        role, root = self.role, self.folder.root
        process = "" if role.learns else f"{role.name}-{self.number}"
        wandb = {
            "entity": self.wandb_entity,
            "name": f"{self.run_name} {process}".rstrip(),
            "group": self.run_name,
            "job_type": role.name,
            "dir": str(root),
        }
        self.tracking.start(
            self.wandb_project,
            config.config_dict(),
            wandb,
            folder=root / "tensorboard" / process if process else root,
            going_on_at=self.trainers[PLANNER].updates if role.learns else None,
            wandb_id=self.wandb_run_id,
        )

    def publish_checkpoint(self, folder: Path) -> None:
        """Hand a checkpoint to W&B, where that follows the run and this one is due.

        One within an epoch is not: the run is about to stop, and `learn` hands on its weights.

        Args:
            folder: Of the checkpoint that was just written.
        """
        interval, progress = self.artifact_interval, self.progress
        follows = any(tracker.name == WANDB for tracker in self.accelerator.trackers)
        if interval is None or not follows or progress.within_epoch:
            return
        number = progress.epoch // (self.ckpt_interval or 1)
        if number % interval == 0 or progress.finished:
            followed = self.accelerator.get_tracker(WANDB, unwrap=True)
            name = checkpoint_name(self.run_name)
            self.tell(f"published {publish_artifact(followed, folder, name, [folder.name])}")

    def tell(self, text: str) -> None:
        """Log something for people, once for all processes."""
        if self.accelerator.is_main_process:
            logger.info(text)

    def steps_to_collect(self, before: int) -> int:
        """Env steps of this process in the present epoch; `before` of them are collected."""
        # They are counted in `env_steps` already; without them, all starts of an epoch are alike.
        earlier = self.progress.env_steps - int(self.reduce({"steps": before}, "sum")["steps"])
        processes = self.accelerator.num_processes
        return self.budget.steps_to_collect(self.progress.epoch, earlier, processes)

    def tell_once(self, text: str) -> None:
        """Tell something that may be found again and again, until something else is told so."""
        if text != self._told:
            self._told = text
            self.tell(text)

    def from_main(self, look: Callable[[], T]) -> T:
        """What the main process finds, in all processes, which must all call this."""
        if self.accelerator.num_processes == 1:
            return look()
        box = [look() if self.accelerator.is_main_process else None]
        found: T = broadcast_object_list(box, from_process=0)[0]
        return found

    def reduce(self, metrics: Mapping[str, Any], how: str = "mean") -> dict[str, float]:
        """Mean or sum over all processes; keys need not be the same everywhere."""
        return reduce_metrics(self.accelerator, dict(metrics), how)

    def summary(self) -> str:
        """What is about to run, in a few lines."""
        sizes = ", ".join(
            f"{name} {type(t.agent).__name__} {sum(p.numel() for p in t.agent.parameters()):,}"
            for name, t in self.trainers.items()
        )
        notes = "".join(f"{note}\n" for note in self.budget.notes)
        return (
            f"run {self.folder.root}: {sizes} parameters on {self.DEVICE}\n"
            f"{self.parallel_actors} actors ({self.env_mode}) in {', '.join(self.train_envs)}; "
            f"held out: {', '.join(self.heldout_envs) or 'none'}\n"
            f"oracle {self.oracle.name}; {self.dataset.get_description()}\n"
            f"{notes}epoch {self.progress.epoch} of {self.num_epochs}"
        )

    def closing_words(self, stopped: bool) -> str:
        """What `learn` has come to, in a few lines."""
        progress = self.progress
        if not self.role.learns:
            return (
                f"{self.role.name} {self.number} {'stopped' if stopped else 'finished'} after "
                f"{progress.env_steps:,} env steps"
            )
        done = f"{progress.epoch} of {self.num_epochs} epochs"
        if stopped and progress.within_epoch:
            done += f" and {progress.batches} of {self.train_batches_per_epoch} batches"
        lines = [
            f"{'stopped' if stopped else 'finished'} after {done}: {progress.env_steps:,} env "
            f"steps, {self.trainers[PLANNER].updates:,} updates, {time_text(progress.seconds)}",
        ]
        if progress.best_epoch >= 0:
            lines.append(
                f"best {self.val_metric.replace('_', ' ')} on the validation levels "
                f"{progress.best_score:.3f}; kept are those of epoch {progress.best_epoch + 1} "
                f"({self.folder.best})"
            )
        if stopped:
            lines.append("all is saved; the same command goes on from there")
        return "\n".join(lines)
