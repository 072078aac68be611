"""What the agent learns of MiniHack levels: ends, terrain, doors, questions, blocked moves."""

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("minihack")

from nle import nethack

from remdm.envs.minihack import MiniHackEnv
from remdm.envs.nethack_glyphs import glyph_terrain
from remdm.maps import Action, Terrain, empty_observations

pytestmark = pytest.mark.minihack

Build = Callable[..., MiniHackEnv]
Observation = dict[str, np.ndarray]


def observed(env: MiniHackEnv) -> Observation:
    out = empty_observations(env.observation_spec, ())
    env.observe(out)
    return out


def faced(env: MiniHackEnv, direction: Action) -> Terrain:
    """What the agent remembers of the cell east or west of it."""
    row, column = env.memory.place
    return Terrain(int(env.memory.terrain[row, column + (1 if direction == Action.EAST else -1)]))


def test_steps_on_the_stairs_win(play: Build) -> None:
    env = play("----- |...| -----", "STAIR:(3,1),down")
    assert faced(env, Action.EAST) == Terrain.FLOOR
    assert not env.step(Action.EAST).terminated
    assert faced(env, Action.EAST) == Terrain.GOAL
    result = env.step(Action.EAST)
    assert result == (1.0, True, False, True, False)
    with pytest.raises(RuntimeError, match="no episode is running"):
        env.step(Action.EAST)


def test_death_is_an_end_that_is_not_won(play: Build) -> None:
    env = play("----- |.L.| -----", "STAIR:(3,1),down")
    assert faced(env, Action.EAST) == Terrain.HAZARD
    result = env.step(Action.EAST)
    assert result.terminated
    assert not result.won
    assert not result.truncated
    assert observed(env)["step"] == env.memory.step
    env.reset(0)
    assert faced(env, Action.EAST) == Terrain.HAZARD


def test_what_the_game_shows_becomes_terrain(play: Build) -> None:
    things = """OBJECT:('`',"boulder"),(1,2)
MONSTER:('F',"lichen"),(4,2),asleep
OBJECT:('[',"helmet"),(5,2)
STAIR:(7,2),up
STAIR:(8,2),down"""
    env = play("---------- |..K{F}LT| |.....#..| ----------", things)
    row, column = env.memory.place
    shown = env.memory.terrain[row : row + 2, column - 1 : column + 9]
    floor, wall, hazard = Terrain.FLOOR, Terrain.WALL, Terrain.HAZARD
    assert shown[0, :9].tolist() == [wall, *[floor] * 4, *[hazard] * 4]  # the tree hides the rest
    assert shown[1].tolist() == [
        wall, Terrain.BOULDER, floor, floor, Terrain.MONSTER, Terrain.OBJECT, Terrain.CORRIDOR,
        floor, Terrain.GOAL, wall,
    ]  # fmt: skip


def test_glyphs_are_translated_by_the_games_own_names() -> None:
    table = glyph_terrain(nethack)
    named = {
        nethack.symdef.from_idx(i).explanation: table[nethack.GLYPH_CMAP_OFF + i]
        for i in range(1, nethack.MAXPCHARS)
    }
    assert table[nethack.GLYPH_CMAP_OFF] == Terrain.UNKNOWN  # solid stone
    assert named["staircase down"] == named["ladder down"] == Terrain.GOAL
    assert named["staircase up"] == named["dark part of a room"] == Terrain.FLOOR
    assert named["bear trap"] == named["web"] == named["vibrating square"] == Terrain.FLOOR
    assert named["poison cloud"] == Terrain.UNKNOWN
    assert table[nethack.GLYPH_MON_OFF] == table[nethack.GLYPH_PET_OFF] == Terrain.MONSTER
    assert table[nethack.GLYPH_INVISIBLE] == table[nethack.GLYPH_WARNING_OFF] == Terrain.MONSTER
    assert table[nethack.GLYPH_BODY_OFF] == Terrain.OBJECT
    assert table[nethack.GLYPH_STATUE_OFF] == Terrain.OBJECT  # statues do not stand in the way
    objects = table[nethack.GLYPH_OBJ_OFF : nethack.GLYPH_CMAP_OFF]
    assert (objects == Terrain.BOULDER).sum() == 1


# Doors, questions and failed moves.

LOCKED = ("------- |..+..| -------", "DOOR:locked,(3,1)\nSTAIR:(5,1),down")


def test_a_locked_door_is_learnt_by_a_bump_and_kicked_open_in_two_steps(play: Build) -> None:
    env = play(*LOCKED)
    env.step(Action.EAST)
    assert faced(env, Action.EAST) == Terrain.CLOSED_DOOR
    result = env.step(Action.EAST)
    assert result.blocked
    assert faced(env, Action.EAST) == Terrain.LOCKED_DOOR
    assert not env.memory.blocked.any()
    for _ in range(100):  # a kick fails now and then
        assert not env.step(Action.KICK).blocked
        assert env.pending
        assert not env.step(Action.EAST).blocked
        assert not env.pending
        if faced(env, Action.EAST) != Terrain.LOCKED_DOOR:
            break
    assert faced(env, Action.EAST) == Terrain.DOORWAY
    assert not env.memory.blocked.any()
    won = [env.step(Action.EAST).won for _ in range(3)]
    assert won == [False, False, True]


