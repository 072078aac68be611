"""What the processes of `test_ranks.py` do; `python -m tests.training.rank_runs together FOLDER`.

"together" is for a launcher that starts the processes, as accelerate does: they do one thing after
the other and write down what came of it. "apart" starts pairs of processes itself, one of
which comes to grief.
"""

import contextlib
import copy
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gin
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from remdm import config
from remdm.agent import BaseAgent, DiffusionPlannerAgent
from remdm.data.batch import Batch
from remdm.diffusion import BernoulliMasking, CountMasking, MaskedLoss
from remdm.experiment import Experiment
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.policy_agent import PolicyAgent
from remdm.ranks import Ranks
from remdm.soft_targets import LOGITS_KEY
from remdm.tokens import end_token, mask_token
from remdm.training.objectives import KL, CloningLoss, GoalLoss, Objectives, OwnLoss
from remdm.training.trainer import AgentTrainer
from tests.nets.states import random_states, tensors
from tests.tiny_runs import BINDINGS, started, tiny_bindings
from tests.training.test_trainer import SETTINGS, Regression, make_batch, train

HORIZON, ROWS = 6, 12
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


class Recorded(Experiment):
    """Keeps the batches that it trains on."""

    def train_step(self, batch: Batch) -> dict[str, float]:
        rows = {f"obs/{key}": value.numpy() for key, value in batch.observations.items()}
        rows |= {"plans": batch.plans.numpy(), "weights": batch.weights.numpy()}
        self.drawn = [*getattr(self, "drawn", []), rows]
        return super().train_step(batch)


def learner(
    kind: type[Experiment], name: str, folder: Path, data: Path, batch_size: int, **changed: str
) -> Experiment:
    """A run that only learns, from shards in `data`, after `start()`."""
    changed |= LEARN_ONLY | {"batch_size": str(batch_size), "buffer_dir": repr(str(data))}
    config.load_config([], [*tiny_bindings(folder, **changed), *MORE])
    run = kind(name)
    run.start()
    return run


# Losses of a whole batch and of its parts

small = partial(DualStreamDenoiser, width=16, hidden=16, num_layers=1, num_heads=2)
LOSSES: dict[str, tuple[Callable[..., BaseAgent], dict[str, Any]]] = {
    "flat": (DiffusionPlannerAgent, {}),
    "spread alone": (
        DiffusionPlannerAgent,
        {"corruption_type": partial(CountMasking, low_discrepancy=False)},
    ),
    "elbo": (
        DiffusionPlannerAgent,
        {
            "loss_type": partial(MaskedLoss, weighting="elbo"),
            "corruption_type": partial(BernoulliMasking, draws=2),
        },
    ),
    "subs": (
        DiffusionPlannerAgent,
        {
            "loss_type": partial(MaskedLoss, weighting="subs"),
            "corruption_type": partial(BernoulliMasking, low_discrepancy=False),
        },
    ),
    "mgdm": (DiffusionPlannerAgent, {"loss_type": partial(MaskedLoss, weighting="mgdm")}),
    "horizon": (DiffusionPlannerAgent, {"loss_type": partial(MaskedLoss, normaliser="horizon")}),
    "visible END": (
        DiffusionPlannerAgent,
        {"corruption_type": partial(CountMasking, pad_mode="visible")},
    ),
    "conditioned": (
        DiffusionPlannerAgent,
        {"inpaint_anchor": "aligned", "condition_dropout": 0.5, "soft_target_weight": 0.7},
    ),
    "goal": (DiffusionPlannerAgent, {"denoiser_type": small}),
    "no goal": (DiffusionPlannerAgent, {"denoiser_type": partial(small, goal_loss_weight=0.0)}),
    "single step": (PolicyAgent, {"soft_target_weight": 0.7}),
    "single step of few": (PolicyAgent, {}),
    "objectives": (DiffusionPlannerAgent, {"denoiser_type": small}),
    "objectives of few": (PolicyAgent, {}),
}


class KLToNoise(KL):
    """Divergence from the agent as it was before its head was drawn anew."""

    name = "kl"

    def __init__(self, agent: BaseAgent) -> None:
        self.reference = copy.deepcopy(agent)
        torch.nn.init.normal_(self.reference.denoiser.head.weight, std=0.3)


