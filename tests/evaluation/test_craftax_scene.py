"""What a Craftax observation shows, and the picture of it."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("craftax")

from remdm.envs.craftax.game import CLASSIC, FULL, load_game
from remdm.evaluation.craftax_pictures import view_image
from remdm.evaluation.craftax_scene import BLOCKS, CLASSIC_THINGS, FULL_THINGS, read_scene
from remdm.evaluation.craftax_textures import assets_folder, kind_tile
from tests.evaluation.craftax_lives import classic_observation, flag, full_observation

pytestmark = pytest.mark.craftax

SIZE = 16


def view(observation: dict[str, np.ndarray]) -> np.ndarray:
    scene = read_scene(observation)
    return view_image(scene, SIZE, textures=assets_folder(scene.assets))


def changed_cells(before: np.ndarray, after: np.ndarray) -> set[tuple[int, int]]:
    rows, columns = before.shape[0] // SIZE, before.shape[1] // SIZE
    cells = (before != after).reshape(rows, SIZE, columns, SIZE, 3).any((1, 3, 4))
    return {(row, column) for row, column in np.argwhere(cells).tolist()}


def test_changed_tile_changes_the_picture_at_its_place() -> None:
    before, after = classic_observation(), classic_observation()
    for row, column in ((0, 0), (5, 7), (2, 1)):
        after["tiles"][row, column] = 1 + 14  # lava
    assert changed_cells(view(before), view(after)) == {(0, 0), (5, 7), (2, 1)}


@pytest.mark.parametrize("number", range(4))
def test_creature_of_classic_stands_where_its_flag_is(number: int) -> None:
    plain, peopled = classic_observation(), classic_observation()
    flag(peopled, 1, 6, number)
    assert changed_cells(view(plain), view(peopled)) == {(1, 6)}
    assert read_scene(peopled).things == {(1, 6): [CLASSIC_THINGS[number]]}


@pytest.mark.parametrize("number", [n for n, kind in enumerate(FULL_THINGS) if kind])
def test_thing_of_the_full_game_lies_where_its_flag_is(number: int) -> None:
    plain, peopled = full_observation(), full_observation()
    flag(peopled, 7, 2, number)
    assert changed_cells(view(plain), view(peopled)) == {(7, 2)}


def test_player_is_in_the_middle_and_looks_where_it_faces() -> None:
    views = []
    for number, faced in ((16, (3, 3)), (17, (3, 5)), (18, (2, 4)), (19, (4, 4))):
        observation = classic_observation(**({"s18": 0.0} | {f"s{number}": 1.0}))
        views.append(view(observation))
        scene = read_scene(observation)
        assert scene.player == (3, 4)
        assert (3 + scene.facing[0], 4 + scene.facing[1]) == faced
    assert changed_cells(views[0], views[1]) == {(3, 3), (3, 4), (3, 5)}
    assert changed_cells(views[0], views[2]) == {(3, 3), (3, 4), (2, 4)}


def test_night_sleep_and_what_is_unseen_are_dark() -> None:
    day, night = view(classic_observation()), view(classic_observation(s20=0.1))
    asleep = view(classic_observation(s20=0.1, s21=1.0))
    assert asleep.mean() < 0.8 * night.mean() < 0.6 * day.mean()
    cave = view(full_observation())
    assert cave[:SIZE].max() < 50 < cave[2 * SIZE].mean()


def test_boss_that_can_be_hurt_looks_different() -> None:
    safe, weak = full_observation(), full_observation(s50=1.0)
    for observation in (safe, weak):
        observation["tiles"][2, 2] = 1 + 32
    assert changed_cells(view(safe), view(weak)) == {(2, 2)}


@pytest.mark.parametrize(
    ("package", "count"), [("craftax.craftax_classic", 17), ("craftax.craftax", 37)]
)
def test_blocks_are_those_of_the_game_and_have_its_pictures(package: str, count: int) -> None:
    constants = pytest.importorskip(f"{package}.constants")
    names = {block.value: block.name.lower().replace("_", " ") for block in constants.BlockType}
    assert len(names) == count
    other = {17: "wall", 19: "mossy wall", 36: "vulnerable necromancer"}
    other |= {30: "fire enchantment table", 31: "ice enchantment table", 34: "grave", 35: "grave"}
    assert [kind.name for kind in BLOCKS[:count]] == [
        other.get(number, names[number]) for number in range(count)
    ]
    folder = assets_folder(package.split(".")[1])
    assert folder is not None
    things = CLASSIC_THINGS if count == 17 else FULL_THINGS
    for kind in (*BLOCKS[:count], *filter(None, things)):
        assert not kind.texture or (folder / f"{kind.texture}.png").is_file(), kind
    codec = load_game(CLASSIC if count == 17 else FULL).codec
    assert len(things) == codec.num_flags


def test_without_the_games_pictures_tiles_have_colours_and_letters(tmp_path: Path) -> None:
    observation = full_observation()
    observation["tiles"][:4, :9] = np.arange(1, 37).reshape(4, 9)
    scene = read_scene(observation)
    picture = view_image(scene, SIZE, textures=tmp_path)  # a folder without them
    for row in range(3):  # the player stands below
        for column in range(9):
            kind = BLOCKS[9 * row + column]
            cell = picture[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
            np.testing.assert_array_equal(cell[0, 0], kind.colour)
            assert (cell != cell[0, 0]).any() == bool(kind.letter.strip())
    assert len({kind_tile(kind, None, SIZE).tobytes() for kind in BLOCKS}) > 25
