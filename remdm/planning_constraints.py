"""Optional rules at planning time: what the remembered map rules out, and a way out of loops.

`allowed_first_actions` forbids, `hazardous_moves` raises doubts, `PlanMemory` finds loops. All are
off by default and reported apart from the plain agent, because they add knowledge of the game that
the agent has not learnt. They only touch what the sampler does with the net's answers, not the net.
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from remdm.maps import DELTAS, NUM_ACTIONS, NUM_DIRECTIONS, NUM_TERRAINS, Action, Terrain

# Searching on after this many turns at a place finds less than one hidden thing in twenty.
ENOUGH_SEARCHES = 20
MAX_HEAT = 6.0
HEAT_PER_REPEAT = 0.5
FREE_REPEATS = 2
FIRST_DIAGONAL = 4

_NO_ENTRY = np.zeros(NUM_TERRAINS, np.bool_)
_NO_ENTRY[[Terrain.UNKNOWN, Terrain.WALL, Terrain.LOCKED_DOOR, Terrain.HAZARD]] = True
_NO_DIAGONAL = np.zeros(NUM_TERRAINS, np.bool_)
_NO_DIAGONAL[[Terrain.OPEN_DOOR, Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR]] = True


# What a kick is for, and what is opened; both ask the player for a direction.
_DIRECTED = {Action.OPEN: Terrain.CLOSED_DOOR, Action.KICK: Terrain.LOCKED_DOOR}


def door_directions(
    actions: np.ndarray, observations: Mapping[str, ArrayLike], otherwise: int
) -> np.ndarray:
    """Where OPEN and KICK are meant to go, for agents that plan one action.

    Args:
        actions: Integers [N], of `remdm.maps.Action`.
        observations: `terrain` and `position`, batched [N, ...].
        otherwise: What stands where there is no such action.

    Returns:
        int64 [N]: the direction of the first neighbour that is a door to be opened or kicked, north
        where there is none, and `otherwise` for other actions.
    """
    terrain, position = (np.asarray(observations[name]) for name in ("terrain", "position"))
    rows = np.arange(len(actions))
    around = position.astype(np.int64)[:, None, :] + DELTAS
    inside = ((around >= 0) & (around < terrain.shape[1:])).all(-1)
    around = np.clip(around, 0, np.array(terrain.shape[1:]) - 1)
    beside = terrain[rows[:, None], around[..., 0], around[..., 1]]
    found = np.full(len(actions), otherwise, np.int64)
    for action, door in _DIRECTED.items():
        asked = actions == action
        found[asked] = ((beside == door) & inside)[asked].argmax(1)
    return found


def allowed_first_actions(observations: dict[str, np.ndarray]) -> np.ndarray:
    """Actions that the remembered map does not rule out.

    A move is ruled out into known walls, locked doors, hazards, cells never seen and off the map,
    where it has failed before, and diagonally through a door; KICK and OPEN are ruled out without a
    locked, or closed, door beside the agent; SEARCH after `ENOUGH_SEARCHES` searches. WAIT is not.

    Args:
        observations: `terrain`, `blocked`, `searched`, `position` of
            `remdm.maps.map_observation_spec`, batched [N, ...].

    Returns:
        bool [N, 12]; every row has at least one True.
    """
    terrain, position = observations["terrain"], observations["position"].astype(np.int64)
    height, width = terrain.shape[1:]
    rows = np.arange(len(terrain))
    here = (rows, position[:, 0], position[:, 1])
    target = position[:, None, :] + DELTAS
    inside = ((target >= 0) & (target < (height, width))).all(-1)
    clipped = np.clip(target, 0, (height - 1, width - 1))
    beside = terrain[rows[:, None], clipped[..., 0], clipped[..., 1]]
    beside = np.where(inside, beside, Terrain.UNKNOWN)

    failed = (observations["blocked"][here][:, None] >> np.arange(NUM_DIRECTIONS)) & 1
    moves = ~_NO_ENTRY[beside] & (failed == 0)
    through_door = _NO_DIAGONAL[beside] | _NO_DIAGONAL[terrain[here]][:, None]
    moves[:, FIRST_DIAGONAL:] &= ~through_door[:, FIRST_DIAGONAL:]

    allowed = np.ones((len(terrain), NUM_ACTIONS), np.bool_)
    allowed[:, :NUM_DIRECTIONS] = moves
    allowed[:, Action.OPEN] = (beside == Terrain.CLOSED_DOOR).any(1)
    allowed[:, Action.KICK] = (beside == Terrain.LOCKED_DOOR).any(1)
    allowed[:, Action.SEARCH] = observations["searched"][here] < ENOUGH_SEARCHES
    return allowed


def hazardous_moves(terrain: Tensor, position: Tensor, tokens: Tensor) -> Tensor:
    """Moves of plans that the remembered map says would fail or harm, where they would be made.

    Each plan is followed from the agent's cell: a move is judged from the cell that the tokens
    before it lead to. Judged are moves into walls, hazards and locked doors, off the map, and
    diagonally through a door; such a move leaves the agent where it is. Cells never seen are
    entered without objection. A direction after KICK or OPEN belongs to it; doors that are kicked,
    opened or bumped into count as open from then on, as in `remdm.evaluation.plan_path`. What
    follows a MASK or an END is not judged.

    Args:
        terrain: uint8 [B, h, w], `remdm.maps.Terrain` of every cell as remembered.
        position: Integer [B, 2]: (row, column) of the agent.
        tokens: int64 [B, H].

    Returns:
        bool [B, H], for the sampler's `implausible`; on the tokens' device, judged on the CPU.
    """
    from remdm.hazard_kernel import judge  # on first use, because numba is slow to load

    hazardous = np.zeros(tokens.shape, np.bool_)
    judge(terrain.cpu().numpy(), position.cpu().long().numpy(), tokens.cpu().numpy(), hazardous)
    return torch.from_numpy(hazardous).to(tokens.device)


class PlanMemory:
    """Counts the plans made in each state of each running episode, for the loop breaker.

    A state is the agent's position and the number of cells it knows: while both stay, nothing was
    learnt, and the same plan is likely to fail the same way.
    """

    def __init__(self) -> None:
        """Nothing is remembered yet."""
        self._counts: dict[int, dict[tuple[int, int, int], int]] = defaultdict(dict)

    def reset(self, rows: np.ndarray) -> None:
        """New episodes start in `rows`, int64 [n]."""
        for row in rows.tolist():
            self._counts.pop(row, None)

    def count(self, observations: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
        """How many plans were made in each state before; counts one more.

        Args:
            observations: `terrain` and `position`, [n, ...].
            rows: int64 [n]: the episodes they belong to.

        Returns:
            int64 [n], what `BaseAgent.plan` takes as `repeats`.
        """
        known = (observations["terrain"] != Terrain.UNKNOWN).sum((1, 2)).tolist()
        repeats = np.empty(len(rows), np.int64)
        places = observations["position"].tolist()
        for i, (row, place) in enumerate(zip(rows.tolist(), places, strict=True)):
            state = (place[0], place[1], known[i])
            seen = self._counts[row]
            repeats[i] = seen.get(state, 0)
            seen[state] = int(repeats[i]) + 1
        return repeats


def heat(repeats: np.ndarray) -> np.ndarray:
    """Factor on the sampler's temperature after `repeats` plans in the same state, float32."""
    factor = 1.0 + HEAT_PER_REPEAT * (repeats - FREE_REPEATS)
    return np.clip(factor, 1.0, MAX_HEAT).astype(np.float32)


def total_heat(repeats: np.ndarray | None, factor: float, like: Tensor) -> Tensor | None:
    """Factor on the temperature of N plans, float32 [N, 1, 1]; None where it is 1 for all.

    Args:
        repeats: int64 [N]: see `heat`; None where they are of no concern.
        factor: One more, of all plans.
        like: [N, ...]: on the device where it is wanted.
    """
    if repeats is None and factor == 1.0:
        return None
    own = np.ones(len(like), np.float32) if repeats is None else heat(repeats)
    return torch.from_numpy(own[:, None, None] * np.float32(factor)).to(like.device)
