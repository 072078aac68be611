"""Where a run stands, and how a person sees it."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tqdm import tqdm

from remdm.training.collect_stats import CollectStats

# Seconds between two drawings of the bar.
_REDRAW_AFTER = 0.1


@dataclass(slots=True)
class Means:
    """Running means of metrics by name.

    Attributes:
        sums: Sum of what was added, by name.
        counts: How often something was added, by name.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take in one value of each metric."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def result(self, prefix: str = "") -> dict[str, float]:
        """The mean of each metric, its name behind `prefix`."""
        return {prefix + name: total / self.counts[name] for name, total in self.sums.items()}


@dataclass(slots=True)
class Progress:
    """The counters of a run; saved with every checkpoint.

    All but the collected steps and the means are the same in every process of the run.

    Attributes:
        epoch: Epochs finished.
        collect: What was collected in the epoch that runs now.
        collected: Whether the epoch that runs now has its data.
        batches: Batches trained on in the epoch that runs now.
        metrics: What the epoch that runs now has measured before training.
        epoch_means: Means over its batches.
        recent_means: Means over the batches since the last line of training metrics.
        total_batches: Batches trained on in the whole run; names the random streams.
        env_steps: Env steps collected in the whole run, over all processes.
        seconds: Time spent learning, over all starts.
        best_score: Best mean of `Experiment.val_metric` on the validation seeds.
        best_epoch: Epoch whose weights are kept, which came near enough to it; -1 before the first.
        finished: Whether the budget is used up.
    """

    epoch: int = 0
    collect: CollectStats = field(default_factory=CollectStats)
    collected: bool = False
    batches: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    epoch_means: Means = field(default_factory=Means)
    recent_means: Means = field(default_factory=Means)
    total_batches: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_epoch: int = -1
    finished: bool = False

    @property
    def within_epoch(self) -> bool:
        """Whether a part of the next epoch is done."""
        return self.collected or self.collect.env_steps > 0

    def count_batch(self, metrics: Mapping[str, float]) -> None:
        """Note that one more batch was trained on."""
        self.batches += 1
        self.total_batches += 1
        self.epoch_means.add(metrics)
        self.recent_means.add(metrics)

    def next_epoch(self) -> None:
        """Count the epoch that ran, and start the next one."""
        self.epoch += 1
        self.collect, self.collected = CollectStats(), False
        self.batches, self.metrics, self.epoch_means = 0, {}, Means()

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        # Not asdict for all: Python 3.11 cannot copy the defaultdicts of `collect` with it.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        stats = {f.name: getattr(self.collect, f.name) for f in fields(self.collect)}
        values["collect"] = {k: dict(v) if isinstance(v, dict) else v for k, v in stats.items()}
        values["metrics"] = dict(self.metrics)
        values["epoch_means"] = asdict(self.epoch_means)
        values["recent_means"] = asdict(self.recent_means)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Progress":
        """The inverse of `to_dict`."""
        stats = dict(values["collect"])
        for counted in ("episodes", "wins", "returns"):
            stats[counted] = defaultdict(int, stats.get(counted, {}))  # older ones lack some
        means = {name: Means(**values[name]) for name in ("epoch_means", "recent_means")}
        return cls(**{**values, **means, "collect": CollectStats(**stats)})


def time_text(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03 or 02:03."""
    return str(tqdm.format_interval(round(seconds)))


class ProgressBar:
    """One line with epoch, env steps, loss, win rates and the time left."""

    def __init__(
        self, progress: Progress, epochs: int, batches_per_epoch: int, *, shown: bool
    ) -> None:
        """Args:
        progress: Where the run stands at the start; not kept.
        epochs: Epochs of the whole run.
        batches_per_epoch: Batches of one epoch.
        shown: Whether to draw at all.
        """
        self.epochs, self.batches = epochs, max(1, batches_per_epoch)
        self.facts: dict[str, str] = {}
        self.first = self._done(progress)
        self.began = self.drawn = time.monotonic()
        self.bar = tqdm(
            total=epochs,
            disable=not shown,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:12}| {desc}",
        )

    def _done(self, progress: Progress) -> float:
        """Epochs done, with the part of the one that runs now."""
        return min(progress.epoch + progress.batches / self.batches, self.epochs)

    def note(self, **facts: str) -> None:
        """Texts to keep in the line from now on, such as `loss="0.31"`."""
        self.facts.update(facts)

    def line(self, progress: Progress, phase: str = "") -> str:
        """The facts in one line.

        Args:
            progress: Where the run stands.
            phase: What is going on, in a word.
        """
        done = self._done(progress)
        epoch = min(progress.epoch + 1, self.epochs)
        facts = [f"epoch {epoch}/{self.epochs} {phase}".rstrip(), steps_text(progress.env_steps)]
        facts += [f"{name} {text}" for name, text in self.facts.items()]
        if done > self.first and done < self.epochs:
            spent = time.monotonic() - self.began
            left = spent / (done - self.first) * (self.epochs - done)
            facts.append(f"{time_text(left)} left")
        return " | ".join(facts)

    def show(self, progress: Progress, phase: str) -> None:
        """Draw where the run stands; see `line`."""
        now = time.monotonic()
        if self.bar.disable or now - self.drawn < _REDRAW_AFTER:
            return
        self.drawn = now
        self.bar.n = self._done(progress)
        self.bar.set_description_str(self.line(progress, phase))

    def close(self, progress: Progress) -> None:
        """Leave the last state on the screen."""
        if not self.bar.disable:
            self.bar.n = self._done(progress)
            self.bar.set_description_str(self.line(progress))
        self.bar.close()


def steps_text(steps: int) -> str:
    """Env steps in few characters: 950 steps, 12.3k steps, 4.57M steps."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if steps >= size:
            return f"{steps / size:.3g}{unit} steps"
    return f"{steps} steps"
