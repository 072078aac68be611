"""Where a run stands, and how a person sees it."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """The counters of a run; saved with every checkpoint.

    Attributes:
        epoch: Epochs finished.
        collected_steps: Env steps collected in the epoch that runs now.
        collected: Whether the epoch that runs now has its data.
        batches: Batches trained on in the epoch that runs now.
        total_batches: Batches trained on in the whole run; names the random streams.
        env_steps: Env steps collected in the whole run, over all processes.
        seconds: Time spent learning, over all starts.
        best_score: Best mean win rate on the validation seeds; -1 before the first.
        best_epoch: Epoch after which it was reached.
        finished: Whether the budget is used up.
    """

    epoch: int = 0
    collected_steps: int = 0
    collected: bool = False
    batches: int = 0
    total_batches: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_epoch: int = -1
    finished: bool = False

    def next_epoch(self) -> None:
        """Count the epoch that ran, and start the next one."""
        self.epoch += 1
        self.collected_steps, self.collected, self.batches = 0, False, 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON writes it."""
        return asdict(self)


class ProgressBar:
    """One line that shows epoch, env steps, loss, win rates and the time left."""

    def __init__(self, epochs: int, units_per_epoch: int, *, shown: bool) -> None:
        """Args:
        epochs: Epochs of the whole run.
        units_per_epoch: Ticks of one epoch: its batches, or 1 if it has none.
        shown: Whether to draw at all; a file or a pipe gets log lines instead.
        """
        self.epochs, self.units = epochs, max(1, units_per_epoch)
        self.facts: dict[str, str] = {}
        self.bar = tqdm(
            total=epochs * self.units,
            disable=not shown,
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
        )

    def show(self, progress: Progress, phase: str, **facts: str) -> None:
        """Draw where the run stands.

        Args:
            progress: The run's counters.
            phase: What is going on, in a word.
            facts: Short texts to keep on display, such as `loss="0.31"`.
        """
        self.facts.update(facts)
        epoch = min(progress.epoch + 1, self.epochs)
        shown = " ".join(f"{k} {v}" for k, v in self.facts.items())
        self.bar.n = min(progress.epoch * self.units + progress.batches, self.bar.total)
        self.bar.set_postfix_str(
            f"epoch {epoch}/{self.epochs} {phase} | {progress.env_steps / 1000:.0f}k steps {shown}"
        )

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.bar.close()
