"""One agent with what trains it: optimiser, learning rate, gradient clip, moving average."""

import copy
import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from remdm.agent import BaseAgent
from remdm.data.batch import Batch
from remdm.data.plain_json import counted, one_line, typed
from remdm.nets.ema import EMA
from remdm.ranks import Ranks
from remdm.stretch import CarriedMemory
from remdm.training.checkpoint import (
    CheckpointError,
    load_into,
    load_plain,
    load_weights,
    save_plain,
    save_weights,
)
from remdm.training.compiled_loss import CompiledLoss
from remdm.training.objectives import Objectives


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """How weights follow gradients; the fields are arguments of `Experiment`.

    Attributes:
        learning_rate: Peak learning rate of AdamW.
        lr_warmup_steps: Updates of linear warm-up.
        lr_final_fraction: Share of the peak that the cosine decay ends at; 1 keeps it constant.
        l2_coeff: Decoupled weight decay of matrices; vectors have none.
        grad_clip: Largest norm of the gradient.
        ema_decay: Decay of the moving average of the weights, per update.
        total_updates: Updates of the whole run.
        compile_model: Whether losses go through `torch.compile`.
    """

    learning_rate: float
    lr_warmup_steps: int
    lr_final_fraction: float
    l2_coeff: float
    grad_clip: float
    ema_decay: float
    total_updates: int
    compile_model: bool = False

    def rate(self, update: int) -> float:
        """Learning rate of update number `update`, from 0."""
        if update < self.lr_warmup_steps:
            return self.learning_rate * (update + 1) / self.lr_warmup_steps
        span = max(1, self.total_updates - self.lr_warmup_steps)
        share = min(1.0, (update - self.lr_warmup_steps) / span)
        low = self.lr_final_fraction
        cosine = 0.5 * (1.0 + math.cos(math.pi * share))
        return self.learning_rate * (low + (1.0 - low) * cosine)


def _norm(values: Sequence[Tensor]) -> float:
    """Norm of all of them as one vector."""
    return float(torch.stack(torch._foreach_norm(list(values))).norm())


def weights_file(name: str, *, averaged: bool) -> str:
    """Name of the file in a checkpoint that holds the weights of agent `name`."""
    return f"{name}_ema.safetensors" if averaged else f"{name}.safetensors"


