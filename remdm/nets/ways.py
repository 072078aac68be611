"""The cheapest ways of `remdm.nets.reach_kernel` as a function of tensors, with its gradient."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from remdm.nets.reach_kernel import follow, spread, spread_backward

# Ways are followed exactly this far beyond the agent's own distance.
MARGIN = 6.0


class _Distances(torch.autograd.Function):
    """`reach_kernel.spread` with its gradient, computed on the CPU in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        enter: Tensor,
        slant: Tensor,
        wary: Tensor,
        blocked: Tensor,
        position: Tensor,
        margin: float,
    ) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = source.shape
        distance = np.empty((batch, channels, height * width), np.float32)
        parent = np.empty(distance.shape, np.int8)
        order = np.empty(distance.shape, np.int16)
        done = np.empty((batch, channels), np.int32)
        walls, place = _array(blocked), _array(position)
        spread(
            _array(source),
            _array(enter),
            _array(slant),
            walls,
            _array(wary),
            place,
            margin,
            distance,
            parent,
            order,
            done,
        )
        ctx.ways = (walls, place, parent, order, done)
        ctx.shape = source.shape
        parents = torch.from_numpy(parent)
        ctx.mark_non_differentiable(parents)
        return torch.from_numpy(distance).to(source.device).view(source.shape), parents

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        walls, place, parent, order, done = ctx.ways
        source, enter, slant = (np.zeros(ctx.shape, np.float32) for _ in range(3))
        wary = np.zeros(ctx.shape[:2], np.float32)
        used = _array(gradient.float().flatten(2)).copy()
        spread_backward(used, walls, place, parent, order, done, source, enter, slant, wary)
        found = (source, enter, slant, wary.sum(0))
        return *(torch.from_numpy(x).to(gradient.device) for x in found), None, None, None


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


class Ways(NamedTuple):
    """The cheapest ways from all cells to where they end.

    Attributes:
        distance: float32 [B, C, height, width], what they cost.
        parent: int8 [B, C, height * width] on the CPU, where they step first: see
            `reach_kernel.spread`.
    """

    distance: Tensor
    parent: Tensor


def cheapest_ways(
    source: Tensor,
    enter: Tensor,
    slant: Tensor,
    wary: Tensor,
    blocked: Tensor,
    position: Tensor,
    margin: float = MARGIN,
) -> Ways:
    """The cheapest ways of B states and C channels, by `reach_kernel`.

    Args:
        source: float32 [B, C, height, width], cost of ending in a cell.
        enter: float32 [B, C, height, width], cost of entering it; not negative.
        slant: float32 [B, C, height, width], added at both ends of a diagonal step.
        wary: float32 [C], added to steps that have failed.
        blocked: uint8 [B, height, width] of direction bits.
        position: uint8 [B, 2], the agent's cell.
        margin: What is dearer than the agent's own way by more than this counts as this dear.

    Returns:
        Distances of at most `margin` more than at the agent's cell, with gradients to the first
        four arguments; steps that are right wherever the distances are.
    """
    return Ways(*_Distances.apply(source, enter, slant, wary, blocked, position, margin))


def first_steps(parent: Tensor, position: Tensor, width: int, count: int) -> tuple[Tensor, Tensor]:
    """The first steps of the agents' own cheapest ways.

    Args:
        parent: Of `cheapest_ways`.
        position: integers [B, 2], the agents' cells.
        width: Of the map.
        count: How many steps.

    Returns:
        int64 [B, C, count], directions and NUM_DIRECTIONS once the way has ended; and int64
        [B, C, count], the cells that they enter, row by row. Both on the device of the positions.
    """
    shape = (*parent.shape[:2], count)
    steps, cells = np.empty(shape, np.int8), np.empty(shape, np.int16)
    follow(_array(parent), _array(position), width, steps, cells)
    there = position.device
    return torch.from_numpy(steps).to(there).long(), torch.from_numpy(cells).to(there).long()
