from collections import Counter

import numpy as np
import pytest

from remdm.maps import Action, Terrain
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.oracles.search import LOCKED_COST, SEARCH_TURNS
from remdm.tokens import plan_lengths
from tests.oracles.drawn import END, Remembered, drawn, random_maps, words

KINDS = ("goal", "frontier", "door", "locked", "search")


def label(observations, plan_horizon=16):
    return MemoryOracle().label(observations, plan_horizon)[0]


def plan_of(drawing, plan_horizon=16, **arrays):
    return words(label(drawn(drawing, **arrays), plan_horizon)[0])


def test_it_takes_a_shortest_way_to_the_stairs_around_a_wall():
    assert plan_of("""
WWWWWWW
W@,W..W
W,,W.>W
W,,..,W
WWWWWWW
""") in ("S SE E NE", "SE S E NE", "SE SE NE E", "S SE NE E", "SE SE E NE")


def test_stairs_are_preferred_to_a_frontier_that_is_nearer():
    assert (
        plan_of("""
 .WWWWW
W@,,,>W
WWWWWWW
""")
        == "E E E E"
    )


def test_stairs_without_a_known_way_are_left_for_the_frontier():
    assert plan_of("""
WWWWWW
W@,W>W
W,,WWW
W,.
""") in ("SE S", "S SE")


def test_it_goes_to_the_nearest_place_never_visited_beside_the_unknown():
    assert (
        plan_of("""
WWWWWWWWW
.,,,@,,..
WWWWWWWW
""")
        == "E E E"
    )


def test_a_visited_place_beside_the_unknown_is_no_frontier():
    assert (
        plan_of("""
WWWWWWW
 ,@,,,.
WWWWWW
""")
        == "E E E E"
    )


def test_the_edge_of_the_map_is_no_frontier():
    plan = plan_of("""
.@.
...
""")
    assert set(plan.split()) == {"SEARCH"}


def test_it_ends_by_walking_into_a_closed_door():
    assert (
        plan_of("""
WWWWWW
W@,,,+
WWWWWW
""")
        == "E E E E"
    )


def test_a_door_is_not_opened_diagonally():
    assert (
        plan_of("""
WWWWW
W@,WW
WW,+W
WWWWW
""")
        == "SE E"
    )


def test_a_locked_door_is_kicked_with_its_direction():
    assert plan_of("""
WWLWW
W,,,W
W,,@W
WWWWW
""") in ("NW KICK N", "W N KICK N", "N W KICK N")


def test_a_locked_door_costs_as_much_as_kicking_it_takes():
    way = "," * (LOCKED_COST - 1)
    wall = "W" * (len(way) + 4)
    assert plan_of(f"{wall}\nL@{way}+W\n{wall}") == " ".join("E" * LOCKED_COST)
    assert plan_of(f"{wall}\nL@{way},+W\n{wall}") == "KICK W"


def test_a_door_bumped_in_vain_from_one_side_is_tried_from_another():
    shut = drawn("""
WWWWW
W@+,W
W,,,W
WWWWW
""")
    assert words(label(shut)[0]) == "E"
    shut["blocked"][0, 1, 1] = 1 << Action.EAST
    assert words(label(shut)[0]) in ("SE N",)


def test_no_diagonal_moves_into_or_out_of_an_open_door():
    assert plan_of("""
WWWWWWW
W@,WW.W
WW,!,.>
WWWWWWW
""") in ("SE E E E E", "SE E E NE SE", "E SW E E E")


def test_diagonal_moves_through_a_broken_door():
    assert (
        plan_of("""
W@WWW
WW-WW
WWW>W
""")
        == "SE SE"
    )


def test_water_is_walked_around():
    assert (
        plan_of("""
WWWWW
W@~>W
W,,,W
WWWWW
""")
        == "SE NE"
    )


def test_a_blocked_way_is_walked_around():
    maze = drawn("""
WWWWW
W@,>W
W,,,W
WWWWW
""")
    maze["blocked"][0, 1, 1] = 1 << Action.EAST
    assert words(label(maze)[0]) == "SE NE"
    maze["blocked"][0, 1, 1] |= 1 << Action.SOUTHEAST
    maze["blocked"][0, 2, 2] = 1 << Action.NORTHEAST
    assert words(label(maze)[0]) in ("S NE E", "S E E N")


def test_it_searches_behind_a_door_that_leads_nowhere_rather_than_at_the_next_wall():
    assert (
        plan_of("""
?WWWWWWW??
?W@,,,,!??
?WWWWWWW??
""")
        == "E E E E E SEARCH SEARCH SEARCH SEARCH SEARCH"
    )


@pytest.mark.parametrize(
    "corridor",
    [
        """
WWWWW
W,@,!%%%%
WWWWW
""",
        """
WWWWW
W,@,!%%
WWWWW  %%
""",
    ],
    ids=["straight", "with a diagonal bend"],
)
def test_it_searches_at_the_dead_end_of_a_corridor(corridor):
    start = drawn(corridor)
    end, rest = Remembered(start).walk(label(start)[0])
    corridor_cells = np.argwhere(start["terrain"][0] == Terrain.CORRIDOR)
    assert end == tuple(corridor_cells[-1])
    assert rest == [Action.SEARCH] * SEARCH_TURNS


