import numpy as np
import pytest

from remdm.maps import Action, Terrain, empty_observations, map_observation_spec
from remdm.training.exploration import LOCKED_CHANCE, explore
from tests.oracles.drawn import Remembered, drawn
from tests.training.remembered import same

# What exploring does to a cell of the world: doors open or break, things give way to the agent.
CHANGES = {
    Terrain.CLOSED_DOOR: {Terrain.LOCKED_DOOR, Terrain.OPEN_DOOR, Terrain.DOORWAY},
    Terrain.BOULDER: {Terrain.FLOOR},
    Terrain.MONSTER: {Terrain.FLOOR},
}
ROOMS = """
WWWWWWWWWWWWWWW
W.....W.......W
W.....+.......W
W.....W.......W
WW+WWWWWWWW-WWW
 W#W      W#W
 W#########|>W
"""


def explored(drawing, steps, *, noise=0.1, seed=0):
    """The drawing as the world, and what is remembered after so many steps in it."""
    start = drawn(drawing)
    world = start["terrain"][0].copy()
    memory = empty_observations(map_observation_spec(*world.shape), (1,))
    row, column = start["position"][0].tolist()
    maps = [memory[k][0] for k in ("terrain", "visited", "searched", "blocked", "position")]
    rng = np.random.default_rng(seed)
    memory["step"][0] = explore(world, row, column, steps, noise, rng, *maps)
    return start["terrain"][0], memory


def allowed(before, after):
    return after in (Terrain.UNKNOWN, before) or after in CHANGES.get(Terrain(before), ())


@pytest.mark.parametrize("steps", [0, 1, 5, 40, 200])
def test_what_is_remembered_lies_in_the_world_near_where_the_agent_was(steps):
    for seed in range(30):
        drawing = ROOMS.replace("W.....+", "W@....+", 1)
        world, memory = explored(drawing, steps, seed=seed)
        terrain, visited = memory["terrain"][0], memory["visited"][0]
        pairs = zip(world.ravel().tolist(), terrain.ravel().tolist(), strict=True)
        assert all(allowed(before, after) for before, after in pairs)
        padded = np.pad(visited > 0, 1)
        near = [np.roll(padded, (r, c), (0, 1)) for r in (-1, 0, 1) for c in (-1, 0, 1)]
        seen = np.logical_or.reduce(near)[1:-1, 1:-1]
        assert not (terrain != Terrain.UNKNOWN)[~seen].any()
        assert (terrain != Terrain.UNKNOWN)[seen & (world != Terrain.UNKNOWN)].all()


@pytest.mark.parametrize("steps", [0, 1, 5, 40, 200])
def test_the_memory_is_one_that_an_episode_could_have(steps):
    for seed in range(30):
        drawing = ROOMS.replace("W.....+", "W@....+", 1)
        _, memory = explored(drawing, steps, seed=seed)
        here = Remembered(memory)
        taken = int(memory["step"][0])
        assert taken <= steps + 1
        assert here.visited[here.start] == taken + 1
        assert here.visited.max() == taken + 1
        assert here.visited.min() == 0
        been = np.argwhere(here.visited > 0).tolist()
        assert all(here.at(tuple(cell)) != Terrain.UNKNOWN for cell in been)
        assert all(here.at(tuple(cell)) != Terrain.GOAL for cell in been)
        # Where a move failed there is something that stops it.
        bits = [(tuple(cell), d) for cell in been for d in range(8) if here.tried(tuple(cell), d)]
        here.blocked[:] = 0
        assert not any(here.can_step(cell, d) for cell, d in bits)


def test_things_in_the_way_give_way():
    start = drawn("""
WWWWWW
W@...W
WWWWWW
""")
    start["terrain"][0, 1, 2:4] = Terrain.BOULDER, Terrain.MONSTER
    world = start["terrain"][0]
    memory = empty_observations(map_observation_spec(*world.shape), ())
    maps = [memory[k] for k in ("terrain", "visited", "searched", "blocked", "position")]
    explore(world, 1, 1, 20, 0.0, np.random.default_rng(0), *maps)
    assert memory["terrain"][1, 1:5].tolist() == [Terrain.FLOOR] * 4


def test_a_door_is_locked_as_often_as_it_says():
    drawing = "WWWW\nW@+ \nWWWW"
    locked, count = 0, 2000
    for seed in range(count):
        _, memory = explored(drawing, 1, noise=0.0, seed=seed)
        kind = memory["terrain"][0, 1, 2]
        assert kind in (Terrain.LOCKED_DOOR, Terrain.OPEN_DOOR)
        locked += int(kind == Terrain.LOCKED_DOOR)
    # Five standard deviations: wrong with chance 6e-7.
    spread = 5 * np.sqrt(count * LOCKED_CHANCE * (1 - LOCKED_CHANCE))
    assert abs(locked - count * LOCKED_CHANCE) < spread


def test_a_locked_door_is_kicked_until_it_breaks():
    ends = {
        int(explored("WWWWWW\nW@+..W\nWWWWWW", 300, noise=0.0, seed=s)[1]["terrain"][0, 1, 2])
        for s in range(50)
    }
    assert ends == {Terrain.OPEN_DOOR, Terrain.DOORWAY}


@pytest.mark.parametrize("length", range(20, 29))
def test_a_kick_at_the_end_of_a_long_way_is_not_cut_in_two(length):
    # Beside a locked door a corridor leads away to a dead end; the way back to the door is about
    # as long as the plans in there, so that for one of these lengths KICK is the last token.
    corridor = "." * length
    wall = "W" * (length + 4)
    broken = 0
    for seed in range(12):
        _, memory = explored(f"{wall}\nW+@{corridor}W\n{wall}", 400, noise=0.0, seed=seed)
        broken += int(memory["terrain"][0, 1, 1] == Terrain.DOORWAY)
        assert memory["terrain"][0, 1, 1] in (Terrain.DOORWAY, Terrain.OPEN_DOOR)
        assert memory["blocked"].sum() == 0
    # All twelve doors open at the first try with chance 0.7 ** 12 = 0.014; with these seeds not.
    assert broken > 0


def test_a_bump_into_a_door_does_not_count_as_a_blocked_way():
    for seed in range(200):
        _, memory = explored("WWWW\nW@+W\nWW+W\nWWWW", 6, noise=1.0, seed=seed)
        doors = 1 << Action.EAST | 1 << Action.SOUTHEAST
        opened = Terrain.OPEN_DOOR in memory["terrain"]
        assert opened or not memory["blocked"][0, 1, 1] & doors


def test_it_stops_before_the_stairs():
    for seed in range(20):
        _, memory = explored("WWWWWW\nW@..>W\nWWWWWW", 50, noise=0.0, seed=seed)
        assert memory["position"][0].tolist() == [1, 3]
        assert memory["visited"][0, 1, 4] == 0
        assert memory["step"][0] == 2


def test_the_generator_alone_decides():
    drawing = ROOMS.replace("W.....+", "W@....+", 1)
    first, again, other = (explored(drawing, 60, seed=s)[1] for s in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_whatever_was_in_the_arrays_is_forgotten():
    world = drawn("W@..W")["terrain"][0]
    fresh = empty_observations(map_observation_spec(*world.shape), ())
    dirty = {k: np.full_like(v, 7) for k, v in fresh.items()}
    for memory in (fresh, dirty):
        maps = [memory[k] for k in ("terrain", "visited", "searched", "blocked", "position")]
        explore(world.copy(), 0, 1, 3, 0.0, np.random.default_rng(0), *maps)
        del memory["step"], memory["glyphs"]
    assert same(fresh, dirty)
