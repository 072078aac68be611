"""What an egocentric encoder sees of a map observation, computed from the stored arrays.

Two views, both centred on the agent: a *crop* of cell codes (terrain x recency of the last visit x
search coverage x failed moves into it) and a *coarse* map of cell counts per block that covers the
whole level.
The code of a cell outside the map is 0: unknown, never visited, not searched, not blocked.

The tensor functions here run on any device; `remdm.nets.egocentric_kernel` computes the same
numbers on the CPU in one compiled pass, and `egocentric_features` picks between them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from remdm.maps import DELTAS, NUM_TERRAINS, Terrain

FEATURE_KEYS = ("position", "step", "terrain", "visited", "searched", "blocked")

NUM_VISIT_BUCKETS = 8  # never; then by age 0, 1-2, 3-6, 7-14, 15-30, 31-62, 63 and more
NUM_SEARCH_BUCKETS = 6  # 0, 1-5, 6-10, 11-15, 16-20, 21 and more
SEARCHES_PER_BUCKET = 5  # an oracle's search plan asks for five at a time
NUM_BLOCKED = 3  # no move into the cell failed; one did, from elsewhere; one did, from here
NUM_CELL_CODES = NUM_TERRAINS * NUM_VISIT_BUCKETS * NUM_SEARCH_BUCKETS * NUM_BLOCKED

COARSE_CHANNELS = ("wall", "visited", "unvisited", "goal", "door", "frontier")
NUM_COARSE_CHANNELS = len(COARSE_CHANNELS)

WALKABLE = (
    Terrain.FLOOR,
    Terrain.CORRIDOR,
    Terrain.DOORWAY,
    Terrain.OPEN_DOOR,
    Terrain.GOAL,
    Terrain.OBJECT,
    Terrain.BOULDER,
    Terrain.MONSTER,
)
DOORS = (Terrain.DOORWAY, Terrain.OPEN_DOOR, Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR)


def terrain_flags(members: tuple[Terrain, ...]) -> np.ndarray:
    """Which terrains are among `members`, bool [NUM_TERRAINS]."""
    flags = np.zeros(NUM_TERRAINS, np.bool_)
    flags[list(members)] = True
    return flags


@dataclass(frozen=True, slots=True)
class ViewSize:
    """Sizes of the two egocentric views.

    Attributes:
        crop: Side of the square crop in cells; odd, so that the agent is its centre.
        coarse_rows: Rows of the coarse map in blocks; odd.
        coarse_columns: Columns of the coarse map in blocks; odd.
        block: Side of a block in cells; odd.
    """

    crop: int = 21
    coarse_rows: int = 9
    coarse_columns: int = 33
    block: int = 5


@dataclass(frozen=True, slots=True)
class EgocentricFeatures:
    """Input of an egocentric encoder.

    Attributes:
        cells: int32 [B, crop, crop] cell codes below `NUM_CELL_CODES`, mixed radix in the order
            terrain, visit bucket, search bucket, blocked (the last varies fastest).
        coarse: float32 [B, coarse_rows, coarse_columns, 6] number of cells of each kind of
            `COARSE_CHANNELS` in each block.
    """

    cells: Tensor
    coarse: Tensor


def visit_bucket(visited: Tensor, step: Tensor) -> Tensor:
    """Bucket of the time since the last visit.

    Args:
        visited: int [B, height, width]: 1 + step of the last visit, 0 for never.
        step: int [B]: the current step.

    Returns:
        int32 [B, height, width] below `NUM_VISIT_BUCKETS`; 0 for never.
    """
    age = step.to(torch.int32)[:, None, None] + 1 - visited.to(torch.int32)
    # floor(log2(age + 1)) by counting thresholds: exact, unlike a float logarithm.
    bucket = torch.ones_like(age)
    for power in range(1, NUM_VISIT_BUCKETS - 1):
        bucket += age + 1 >= 2**power
    return bucket * (visited > 0)


def search_bucket(searched: Tensor) -> Tensor:
    """int32 bucket of a search count, same shape, below `NUM_SEARCH_BUCKETS`."""
    count = searched.to(torch.int32)
    bucket = torch.div(count + SEARCHES_PER_BUCKET - 1, SEARCHES_PER_BUCKET, rounding_mode="floor")
    return bucket.clamp_(max=NUM_SEARCH_BUCKETS - 1)


def blocked_into(blocked: Tensor, position: Tensor) -> Tensor:
    """What is known of failed moves into each cell.

    Args:
        blocked: uint8 [B, height, width]: bit d set where a move in direction d failed.
        position: integers [B, 2]: the agent's cell.

    Returns:
        int32 [B, height, width]: 0 where none failed, 2 where one from the agent's present cell
        did, 1 where only others did.
    """
    batch, height, width = blocked.shape
    padded = blocked.new_zeros(batch, height + 2, width + 2)
    padded[:, 1:-1, 1:-1] = blocked
    rows = torch.arange(batch, device=blocked.device)
    here = torch.zeros_like(padded, dtype=torch.bool)
    here[rows, position[:, 0].to(torch.int64) + 1, position[:, 1].to(torch.int64) + 1] = True
    into = torch.zeros_like(blocked, dtype=torch.int32)
    for direction, (row, column) in enumerate(DELTAS.tolist()):
        window = (
            slice(None),
            slice(1 - row, 1 - row + height),
            slice(1 - column, 1 - column + width),
        )
        failed = (padded[window] & (1 << direction)) > 0
        into = torch.maximum(into, failed.to(torch.int32) + (failed & here[window]))
    return into


def unknown_beside(terrain: Tensor) -> Tensor:
    """Cells with an unknown neighbour among the eight on the map, bool [B, height, width]."""
    batch, height, width = terrain.shape
    padded = torch.zeros(batch, height + 2, width + 2, dtype=torch.bool, device=terrain.device)
    padded[:, 1:-1, 1:-1] = terrain == Terrain.UNKNOWN
    beside = torch.zeros_like(terrain, dtype=torch.bool)
    for row, column in DELTAS.tolist():
        beside |= padded[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]
    return beside


def cell_codes(observations: dict[str, Tensor]) -> Tensor:
    """int32 [B, height, width]: the code of every cell of the map."""
    code = observations["terrain"].to(torch.int32)
    code = code * NUM_VISIT_BUCKETS + visit_bucket(observations["visited"], observations["step"])
    code = code * NUM_SEARCH_BUCKETS + search_bucket(observations["searched"])
    into = blocked_into(observations["blocked"], observations["position"])
    return code * NUM_BLOCKED + into


def egocentric_crop(values: Tensor, position: Tensor, size: int, outside: int = 0) -> Tensor:
    """Cut a square around the agent.

    Args:
        values: [B, height, width].
        position: integers [B, 2]: row and column of the centre.
        size: Side of the square, odd.
        outside: Value of cells off the map.

    Returns:
        [B, size, size], dtype of `values`.
    """
    batch, height, width = values.shape
    offsets = torch.arange(size, device=values.device) - size // 2
    centre = position.to(torch.int64)
    rows = centre[:, :1] + offsets
    columns = centre[:, 1:] + offsets
    inside = ((rows >= 0) & (rows < height))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, :]
    index = rows.clamp(0, height - 1)[:, :, None] * width
    index = index + columns.clamp(0, width - 1)[:, None, :]
    picked = values.flatten(1).gather(1, index.flatten(1)).view(batch, size, size)
    return picked.masked_fill(~inside, outside)


def _block_membership(centre: Tensor, length: int, blocks: int, size: int) -> Tensor:
    """float32 [B, blocks, length]: 1 where a row (or column) lies in an agent-centred block."""
    along = torch.arange(length, device=centre.device) - centre.to(torch.int64)[:, None]
    block = torch.div(along + size // 2, size, rounding_mode="floor") + blocks // 2
    return (block[:, None, :] == torch.arange(blocks, device=centre.device)[:, None]).float()


def coarse_counts(observations: dict[str, Tensor], size: ViewSize) -> Tensor:
    """Count the cells of each kind in agent-centred blocks.

    Args:
        observations: Arrays of `remdm.maps.map_observation_spec`, batched.
        size: Block grid.

    Returns:
        float32 [B, coarse_rows, coarse_columns, 6], exact counts.
    """
    terrain = observations["terrain"]
    _, height, width = terrain.shape

    def among(members: tuple[Terrain, ...]) -> Tensor:
        flags = torch.from_numpy(terrain_flags(members)).to(terrain.device)
        return flags[terrain.to(torch.int64)]

    visited = observations["visited"] > 0
    unvisited = among(WALKABLE) & ~visited
    kinds = torch.stack(
        [
            terrain == Terrain.WALL,
            visited,
            unvisited,
            terrain == Terrain.GOAL,
            among(DOORS),
            unvisited & unknown_beside(terrain),
        ],
        dim=1,
    ).float()
    position = observations["position"]
    rows = _block_membership(position[:, 0], height, size.coarse_rows, size.block)
    columns = _block_membership(position[:, 1], width, size.coarse_columns, size.block)
    with torch.autocast(terrain.device.type, enabled=False):
        return torch.einsum("brh,bkhw,bcw->brck", rows, kinds, columns)


def features_by_tensors(observations: dict[str, Tensor], size: ViewSize) -> EgocentricFeatures:
    """Both views by tensor operations, on the device of the observations."""
    return EgocentricFeatures(
        cells=egocentric_crop(cell_codes(observations), observations["position"], size.crop),
        coarse=coarse_counts(observations, size),
    )


def egocentric_features(observations: dict[str, Tensor], size: ViewSize) -> EgocentricFeatures:
    """Both views, by the compiled kernel on the CPU and by tensor operations elsewhere."""
    if observations["terrain"].device.type != "cpu":
        return features_by_tensors(observations, size)
    from remdm.nets.egocentric_kernel import features_by_kernel

    return features_by_kernel(observations, size)