def test_it_searches_along_walls_with_the_unknown_behind_them():
    # Only the east wall has anything unknown behind it.
    here = drawn("""
WWWWWWW
W@,,,,W
WWWWWWW
""")
    closed_in = words(label(here)[0])
    wider = drawn("""
WWWWWWW
W@,,,,W?
WWWWWWW
""")
    assert closed_in == "SEARCH " * 4 + "SEARCH"
    assert words(label(wider)[0]) == "E E E E " + closed_in


def test_searches_in_vain_make_a_place_less_attractive():
    # Two dead ends, the nearer one to the west.
    tunnel = "\n %%%&%%%%\n\n"
    tunnel = tunnel.replace("\n\n", "\n         \n")
    here = drawn("         " + tunnel)
    plans = []
    for turns in (0, 5, 10, 20):
        here["searched"][0, :, 0:3] = turns
        plans.append(words(label(here)[0]))
    assert plans[0].startswith("W W W SEARCH")
    assert plans[-1].startswith("E E E E SEARCH")
    # Hope falls by 6/7 with every search, so once given up it stays given up.
    assert plans == sorted(plans, reverse=True)


def test_after_the_last_action_all_is_end():
    plan = label(drawn("W@,,+W"), 9)[0]
    assert plan.tolist() == [Action.EAST] * 3 + [END] * 6
    assert plan.dtype == np.int8


def test_a_way_longer_than_the_horizon_is_cut_without_end():
    long = "W@" + "," * 30 + ">W"
    assert plan_of(long, 16) == " ".join("E" * 16)
    assert plan_of(long, 31) == " ".join("E" * 31)
    assert plan_of(long, 32) == " ".join("E" * 31)


@pytest.mark.parametrize(("horizon", "plan"), [(1, "E"), (2, "E KICK"), (3, "E KICK E")])
def test_a_plan_ends_wherever_the_horizon_says(horizon, plan):
    assert plan_of("W@,LW", horizon) == plan


@pytest.mark.parametrize("turns", [1, 3, 5])
def test_searching_is_cut_by_the_horizon(turns):
    assert plan_of("W@W", turns) == " ".join(["SEARCH"] * turns)


def outcome(world, plan, horizon):
    """What a plan does, and how many actions that takes; fails on an illegal step."""
    cell, rest = world.walk(plan)
    length = int(plan_lengths(plan, len(Action)))
    if rest and rest[0] < 8:
        assert len(rest) == 1
        assert (rest[0], Terrain.CLOSED_DOOR) in world.shut_doors(cell)
        return "door", length
    if rest and rest[0] == Action.KICK:
        assert len(rest) == 2
        assert (rest[1], Terrain.LOCKED_DOOR) in world.shut_doors(cell)
        return "locked", length
    if rest:
        assert rest == [Action.SEARCH] * SEARCH_TURNS
        return "search", length
    return ("goal" if world.at(cell) == Terrain.GOAL else "frontier"), length


def expected(world):
    """The same by a slow search: the best kind of event, and the actions it takes."""
    steps = world.distances()
    goals = [n for cell, n in steps.items() if n and world.at(cell) == Terrain.GOAL]
    if goals:
        return {("goal", min(goals))}
    options = [("frontier", n, n) for cell, n in steps.items() if world.is_frontier(cell)]
    for cell, n in steps.items():
        for _, kind in world.shut_doors(cell):
            locked = kind == Terrain.LOCKED_DOOR
            extra = LOCKED_COST if locked else 0
            options.append(("locked" if locked else "door", n + 1 + extra, n + 1 + locked))
    cheapest = min((cost for _, cost, _ in options), default=None)
    return {(kind, length) for kind, cost, length in options if cost == cheapest}


@pytest.mark.parametrize("goals", [True, False])
def test_on_random_maps_plans_are_shortest_legal_and_never_empty(goals):
    horizon, count = 60, 400
    maps = random_maps(count, 3, goals=goals)
    plans = label(maps, horizon)
    kinds = Counter()
    for i, plan in enumerate(plans):
        words(plan)  # END only at the end
        world = Remembered(maps, i)
        kind, length = outcome(world, plan, horizon)
        assert length >= 1
        options = expected(world)
        if options:
            assert (kind, length) in options
        else:
            assert kind == "search"
        kinds[kind] += 1
    assert set(kinds) == set(KINDS) - (set() if goals else {"goal"})


def test_the_batch_and_its_memory_layout_do_not_matter():
    maps = random_maps(50, 4, goals=True)
    together = label(maps)
    alone = [label({k: v[i : i + 1] for k, v in maps.items()})[0] for i in range(50)]
    assert np.array_equal(together, alone)
    strided = {k: np.repeat(v, 2, 0)[::2] for k, v in maps.items()}
    assert np.array_equal(together, label(strided))
    assert label({k: v[:0] for k, v in maps.items()}).shape == (0, 16)


def test_observations_are_not_changed():
    maps = random_maps(20, 5, goals=True)
    before = {k: v.copy() for k, v in maps.items()}
    for array in maps.values():
        array.flags.writeable = False
    plans, weights = MemoryOracle().label(maps, 16)
    assert all(np.array_equal(maps[k], before[k]) for k in maps)
    assert weights.tolist() == [1.0] * 20
    assert weights.dtype == np.float32
    assert plans.dtype == np.int8
