import numpy as np
import pytest

from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import OraclePolicy
from remdm.evaluation.rollout import evaluate_policy
from remdm.maps import Action
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.oracles.seed_oracle import SeedOracle, seen_terrain
from tests.oracles.drawn import drawn, words

EPISODES = 20


def plan_of(drawing, plan_horizon=16, **arrays):
    return words(SeedOracle().label(drawn(drawing, **arrays), plan_horizon)[0][0])


def wins(oracle, env, **options):
    played = evaluate_policy(
        OraclePolicy(oracle, **options),
        [env],
        episodes=EPISODES,
        first_seed=0,
        make_vec_env=make_vec_env,
        rows=4,
    )
    return played.rows[0].wins


def test_first_it_kicks_a_closed_door_beside_it():
    room = """
WWWWW
W@>.W
W+WWW
"""
    assert plan_of(room) == "KICK S"
    assert plan_of(room, 1) == "KICK"


def test_a_door_across_a_corner_is_not_kicked():
    assert (
        plan_of("""
WWWWW
W@.>W
WW+WW
""")
        == "E E"
    )


def test_second_it_walks_to_the_stairs_in_four_directions():
    assert sorted(
        plan_of("""
WWWWW
W@.WW
W..>W
WWWWW
""").split()
    ) == ["E", "E", "S"]


def test_third_it_walks_to_the_nearest_cell_beside_a_blank_one_visited_or_not():
    assert (
        plan_of("""
WWWWWWW
 ,,@,,,W
WWWWWWWW
""")
        == "W W"
    )


def test_its_own_cell_is_no_frontier_which_makes_it_walk_to_and_fro():
    here = """
WWWWWW
W@,WWW
  WWWW
"""
    there = here.replace("@,", ",@")
    assert plan_of(here) == "E"
    assert plan_of(there) == "W"


def test_fourth_it_walks_to_the_farthest_cell():
    assert (
        plan_of("""
WWWWWWW
W,@,,,W
WWWWWWW
""")
        == "E E E"
    )


def test_fifth_it_moves_at_random_by_position_and_step():
    moves = set()
    for step in range(40):
        plan = plan_of("WWW\nW@W\nWWW", step=step)
        assert plan == plan_of("WWW\nW@W\nWWW", step=step)
        moves.add(plan)
    assert moves == {"N", "E", "S", "W"}


def test_neither_open_nor_closed_doors_are_walked_through():
    for door in "|+":
        plan = plan_of(f"""
WWWWWWW
W@,,{door}>W
WWWWWWW
""")
        assert plan == "E E"


def test_labels_are_plans_of_weight_one_and_the_position_in_a_long_way_does_not_matter():
    plans, weights = SeedOracle().label(drawn("W@" + "." * 40 + ">W"), 16)
    assert plans.dtype == np.int8
    assert plans.tolist() == [[Action.EAST] * 16]
    assert weights.tolist() == [1.0]


@pytest.mark.minihack
def test_it_reads_the_symbols_of_nethack():
    from nle import nethack

    cmap = nethack.GLYPH_CMAP_OFF
    stairs = next(
        cmap + i
        for i in range(nethack.MAXPCHARS)
        if nethack.symdef.from_idx(i).explanation == "staircase down"
    )
    hero = nethack.GLYPH_MON_OFF
    floor = next(
        cmap + i
        for i in range(nethack.MAXPCHARS)
        if nethack.symdef.from_idx(i).explanation == "floor of a room"
    )
    glyphs = np.full((1, 1, 5), cmap, np.int16)
    glyphs[0, 0] = cmap, hero, floor, stairs, cmap
    drawing = drawn(" @.> ")
    shown = seen_terrain(glyphs)[0, 0]
    assert shown[[0, 2, 3, 4]].tolist() == drawing["terrain"][0, 0, [0, 2, 3, 4]].tolist()
    plan = SeedOracle().label({**drawing, "glyphs": glyphs}, 4)[0][0]
    assert words(plan) == "E E"


@pytest.mark.minihack
def test_it_wins_every_small_room():
    # Lit, without obstacles: the way to the stairs is always known.
    assert wins(SeedOracle(), "MiniHack-Room-Random-5x5-v0", replan_every=1) == EPISODES


@pytest.mark.minihack
def test_it_loses_mazes_that_the_memory_oracle_wins():
    # Its known weakness: 88 of 240 won elsewhere. Levels, game and oracle are seeded, so nothing
    # here varies; with other levels, 17 of 20 or more would come about with chance 1e-5.
    maze = "MiniHack-MazeWalk-9x9-v0"
    assert wins(SeedOracle(), maze, replan_every=1) <= 16
    assert wins(MemoryOracle(), maze) == EPISODES
