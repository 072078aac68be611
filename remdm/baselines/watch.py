"""What goes along with a baseline's training: the bar, metrics, validation, checkpoints, the best.

Checkpoints are folders with `policy.safetensors` and `state.json`, as those of all runs: nothing
in them is code, and SB3's own archives, which hold pickles, are neither written nor read.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from remdm._version import __version__
from remdm.data.plain_json import typed
from remdm.evaluation.rollout import Evaluation
from remdm.training.checkpoint import (
    CheckpointError,
    load_into,
    load_weights,
    read_state,
    save_weights,
    write_checkpoint,
)
from remdm.training.run_folder import RunFolder
from remdm.training.tracking import JsonlLog

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "policy.safetensors"
LINES = 200  # of metrics in a whole training, about


class Watch:
    """Told how far a training is; see the module.

    Attributes:
        best_score: Mean win rate of the best validation; -1 before the first.
    """

    def __init__(
        self,
        folder: RunFolder,
        facts: Mapping[str, Any],
        validations: int,
        validate: Callable[[], Evaluation],
        stop: Callable[[], bool],
        *,
        shown: bool,
    ) -> None:
        """Args:
        folder: Of the run.
        facts: What a checkpoint says of itself.
        validations: How many there are, evenly spaced, the last one at the end.
        validate: Plays the validation levels.
        stop: Whether somebody asked to stop.
        shown: Show a progress bar on a terminal.
        """
        self.folder, self.facts = folder, dict(facts)
        self.validations, self.validate, self.stop = validations, validate, stop
        self.shown = shown
        self.best_score = -1.0
        self._log = JsonlLog(folder.metrics)
        self._began = time.monotonic()
        self._validated = self._logged = 0

    def begin(self, module: nn.Module, total: int, unit: str) -> None:
        """Say what is trained, how long, and in what it is counted."""
        self.module, self.total = module, total
        name = self.folder.root.name
        hidden = None if self.shown else True  # None: drawn on a terminal only
        self.bar: tqdm[Any] = tqdm(
            total=total, desc=name, unit=unit, unit_scale=True, disable=hidden
        )

    def advance(
        self, done: int, env_steps: int, updates: int, metrics: Callable[[], Mapping[str, float]]
    ) -> bool:
        """Training has come so far; validates and saves where it is time for that.

        Args:
            done: Of the total of `begin`.
            env_steps: Spent so far.
            updates: Of the weights so far.
            metrics: Scalars of the latest updates, asked for where they are logged.

        Returns:
            Whether to go on: neither done nor asked to stop.
        """
        self.bar.update(done - self.bar.n)
        at = {"env_steps": env_steps, "updates": updates}
        if done * LINES >= (self._logged + 1) * self.total:
            self._logged = done * LINES // self.total
            self.write(at, metrics())
        due = done * self.validations // self.total
        if due > self._validated:
            self._validated = due
            self._validate_and_save(at)
        if self.stop():
            return False
        return done < self.total

    def end(self) -> None:
        """Close the bar, if there is one."""
        if hasattr(self, "bar"):
            self.bar.close()

    def write(self, at: Mapping[str, int], metrics: Mapping[str, float]) -> None:
        """A line of metrics, if there are any."""
        if metrics:
            seconds = round(time.monotonic() - self._began, 3)
            self._log.write({**at, "seconds": seconds, **metrics})

    def _validate_and_save(self, at: Mapping[str, int]) -> None:
        played = self.validate()
        means = played.means(dict)
        score = means["val/win_rate"]
        self.write(at, {"val/episodes": float(played.rows[0].episodes), **means})
        self.bar.set_postfix_str(f"val win {score:.2f}", refresh=False)
        if self.bar.disable and self.shown:
            logger.info(
                "%s: %s env steps, %s updates | val win %.3f | %.0f s", self.folder.root.name,
                f"{at['env_steps']:,}", f"{at['updates']:,}", score,
                time.monotonic() - self._began,
            )  # fmt: skip
        facts = {**self.facts, **at, "val_win_rate": score}
        name = f"steps_{at['env_steps']:09d}_{at['updates']:09d}"
        save_policy(self.folder.checkpoints / name, self.module, facts)
        if score >= self.best_score:  # later ones win ties
            self.best_score = score
            save_policy(self.folder.best, self.module, facts)


def save_policy(folder: Path, module: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint of weights alone.

    Raises:
        OSError: If the disk is full.
    """
    weights = module.state_dict()

    def fill(partial: Path) -> None:
        save_weights(partial / WEIGHTS_FILE, weights)

    state = {"remdm_version": __version__, **facts}
    write_checkpoint(folder.parent, folder.name, state, fill)


def load_policy(folder: Path, module: nn.Module, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Load the weights of a checkpoint, if they are of such a policy.

    Args:
        folder: Of the checkpoint.
        module: What they go into.
        facts: What it must say of itself.

    Returns:
        What it says of itself.

    Raises:
        CheckpointError: If it is missing, damaged, or of another policy.
    """
    state = read_state(folder)
    for name, value in facts.items():
        try:
            found = typed(state, name, type(value))
        except ValueError as error:
            raise CheckpointError(f"{folder} is no checkpoint of a baseline: {error}") from error
        if found != value:
            raise CheckpointError(
                f"{folder} was saved with {name} {found!r}, and here it is {value!r}; read it "
                "with the config.gin of its own run."
            )
    load_into(module, load_weights(folder / WEIGHTS_FILE), folder)
    return state
