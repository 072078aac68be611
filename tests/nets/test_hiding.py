"""What a search can be hoped to find."""

import math

import pytest
import torch

from remdm.maps import Terrain
from remdm.nets.hiding import FIRST_CHANCE, HARDLY, MISS, Hiding, log_hope
from remdm.nets.known_cells import neighbourhoods
from tests.nets.states import random_states, tensors


def corridor() -> dict[str, torch.Tensor]:
    """Five cells in a row on a map of 7 x 9; nothing has been searched."""
    terrain = torch.zeros(1, 7, 9, dtype=torch.uint8)
    terrain[0, 3, 2:7] = Terrain.CORRIDOR
    return {"terrain": terrain, "searched": torch.zeros(1, 7, 9, dtype=torch.uint8)}


def alike(hiding: Hiding) -> Hiding:
    """Every cell hides something with the first chance."""
    torch.nn.init.zeros_(hiding.chance.weight)
    return hiding.requires_grad_(False)


def test_what_can_be_found_is_the_sum_of_the_chances_within_reach():
    found = alike(Hiding(4))(corridor())
    assert float(found[0, 3, 4]) == pytest.approx(9 * FIRST_CHANCE, rel=1e-5)
    # Beyond the ends of the corridor cells are near, two further they are not.
    assert float(found[0, 3, 0]) == pytest.approx(3 * FIRST_CHANCE, rel=1e-5)


def test_each_search_in_vain_leaves_six_sevenths_at_first():
    states = corridor()
    states["searched"][0, 2:5, 3:6] = 10
    found = alike(Hiding(4))(states)
    assert float(found[0, 3, 4]) == pytest.approx(9 * FIRST_CHANCE * MISS**10, rel=1e-4)


def test_a_place_that_was_searched_for_ever_has_a_finite_logarithm():
    states = corridor()
    states["searched"][:] = 255
    hope = log_hope(alike(Hiding(4))(states))
    assert float(hope[0, 3, 4]) == pytest.approx(math.log(HARDLY), abs=1e-3)


def test_chances_follow_from_what_lies_around():
    """A door in a wall is learnt to hide something in front of it, in a few dozen updates."""
    torch.manual_seed(0)
    hiding = Hiding(8)
    states = corridor()
    states["terrain"][0, 3, 6] = Terrain.OPEN_DOOR
    optimiser = torch.optim.Adam(hiding.parameters(), 1e-2)
    for _ in range(60):
        found = hiding(states)
        loss = (log_hope(found[0, 3, 5]) - math.log(0.3)).square()
        loss = loss + (log_hope(found[0, 3, 3]) - math.log(0.01)).square()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert found[0, 3, 5] > 5 * found[0, 3, 3]


def test_neighbourhoods_equal_loops_over_cells():
    maps = tensors(random_states(3, height=5, width=6))["terrain"].to(torch.int32)
    index = torch.arange(3 * 5 * 6)
    found = neighbourhoods(maps, index, 99)
    for place in range(3 * 5 * 6):
        b, r, c = place // 30, place % 30 // 6, place % 6
        wanted = [
            int(maps[b, r + i, c + j]) if 0 <= r + i < 5 and 0 <= c + j < 6 else 99
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
        ]
        assert found[place].tolist() == wanted
