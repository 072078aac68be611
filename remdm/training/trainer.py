"""One agent with what trains it: optimiser, learning rate, gradient clip, moving average."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from remdm.agent import BaseAgent
from remdm.data.batch import Batch
from remdm.nets.ema import EMA
from remdm.training.checkpoint import CheckpointError, load_into, load_weights, save_weights


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """How weights follow gradients; the fields are arguments of `Experiment`.

    Attributes:
        learning_rate: Peak learning rate of AdamW.
        lr_warmup_steps: Updates of linear warm-up.
        lr_final_fraction: Share of the peak that the cosine decay ends at; 1 keeps it constant.
        l2_coeff: Decoupled weight decay.
        grad_clip: Largest norm of the gradient.
        ema_decay: Decay of the moving average of the weights, per update.
        total_updates: Updates of the whole run.
    """

    learning_rate: float
    lr_warmup_steps: int
    lr_final_fraction: float
    l2_coeff: float
    grad_clip: float
    ema_decay: float
    total_updates: int

    def rate(self, update: int) -> float:
        """Learning rate of update number `update`, as a share of the peak."""
        if update < self.lr_warmup_steps:
            return (update + 1) / self.lr_warmup_steps
        span = max(1, self.total_updates - self.lr_warmup_steps)
        share = min(1.0, (update - self.lr_warmup_steps) / span)
        low = self.lr_final_fraction
        return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * share))


class AgentTrainer:
    """Trains `agent` and keeps `ema_agent`, a copy whose weights are averaged over updates."""

    def __init__(
        self,
        name: str,
        agent: BaseAgent,
        ema_agent: BaseAgent,
        accelerator: Accelerator,
        settings: OptimiserSettings,
    ) -> None:
        """Args:
        name: Name of the agent in files, metrics and tables.
        agent: The agent to train.
        ema_agent: Another instance of the same agent.
        accelerator: Decides on device, precision and processes.
        settings: See `OptimiserSettings`.
        """
        self.name = name
        self.settings = settings
        self.accelerator = accelerator
        self.agent = agent.to(accelerator.device)
        self.ema_agent = ema_agent.to(accelerator.device).eval().requires_grad_(False)
        decayed, plain = [], []
        for parameter in self.agent.parameters():
            (decayed if parameter.ndim >= 2 else plain).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": settings.l2_coeff},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self.model, self.optimiser = accelerator.prepare(self.agent, optimiser)
        self.ema = EMA(self.agent, decay=settings.ema_decay)
        self.ema.copy_to(self.ema_agent)
        self.updates = 0

    def train_step(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Back-propagate one batch; update the weights when enough batches are accumulated.

        Args:
            batch: On the accelerator's device.
            generator: Draws the masks.

        Returns:
            The metrics of the loss, the gradient's norm and the learning rate.

        Raises:
            FloatingPointError: If the loss is not finite; the weights are unchanged.
        """
        with self.accelerator.accumulate(self.model):
            loss, metrics = self.model(batch, generator)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of {self.name} is {loss.item()} at update {self.updates}; lower "
                    "Experiment.learning_rate or set Experiment.mixed_precision = 'no'"
                )
            self.accelerator.backward(loss)
            results = {"loss": float(loss.detach()), **{k: float(v) for k, v in metrics.items()}}
            if self.accelerator.sync_gradients:
                share = self.settings.rate(self.updates)
                for group in self.optimiser.param_groups:
                    group["lr"] = self.settings.learning_rate * share
                norm = self.accelerator.clip_grad_norm_(
                    self.agent.parameters(), self.settings.grad_clip
                )
                self.optimiser.step()
                self.optimiser.zero_grad()
                self.ema.update(self.agent)
                self.updates += 1
                results["grad_norm"] = float(norm)
                results["learning_rate"] = self.settings.learning_rate * share
        return results

    def sync_ema_agent(self) -> BaseAgent:
        """Copy the averaged weights into `ema_agent` and return it."""
        self.ema.copy_to(self.ema_agent)
        return self.ema_agent

    def save(self, folder: Path) -> None:
        """Write weights, averaged weights and the optimiser's state into `folder`."""
        self.sync_ema_agent()
        save_weights(folder / f"{self.name}.safetensors", self.agent.state_dict())
        save_weights(folder / f"{self.name}_ema.safetensors", self.ema_agent.state_dict())
        training = {
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
            "updates": self.updates,
        }
        torch.save(training, folder / f"{self.name}_training.pt")

    def load(self, folder: Path, *, resume: bool = True) -> None:
        """Read what `save` wrote.

        Args:
            folder: A checkpoint folder.
            resume: Also restore the optimiser and the moving average; otherwise the averaged
                weights become the new start.

        Raises:
            CheckpointError: If a file is missing, damaged, or of another model.
        """
        averaged = folder / f"{self.name}_ema.safetensors"
        load_into(self.ema_agent, load_weights(averaged), averaged)
        if not resume:
            self.agent.load_state_dict(self.ema_agent.state_dict())
            self.ema = EMA(self.agent, decay=self.settings.ema_decay)
            return
        raw = folder / f"{self.name}.safetensors"
        load_into(self.agent, load_weights(raw), raw)
        path = folder / f"{self.name}_training.pt"
        try:
            training: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types for a torn file
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        self.optimiser.load_state_dict(training["optimiser"])
        self.ema.load_state_dict(training["ema"])
        self.updates = training["updates"]
