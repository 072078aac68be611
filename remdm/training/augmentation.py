"""Imagined memories, labelled by the oracle.

The oracle is a function of the observation, so it can be asked what it would do in a memory that
no episode ever had. Ways to imagine one, all made from states of the training environments:

- *explore*: a map known to some episode, or several glued together, is explored anew with a
  sight of one cell (this makes dark rooms out of lit ones);
- *close*: places at the edge of the known map count as visited and the stairs are forgotten, so
  that the next place worth going to is far away;
- *lock*: some closed doors are known to be locked (`setbacks`);
- *exhaust*: nothing is left to explore, and some places have been searched (`setbacks`);
- *flip*: the map is mirrored upside down, left to right, or both;
- *obstruct*: the first move of the plan has failed, because of a boulder or for no reason that is
  seen (`setbacks`).

Only what is remembered can be imagined. The symbols that the game shows (`glyphs`) stay those of
the sample that was replaced, so this is not for nets and oracles that read them.
"""

from dataclasses import replace

import gin
import numpy as np

from remdm.data.batch import Window
from remdm.maps import DELTAS, NUM_ACTIONS, NUM_DIRECTIONS, Terrain
from remdm.oracles.contract import Oracle
from remdm.tokens import mask_token
from remdm.training.exploration import explore
from remdm.training.setbacks import exhaust, lock, obstruct
from remdm.training.stitching import stitch

# Imagined steps of one exploration, at most, per cell that can be walked on.
STEPS_PER_CELL = 1.5
# Rows that are looked at to find one whose map is well known.
DONOR_CANDIDATES = 4
# Most maps that are glued into one world.
LARGEST_STITCH = 5

_MAPS = ("terrain", "visited", "searched", "blocked")
_WALKABLE = [Terrain.FLOOR, Terrain.CORRIDOR, Terrain.DOORWAY, Terrain.OPEN_DOOR, Terrain.GOAL]
_WALKABLE += [Terrain.OBJECT, Terrain.BOULDER, Terrain.MONSTER]


def _mirrored_bits(axis: int) -> np.ndarray:
    """uint8 [256]: direction bits after mirroring rows (axis 0) or columns (axis 1)."""
    sign = np.where(np.arange(2) == axis, -1, 1)
    mirrored = [int(np.flatnonzero((d * sign == DELTAS).all(1))[0]) for d in DELTAS]
    masks = np.arange(256)
    table = np.zeros(256, np.int64)
    for d in range(NUM_DIRECTIONS):
        table |= ((masks >> d) & 1) << mirrored[d]
    return table.astype(np.uint8)


_MIRRORED_BITS = (_mirrored_bits(0), _mirrored_bits(1))


def _mirrored_tokens(axis: int) -> np.ndarray:
    """int8 [128]: tokens after mirroring; those that are no direction stay."""
    table = np.arange(128, dtype=np.int8)
    bits = _MIRRORED_BITS[axis]
    table[:NUM_DIRECTIONS] = [int(bits[1 << d]).bit_length() - 1 for d in range(NUM_DIRECTIONS)]
    return table


_MIRRORED_TOKENS = (_mirrored_tokens(0), _mirrored_tokens(1))


def mirror(observations: dict[str, np.ndarray], rows: np.ndarray, axis: int) -> None:
    """Mirror the maps of some rows in place.

    Args:
        observations: By name [B, ...].
        rows: Integer indices of the rows to mirror.
        axis: 0 turns north into south, 1 east into west.
    """
    for array in observations.values():
        if array.ndim == 3:
            array[rows] = np.flip(array[rows], axis + 1)
    size = observations["terrain"].shape[axis + 1]
    observations["position"][rows, axis] = size - 1 - observations["position"][rows, axis]
    observations["blocked"][rows] = _MIRRORED_BITS[axis][observations["blocked"][rows]]


def mirror_tokens(tokens: np.ndarray, rows: np.ndarray, axis: int) -> None:
    """Mirror the directions among the tokens of some rows in place.

    Args:
        tokens: int8 [B, m].
        rows: Integer indices of the rows to mirror.
        axis: See `mirror`.
    """
    tokens[rows] = _MIRRORED_TOKENS[axis][tokens[rows]]


