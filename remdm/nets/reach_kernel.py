"""Shortest ways over a whole map under learned costs, compiled: exact values and exact gradients.

D(x) = min(source(x), min over the eight neighbours n of D(n) + cost of the step from x to n) is
the fixed point of value iteration with max in log space (reference: Tamar et al. 2016,
arXiv:1602.02867). Dijkstra's order finds it in one pass, however far the way, and the order in
which cells are settled, read backwards, is all that the gradient needs.

The step from x to n costs enter(n), plus slant(x) + slant(n) where it is diagonal, plus `wary`
where it is known to have failed.
"""

import numba
import numpy as np

from remdm.maps import DELTAS, NUM_DIRECTIONS

_DR = DELTAS[:, 0].copy()
_DC = DELTAS[:, 1].copy()
_FIRST_DIAGONAL = 4
OWN_SOURCE = -1


@numba.njit(cache=True, inline="always")
def _sift_down(keys: np.ndarray, cells: np.ndarray, size: int, hole: int) -> None:
    key, cell = keys[hole], cells[hole]
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[hole], cells[hole] = keys[child], cells[child]
        hole = child
    keys[hole], cells[hole] = key, cell


@numba.njit(cache=True, inline="always")
def _push(keys: np.ndarray, cells: np.ndarray, size: int, key: float, cell: int) -> None:
    hole = size
    while hole > 0:
        above = (hole - 1) // 2
        if keys[above] <= key:
            break
        keys[hole], cells[hole] = keys[above], cells[above]
        hole = above
    keys[hole], cells[hole] = key, cell


@numba.njit(cache=True, inline="always")
def _relax(
    cell: int,
    enter: np.ndarray,
    slant: np.ndarray,
    blocked: np.ndarray,
    wary: float,
    settled: np.ndarray,
    distance: np.ndarray,
    parent: np.ndarray,
    keys: np.ndarray,
    cells: np.ndarray,
    size: int,
) -> int:
    """Offer the neighbours of a settled cell the way through it; returns the heap's new size."""
    height, width = enter.shape
    row, col = cell // width, cell % width
    inward = distance[cell] + enter[row, col]
    for d in range(NUM_DIRECTIONS):
        # The neighbour that would come here by a step in direction d.
        r, c = row - _DR[d], col - _DC[d]
        neighbour = r * width + c
        if not (0 <= r < height and 0 <= c < width) or settled[neighbour]:
            continue
        way = inward
        if d >= _FIRST_DIAGONAL:
            way += slant[row, col] + slant[r, c]
        if (blocked[r, c] >> d) & 1:
            way += wary
        if way < distance[neighbour]:
            distance[neighbour] = way
            parent[neighbour] = d
            _push(keys, cells, size, way, neighbour)
            size += 1
    return size