class AgentTrainer:
    """Trains `agent` and keeps `policy`, a copy that acts by averaged weights.

    Attributes:
        name: Name of the agent in files, metrics and tables.
        agent: The agent that is trained.
        model: The agent, or its objectives, as accelerate wraps it; call this one to train.
        objectives: What is minimised beside, or in place of, the agent's own loss; None for that.
        policy: The agent that acts. Its weights stay as they are until `publish`.
        updates: Updates of the weights so far.
        memory: What the rows of the batch remember, where rows walk through episodes.
    """

    def __init__(
        self,
        name: str,
        agent: BaseAgent,
        accelerator: Accelerator,
        settings: OptimiserSettings,
        *,
        trains: bool = True,
        objectives: Sequence[Any] | None = None,
    ) -> None:
        """Args:
        name: See above.
        agent: The agent to train.
        accelerator: Device, precision, accumulation and processes. No two trainers may share
            one, since it counts batches and scales losses.
        settings: See `OptimiserSettings`.
        trains: Whether it will; otherwise there is only what acts, which is made much faster.
        objectives: What it minimises; see `remdm.training.objectives.Objectives`. The agent's
            own loss when None.
        """
        self.name = name
        self.settings = settings
        self.accelerator = accelerator
        self.agent = agent.to(accelerator.device)
        self.policy = copy.deepcopy(self.agent).eval().requires_grad_(False)
        self.updates, self.memory = 0, CarriedMemory()
        self.objectives = None if objectives is None else Objectives(self.agent, objectives)
        if trains:
            self._prepare(settings)

    def _prepare(self, settings: OptimiserSettings) -> None:
        """Make what training needs beside the agent."""
        parameters = list(self.agent.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.l2_coeff},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        # Fused steps leave out overflows by themselves, and accelerate then takes them for done.
        fused = self.accelerator.scaler is None
        optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
        trained: torch.nn.Module = self.objectives or self.agent
        if settings.compile_model and self.objectives is not None:
            warnings.warn(
                "Experiment.compile_model compiles the agent's own loss alone, so training with "
                "Experiment.objectives runs uncompiled",
                RuntimeWarning,
                stacklevel=2,
            )
        elif settings.compile_model and self.agent.memory_size:
            warnings.warn(
                "Experiment.compile_model compiles losses without memory, so training of a net "
                "that has one runs uncompiled",
                RuntimeWarning,
                stacklevel=2,
            )
        elif settings.compile_model:
            trained = CompiledLoss(self.agent)
        self.model, self.optimiser = self.accelerator.prepare(trained, optimiser)
        self._first = [p.detach().clone() for p in parameters]
        self.ema = EMA(self.agent, decay=settings.ema_decay)
        if self.objectives is not None:
            self.objectives.attach(self)

    def retune(self, name: str, value: float) -> None:
        """Let one of the `settings` be another number from the next update on.

        Args:
            name: "learning_rate", "lr_final_fraction", "l2_coeff", "grad_clip" or "ema_decay".
            value: What it is to be.
        """
        self.settings = replace(self.settings, **{name: value})  # type: ignore[arg-type]
        if not hasattr(self, "optimiser"):
            return  # it only acts
        if name == "l2_coeff":
            self.optimiser.param_groups[0]["weight_decay"] = value
        elif name == "ema_decay":
            self.ema.decay = value

    def remembering(self, batch: Batch) -> Batch:
        """A batch whose rows go on where those of the batch before were, with their memory."""
        return replace(batch, memory=self.memory) if self.agent.memory_size else batch

    def accumulate(self) -> AbstractContextManager[Any]:
        """The context of one batch: its forward pass, and `update`."""
        if self.objectives is not None:
            self.objectives.step = self.updates
        context: AbstractContextManager[Any] = self.accelerator.accumulate(self.model)
        return context

    def update(self, loss: Tensor) -> dict[str, float]:
        """Back-propagate; change the weights if enough batches are accumulated.

        Args:
            loss: Mean loss of one batch. Its mean over the processes is followed.

        Returns:
            The gradient's norm before clipping and the learning rate, if weights changed.

        Raises:
            FloatingPointError: If loss or gradient are not finite, in all processes if in one; the
                weights are unchanged.
        """
        self._check_finite("loss", *Ranks.of(self.accelerator).means(loss))
        self.accelerator.backward(loss)
        if not self.accelerator.sync_gradients:
            return {}
        rate = self.settings.rate(self.updates)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        norm = self.accelerator.clip_grad_norm_(self.agent.parameters(), self.settings.grad_clip)
        if self.accelerator.scaler is None:  # a loss scale that was too large mends itself
            self._check_finite("gradient", norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            self.ema.update(self.agent)
            self.updates += 1
        return {"grad_norm": float(norm), "learning_rate": rate}

    def _check_finite(self, what: str, value: Tensor) -> None:
        if not torch.isfinite(value).all():
            raise FloatingPointError(
                f"the {what} of {self.name} is {value.item()} at update {self.updates}; lower "
                "Experiment.learning_rate or set Experiment.mixed_precision = 'no'"
            )

    def publish(self) -> BaseAgent:
        """Give `policy` the averaged weights of now; returns it."""
        self.ema.copy_to(self.policy)
        for own, trained in zip(self.policy.buffers(), self.agent.buffers(), strict=True):
            own.copy_(trained)
        return self.policy

    @torch.no_grad()
    def describe(self) -> dict[str, float]:
        """Scalars that tell how the weights stand.

        Returns:
            `param_norm`; `param_drift_from_init`, the distance from the random weights that the
            run's seed gives; and of a net with one gate `gate` and `ema_gate`, how far open it is
            in the weights that are trained and in those that act.
        """
        now = [p.detach() for p in self.agent.parameters()]
        drift = torch._foreach_sub(now, self._first)
        found = {"param_norm": _norm(now), "param_drift_from_init": _norm(drift)}
        for name, parameter in self.agent.named_parameters():
            if name.endswith(".gate") and parameter.ndim == 0:
                found["gate"] = float(torch.sigmoid(parameter))
                found["ema_gate"] = float(torch.sigmoid(self.ema.shadow[name]))
        return found

    def save(self, folder: Path) -> None:
        """Write weights, averaged weights and the optimiser's state into `folder`."""
        save_weights(folder / weights_file(self.name, averaged=False), self.agent.state_dict())
        self.publish()
        self.save_averaged(folder)
        scaler = self.accelerator.scaler
        training = {
            "optimiser": self.optimiser.state_dict(),
            "ema_updates": self.ema.num_updates,
            "updates": self.updates,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        save_plain(folder / self._training_file, training)

    def save_averaged(self, folder: Path) -> None:
        """Write only the weights that act."""
        path = folder / weights_file(self.name, averaged=True)
        save_weights(path, self.policy.state_dict())

    def load(self, folder: Path, *, resume: bool = True) -> None:
        """Read what `save` wrote.

        Args:
            folder: A checkpoint folder.
            resume: Go on with that training; otherwise the averaged weights are a new start.

        Raises:
            CheckpointError: If a file is missing, damaged, or of another model.
        """
        averaged = folder / weights_file(self.name, averaged=True)
        load_into(self.policy, load_weights(averaged), averaged)
        if not resume:
            self.agent.load_state_dict(self.policy.state_dict())
            self.ema = EMA(self.agent, decay=self.settings.ema_decay)
            return
        raw = folder / weights_file(self.name, averaged=False)
        load_into(self.agent, load_weights(raw), raw)
        self._load_training(folder / self._training_file)

    def _load_training(self, path: Path) -> None:
        """The counters and the states of optimiser and loss scale."""
        training = load_plain(path)
        try:
            updates, averaged = counted(training, "updates"), counted(training, "ema_updates")
            optimiser = typed(training, "optimiser", dict)
            # The oldest ones have none.
            scaler = typed({"scaler": None, **training}, "scaler", dict, type(None))
        except ValueError as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); move that folder away to go on without it"
            ) from error
        try:
            self.optimiser.load_state_dict(optimiser)
            self._check_moments()
            if self.accelerator.scaler is not None and scaler is not None:
                self.accelerator.scaler.load_state_dict(scaler)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = one_line(f"{type(error).__name__}: {error}", 300)
            raise CheckpointError(f"{path} does not fit this model ({reason})") from error
        shadow = dict(self.policy.named_parameters())
        self.ema.load_state_dict({"shadow": shadow, "num_updates": averaged})
        self.updates = updates

    def _check_moments(self) -> None:
        """See that the optimiser's averages have the shapes of what they belong to.

        Raises:
            ValueError: If they do not, which torch would only notice at the next update.
        """
        for parameter, state in self.optimiser.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if (found := state[name].shape) != parameter.shape:
                    raise ValueError(
                        f"{name} has shape {tuple(found)}, its parameter {tuple(parameter.shape)}"
                    )

    @property
    def _training_file(self) -> str:
        return f"{self.name}_training.pt"
