"""Kills the processes of a run at random moments, and starts each of them again at once.

    python -m tests.faults.killing FOLDER KILLS SEED PAUSE

runs one MiniHack recipe in roles with so many kills (0 leaves it alone), and ends with one line of
JSON: how long restarts took, what was lost or counted twice, and what the planner has learnt.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from remdm import config
from remdm.data.ledger import Ledger
from remdm.distributed.standing import published_epoch
from remdm.experiment import Experiment
from remdm.training.run_folder import RunFolder
from tests.faults.accounts import (
    label_faults,
    left_behind,
    level_faults,
    metric_faults,
    read_rows,
    shard_faults,
)
from tests.faults.folder_watch import FolderWatch
from tests.faults.fork_server import ForkServer
from tests.faults.role_processes import HANGS_S, POLL_S, Life, Part, Roles

# The run must have got further within this time, whatever is killed.
STUCK_S = 300.0


@dataclass(frozen=True)
class Restart:
    """One kill, and how its part came back.

    Attributes:
        part: Name of the part.
        at_work: Whether it was at work when it was killed; otherwise it was just starting.
        seconds: From the start of the next process until that was at work; None if it was killed
            before, or ended because the run was over.
        anew: Whether Python had to start; otherwise the process was a fork of one that had.
        load: Processes that wanted a core then, on average over a minute.
    """

    part: str
    at_work: bool
    seconds: float | None
    anew: bool
    load: float


@dataclass
class Killing:
    """One run whose processes are killed.

    Attributes:
        roles: The run.
        parts: Its processes.
        rng: Chooses whom to kill, and when.
        mean_pause: Seconds between two kills, on average.
        restarts: What happened.
        faults: Processes that ended by themselves, and should not have.
    """

    roles: Roles
    parts: Sequence[Part]
    rng: np.random.Generator
    mean_pause: float
    restarts: list[Restart] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _lives: dict[str, Life] = field(default_factory=dict)
    # By part: when its present process was started, and after what kind of kill.
    _starting: dict[str, tuple[float, bool]] = field(default_factory=dict)
    _further: tuple[object, float] = (None, 0.0)

    def play(self, rounds: Sequence[int], epochs: int) -> None:
        """Start all, kill some again and again, and wait until the run is over.

        Args:
            rounds: How many to kill in one moment, for each such moment.
            epochs: Of the run. Where it is faster than the pauses, it is killed earlier.
        """
        for part in self.parts:
            self._lives[part.name] = self.roles.start(part.role, part.index)
        for life in self._lives.values():
            life.wait_for_work()
        for number, count in enumerate(rounds):
            latest = epochs * (number + 1) // (len(rounds) + 1)
            due = time.monotonic() + self.rng.exponential(self.mean_pause)
            while time.monotonic() < due and self._epoch() <= latest:
                self._look()
                time.sleep(POLL_S)
            self._kill(count)
        while not self._over():
            self._look()
            time.sleep(POLL_S)

    def _epoch(self) -> int:
        return published_epoch(RunFolder(self.roles.run).latest)[0]

    def _over(self) -> bool:
        return all(life.code == 0 for life in self._lives.values())

    def _kill(self, count: int) -> None:
        """Kill some that have not ended, and start them again."""
        alive = [life for life in self._lives.values() if life.code is None]
        order = self.rng.permutation(len(alive))[:count]
        chosen = [alive[place] for place in order]
        for life in chosen:
            life.kill()
        for life in chosen:
            name = life.part.name
            if name in self._starting:  # killed again before it had started
                self._note(name, None)
            self._starting[name] = time.monotonic(), life.at_work()
            self._lives[name] = self.roles.again(life)

    def _note(self, name: str, seconds: float | None) -> None:
        _, at_work = self._starting.pop(name)
        anew = isinstance(self._lives[name].process, subprocess.Popen)
        self.restarts.append(Restart(name, at_work, seconds, anew, os.getloadavg()[0]))

    def _look(self) -> None:
        """See who is at work again, who has ended, and that the run gets further."""
        for name, life in self._lives.items():
            if name in self._starting:
                began, _ = self._starting[name]
                if life.at_work():
                    self._note(name, time.monotonic() - began)
                elif life.code == 0:
                    self._note(name, None)
                assert time.monotonic() - began < HANGS_S, f"{name} does not start:\n{life.text}"
            if life.code not in (None, 0):
                self.faults.append(f"{name} ended with code {life.code}:\n{life.text[-1500:]}")
                self._lives[name] = self.roles.again(life)
                assert len(self.faults) < 10, "\n\n".join(self.faults)
        self._see_progress()

    def _see_progress(self) -> None:
        """See that something is written now and then: weights are published, metrics are told."""
        run, now = RunFolder(self.roles.run), time.monotonic()
        sizes = [path.stat().st_size for path in sorted(run.root.glob("metrics*.jsonl"))]
        state = (published_epoch(run.latest), sizes)
        if state != self._further[0]:
            self._further = state, now
        assert now - self._further[1] < STUCK_S, f"stuck since {STUCK_S:g} s at {state}"


def all_faults(roles: Roles, watch: FolderWatch, actors: int, collectors: int) -> list[str]:
    """Everything that must not be in a run that is over."""
    config.load_config(
        roles.configs, [*roles.bindings, f"Experiment.ckpt_base_dir = {str(roles.base)!r}"]
    )
    run = Experiment("run")
    folder = RunFolder(roles.run)
    with_horizon = run.load_agents(folder.best)["planner"].plan_horizon
    done = json.loads(folder.done.read_text())
    faults = [
        *watch.faults,
        *shard_faults(watch),
        *level_faults(watch.shards.values(), seed=run.seed, actors=actors, collectors=collectors),
        *label_faults(watch.folder, run.oracle_type(), with_horizon),
        *metric_faults(
            read_rows(folder.metrics),
            epochs=run.epochs,
            batches=run.train_batches_per_epoch,
            log_interval=run.log_interval,
        ),
    ]
    if done["epoch"] != run.epochs or done["updates"] != run.epochs * run.train_batches_per_epoch:
        faults.append(f"the run is over after {done}")
    config.clear_config()
    return faults


MINIHACK_PARTS = (
    Part("learn"), Part("collect", 0), Part("collect", 1), Part("label", 0), Part("label", 1),
)  # fmt: skip
# Two collectors of half the actors, small epochs, and a checkpoint after each of them.
MINIHACK = {
    "Experiment.parallel_actors": "32",
    "Experiment.epochs": "32",
    "Experiment.train_batches_per_epoch": "24",
    "Experiment.batch_size": "64",
    "Experiment.warm_start_timesteps": "470",
    "Experiment.ckpt_interval": "1",
    "Experiment.val_interval": "32",
    "Experiment.val_episodes": "100",
    "Experiment.test_episodes": "2",
}


def minihack(folder: Path, kills: int, seed: int, mean_pause: float, **changed: str) -> Any:
    """One MiniHack run with so many kills; what came of it."""
    values = MINIHACK | {f"Experiment.{name}": text for name, text in changed.items()}
    bindings = [f"{name} = {text}" for name, text in values.items()]
    began = time.monotonic()
    configs = ["gin_configs/minihack_quick.gin"]
    with (
        ForkServer() as server,
        Roles(folder, bindings, configs, server=server, anew_every=10) as roles,
        FolderWatch(roles.run) as watch,
    ):
        killing = Killing(roles, MINIHACK_PARTS, np.random.default_rng(seed), mean_pause)
        killing.play([1] * kills, int(values["Experiment.epochs"]))
        seconds = time.monotonic() - began
        over = roles.start("validate")
        assert over.wait_for_end() == 0, over.text
    actors = int(values["Experiment.parallel_actors"])
    return {
        "kills": len(killing.restarts),
        "seconds": round(seconds, 1),
        "restarts": [
            [r.part, r.at_work, r.seconds and round(r.seconds, 2), r.anew, round(r.load, 1)]
            for r in killing.restarts
        ],
        "ended": killing.faults,
        "faults": all_faults(roles, watch, actors, 2),
        "left_behind": [str(path.relative_to(roles.run)) for path in left_behind(roles.run)],
        "shards": len(watch.shards),
        "steps": Ledger(watch.folder).collected(),
        "validation": read_rows(roles.run / "metrics-validate-0.jsonl")[-1],
        "report": json.loads((roles.run / "report" / "results.json").read_text())
        if (roles.run / "report" / "results.json").exists()
        else None,
    }


if __name__ == "__main__":
    folder, kills, seed, pause = Path(sys.argv[1]), *map(float, sys.argv[2:5])
    changed = dict(word.split("=", 1) for word in sys.argv[5:])
    print(json.dumps(minihack(folder, int(kills), int(seed), pause, **changed)))
