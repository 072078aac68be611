"""Tours: what comes after the first uncertain event, if it taught nothing."""

import numpy as np
import pytest

from remdm.maps import NUM_DIRECTIONS, Action, Terrain
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.oracles.search import SEARCH_TURNS
from remdm.oracles.tour_oracle import TourOracle
from tests.oracles.drawn import END, Remembered, drawn, random_maps, words


def tour_of(drawing: str, plan_horizon: int = 16, **arrays: np.ndarray) -> str:
    plans, weights = TourOracle().label(drawn(drawing, **arrays), plan_horizon)
    assert weights.tolist() == [1.0]
    return words(plans[0])


CORRIDOR = """
WWWWWWWWW
.,,,@,..
WWWWWWWW
"""


def test_it_goes_from_the_nearest_frontier_to_the_next():
    assert tour_of(CORRIDOR, 3) == "E E E"
    wide = """
WWWWWWWWWWW
 .,,@,,,,.
WWWWWWWWWWW
"""
    assert tour_of(wide, 12) == "W W W" + " E" * 8 + " SEARCH"


def test_nothing_follows_the_stairs():
    assert (
        tour_of("""
 .WWWWW
W@,,,>W
WWWWWWW
""")
        == "E E E E"
    )


def test_a_closed_door_is_tried_once_and_left():
    assert (
        tour_of(
            """
WWWWWWWW
+@,,,,.
WWWWWWWW
""",
            8,
        )
        == "W E E E E E SEARCH SEARCH"
    )


@pytest.mark.parametrize(
    ("plan_horizon", "plan"),
    [(3, "E E E"), (4, "E E E"), (5, "E E E KICK E"), (9, "E E E KICK E")],
)
def test_a_kick_ends_the_tour_and_is_never_without_its_direction(plan_horizon, plan):
    drawing = """
WWWWWW
W@,,,L
WWWWWW
"""
    assert tour_of(drawing, plan_horizon) == plan


def test_a_kick_comes_after_the_frontiers_that_are_nearer():
    assert (
        tour_of("""
WWWWWWWWWW
L,,@,.
WWWWWWWWWW
""")
        == "E E W W W W KICK W"
    )


def test_searches_in_vain_move_the_search_to_another_place():
    """Two dead ends: searches at one, then the walk to the other."""
    blind = """
?
?%%&?

"""
    tour = tour_of(blind, 64).split()
    first = tour.index("SEARCH")
    assert tour[first : first + SEARCH_TURNS] == ["SEARCH"] * SEARCH_TURNS
    assert {"E", "W"} <= set(tour[first + SEARCH_TURNS :]) <= {"E", "W", "SEARCH"}
    assert len(tour) == 64


def test_the_observation_stays_as_it_is():
    seen = random_maps(50, 3, goals=True)
    before = {key: value.copy() for key, value in seen.items()}
    TourOracle().label(seen, 16)
    assert all(np.array_equal(seen[key], before[key]) for key in seen)


def test_it_acts_up_to_the_first_uncertain_event():
    seen = drawn(CORRIDOR)
    acted = TourOracle().plan(seen, 16, np.random.default_rng(0))
    assert np.array_equal(acted, MemoryOracle().label(seen, 16)[0])


class Tourist(Remembered):
    """Writes a tour slowly: `MemoryOracle` is asked anew after each leg."""

    def tour(self, observations: dict[str, np.ndarray], index: int, horizon: int) -> list[int]:
        seen = {key: value[index : index + 1].copy() for key, value in observations.items()}
        plan: list[int] = []
        while True:
            # Far enough for every way on these maps.
            leg = [t for t in MemoryOracle().label(seen, 200)[0][0].tolist() if t != END]
            if Action.KICK in leg:
                kick = leg.index(Action.KICK)
                plan += leg if len(plan) + kick + 2 <= horizon else leg[:kick]
                return plan[:horizon]
            plan += leg
            row, column = seen["position"][0].tolist()
            for token in leg:
                if token == Action.SEARCH:
                    around = np.s_[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                    seen["searched"][around] += seen["searched"][around] < 255
                    continue
                assert token < NUM_DIRECTIONS
                there = self.next_to((row, column), token)
                if seen["terrain"][0][there] == Terrain.CLOSED_DOOR:
                    seen["terrain"][0][there] = Terrain.WALL
                else:
                    row, column = there
            seen["position"][0] = row, column
            seen["visited"][0, row, column] = 1
            if len(plan) >= horizon or seen["terrain"][0, row, column] == Terrain.GOAL:
                return plan[:horizon]


@pytest.mark.parametrize("goals", [False, True])
def test_tours_are_the_legs_of_the_memory_oracle_one_after_the_other(goals):
    horizon = 24
    seen = random_maps(300, 5, goals=goals)
    tours, _ = TourOracle().label(seen, horizon)
    first, _ = MemoryOracle().label(seen, horizon)
    longer = 0
    for i in range(len(tours)):
        wanted = Tourist(seen, i).tour(seen, i, horizon)
        assert tours[i].tolist() == wanted + [END] * (horizon - len(wanted))
        legs = first[i][first[i] != END].tolist()
        if legs[-1:] != [Action.KICK]:
            assert wanted[: len(legs)] == legs
        longer += len(wanted) > len(legs)
    # So that the comparison says something: most maps have a second leg.
    assert longer > 100