@numba.njit(cache=True)
def _spread(
    source: np.ndarray,
    enter: np.ndarray,
    slant: np.ndarray,
    blocked: np.ndarray,
    wary: float,
    agent: int,
    margin: float,
    distance: np.ndarray,
    parent: np.ndarray,
    order: np.ndarray,
    keys: np.ndarray,
    cells: np.ndarray,
) -> int:
    """Settle the cells of one map up to `margin` beyond the agent; returns how many."""
    height, width = source.shape
    count = height * width
    settled = np.zeros(count, np.bool_)
    for cell in range(count):
        keys[cell] = distance[cell] = source[cell // width, cell % width]
        cells[cell] = cell
        parent[cell] = OWN_SOURCE
    size = count
    for hole in range(count // 2 - 1, -1, -1):
        _sift_down(keys, cells, size, hole)
    done, limit = 0, np.float32(np.inf)
    while size > 0 and keys[0] < limit:
        cell = cells[0]
        size -= 1
        keys[0], cells[0] = keys[size], cells[size]
        _sift_down(keys, cells, size, 0)
        if settled[cell]:
            continue
        settled[cell] = True
        order[done] = cell
        done += 1
        if cell == agent:
            limit = np.float32(distance[cell] + margin)
        size = _relax(
            cell, enter, slant, blocked, wary, settled, distance, parent, keys, cells, size
        )
    for cell in range(count):
        if not settled[cell]:
            distance[cell] = limit
    return done


@numba.njit(cache=True, nogil=True)
def spread(
    source: np.ndarray,
    enter: np.ndarray,
    slant: np.ndarray,
    blocked: np.ndarray,
    wary: np.ndarray,
    position: np.ndarray,
    margin: float,
    distance: np.ndarray,
    parent: np.ndarray,
    order: np.ndarray,
    done: np.ndarray,
) -> None:
    """D of B states and C channels, capped at `margin` above D at the agent's cell.

    Args:
        source: float32 [B, C, height, width], what it costs to end here.
        enter: float32 [B, C, height, width], not negative.
        slant: float32 [B, C, height, width], not negative.
        blocked: uint8 [B, height, width] of direction bits.
        wary: float32 [C], not negative.
        position: integers [B, 2].
        margin: How far beyond the agent the exact values go.
        distance: float32 [B, C, height * width], written.
        parent: int8 [B, C, height * width], written: direction of the next step, or `OWN_SOURCE`.
        order: int16 [B, C, height * width], written: cells in the order they were settled.
        done: int32 [B, C], written: how many of them.
    """
    batch, channels, height, width = source.shape
    room = height * width * (NUM_DIRECTIONS + 1)
    keys, cells = np.empty(room, np.float32), np.empty(room, np.int32)
    for b in range(batch):
        agent = int(position[b, 0]) * width + int(position[b, 1])
        for c in range(channels):
            done[b, c] = _spread(
                source[b, c],
                enter[b, c],
                slant[b, c],
                blocked[b],
                wary[c],
                agent,
                margin,
                distance[b, c],
                parent[b, c],
                order[b, c],
                keys,
                cells,
            )


@numba.njit(cache=True, nogil=True)
def spread_backward(
    gradient: np.ndarray,
    blocked: np.ndarray,
    position: np.ndarray,
    parent: np.ndarray,
    order: np.ndarray,
    done: np.ndarray,
    source: np.ndarray,
    enter: np.ndarray,
    slant: np.ndarray,
    wary: np.ndarray,
) -> None:
    """Gradients of `spread`, which flow along the best ways to the cells where these end.

    Args:
        gradient: float32 [B, C, height * width] of `distance`; used up.
        blocked: See `spread`; likewise the next four.
        position: See `spread`.
        parent: See `spread`.
        order: See `spread`.
        done: See `spread`.
        source: float32 [B, C, height, width], zeroed, written; likewise the next two.
        enter: The same.
        slant: The same.
        wary: float32 [B, C], zeroed, written.
    """
    batch, channels, height, width = source.shape
    settled = np.empty(height * width, np.bool_)
    for b in range(batch):
        agent = int(position[b, 0]) * width + int(position[b, 1])
        for c in range(channels):
            grad, ways, cells = gradient[b, c], parent[b, c], order[b, c]
            settled[:] = False
            for i in range(done[b, c]):
                settled[cells[i]] = True
            for cell in range(height * width):
                if not settled[cell]:  # capped: limit = D(agent) + margin
                    grad[agent] += grad[cell]
            for i in range(done[b, c] - 1, -1, -1):
                cell = cells[i]
                g, d = grad[cell], ways[cell]
                row, col = cell // width, cell % width
                if d == OWN_SOURCE:
                    source[b, c, row, col] += g
                    continue
                r, q = row + _DR[d], col + _DC[d]
                grad[r * width + q] += g
                enter[b, c, r, q] += g
                if d >= _FIRST_DIAGONAL:
                    slant[b, c, row, col] += g
                    slant[b, c, r, q] += g
                if (blocked[b, row, col] >> d) & 1:
                    wary[b, c] += g


@numba.njit(cache=True, nogil=True)
def follow(
    parent: np.ndarray, position: np.ndarray, width: int, steps: np.ndarray, cells: np.ndarray
) -> None:
    """The first steps of the cheapest ways from the agents.

    Args:
        parent: int8 [B, C, height * width], of `spread`.
        position: integers [B, 2].
        width: Of the map.
        steps: int8 [B, C, K], written: directions, then NUM_DIRECTIONS where the way has ended.
        cells: int16 [B, C, K], written: the cells that they enter, the last one again and again.
    """
    for b in range(steps.shape[0]):
        for c in range(steps.shape[1]):
            cell = int(position[b, 0]) * width + int(position[b, 1])
            for k in range(steps.shape[2]):
                d = parent[b, c, cell]
                if d == OWN_SOURCE:
                    d = NUM_DIRECTIONS
                else:
                    cell += _DR[d] * width + _DC[d]
                steps[b, c, k] = d
                cells[b, c, k] = cell