def with_objectives(name: str, agent: BaseAgent) -> torch.nn.Module:
    """The agent, with all the objectives that fit it where its name says so."""
    if "objectives" not in name:
        return agent
    more = () if isinstance(agent, PolicyAgent) else ((GoalLoss, 0.3),)
    return Objectives(agent, (OwnLoss, (CloningLoss, 0.5), (KLToNoise(agent), 2.0), *more))


def whole_batch(last_counts: bool) -> Batch:
    """Plans of all lengths; the last rows weigh less, or all but the very last nothing at all."""
    rng = np.random.default_rng(0)
    plans = rng.integers(NUM_ACTIONS, size=(ROWS, HORIZON))
    lengths = np.arange(ROWS) % HORIZON
    plans[np.arange(HORIZON) >= lengths[:, None]] = end_token(NUM_ACTIONS)
    plans[-1, 0] = 0
    weights = np.where(np.arange(ROWS) < ROWS // 2, 1.0, 0.25)
    if last_counts:
        weights[:-1] = 0.0
    states = tensors(random_states(ROWS))
    states["glyphs"][:3, 3, 4] = 2383  # three stairs, all in the first half
    logits = rng.normal(size=(ROWS, NUM_ACTIONS)).astype(np.float16)
    past = rng.integers(NUM_ACTIONS, size=(ROWS, HORIZON - 1))
    past[rng.random(past.shape) < 0.2] = mask_token(NUM_ACTIONS)
    return Batch(
        {**states, LOGITS_KEY: torch.from_numpy(logits)},
        torch.from_numpy(plans),
        torch.from_numpy(weights.astype(np.float32)),
        torch.zeros(ROWS, dtype=torch.int64),
        torch.from_numpy(past),
    )


def part(batch: Batch, ranks: Ranks) -> Batch:
    """The rows of one process."""
    assert batch.past is not None
    return Batch(
        {key: ranks.own(value) for key, value in batch.observations.items()},
        *map(ranks.own, (batch.plans, batch.weights, batch.env_ids, batch.past)),
        ranks,
    )


def followed(agent: BaseAgent, model: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The loss, what is logged beside it, and its gradients, of the second of two batches."""
    for seed in range(2):
        agent.zero_grad()
        loss, metrics = model(batch, torch.Generator().manual_seed(seed))
        loss.backward()
    found = {"loss": loss.detach(), **metrics}
    for name, parameter in agent.named_parameters():
        if parameter.grad is not None:
            found[f"gradient {name}"] = parameter.grad
    return found


def compare_losses(accelerator: Accelerator) -> dict[str, list[str]]:
    """By kind of loss, the names of all that differs between a whole batch and its parts."""
    ranks, wrong = Ranks.of(accelerator), {}
    gin.parse_config([f"{k} = {v}" for k, v in BINDINGS.items() if k.startswith("Ego")])
    for name, (kind, options) in LOSSES.items():
        torch.manual_seed(0)
        agent = kind(map_observation_spec(21, 79), NUM_ACTIONS, plan_horizon=HORIZON, **options)
        torch.nn.init.normal_(agent.denoiser.head.weight, std=0.5)
        batch = whole_batch(last_counts="few" in name)
        model = with_objectives(name, agent)
        alone = followed(agent, model, batch)
        alone = {key: value.clone() for key, value in alone.items()}
        together = followed(agent, accelerator.prepare_model(model), part(batch, ranks))
        for key in [key for key in together if not key.startswith("gradient")]:
            (together[key],) = ranks.means(together[key])
        wrong[name] = [
            key
            for key in alone.keys() | together.keys()
            if not torch.allclose(alone[key], together[key], rtol=1e-4, atol=1e-6)
        ]
        assert float(alone["loss"]) > 0
    config.clear_config()
    return wrong


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

        def start(kind: type[Experiment], name: str, data: Path | None = None) -> Experiment:
            run = learner(kind, name, folder, data or folder / f"data_{name}", ROWS // 2)
            opened.callback(run.close)
            return run

        found["losses"] = compare_losses(accelerator)
        found["overflow"] = overflow_once()
        two = start(Recorded, "two")
        two.learn()
        for index, rows in enumerate(two.drawn):
            np.savez(folder / f"batch_{index}_{rank}.npz", **rows)
        found["updates"] = {name: t.updates for name, t in two.trainers.items()}
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
