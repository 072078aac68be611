"""Classes that a plan may not take, by position."""

from dataclasses import dataclass

import torch
from torch import Tensor

from remdm.diffusion.classes import end_class, num_classes


@dataclass(frozen=True, slots=True)
class Bars:
    """What is forbidden.

    Attributes:
        first: bool [B or 1, C]: barred at position 0.
        everywhere: bool [C]: barred at every other position.
        by_position: bool [B, H, C]: barred in addition; None for nothing.
    """

    first: Tensor
    everywhere: Tensor
    by_position: Tensor | None

    @classmethod
    def build(
        cls,
        num_actions: int,
        first_token_mask: Tensor | None,
        token_mask: Tensor | None,
        allow_end: bool,
        forbid_empty: bool,
        device: torch.device,
    ) -> "Bars":
        """Bars from masks of what is allowed; see `Sampler.sample`.

        Raises:
            ValueError: If `first_token_mask` has another number of classes.
        """
        end = end_class(num_actions)
        everywhere = torch.zeros(num_classes(num_actions), dtype=torch.bool, device=device)
        everywhere[end] = not allow_end
        first = everywhere.clone()
        first[end] = forbid_empty or not allow_end
        if first_token_mask is not None:
            if first_token_mask.shape[-1:] != first.shape:
                raise ValueError(
                    f"first_token_mask must be bool [B, {len(first)}] or [{len(first)}] with a "
                    f"column for END, got {list(first_token_mask.shape)}"
                )
            first = first | ~first_token_mask.to(device, torch.bool)
        first = torch.atleast_2d(first)
        by_position = None if token_mask is None else ~token_mask.to(device, torch.bool)
        return cls(first, everywhere, by_position)

    def check(self, batch_size: int, horizon: int) -> None:
        """Refuse masks of the wrong shape and positions where nothing is allowed.

        Raises:
            ValueError: In either case.
        """
        classes = len(self.everywhere)
        if self.first.shape not in {(1, classes), (batch_size, classes)}:
            raise ValueError(
                f"first_token_mask must be bool [{batch_size}, {classes}] or [{classes}], got "
                f"{list(self.first.shape)}"
            )
        shape = (batch_size, horizon, classes)
        if self.by_position is not None and self.by_position.shape != shape:
            raise ValueError(
                f"token_mask must be bool {list(shape)}, got {list(self.by_position.shape)}"
            )
        barred = self.first.all(-1)
        if self.by_position is not None:
            all_barred = self.mask(horizon).all(-1)
            barred = all_barred.any(-1)
        if bool(barred.any()):
            row = int(barred.nonzero()[0, 0])
            raise ValueError(
                f"the masks leave no class for a position of row {row}; every position needs an "
                "allowed action (END is barred from position 0)"
            )

    def mask(self, horizon: int) -> Tensor:
        """Everything that is barred, bool [B or 1, H, C]."""
        barred = self.everywhere.expand(len(self.first), horizon, -1).clone()
        barred[:, 0] = self.first
        return barred if self.by_position is None else barred | self.by_position

    def apply(self, logits: Tensor) -> Tensor:
        """Logits [b, H, C] with minus infinity where barred."""
        return logits.masked_fill(self.mask(logits.shape[1]), -torch.inf)

    def select(self, index: Tensor) -> "Bars":
        """The bars of some rows of the present batch."""
        first = self.first if len(self.first) == 1 else self.first[index]
        by_position = None if self.by_position is None else self.by_position[index]
        return Bars(first, self.everywhere, by_position)
