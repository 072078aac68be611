"""Which moves of a plan the remembered map speaks against, on maps drawn by hand."""

import numpy as np
import pytest
import torch

from remdm.evaluation.plan_path import Deed, plan_path
from remdm.maps import NUM_ACTIONS, Action, Terrain
from remdm.planning_constraints import hazardous_moves
from remdm.tokens import end_token, mask_token
from tests.nets.states import random_states

SYMBOLS = {
    " ": Terrain.UNKNOWN,
    ".": Terrain.FLOOR,
    "@": Terrain.FLOOR,
    "-": Terrain.WALL,
    "#": Terrain.CORRIDOR,
    "'": Terrain.DOORWAY,
    "/": Terrain.OPEN_DOOR,
    "+": Terrain.CLOSED_DOOR,
    "L": Terrain.LOCKED_DOOR,
    ">": Terrain.GOAL,
    "*": Terrain.OBJECT,
    "0": Terrain.BOULDER,
    "m": Terrain.MONSTER,
    "}": Terrain.HAZARD,
}
TOKENS = {
    "n": Action.NORTH,
    "e": Action.EAST,
    "s": Action.SOUTH,
    "w": Action.WEST,
    "9": Action.NORTHEAST,
    "3": Action.SOUTHEAST,
    "1": Action.SOUTHWEST,
    "7": Action.NORTHWEST,
    "o": Action.OPEN,
    "k": Action.KICK,
    "f": Action.SEARCH,
    "z": Action.WAIT,
    "?": mask_token(NUM_ACTIONS),
    "$": end_token(NUM_ACTIONS),
}


def drawn(*lines: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Terrain [1, h, w] and the agent's position [1, 2]."""
    terrain = torch.tensor([[SYMBOLS[c] for c in line] for line in lines], dtype=torch.uint8)
    row = next(i for i, line in enumerate(lines) if "@" in line)
    return terrain[None], torch.tensor([[row, lines[row].index("@")]])


def judged(plan: str, *lines: str) -> str:
    """The plan's hazardous moves as "x", the rest as "."."""
    tokens = torch.tensor([[int(TOKENS[c]) for c in plan]])
    marks = hazardous_moves(*drawn(*lines), tokens)
    assert marks.shape == tokens.shape
    assert marks.dtype == torch.bool
    return "".join("x" if mark else "." for mark in marks[0])


POOL = (
    "------",
    "-@...-",
    "-.}}.-",
    "-....-",
    "------",
)


@pytest.mark.parametrize(
    ("plan", "marks"),
    [
        ("eee", "..."),
        ("eeee", "...x"),  # the wall is three steps away
        ("es", ".x"),  # the pool lies below the second cell
        ("3", "x"),
        ("ss", ".."),
        ("sse3", "...x"),
        ("n", "x"),
        ("ne", "x."),  # a move into a wall leads nowhere: east is judged from the first cell
        ("nns", "xx."),
        ("ese", ".x."),  # nor does one into the pool
        ("fzs", "..."),
    ],
)
def test_moves_are_judged_from_the_cell_the_plan_leads_to(plan: str, marks: str) -> None:
    assert judged(plan, *POOL) == marks


@pytest.mark.parametrize("symbol", ["-", "}", "L"])
def test_walls_hazards_and_locked_doors_are_hazardous(symbol: str) -> None:
    assert judged("e", f"@{symbol}.") == "x"


@pytest.mark.parametrize("symbol", [".", " ", "#", "'", "/", "+", ">", "*", "0", "m"])
def test_anything_else_may_be_entered_straight(symbol: str) -> None:
    assert judged("e", f"@{symbol}.") == "."


@pytest.mark.parametrize("plan", ["n", "w", "s", "e", "9", "3", "1", "7"])
def test_the_map_ends_in_a_wall(plan: str) -> None:
    assert judged(plan, "@") == "x"


def test_what_follows_a_mask_or_an_end_is_not_judged() -> None:
    assert judged("n?nnn", *POOL) == "x...."
    assert judged("n$nnn", *POOL) == "x...."
    assert judged("kn?n", *POOL) == "...."
    assert judged("k?nn", *POOL) == "...."


def test_a_direction_after_kick_or_open_is_no_move() -> None:
    assert judged("knn", *POOL) == "..x"
    assert judged("onn", *POOL) == "..x"
    assert judged("kzn", *POOL) == "..x"
    assert judged("kkn", *POOL) == "..."


def test_a_kicked_door_is_open_from_then_on() -> None:
    assert judged("ee", "@L.-") == "xx"
    assert judged("keeee", "@L.-") == "....x"
    assert judged("oeeee", "@+.-") == "....x"
    assert judged("keee", "@-.-") == "..xx"  # a kick opens no wall


def test_bumping_into_a_closed_door_opens_it_without_entering() -> None:
    assert judged("eeee", "@+.-") == "...x"
    assert judged("eee", "@+-") == "..x"


@pytest.mark.parametrize("door", ["/", "+", "L"])
def test_doors_are_not_passed_diagonally(door: str) -> None:
    assert judged("3", "@-", f"-{door}") == "x"
    assert judged("3", "@.", ".'") == "."


def test_a_door_is_left_straight() -> None:
    assert judged("e3e", "@/.", "-..") == ".x."
    assert judged("e3", "@'.", "-..") == ".."


def test_rows_are_judged_apart() -> None:
    terrain, position = drawn("@.-")
    other = terrain.clone()
    other[0, 0, 1] = int(Terrain.WALL)
    both = torch.cat([terrain, other])
    tokens = torch.tensor([[1, 1], [1, 1]])
    marks = hazardous_moves(both, position.expand(2, -1).to(torch.uint8), tokens)
    assert marks.tolist() == [[False, True], [True, True]]
    assert hazardous_moves(both[:0], position[:0], tokens[:0]).shape == (0, 2)


def test_straight_moves_agree_with_the_path_that_is_drawn() -> None:
    # The pictures of a plan follow the same rules; they walk into hazards and know no diagonals.
    states = random_states(200)
    terrain = np.where(states["terrain"] == Terrain.HAZARD, Terrain.FLOOR, states["terrain"])
    plans = np.random.default_rng(0).choice([0, 1, 2, 3, 10, 11], (200, 16))
    marks = hazardous_moves(
        torch.from_numpy(terrain), torch.from_numpy(states["position"]), torch.from_numpy(plans)
    )
    height, width = terrain.shape[1:]
    for row in range(200):
        for step in plan_path(states["position"][row], plans[row], terrain[row]):
            r, c = step.target
            inside = 0 <= r < height and 0 <= c < width
            opens = inside and terrain[row, r, c] == Terrain.CLOSED_DOOR
            fails = step.deed is Deed.BUMP and not opens
            assert bool(marks[row, step.first_token]) == fails
