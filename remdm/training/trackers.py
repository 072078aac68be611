"""Trackers of accelerate: each follows one run through all its starts.

What that takes is in a small file of the run folder: the id of the run in W&B, whether W&B's
servers know it, and which trackers have been told all lines of metrics so far. One that has not,
because it was added later or the run went back to an older checkpoint, is told them first; for W&B
that is another run, and the one before stays as it was.

W&B takes lines in order, and drops what it has. A run that goes on from a checkpoint tells some
lines again, so the number of a line of `metrics.jsonl` is the step that W&B counts by; curves are
drawn against updates or env steps, which several lines may share. (W&B has ways of its own to go
back within a run. They are a preview, need its servers, and forbid other axes.) TensorBoard is told
from where on its events are void.
"""

import dataclasses
import json
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from remdm.data.atomic_file import atomic_file
from remdm.data.plain_json import one_line, parsed_object, typed
from remdm.registry import import_extra, unknown_name_message
from remdm.training.metric_names import AXES, MetricNames
from remdm.training.tracking import TIME, JsonlLog

logger = logging.getLogger(__name__)

# Trackers whose package is an extra of ours.
TENSORBOARD, WANDB = _EXTRAS = ("tensorboard", "wandb")
_ID = re.compile("[A-Za-z0-9_-]{1,64}")