def test_a_locked_door_is_learnt_by_open_as_well(play: Build) -> None:
    env = play(*LOCKED)
    env.step(Action.EAST)
    env.step(Action.OPEN)
    assert env.pending
    env.step(Action.EAST)
    assert faced(env, Action.EAST) == Terrain.LOCKED_DOOR


def test_a_closed_door_opens_by_walking_into_it(play: Build) -> None:
    env = play("------- |..+..| -------", "DOOR:closed,(3,1)\nSTAIR:(5,1),down")
    env.step(Action.EAST)
    for _ in range(100):  # doors resist now and then
        blocked = env.step(Action.EAST).blocked
        if faced(env, Action.EAST) == Terrain.OPEN_DOOR:
            break
        assert blocked
    assert not blocked
    assert not env.memory.blocked.any()
    env.step(Action.EAST)
    row, column = env.memory.place
    assert env.memory.terrain[row, column] == Terrain.OPEN_DOOR


def test_cancelling_a_question_costs_nothing(make: Build) -> None:
    env = make()
    env.reset(2)
    env.step(Action.KICK)
    assert env.pending
    before, turn = observed(env), env._blstats[nethack.NLE_BL_TIME]
    env.cancel()
    assert not env.pending
    assert env._blstats[nethack.NLE_BL_TIME] == turn
    for name, array in observed(env).items():
        np.testing.assert_array_equal(array, before[name])
    assert env.memory.step == 1
    env.cancel()  # nothing to cancel
    env.step(Action.SEARCH)
    assert env._blstats[nethack.NLE_BL_TIME] == turn + 1


def test_a_direction_given_to_a_question_is_no_move(play: Build) -> None:
    env = play("----- |...| -----", "STAIR:(3,1),down")
    place = env.memory.place
    env.step(Action.KICK)
    result = env.step(Action.NORTH)  # the wall
    assert not result.blocked
    assert env.memory.place == place
    assert not env.memory.blocked.any()
    assert env.memory.step == 2


def test_walls_set_the_bit_of_the_direction(play: Build) -> None:
    env = play("----- |...| -----", "STAIR:(3,1),down")
    assert env.step(Action.NORTH).blocked
    assert env.step(Action.SOUTHWEST).blocked
    expected = (1 << Action.NORTH) | (1 << Action.SOUTHWEST)
    assert env.memory.blocked[env.memory.place] == expected


def test_a_pit_holds_without_teaching_walls(play: Build) -> None:
    env = play("----- |...| |...| -----", 'TRAP:"pit",(2,1)\nSTAIR:(1,2),down')
    env.step(Action.EAST)
    assert env.step(Action.EAST).blocked
    assert not env.memory.blocked.any()
    for _ in range(20):
        if not env.step(Action.EAST).blocked:
            break
    assert not env.memory.blocked.any()


def test_searching_counts_around_the_agent(make: Build) -> None:
    env = make()
    env.reset(0)
    env.step(Action.SEARCH)
    env.step(Action.SEARCH)
    row, column = env.memory.place
    around = env.memory.searched[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    assert (around == 2).all()
    assert env.memory.searched.sum() == around.sum()


def test_falling_to_another_level_starts_a_new_map(play: Build) -> None:
    env = play("----- |...| -----", 'TRAP:"hole",(2,1)\nSTAIR:(3,1),down')
    result = env.step(Action.EAST)
    assert not result.terminated
    assert env.memory.visited.max() == 2
    assert (env.memory.visited > 0).sum() == 1
    assert not (env.memory.terrain == Terrain.GOAL).any()


# The shaped reward.


def test_the_shaped_reward_counts_steps_cells_nearness_and_the_win(play: Build) -> None:
    env = play("------ |....| ------", "STAIR:(4,1),down", reward="shaped")
    assert env.step(Action.WAIT).reward == pytest.approx(-0.01)
    assert env.step(Action.EAST).reward == pytest.approx(-0.01 + 0.05 + 0.5)
    assert env.step(Action.WEST).reward == pytest.approx(-0.01 - 0.5)
    assert env.step(Action.EAST).reward == pytest.approx(-0.01 + 0.5)
    assert env.step(Action.EAST).reward == pytest.approx(-0.01 + 0.05 + 0.5)
    assert env.step(Action.EAST).reward == pytest.approx(-0.01 + 0.05 + 0.5 + 20)


def test_nearness_counts_as_soon_as_the_goal_is_seen(play: Build) -> None:
    env = play("------- |..+..| -------", "DOOR:closed,(3,1)\nSTAIR:(5,1),down", reward="shaped")
    rewards = []
    while not (env.memory.terrain == Terrain.GOAL).any():
        rewards.append(env.step(Action.EAST).reward)
        assert len(rewards) < 100
    assert max(rewards) < 0.1
    assert env.step(Action.EAST).reward == pytest.approx(-0.01 + 0.05 + 0.5)