def borders_unknown(terrain: np.ndarray) -> np.ndarray:
    """Where some eight-neighbour inside the map is UNKNOWN, bool [B, height, width]."""
    unknown = np.pad(terrain == Terrain.UNKNOWN, ((0, 0), (1, 1), (1, 1)))
    rows, cols = terrain.shape[1:]
    result = np.zeros(terrain.shape, bool)
    for dr, dc in DELTAS:
        result |= unknown[:, 1 + dr : 1 + dr + rows, 1 + dc : 1 + dc + cols]
    return result


def close(observations: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> None:
    """In some rows, forget the stairs and take part of the frontier for visited, in place.

    One place of the frontier, drawn at random, stays open, so that there is somewhere to go.
    """
    if not len(rows):
        return
    terrain = observations["terrain"][rows]
    goal = terrain == Terrain.GOAL
    terrain[goal] = Terrain.FLOOR
    visited = observations["visited"][rows]
    frontier = np.isin(terrain, _WALKABLE) & (visited == 0) & borders_unknown(terrain)
    chance = np.where(frontier, rng.random(terrain.shape), -1.0).reshape(len(rows), -1)
    spared = np.zeros_like(chance, bool)
    spared[np.arange(len(rows)), chance.argmax(1)] = True
    share = rng.random((len(rows), 1, 1))
    closing = frontier & (rng.random(terrain.shape) < share) & ~spared.reshape(terrain.shape)
    when = 1 + rng.random(terrain.shape) * observations["step"][rows, None, None]
    changed = np.where(closing | goal, when.astype(visited.dtype), visited)
    observations["visited"][rows] = changed
    observations["terrain"][rows] = terrain


def explore_anew(
    observations: dict[str, np.ndarray],
    rows: np.ndarray,
    stitch_share: float,
    rng: np.random.Generator,
) -> None:
    """Replace some rows by an exploration of what rows of the batch know, in place.

    Args:
        observations: By name [B, ...].
        rows: Integer indices of the rows to replace.
        stitch_share: Share of the explored worlds that are glued from several maps.
        rng: Source of randomness.
    """
    source = observations["terrain"].copy()
    known = (source != Terrain.UNKNOWN).sum((1, 2))

    def well_known_map() -> np.ndarray:
        candidates = rng.integers(len(source), size=DONOR_CANDIDATES)
        return source[candidates[known[candidates].argmax()]]

    for row in rows:
        world = well_known_map().copy()
        if rng.random() < stitch_share:
            others = [well_known_map() for _ in range(rng.integers(1, LARGEST_STITCH))]
            height, width = world.shape
            world = stitch([world, *others], height, width, rng)
        if rng.random() < 0.5:
            world[world == Terrain.GOAL] = Terrain.FLOOR
        world[world == Terrain.LOCKED_DOOR] = Terrain.CLOSED_DOOR  # to be found out anew
        starts = np.argwhere(np.isin(world, _WALKABLE) & (world != Terrain.GOAL))
        if not len(starts):
            continue
        start = starts[rng.integers(len(starts))]
        terrain, visited, searched, blocked = (observations[key][row] for key in _MAPS)
        observations["step"][row] = explore(
            world,
            int(start[0]),
            int(start[1]),
            int(rng.integers(1 + int(STEPS_PER_CELL * len(starts)))),
            0.1,
            rng,
            terrain,
            visited,
            searched,
            blocked,
            observations["position"][row],
        )


@gin.configurable(module="remdm", denylist=["oracle"])
class MemoryAugmentation:
    """Alters part of a batch and asks the oracle for the plans anew."""

    def __init__(
        self,
        oracle: Oracle,
        *,
        explore_probability: float = 0.3,
        stitch_share: float = 0.5,
        close_probability: float = 0.25,
        flip_probability: float = 0.5,
        lock_probability: float = 0.0,
        exhaust_probability: float = 0.0,
        obstruct_probability: float = 0.0,
    ) -> None:
        """Args:
        oracle: Labels what has been altered; its labels must follow from the remembered maps.
        explore_probability: Share of samples replaced by a new exploration.
        stitch_share: Share of explorations in a world glued from several maps.
        close_probability: Share of samples whose frontier is partly closed.
        flip_probability: Share of samples mirrored, for each axis on its own.
        lock_probability: Share of samples some of whose closed doors are locked.
        exhaust_probability: Share of samples with nothing left to explore.
        obstruct_probability: Share of samples whose plan's first move has failed; of these the
            same share fail once more.

        Raises:
            ValueError: If a probability is outside [0, 1].
        """
        for name, value in (
            ("explore_probability", explore_probability),
            ("stitch_share", stitch_share),
            ("close_probability", close_probability),
            ("flip_probability", flip_probability),
            ("lock_probability", lock_probability),
            ("exhaust_probability", exhaust_probability),
            ("obstruct_probability", obstruct_probability),
        ):
            if not 0.0 <= value <= 1.0:
                raise ValueError(
                    f"{name} must be in [0, 1], got {value}; set MemoryAugmentation.{name}."
                )
        self.oracle = oracle
        self.explore_probability = explore_probability
        self.stitch_share = stitch_share
        self.close_probability = close_probability
        self.flip_probability = flip_probability
        self.lock_probability = lock_probability
        self.exhaust_probability = exhaust_probability
        self.obstruct_probability = obstruct_probability

    def check_stretches(self) -> None:
        """See that a row of steps that follow one another stays one world.

        Raises:
            ValueError: If single steps would be imagined anew.
        """
        imagined = {
            "explore_probability": self.explore_probability,
            "close_probability": self.close_probability,
            "lock_probability": self.lock_probability,
            "exhaust_probability": self.exhaust_probability,
            "obstruct_probability": self.obstruct_probability,
        }
        wrong = [name for name, value in imagined.items() if value > 0]
        if wrong:
            raise ValueError(
                "steps that follow one another can only be mirrored together, and "
                f"{', '.join(wrong)} would alter single ones; set MemoryAugmentation."
                f"{' and MemoryAugmentation.'.join(wrong)} to 0, or DiskTrajDataset.stretch_steps "
                "= None."
            )

    def __call__(self, window: Window, rng: np.random.Generator) -> Window:
        """A window in which a random part of the samples is imagined; the input may be altered.

        Of stretches whole rows are mirrored, and what had no label gets none.

        Raises:
            ValueError: See `check_stretches`.
        """
        if window.stretch is not None:
            self.check_stretches()
        steps = 1 if window.stretch is None else window.stretch.steps
        observations = {k: np.require(v, requirements="W") for k, v in window.observations.items()}
        count = len(window.weights)
        changed = np.zeros(count, bool)

        def draw(probability: float) -> np.ndarray:
            chosen = (rng.random(count // steps) < probability).repeat(steps)
            changed[chosen] = True
            return np.flatnonzero(chosen)

        past = None if window.past is None else window.past.copy()
        explored = draw(self.explore_probability)
        explore_anew(observations, explored, self.stitch_share, rng)
        close(observations, draw(self.close_probability), rng)
        lock(observations, draw(self.lock_probability), rng)
        exhausted = draw(self.exhaust_probability)
        exhaust(observations, exhausted, self.oracle, rng)
        if past is not None:  # nobody has walked to where the agent is now
            past[explored] = past[exhausted] = mask_token(NUM_ACTIONS)
        for axis in (0, 1):
            mirrored = draw(self.flip_probability)
            mirror(observations, mirrored, axis)
            if past is not None:
                mirror_tokens(past, mirrored, axis)
        rows = np.flatnonzero(changed)
        plans, weights = window.plans.copy(), window.weights.copy()
        self._relabel(observations, plans, weights, rows)
        if window.stretch is not None:
            weights[window.weights == 0] = 0.0
        failing = draw(self.obstruct_probability)
        while len(failing):
            failing = obstruct(observations, plans, failing, rng)
            self._relabel(observations, plans, weights, failing)
            failing = failing[rng.random(len(failing)) < self.obstruct_probability]
        return replace(window, observations=observations, plans=plans, weights=weights, past=past)

    def _relabel(
        self,
        observations: dict[str, np.ndarray],
        plans: np.ndarray,
        weights: np.ndarray,
        rows: np.ndarray,
    ) -> None:
        altered = {k: v[rows] for k, v in observations.items()}
        plans[rows], weights[rows] = self.oracle.label(altered, plans.shape[1])
