"""Exponential moving average of a module's parameters."""

from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """A shadow of trainable parameters that follows them slowly.

    After n updates the decay is min(decay, (1 + n) / (10 + n)): a young average forgets the random
    start quickly. Frozen parameters are copied, not averaged, so rounding never moves them.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.999, warmup: bool = True) -> None:
        """Start at the model's present weights.

        Args:
            model: Source of parameter names and values.
            decay: Share of the old average kept at each update, in [0, 1).
            warmup: Raise the decay from 0.1 with the number of updates.

        Raises:
            ValueError: If `decay` is outside [0, 1).
        """
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1), got {decay}; set Experiment.ema_decay.")
        self.decay = decay
        self.warmup = warmup
        self.num_updates = 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def current_decay(self) -> float:
        """The decay that the next update uses."""
        if not self.warmup:
            return self.decay
        return min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's parameters: s <- d s + (1 - d) p."""
        averaged: list[Tensor] = []
        values: list[Tensor] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                averaged.append(self.shadow[name])
                values.append(parameter.detach())
            else:
                self.shadow[name].copy_(parameter)
        decay = self.current_decay()
        if averaged:
            torch._foreach_lerp_(averaged, values, 1.0 - decay)
        self.num_updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into the parameters of `model`, a module of the same shape."""
        own = dict(model.named_parameters())
        self._check_names(set(own), "model")
        for name, parameter in own.items():
            parameter.copy_(self.shadow[name])

    def to(self, device: torch.device | str) -> "EMA":
        """Move the average to a device."""
        self.shadow = {name: value.to(device) for name, value in self.shadow.items()}
        return self

    def state_dict(self) -> dict[str, Any]:
        """Average, number of updates and settings, for `load_state_dict`."""
        return {
            "decay": self.decay,
            "num_updates": self.num_updates,
            "shadow": {name: value.clone() for name, value in self.shadow.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore an average; the decay of this object stays.

        Raises:
            ValueError: If names or shapes are not exactly those of this average.
        """
        shadow = state["shadow"]
        self._check_names(set(shadow), "saved average")
        for name, value in shadow.items():
            if value.shape != self.shadow[name].shape:
                raise ValueError(
                    f"saved average of {name} has shape {tuple(value.shape)}, the model has "
                    f"{tuple(self.shadow[name].shape)}; load it with the config it was saved with."
                )
        for name, value in shadow.items():
            self.shadow[name].copy_(value)
        self.num_updates = int(state["num_updates"])

    def _check_names(self, names: set[str], what: str) -> None:
        if names != set(self.shadow):
            missing = sorted(set(self.shadow) - names)[:5]
            extra = sorted(names - set(self.shadow))[:5]
            raise ValueError(
                f"the {what} must have exactly the parameters of the average; "
                f"missing: {missing}, unknown: {extra}."
            )
