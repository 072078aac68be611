import numpy as np
import pytest
from PIL import Image, ImageSequence

from remdm.envs.making import make_vec_env
from remdm.evaluation.gif import write_gif
from remdm.evaluation.policies import OraclePolicy, Plans
from remdm.evaluation.recording import Moment, Recording, record_episode
from remdm.evaluation.rendering import Viewport, fit_viewport, render_episode, render_map
from remdm.evaluation.terminal import map_text, moment_text
from remdm.evaluation.tiles import DARK, map_image, tile_atlas, tile_colour
from remdm.maps import (
    NUM_ACTIONS,
    NUM_DIRECTIONS,
    Action,
    Terrain,
    empty_observations,
    map_observation_spec,
)
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.tokens import end_token

A = Action
END = end_token(NUM_ACTIONS)
SIZE = 12


@pytest.fixture
def observation():
    """A room in the corner of a large map, the agent at (5, 5)."""
    observation = empty_observations(map_observation_spec(21, 79), ())
    observation["terrain"][2:9, 2:12] = Terrain.WALL
    observation["terrain"][3:8, 3:11] = Terrain.FLOOR
    observation["position"][:] = (5, 5)
    observation["visited"][5, 5] = 1
    return observation


@pytest.fixture
def view():
    return Viewport((1, 10), (1, 13), SIZE)


@pytest.fixture(scope="module")
def recording():
    return record_episode(
        OraclePolicy(MemoryOracle()), make_vec_env(["Gridworld-Doors-9x13-v0"]), 3
    )


def cell_of(picture, view, cell):
    row, column = cell[0] - view.rows[0], cell[1] - view.columns[0]
    size = view.size
    return picture[row * size : (row + 1) * size, column * size : (column + 1) * size]


def has_colour(pixels, colour, tolerance=12):
    return bool((np.abs(pixels.astype(int) - colour).max(-1) <= tolerance).any())


def changed_cells(before, after, view):
    return {
        (row, column)
        for row in range(*view.rows)
        for column in range(*view.columns)
        if (cell_of(before, view, (row, column)) != cell_of(after, view, (row, column))).any()
    }


def test_every_terrain_has_a_tile_of_its_own():
    tiles = tile_atlas(16).reshape(len(Terrain), -1)
    assert len({tile.tobytes() for tile in tiles}) == len(Terrain)


