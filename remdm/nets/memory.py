"""What a net remembers of the steps before, for worlds that show only a part of themselves.

A `MemoryCore` reads one vector per step and writes what is to be known of the past, the step
included. It is learnt from stretches of consecutive steps (`remdm.stretch`); what it holds at the
end of one is a row of numbers that whoever trains or plays carries to the next, so that a stretch
gives the same in one call as in many. Numbers that are all 0 are the memory of nothing.

Axes in this file: R rows, S steps of a row, C channels of a token.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import gin
import torch
from torch import Tensor, nn

from remdm.stretch import Stretch


class MemoryCore(nn.Module, ABC):
    """Reads steps in their order.

    Attributes:
        size: Numbers that it holds for a row.
    """

    size: int

    @abstractmethod
    def forward(
        self, seen: Tensor, stretch: Stretch, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Take in the steps of a stretch.

        All is computed and held in float32, whatever precision the rest of a net runs in: a
        rounding error would be carried from step to step.

        Args:
            seen: Floating [R, S, C]; finite also where a step is not real.
            stretch: Where episodes begin, and what is a step.
            state: Floating [R, size], of the moment before the first step; None for nothing.

        Returns:
            What is remembered at each step, the step included, float32 [R, S, C], and any finite
            numbers where a step is not real; and the state behind the last step, float32
            [R, size].
        """


def lone_steps(count: int, device: torch.device) -> Stretch:
    """Rows of one step each, [count, 1], which begin no episode.

    Args:
        count: How many.
        device: Where to put it.
    """
    real = torch.ones(count, 1, dtype=torch.bool, device=device)
    return Stretch(torch.zeros_like(real), real)


def checked_state(state: Tensor | None, rows: int, size: int, like: Tensor) -> Tensor:
    """The state that a stretch begins with, float32 [rows, size].

    Args:
        state: What was carried; None for zeros.
        rows: Rows of the stretch.
        size: Numbers of a row.
        like: Any tensor on the right device.

    Raises:
        ValueError: If what was carried has another shape.
    """
    if state is None:
        return torch.zeros(rows, size, device=like.device)
    if state.shape != (rows, size):
        raise ValueError(
            f"a memory of {size} numbers in each of {rows} rows is to be carried on, got "
            f"{list(state.shape)}; rows of a batch must stay the same episodes, and a memory is of "
            "use to the net alone that wrote it (memory_type)."
        )
    return state.to(like.device, torch.float32)


@gin.configurable(module="remdm", denylist=["channels"])
class GRUMemory(MemoryCore):
    """Gated recurrent units (Cho et al. 2014, arXiv:1406.1078).

    Gates start such that units keep what they hold for 2 to `longest` steps, evenly on a log scale
    (after the chrono initialisation of Tallec & Ollivier 2018, arXiv:1804.11188, which is even on
    a linear one). What is asked for several stretches after it was seen is hard to learn otherwise:
    no gradient reaches back to where it has to be stored, so it should lie in the memory already.
    """

    def __init__(
        self, channels: int, *, width: int = 128, num_layers: int = 1, longest: int = 256
    ) -> None:
        """Args:
            channels: Channels of a token.
            width: Units of a layer.
            num_layers: Layers; each reads the one below.
            longest: Steps that the slowest units keep what they hold for, when training begins.

        Raises:
            ValueError: If a size is too small.
        """
        super().__init__()
        if width < 1 or num_layers < 1 or longest < 2:
            raise ValueError(
                "a memory needs at least one unit, one layer and two steps to keep them for, got "
                f"{width}, {num_layers} and {longest}; set GRUMemory.width, GRUMemory.num_layers "
                "or GRUMemory.longest."
            )
        self.width, self.size = width, num_layers * width
        self.read = nn.Linear(channels, width)
        self.cells = nn.ModuleList(nn.GRUCell(width, width) for _ in range(num_layers))
        # Units that keep long take in little at a time. Without this, what a sign leaves in them
        # was a hundredth of what the net's other tokens held, and was learnt from much later.
        self.norm = nn.LayerNorm(width)
        self.write = nn.Linear(width, channels)
        for cell in self.cells:
            _keep_for(cell, longest)

    def forward(
        self, seen: Tensor, stretch: Stretch, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `MemoryCore.forward`."""
        with torch.autocast(seen.device.type, enabled=False):
            held = checked_state(state, stretch.rows, self.size, seen)
            real = stretch.real[..., None]
            begins = stretch.first[..., None] & real
            steps, after = self.read(seen.float()), []
            for cell, hidden in zip(self.cells, held.split(self.width, 1), strict=True):
                shown = []
                for step in range(stretch.steps):
                    hidden = hidden.masked_fill(begins[:, step], 0.0)
                    hidden = torch.where(real[:, step], cell(steps[:, step], hidden), hidden)
                    shown.append(hidden)
                steps = torch.stack(shown, 1)
                after.append(hidden)
            return self.write(self.norm(steps)), torch.cat(after, 1)


def _keep_for(cell: nn.Module, longest: int) -> None:
    """Let units of a `GRUCell` keep their values for 2 to `longest` steps, evenly on a log scale.

    Its update gate is the share of the old value; a bias b keeps it for 1 + exp(b) steps.
    """
    assert isinstance(cell, nn.GRUCell)
    update = slice(cell.hidden_size, 2 * cell.hidden_size)
    with torch.no_grad():
        cell.bias_hh[update] = 0.0
        cell.bias_ih[update].uniform_(0.0, math.log(longest - 1.0) + 1e-6)


class MemoryToken(nn.Module):
    """A core between a net's tokens: reads a summary of each step's, and writes one more.

    Attributes:
        core: What remembers.
    """

    def __init__(self, width: int, memory_type: Callable[[int], MemoryCore]) -> None:
        """Args:
        width: Channels of a token.
        memory_type: Makes the core.
        """
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.core = memory_type(width)

    def forward(
        self, summary: Tensor, stretch: Stretch | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One token of what is remembered.

        Args:
            summary: [B, width], B = R * S.
            stretch: How the B states follow one another; None for rows of one step each.
            state: See `MemoryCore.forward`.

        Returns:
            [B, 1, width], and the new state.
        """
        if stretch is None:
            stretch = lone_steps(len(summary), summary.device)
        seen = self.norm(summary).view(stretch.rows, stretch.steps, -1)
        told, after = self.core(seen, stretch, state)
        return told.flatten(0, 1)[:, None].to(summary.dtype), after


class Summary(nn.Module):
    """Many tokens as one: their mean at first, then a mean weighted by what is learnt to matter."""

    def __init__(self, width: int) -> None:
        """Args:
        width: Channels of a token.
        """
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, M, width] to [B, width]."""
        scores = tokens.float() @ (self.query * (1.0 / math.sqrt(len(self.query))))
        weights = scores.softmax(1).to(tokens.dtype)
        return torch.einsum("bm,bmc->bc", weights, tokens)
