"""Where plans lead first, on drawn maps and against both oracles."""

import numpy as np
import pytest
import torch

from remdm.maps import Action
from remdm.nets.plan_ends import ends_ways, plan_ends
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.oracles.tour_oracle import TourOracle
from tests.nets.states import tensors
from tests.oracles.drawn import END, drawn, random_maps

N, E, S, W = Action.NORTH, Action.EAST, Action.SOUTH, Action.WEST
NE, SE = Action.NORTHEAST, Action.SOUTHEAST
KICK, SEARCH = Action.KICK, Action.SEARCH
ROOM = """
,,,,,,
,,,,,,
,,@,,,
,,,,,,
"""
# The cell east of the agent, and the one in the corner, border the unknown and were never visited.
FRONTIERS = """
,,,?,
,@.,,
,,,,,
,,,,.
?
"""
DOORS = """
WWW+W
,@,,L
,,,,,
"""
STAIRS = """
,,,?,
,@..>
,,,,,
"""


def led(drawing: str, plan: list[int]) -> tuple[tuple[int, ...], bool]:
    """The place and whether it is told, of a plan that END tokens fill up."""
    padded = torch.tensor([plan + [END] * (6 - len(plan))])
    places, told = plan_ends(tensors(drawn(drawing)), padded)
    return tuple(places[0].tolist()), bool(told[0])


@pytest.mark.parametrize(
    ("drawing", "plan", "place", "told"),
    [
        (ROOM, [E, E, NE], (1, 5), True),
        (ROOM, [E, S, SEARCH, SEARCH], (3, 3), True),
        (ROOM, [SEARCH, E, E, E, E, E], (2, 2), True),
        (ROOM, [E, W, E, W, E, W], (2, 2), False),
        (ROOM, [], (2, 2), False),
        (FRONTIERS, [S, E, E, SE], (3, 4), True),
        (FRONTIERS, [E], (1, 2), True),
        (FRONTIERS, [E, E, S, E, W, W], (1, 2), True),
        (DOORS, [E, E, N], (0, 3), True),
        (DOORS, [E, E, N, S, E, E], (0, 3), True),
        (DOORS, [E, E, KICK, E], (1, 4), True),
        (STAIRS, [E, E, E], (1, 4), True),
    ],
    ids=[
        "walks", "searches", "searches-here", "cut", "nothing",
        "around-the-frontier", "to-the-frontier", "past-the-frontier", "to-a-door", "past-a-door",
        "kicks", "past-the-frontier-to-the-stairs",
    ],
)  # fmt: skip
def test_a_plan_leads_to_the_first_place_that_ends_ways_or_where_it_stops(
    drawing, plan, place, told
):
    assert led(drawing, plan) == (place, told)


def test_places_off_the_map_end_no_way():
    states = tensors(drawn(FRONTIERS))
    places = torch.tensor([[[-1, 2], [1, -3], [5, 0], [0, 5], [1, 2]]])
    assert ends_ways(states, places).tolist() == [[False] * 4 + [True]]


def test_cut_plans_lead_to_their_own_ends():
    states = random_maps(500, seed=0, goals=False)
    plans = torch.from_numpy(MemoryOracle().label(states, 64)[0]).long()
    before_end = (plans != END) & (plans != SEARCH)
    states = tensors(states)
    places, told = plan_ends(states, plans)
    blind = {**states, "terrain": torch.ones_like(states["terrain"])}  # nothing but floor
    blind["visited"] = torch.ones_like(states["visited"])
    ends, known = plan_ends(blind, plans)
    assert bool((told == known).all())
    assert bool((places == ends).all())
    assert int(before_end.sum(1).max()) > 5


def test_tours_lead_first_to_where_cut_plans_end():
    states = random_maps(500, seed=1, goals=False)
    cut = torch.from_numpy(MemoryOracle().label(states, 64)[0]).long()
    tours = torch.from_numpy(TourOracle().label(states, 64)[0]).long()
    states = tensors(states)
    for first, second in zip(plan_ends(states, cut), plan_ends(states, tours), strict=True):
        np.testing.assert_array_equal(first, second)
    assert float((cut != tours).any(1).float().mean()) > 0.5