def test_map_puts_each_tile_where_the_cell_is():
    terrain = np.array([[Terrain.WALL, Terrain.FLOOR], [Terrain.GOAL, Terrain.UNKNOWN]], np.uint8)
    picture = map_image(terrain, SIZE)
    for row in range(2):
        for column in range(2):
            tile = picture[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
            np.testing.assert_array_equal(tile, tile_atlas(SIZE)[terrain[row, column]])
    assert tuple(picture[-1, -1]) == tile_colour(Terrain.UNKNOWN)


def test_arrows_land_on_the_cells_that_the_plan_enters(observation, view):
    plan = [A.EAST, A.SOUTHEAST, A.EAST, END]
    plain = render_map(observation, view)
    drawn = render_map(observation, view, plan=np.array(plan))
    path = [(5, 6), (6, 7), (6, 8)]
    assert all(has_colour(cell_of(drawn, view, cell), DARK.plan) for cell in path)
    # A diagonal arrow crosses the corners of its neighbours; nothing else may change.
    beside_the_diagonal = {(5, 7), (6, 6)}
    assert changed_cells(plain, drawn, view) <= {(5, 5), *path} | beside_the_diagonal


@pytest.mark.parametrize("direction", range(NUM_DIRECTIONS))
def test_arrow_points_in_the_direction_of_the_move(observation, view, direction):
    drawn = render_map(observation, view, plan=np.array([direction]))
    coloured = [
        (row, column)
        for row in range(4, 7)
        for column in range(4, 7)
        if has_colour(cell_of(drawn, view, (row, column)), DARK.plan) and (row, column) != (5, 5)
    ]
    offsets = np.array(coloured) - (5, 5)
    expected = np.array([(-1, 0), (0, 1), (1, 0), (0, -1), (-1, 1), (1, 1), (1, -1), (-1, -1)])
    assert (offsets == expected[direction]).all(1).any()


def test_what_comes_after_the_next_plan_is_darker(observation, view):
    drawn = render_map(observation, view, plan=np.array([A.EAST] * 4), committed=2)
    assert has_colour(cell_of(drawn, view, (5, 7)), DARK.plan)
    assert not has_colour(cell_of(drawn, view, (5, 8)), DARK.plan)
    assert has_colour(cell_of(drawn, view, (5, 9)), DARK.plan_later)


def test_kick_bump_search_and_wait_have_signs(observation, view):
    plain = render_map(observation, view)
    kick = render_map(observation, view, plan=np.array([A.KICK, A.EAST]))
    assert has_colour(cell_of(kick, view, (5, 6)), DARK.strike)
    observation["terrain"][5, 6] = Terrain.WALL
    bump = render_map(observation, view, plan=np.array([A.EAST]))
    assert has_colour(bump, DARK.strike)
    assert not has_colour(bump, DARK.plan)
    assert has_colour(render_map(observation, view, plan=np.array([A.SEARCH])), DARK.search)
    wait = render_map(observation, view, plan=np.array([A.WAIT]))
    assert has_colour(cell_of(wait, view, (4, 5)), DARK.text)
    assert has_colour(cell_of(plain, view, (5, 5)), DARK.agent)


def test_plan_off_the_edge_of_the_map_can_be_drawn(observation):
    observation["position"][:] = (0, 0)
    view = Viewport((0, 9), (0, 12), SIZE)
    picture = render_map(observation, view, plan=np.array([A.NORTHWEST, A.SEARCH, A.WAIT]))
    assert picture.shape == (9 * SIZE, 12 * SIZE, 3)


def test_visited_and_searched_cells_are_tinted_only_when_asked(observation, view):
    observation["visited"][3, 4:8] = 1
    observation["searched"][6, 9] = 3
    plain = render_map(observation, view, shade=False)
    shaded = render_map(observation, view)
    expected = {(3, 4), (3, 5), (3, 6), (3, 7), (6, 9), (5, 5)}
    assert changed_cells(plain, shaded, view) == expected


def test_viewport_holds_all_that_was_known_and_a_margin(observation):
    later = {name: array.copy() for name, array in observation.items()}
    later["terrain"][15, 40] = Terrain.CORRIDOR
    view = fit_viewport([observation, later], margin=1)
    assert (view.rows, view.columns) == ((1, 17), (1, 42))


def test_whole_map_is_drawn_at_ten_pixels_a_tile(observation):
    observation["terrain"][:] = Terrain.FLOOR
    view = fit_viewport([observation])
    assert (view.rows, view.columns, view.size) == ((0, 21), (0, 79), 10)


def test_observation_without_a_map_is_refused():
    with pytest.raises(ValueError, match="arrays of a map"):
        fit_viewport([{"symbolic": np.zeros(3)}])


def test_episode_has_a_frame_per_step_and_one_for_the_end(recording):
    frames = render_episode(recording)
    assert recording.won
    assert len(frames) == recording.num_steps + 1
    assert len({frame.shape for frame in frames}) == 1


def test_long_episode_is_thinned_out_but_keeps_its_end(recording):
    frames = render_episode(recording, max_frames=5)
    assert 2 <= len(frames) <= 5
    np.testing.assert_array_equal(
        frames[-1][40:-50], render_episode(recording)[-1][40:-50]
    )  # below the header, which says how many frames are shown


def test_plan_shrinks_while_it_is_executed(recording):
    for before, after in zip(recording.moments, recording.moments[1:], strict=False):
        if after.plan_index == before.plan_index and len(after.plan) > 1:
            np.testing.assert_array_equal(after.plan, before.plan[1:])


class Kicker:
    """Kicks east, then goes on."""

    name, replan_every = "kicker", 3

    def accompany(self, vec_env):
        return vec_env

    def begin(self, rows, env_names, level_seeds):
        pass

    def ran(self, rows, actions, lengths):
        pass

    def plan(self, observations, rows):
        return Plans(np.array([[A.SEARCH, A.KICK, A.EAST, A.WAIT]]), np.zeros(1))


def test_moment_between_a_kick_and_its_direction_shows_the_kick():
    vec_env = make_vec_env(["Gridworld-Room-9x9-v0"])
    moments = record_episode(Kicker(), vec_env, 0, max_steps=3).moments
    assert [m.plan.tolist() for m in moments[:3]] == [
        [A.SEARCH, A.KICK, A.EAST, A.WAIT],
        [A.KICK, A.EAST, A.WAIT],
        [A.KICK, A.EAST, A.WAIT],
    ]


def test_recording_needs_one_row():
    with pytest.raises(ValueError, match="one row"):
        record_episode(Kicker(), make_vec_env(["Gridworld-Room-9x9-v0"] * 2), 0)


def test_gif_has_all_frames_and_looks_like_them(recording, tmp_path):
    frames = render_episode(recording)
    path = tmp_path / "pictures" / "episode.gif"
    write_gif(path, frames, fps=5)
    with Image.open(path) as image:
        assert image.n_frames == len(frames)
        assert image.info["duration"] == 200
        assert image.info["loop"] == 0
        for frame, read in zip(frames, ImageSequence.Iterator(image), strict=True):
            error = np.abs(np.asarray(read.convert("RGB")).astype(int) - frame)
            assert error.mean() < 2
            assert np.quantile(error, 0.999) < 40
    assert path.stat().st_size < 100_000
    assert list(path.parent.iterdir()) == [path]


def test_gif_of_nothing_or_of_mixed_sizes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        write_gif(tmp_path / "a.gif", [])
    frames = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    with pytest.raises(ValueError, match="one shape"):
        write_gif(tmp_path / "a.gif", frames)


def test_text_map_shows_agent_and_plan_where_they_are(observation, view):
    lines = map_text(observation, view, [A.EAST, A.SOUTHEAST, A.KICK, A.NORTH]).plain.split("\n")

    def at(row, column):
        return lines[row - view.rows[0]][column - view.columns[0]]

    assert at(5, 5) == "@"
    assert at(5, 6) == "\u2192"
    assert at(6, 7) == "\u2198"
    assert at(5, 7) == "!"
    assert at(2, 2) == "\u2588"


def test_text_screen_says_what_is_planned_and_how_it_ended(observation, view):
    plan = np.array([A.EAST, A.EAST, END])
    moments = [Moment(observation, plan, 4, 0), Moment(observation, np.array([END]), 0, 0)]
    recording = Recording("Gridworld-Room-9x9-v0", "memory", 1, moments, True, True, 50)
    first, last = (moment_text(recording, i, view).renderables[-1].plain for i in (0, 1))
    assert first == "plan 1: east x2"
    assert last == "won in 1 steps"