def check_trackers(names: Sequence[str]) -> None:
    """See that all trackers can be used; accelerate would leave out silently what is missing.

    Raises:
        ValueError: If accelerate knows no such tracker; names the nearest.
        ImportError: If its package is not installed; says what to type.
    """
    known = [str(tracker) for tracker in LoggerType.list() if str(tracker) != "all"]
    for name in names:
        if name not in known:
            raise ValueError(unknown_name_message("Experiment.trackers entry", name, known))
        if name in _EXTRAS:
            import_extra(name, name)
        elif name not in map(str, get_available_trackers()):
            raise ImportError(f"tracker {name} needs its package: pip install {name}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Notes:
    """What the trackers of a run are known by.

    Attributes:
        wandb_id: Of the run in W&B; empty before the first.
        wandb_online: Whether W&B's servers know it: a run that was only offline is theirs once
            somebody has sent it there.
        told: Trackers that have been told all lines.
    """

    wandb_id: str = ""
    wandb_online: bool = False
    told: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "_Notes":
        """What lies there; nothing if that is damaged: trackers can begin anew."""
        if not path.exists():
            return cls()
        try:
            values = parsed_object(path.read_bytes())
            wandb_id = typed(values, "wandb_id", str)
            if wandb_id and _ID.fullmatch(wandb_id) is None:
                raise ValueError(f"{one_line(repr(wandb_id), 80)} is no id of W&B")
            told = tuple(str(name) for name in typed(values, "told", list))
            return cls(wandb_id, typed(values, "wandb_online", bool), told)
        except ValueError as error:
            logger.warning("%s is damaged (%s): trackers begin anew", path, error)
            return cls()

    def write(self, path: Path) -> None:
        """Put them in place of older ones.

        Raises:
            OSError: If the disk is full.
        """
        with atomic_file(path, "what trackers know the run by") as file:
            file.write(json.dumps(dataclasses.asdict(self)).encode("ascii"))


def _notes_of(wandb_id: str | None) -> _Notes:
    """What a run that W&B has not followed from here begins with.

    Raises:
        ValueError: If that is no id.
    """
    if wandb_id is None:
        return _Notes(wandb_id=secrets.token_hex(4))
    if _ID.fullmatch(wandb_id) is None:
        raise ValueError(
            "wandb_run_id must be 1 to 64 letters, digits, '-' and '_', the end of the run's "
            f"address, got {one_line(repr(wandb_id), 80)}; set Experiment.wandb_run_id."
        )
    return _Notes(wandb_id, wandb_online=True)


class Trackers:
    """The trackers that an accelerator was made with; there may be none.

    Attributes:
        names: What metrics are called there; to be set before `start`.
    """

    def __init__(self, accelerator: Accelerator, log: JsonlLog, notes: Path, axis: str) -> None:
        """Args:
        accelerator: Made with `log_with`; all its processes must call `start`.
        log: Metrics of this process.
        notes: File with what the trackers know the run by; of this process alone.
        axis: What curves are drawn against: "updates", "env_steps" or "epoch".
        """
        assert axis in AXES
        self.accelerator, self.log, self.notes, self.axis = accelerator, log, notes, axis
        self.names = MetricNames()
        self._first_step = 0

    def start(
        self,
        project: str,
        settings: Mapping[str, Any],
        wandb: Mapping[str, Any],
        *,
        folder: Path,
        going_on_at: int | None = None,
        wandb_id: str | None = None,
    ) -> None:
        """Begin, or go on where the last start of the run ended.

        Args:
            project: Name that groups runs; for TensorBoard, of a folder.
            settings: Configuration to record.
            wandb: Further arguments of `wandb.init`.
            folder: Where TensorBoard's folder is made; of this process alone.
            going_on_at: Value of the axis at the checkpoint that the run went on from; what
                TensorBoard has beyond it will be told again. None where nothing is told again.
            wandb_id: Of a run in W&B to go on with, if none is known here.

        Raises:
            ValueError: If W&B does not have the run any more, or `wandb_id` cannot be an id; says
                what to do.
        """
        names = [str(tracker) for tracker in self.accelerator.log_with]
        if not names:
            return
        main, known = self.accelerator.is_main_process, _Notes.read(self.notes)
        told = tuple(name for name in known.told if name in names)
        if WANDB not in told:
            known = _notes_of(wandb_id)
        if main:
            # Before W&B hears of it: an id that is lost would be a run that nobody goes on with.
            dataclasses.replace(known, told=told).write(self.notes)
        void_from = None if going_on_at is None else going_on_at + 1
        arguments = {
            TENSORBOARD: {"purge_step": void_from if TENSORBOARD in told else 0},
            WANDB: {
                **wandb,
                "id": known.wandb_id,
                "resume": "must" if known.wandb_online else "allow",
            },
        }
        self.accelerator.project_configuration.logging_dir = str(folder)
        self._init(project, arguments)
        flat = {key: str(value) for key, value in settings.items()}
        for tracker in self.accelerator.trackers:
            if tracker.name == WANDB or tracker.name not in told:
                tracker.store_init_configuration(flat)
        if main:
            online = WANDB in names and self._follow_wandb()
            self._catch_up(told)
            _Notes(known.wandb_id, known.wandb_online or online, tuple(names)).write(self.notes)

    def _init(self, project: str, arguments: dict[str, dict[str, Any]]) -> None:
        try:
            self.accelerator.init_trackers(project, init_kwargs=arguments)
        except Exception as error:
            if type(error).__name__ != "UsageError":  # of W&B, which need not be installed
                raise
            raise ValueError(
                f"W&B must have run {arguments[WANDB]['id']} to go on with it, and said: {error}. "
                f"Remove {self.notes} to begin another one there, or set Experiment.trackers = ()."
            ) from error

    def _follow_wandb(self) -> bool:
        """Say what curves are drawn against; returns whether W&B's servers know the run now."""
        run = self.accelerator.get_tracker(WANDB, unwrap=True)
        for name in AXES:
            run.define_metric(name)
        run.define_metric("*", step_metric=self.axis)
        self._first_step = int(run.starting_step)
        return not run.offline and not run.disabled

    def _catch_up(self, told: Sequence[str]) -> None:
        """Tell all lines so far to those trackers that have not heard them."""
        behind = [t for t in self.accelerator.trackers if t.name not in told]
        for number, line in self.log.numbered().items() if behind else ():
            for tracker in behind:
                self._tell(tracker, {k: v for k, v in line.items() if v is not None}, number)

    def tell(self, line: Mapping[str, Any], number: int) -> None:
        """Tell all trackers one line of metrics; to be called by the main process.

        Args:
            line: By name, the axes among them.
            number: What `JsonlLog.write` returned for it.
        """
        for tracker in self.accelerator.trackers:
            self._tell(tracker, line, number)

    def _tell(self, tracker: Any, line: Mapping[str, Any], number: int) -> None:
        own = {name: value for name, value in line.items() if name != TIME}
        values = self.names.told(own)
        if tracker.name != WANDB:
            at = values.get(self.axis)
            tracker.log(values, step=int(at) if isinstance(at, (int, float)) else None)
        elif number >= self._first_step:
            tracker.log(values, step=number)
