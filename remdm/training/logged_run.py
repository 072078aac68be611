"""What a run tells: metrics for curves, sentences for people."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from remdm import config
from remdm.training.assembly import PLANNER, AssembledRun
from remdm.training.tracking import reduce_metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LoggedRun(AssembledRun):
    """An assembled run that tells how it is doing."""

    _told = ""

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

    def start_trackers(self) -> None:
        """Let the trackers that were asked for follow the run, from where it stands."""
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
        )

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
