"""What the processes of `test_ranks.py` do; `python -m tests.training.rank_runs together FOLDER`.

"together" is for a launcher that starts the processes, as accelerate does: they do one thing after
the other and write down what came of it. "apart" starts pairs of processes itself, one of
which comes to grief.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from remdm import config
from remdm.data.batch import Batch
from remdm.experiment import Experiment
from remdm.training.trainer import AgentTrainer
from remdm.training.val_loss import val_loss
from tests.tiny_runs import started, tiny_bindings
from tests.training.rank_losses import ROWS, compare_losses
from tests.training.test_trainer import SETTINGS, Regression, make_batch, train

# Nothing is collected: all that is compared draws from the same shards.
LEARN_ONLY = {
    "epochs": "2",
    "start_collecting_at_epoch": "2",
    "warm_start_timesteps": "0",
    "train_batches_per_epoch": "24",
    "batches_per_update": "2",
    "augmentation_type": "None",
    "val_interval": "None",
    "ckpt_interval": "None",
    "log_interval": "5",
}
MORE = (
    "DiffusionPlannerAgent.inpaint_anchor = 'aligned'",
    "DiffusionPlannerAgent.condition_dropout = 0.3",
    "MaskedLoss.label_smoothing = 0.1",
)


# Of a run that is compared with another one batch by batch.
SHORT = {"epochs": "2", "train_batches_per_epoch": "8", "val_loss_batches": "3"}
# Rows of three steps walk through episodes, with a memory.
WALKING = (
    *MORE,
    "DiskTrajDataset.stretch_steps = 3",
    "EgoDenoiser.memory_type = @GRUMemory",
    "GRUMemory.width = 8",
)


# The same, and levels that are kept back.
VALIDATING = (*WALKING, "DiskTrajDataset.val_share = 0.2")


class Recorded(Experiment):
    """Keeps the batches that it trains on."""

    def train_step(self, batch: Batch) -> dict[str, float]:
        rows = {f"obs/{key}": value.numpy() for key, value in batch.observations.items()}
        rows |= {"plans": batch.plans.numpy(), "weights": batch.weights.numpy()}
        if batch.stretch is not None:
            rows |= {"first": batch.stretch.first.numpy(), "real": batch.stretch.real.numpy()}
        self.drawn = [*getattr(self, "drawn", []), rows]
        return super().train_step(batch)


def learner(
    kind: type[Experiment],
    name: str,
    folder: Path,
    data: Path,
    batch_size: int,
    more: Sequence[str] = MORE,
    **changed: str,
) -> Experiment:
    """A run that only learns, from shards in `data`, after `start()`."""
    changed = LEARN_ONLY | {"batch_size": str(batch_size), "buffer_dir": repr(str(data))} | changed
    config.load_config([], [*tiny_bindings(folder, **changed), *more])
    run = kind(name)
    run.start()
    return run


# Runs


class NotFinite(Experiment):
    """The loss of the last process is no number in the sixth batch."""

    def compute_loss(
        self, trainer: AgentTrainer, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = super().compute_loss(trainer, batch, generator)
        broken = self.rank == 1 and self.progress.total_batches == 5
        return loss * (torch.nan if broken else 1.0), metrics


class AskedToStop(Experiment):
    """The last process is asked to stop in the seventh batch."""

    def train_step(self, batch: Batch) -> dict[str, float]:
        self.stop.requested |= self.rank == 1 and self.progress.total_batches == 6
        return super().train_step(batch)


def overflow_once() -> dict[str, float]:
    """Two updates under a loss scale, as with "fp16"; one gradient of the first one overflows."""
    accelerator = Accelerator()
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    torch.manual_seed(0)
    trainer = AgentTrainer("planner", Regression(), accelerator, SETTINGS)
    large = torch.inf if accelerator.process_index == 1 else 1.0
    overflow = trainer.agent.linear.weight.register_hook(lambda gradient: gradient * large)
    train(trainer, make_batch())
    found = {"updates then": trainer.updates, "scale then": accelerator.scaler.get_scale()}
    overflow.remove()
    train(trainer, make_batch())
    return found | {"updates": trainer.updates}


def together(folder: Path) -> None:
    """All that goes well, or goes wrong in all processes alike."""
    accelerator = Accelerator()
    rank, found = accelerator.process_index, {}
    with contextlib.ExitStack() as opened:

        def start(
            kind: type[Experiment],
            name: str,
            data: Path | None = None,
            more: Sequence[str] = MORE,
            **changed: str,
        ) -> Experiment:
            own = data or folder / f"data_{name}"
            run = learner(kind, name, folder, own, ROWS // 2, more, **changed)
            opened.callback(run.close)
            return run

        found["losses"], found["apart"] = compare_losses(accelerator)
        found["overflow"] = overflow_once()
        two = start(Recorded, "two")
        two.learn()
        for index, rows in enumerate(two.drawn):
            np.savez(folder / f"batch_{index}_{rank}.npz", **rows)
        found["updates"] = {name: t.updates for name, t in two.trainers.items()}
        walking = start(Recorded, "walking", more=VALIDATING, **SHORT)
        walking.learn()
        for index, rows in enumerate(walking.drawn):
            np.savez(folder / f"walked_{index}_{rank}.npz", **rows)
        found["val"] = val_loss(walking)
        whole = started(folder, run_name="whole", epochs="2", val_interval="1")
        opened.callback(whole.close)
        whole.learn()
        found["weights"] = float(sum(p.double().sum() for p in whole.agent.parameters()))
        found["env_steps"] = whole.progress.env_steps
        empty = start(Experiment, "empty", folder / f"data_empty_{rank}")
        empty.learn()
        found["updates without data"] = empty.trainers["planner"].updates
        stale = start(Experiment, "stale", folder / f"data_stale_{rank}")
        stale.learn()
        drawable = sum(stale.dataset.index.counts.tolist())
        found["stale"] = {"windows": drawable, "updates": stale.trainers["planner"].updates}
        stopped = start(AskedToStop, "stopped")
        stopped.learn()
        found["stopped after"] = stopped.progress.total_batches
        try:
            start(NotFinite, "broken").learn()
        except FloatingPointError as error:
            found["not finite"] = str(error)
        (folder / f"found_{rank}.json").write_text(json.dumps(found))
        accelerator.wait_for_everyone()


# Processes that are lost


class Lost(Experiment):
    """In the fifth batch one process comes to grief."""

    grief: Callable[[], None]
    unlucky: int

    def train_step(self, batch: Batch) -> dict[str, float]:
        if self.rank == self.unlucky and self.progress.total_batches == 4:
            self.grief()
        return super().train_step(batch)


def fail() -> None:
    """A process that ends with an error."""
    raise OSError("no room left")


def signal_self(number: int) -> None:
    """A process that is killed, or stands still."""
    os.kill(os.getpid(), number)


# What happens, to which of two processes, and how long the other one waits.
GRIEFS: dict[str, tuple[Callable[[], None], int, float]] = {
    "fails": (fail, 1, 600.0),
    "main is killed": (partial(signal_self, signal.SIGKILL), 0, 600.0),
    "stands still": (partial(signal_self, signal.SIGSTOP), 1, 4.0),
}


def lose(name: str, folder: Path, rank: int, port: int) -> None:
    """One of two processes; writes down how its run ended."""
    grief, unlucky, patience = GRIEFS[name]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    chosen = {"grief": staticmethod(grief), "unlucky": unlucky}
    kind = type("Chosen", (Lost,), chosen)
    try:
        data, silence = folder / f"data_{name}", str(patience)
        run = learner(kind, name, folder, data, ROWS // 2, max_silence_seconds=silence)
        run.learn()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        (folder / f"{name}_{rank}.txt").write_text(text)
        raise SystemExit(1) from error


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def apart(folder: Path) -> None:
    """For each grief two processes; returns when the one that had none has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the others on the way
    context = get_context("fork")  # what is imported is imported once
    for name, (_, unlucky, _) in GRIEFS.items():
        port = free_port()
        pair = [context.Process(target=lose, args=(name, folder, r, port)) for r in range(2)]
        for process in pair:
            process.start()
        try:
            pair[1 - unlucky].join()
        finally:
            for process in pair:
                process.kill()
                process.join()


if __name__ == "__main__":
    {"together": together, "apart": apart}[sys.argv[1]](Path(sys.argv[2]))
