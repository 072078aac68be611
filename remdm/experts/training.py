"""Training an expert from start to end: progress, metrics, checkpoints, going on after a stop."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import gin
import jax
import numpy as np
from tqdm import tqdm

from remdm.experts.checkpoint import TRAINING_FILE, expert_facts, load_tree, save_expert
from remdm.experts.ppo import PPO, Training
from remdm.experts.rollout import Lives
from remdm.training.checkpoint import STATE_FILE, CheckpointError
from remdm.training.interrupt import StopRequest
from remdm.training.tracking import JsonlLog

logger = logging.getLogger(__name__)

EXPERT_FOLDER, METRICS_FILE = "expert", "metrics.jsonl"  # in the folder of a training
# What may not differ when a training goes on.
IDENTITY = ("algorithm", "env_name", "width", "num_envs", "num_steps", "seed", "num_updates", "rnd")


def facts_of(ppo: PPO, updates: int) -> dict[str, Any]:
    """What an expert's `state.json` says of it."""
    facts = {
        "algorithm": ppo.algorithm,
        "env_name": ppo.env_name,
        "width": ppo.width,
        "num_envs": ppo.num_envs,
        "num_steps": ppo.num_steps,
        "seed": ppo.seed,
        "num_updates": ppo.num_updates,
        "updates": updates,
        "timesteps": updates * ppo.frames_per_update,
        "action_names": list(ppo.runner.game.action_names),
    }
    return facts if ppo.rnd is None else facts | {"rnd": ppo.rnd.sizes}


@gin.configurable(module="remdm", denylist=["folder"])
class ExpertTraining:
    """The training of the expert that `PPO` is bound to.

    Attributes:
        folder: Of the training.
        expert_folder: Where the expert is.
        ppo: What trains it.
    """

    def __init__(
        self, folder: Path, *, ckpt_interval: int = 50, log_interval: int = 10, verbose: bool = True
    ) -> None:
        """Args:
        folder: Of the training; the expert is in `expert/` there.
        ckpt_interval: Updates between checkpoints.
        log_interval: Updates between lines of metrics.
        verbose: Show a progress bar on a terminal.
        """
        self.folder, self.expert_folder = folder, folder / EXPERT_FOLDER
        self.ckpt_interval, self.log_interval, self.verbose = ckpt_interval, log_interval, verbose
        self.ppo = PPO()

    def run(self) -> bool:
        """Train, or go on where a training stopped; nothing is left to do in one that is done.

        Ctrl-C stops after the present update, with a checkpoint.

        Returns:
            Whether the expert is finished.

        Raises:
            CheckpointError: If the folder holds an expert of other settings.
        """
        ppo, training = self.ppo, _begin(self.ppo, self.expert_folder)
        if int(training.updates) == ppo.num_updates:
            return True
        logger.info(ppo.rounding)
        self.expert_folder.parent.mkdir(parents=True, exist_ok=True)
        log, recent = JsonlLog(self.folder / METRICS_FILE), _Recent()
        with StopRequest() as stop, self._bar(int(training.updates)) as bar:
            while int(training.updates) < ppo.num_updates and not stop.requested:
                training, scalars, lives = ppo.advance(training)
                done = int(training.updates)
                recent.add(lives)
                bar.update(ppo.frames_per_update)
                if done % self.log_interval == 0 or done == ppo.num_updates:
                    row = {"timesteps": done * ppo.frames_per_update, **recent.means(ppo)}
                    row |= {f"train/{name}": float(value) for name, value in scalars.items()}
                    log.write(row)
                    bar.set_postfix_str(f"return {row['lives/return']:.2f}", refresh=False)
                    if bar.disable:
                        logger.info(_line(row))
                    recent = _Recent()
                if done % self.ckpt_interval == 0:
                    self._save(training)
        self._save(training)
        return int(training.updates) == ppo.num_updates

    def _save(self, training: Training) -> None:
        facts = facts_of(self.ppo, int(training.updates))
        save_expert(self.expert_folder, facts, training.params, training)

    def _bar(self, updates: int) -> "tqdm[Any]":
        return tqdm(
            desc="training the expert",
            total=self.ppo.num_updates * self.ppo.frames_per_update,
            initial=updates * self.ppo.frames_per_update,
            unit="step",
            unit_scale=True,
            disable=not (self.verbose and sys.stderr.isatty()),
            dynamic_ncols=True,
        )


def _begin(ppo: PPO, folder: Path) -> Training:
    """A new training, or the one in `folder`."""
    if not (folder / STATE_FILE).is_file():
        return ppo.start()
    facts, wanted = expert_facts(folder), facts_of(ppo, 0)
    differ = [
        f"{name} is {wanted.get(name)} now, {facts.get(name)} there"
        for name in IDENTITY
        if wanted.get(name) != facts.get(name)
    ]
    if differ:
        raise CheckpointError(
            f"{folder} holds an expert of other settings: {'; '.join(differ)}. Choose another "
            "--run_name, or bind PPO and RND as they were."
        )
    like = jax.eval_shape(ppo.start)
    restored: Training = load_tree(folder / TRAINING_FILE, like)
    return restored


def _line(row: dict[str, float]) -> str:
    """Where a training stands, for people without a terminal."""
    return (
        f"expert: {row['timesteps']:,} steps | return {row['lives/return']:.2f} | "
        f"{row['steps_per_second']:,.0f} steps/s"
    )


class _Recent:
    """Lives that ended since the last line of metrics."""

    def __init__(self) -> None:
        self.lives: list[Lives] = []
        self.began = time.monotonic()

    def add(self, lives: Lives) -> None:
        """Some more of them."""
        self.lives.append(lives)

    def means(self, ppo: PPO) -> dict[str, float]:
        """Scalars to log; a stretch without a life that ended has a return of 0."""
        count = sum(int(lives.count) for lives in self.lives)
        steps = len(self.lives) * ppo.frames_per_update
        achieved = np.sum([np.asarray(lives.achievements) for lives in self.lives], axis=0)
        return {
            "lives/count": float(count),
            "lives/return": sum(float(lives.returns) for lives in self.lives) / max(count, 1),
            "lives/length": sum(float(lives.steps) for lives in self.lives) / max(count, 1),
            "lives/achievements": float(achieved.sum()) / max(count, 1),
            "steps_per_second": steps / max(time.monotonic() - self.began, 1e-9),
        }
