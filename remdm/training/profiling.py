"""Where the time of an epoch goes: clocks around the methods that do its work.

A clock runs while its phase is the innermost one, so that the times of all phases add up to the
time that passed. On a GPU every change of phase waits for what was started there, which costs some
speed; the shares are those of the work itself.
"""

import contextlib
import resource
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from remdm.training.assembly import AssembledRun

# What a phase is counted in.
ENV_STEP, BATCH, EPISODE, EPOCH = UNITS = ("env step", "batch", "episode", "epoch")
OTHER = "everything else"
PHASES = {
    "collect: planning": ENV_STEP,
    "collect: oracle": ENV_STEP,
    "collect: stepping": ENV_STEP,
    "collect: recording": ENV_STEP,
    "collect: the rest": ENV_STEP,
    "labelling": ENV_STEP,
    "taking in data": EPOCH,
    "train: waiting for batches": BATCH,
    "train: drawing windows": BATCH,
    "train: augmentation": BATCH,
    "train: forward": BATCH,
    "train: backward": BATCH,
    "train: clipping": BATCH,
    "train: optimiser": BATCH,
    "train: moving average": BATCH,
    "train: the rest": BATCH,
    "validation": EPISODE,
    "held-out validation": EPISODE,
    "writing: shards": EPOCH,
    "writing: weights": EPOCH,
    "writing: checkpoint": EPOCH,
    "writing: metrics": EPOCH,
    OTHER: EPOCH,
}


@dataclass(slots=True)
class Frame:
    """A phase that is going on.

    Attributes:
        name: Of the phase.
        since: When its clock was last started.
        whole: Whether phases within it count as it.
    """

    name: str
    since: float
    whole: bool


@dataclass
class Stopwatch:
    """Clocks of phases, by thread.

    Attributes:
        synchronise: Waits for what was started on the device.
        main: Seconds of each phase in the thread that made this.
        beside: The same in all others, at the same time.
    """

    synchronise: Callable[[], None] = lambda: None
    main: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    beside: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        """Take the present thread for the main one."""
        self._own, self._lock = threading.get_ident(), threading.Lock()
        self._local = threading.local()

    def clear(self) -> None:
        """Forget what was measured."""
        self.main.clear()
        self.beside.clear()

    @contextlib.contextmanager
    def phase(self, name: str, *, whole: bool = False) -> Iterator[None]:
        """Run the clock of a phase, and stop that of the one around it.

        Args:
            name: Of the phase.
            whole: Count all phases within it as this one.
        """
        stack: list[Frame] = self._local.__dict__.setdefault("stack", [])
        if stack and stack[-1].whole:
            yield
            return
        now = self._now()
        if stack:
            self._add(stack[-1].name, now - stack[-1].since)
        stack.append(Frame(name, now, whole))
        try:
            yield
        finally:
            now, ended = self._now(), stack.pop()
            self._add(name, now - ended.since)
            if stack:
                stack[-1].since = now

    def _now(self) -> float:
        if threading.get_ident() == self._own:
            self.synchronise()
        return time.perf_counter()

    def _add(self, name: str, seconds: float) -> None:
        with self._lock:
            (self.main if threading.get_ident() == self._own else self.beside)[name] += seconds

    def around(self, owner: Any, method: str, name: str, *, whole: bool = False) -> None:
        """Let every call of `owner.method` be a phase from now on; nothing if there is no such."""
        real = getattr(owner, method, None)
        if real is None:
            return

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name, whole=whole):
                return real(*args, **kwargs)

        setattr(owner, method, timed)


def put_clocks(run: AssembledRun, watch: Stopwatch) -> None:
    """Put a clock around all that an epoch of a started run is made of."""
    watch.around(run.policy, "plan", "collect: planning")
    watch.around(run.oracle, "plan", "collect: oracle")
    for method in ("execute", "reset", "assign"):
        watch.around(run.collector.vec_env, method, "collect: stepping")
    for method in ("append", "add"):
        watch.around(run.buffer, method, "collect: recording")
    watch.around(run.buffer, "flush", "writing: shards")
    watch.around(run, "collect_new_training_data", "collect: the rest")
    watch.around(run, "label_new_training_data", "labelling", whole=True)
    watch.around(run.dataset, "on_end_of_collection", "taking in data", whole=True)
    watch.around(run, "make_batch", "train: drawing windows")
    watch.around(run, "augment", "train: augmentation")
    watch.around(run, "compute_loss", "train: forward", whole=True)
    for trainer in run.trainers.values():
        watch.around(trainer.accelerator, "backward", "train: backward", whole=True)
        watch.around(trainer.accelerator, "clip_grad_norm_", "train: clipping", whole=True)
        watch.around(trainer.optimiser, "step", "train: optimiser", whole=True)
        watch.around(trainer.ema, "update", "train: moving average", whole=True)
    watch.around(run, "train_epoch", "train: the rest")
    watch.around(run, "heldout_metrics", "held-out validation", whole=True)
    watch.around(run, "publish", "writing: weights", whole=True)
    watch.around(run, "write_latest_policy", "writing: weights", whole=True)
    watch.around(run, "log", "writing: metrics", whole=True)


def timed_batches(batches: Iterator[Any], watch: Stopwatch) -> Iterator[Any]:
    """The same batches; getting each is a phase."""
    while True:
        with watch.phase("train: waiting for batches"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def synchroniser(device: torch.device) -> Callable[[], None]:
    """What waits for a device; nothing on a CPU, where calls return when they are done."""
    if device.type != "cuda":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """What a phase takes in an epoch.

    Attributes:
        name: Of the phase.
        seconds: Per epoch.
        share: Of the time of an epoch; None for what runs beside it, in other threads.
        unit: What it is counted in.
        units: So many of them per epoch.
    """

    name: str
    seconds: float
    share: float | None
    unit: str
    units: float

    @property
    def ms_per_unit(self) -> float | None:
        """Milliseconds per unit; None where there is none."""
        return 1000.0 * self.seconds / self.units if self.units else None


def phase_rows(
    main: dict[str, float],
    beside: dict[str, float],
    units: dict[str, float],
) -> list[PhaseRow]:
    """Rows of a table, in the order of an epoch; phases that took nothing are left out.

    Args:
        main: Seconds per epoch by phase, in the thread that trains.
        beside: The same in other threads.
        units: How many of each of `UNITS` an epoch has; of a phase that has a number of its own,
            by its name.
    """
    whole, rows = sum(main.values()), []
    for name, unit in PHASES.items():
        count = units.get(name, units.get(unit, 0.0))
        for seconds, own in ((main.get(name, 0.0), True), (beside.get(name, 0.0), False)):
            if seconds > 0.0:
                share = seconds / whole if own and whole else None
                label = name if own else f"{name} (beside)"
                rows.append(PhaseRow(label, seconds, share, unit, count))
    return rows


def memory(device: torch.device) -> dict[str, float]:
    """Most memory that this process has held so far, in MiB: `peak_rss_mb`, `peak_gpu_mb`."""
    # Kilobytes, but on macOS bytes.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    found = {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale}
    if device.type == "cuda":
        found["peak_gpu_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found
