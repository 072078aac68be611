"""Lives of both Craftax games as pictures and as text."""

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

pytest.importorskip("craftax")

from remdm.envs.contract import PlanVecEnv
from remdm.envs.craftax.game import CLASSIC, FULL, load_game
from remdm.envs.making import make_vec_env
from remdm.evaluation.craftax_pictures import achieved, describe_life, render_life, view_image
from remdm.evaluation.craftax_scene import read_scene
from remdm.evaluation.craftax_text import life_text
from remdm.evaluation.craftax_textures import assets_folder
from remdm.evaluation.gif import write_gif
from remdm.evaluation.plan_column import PlanLine, When, plan_lines
from remdm.evaluation.recording import Moment, Recording, record_episode
from remdm.evaluation.rendering import can_be_drawn, draw_gif, render_episode
from remdm.evaluation.report import write_gifs
from remdm.tokens import end_token
from tests.evaluation.craftax_lives import (
    DO,
    END,
    FURNACE,
    LEFT,
    NOOP,
    RIGHT,
    TABLE,
    Script,
    classic_observation,
    full_observation,
)

pytestmark = pytest.mark.craftax

LEVEL = 3


@pytest.fixture(scope="module")
def world() -> Iterator[PlanVecEnv]:
    with closing(make_vec_env([CLASSIC])) as world:
        yield world


@pytest.fixture(scope="module")
def life(world: PlanVecEnv) -> Recording:
    """Eleven steps in three plans."""
    return record_episode(Script(), world, LEVEL, max_steps=10)


# ------------------------------------------------------------------------------------ recording


def test_recording_notes_what_each_step_earned_and_unlocked(
    world: PlanVecEnv, life: Recording
) -> None:
    """The game's reward: one per achievement, and a tenth of the change in health."""
    assert life.num_steps == 11
    for before, after in pairwise(life.moments):
        health = after.observation["scalars"][12] - before.observation["scalars"][12]
        assert after.earned - before.earned == pytest.approx(len(after.unlocked) + health, abs=1e-5)
    unlocked = [name for moment in life.moments for name in moment.unlocked]
    assert "collect_sapling" in unlocked
    script = Script()
    again = record_episode(script, world, LEVEL, max_steps=10)
    names = np.array(world.achievement_names)
    assert sorted(unlocked) == sorted(names[world.achievements[0]])
    assert [m.unlocked for m in again.moments] == [m.unlocked for m in life.moments]
    assert script.told == [[NOOP, DO, DO, DO], [DO, TABLE, LEFT], [FURNACE, RIGHT, DO, DO]]


def test_numbers_that_ask_for_a_direction_on_maps_do_not_in_craftax(life: Recording) -> None:
    """8 and 9 open and kick on maps; here they build, and what follows is a step of its own."""
    for before, after in pairwise(life.moments[:-1]):
        if after.plan_index == before.plan_index:
            np.testing.assert_array_equal(after.plan, before.plan[1:])


def test_life_that_was_cut_by_its_cap_did_not_end_in_death(life: Recording) -> None:
    assert (life.over, life.truncated, life.won) == (False, False, False)
    assert describe_life(life) == ("alive after 11 steps", True)
    with closing(make_vec_env([CLASSIC], max_episode_steps=4)) as short:
        cut = record_episode(Script(), short, LEVEL)
    assert (cut.num_steps, cut.over, cut.truncated) == (4, True, True)
    assert describe_life(cut) == ("alive after 4 steps", True)
    assert describe_life(replace(cut, truncated=False)) == ("died after 4 steps", False)
    assert describe_life(replace(cut, won=True)) == ("beat the game in 4 steps", True)


# ----------------------------------------------------------------------------------------- plan


def test_plan_column_names_the_tokens_and_says_which_is_next(life: Recording) -> None:
    assert plan_lines(life, 2) == [
        PlanLine("noop", When.DONE),
        PlanLine("do", When.DONE),
        PlanLine("do", When.NEXT),
        PlanLine("do", When.SOON),
        PlanLine("do", When.LATER),
        PlanLine("up", When.LATER),
        PlanLine("place table", When.LATER),
        PlanLine("left", When.LATER),
    ]
    assert plan_lines(life, 5) == [
        PlanLine("do", When.DONE),
        PlanLine("place table", When.NEXT),
        PlanLine("left", When.SOON),
        PlanLine("END", When.SOON),
    ]
    assert plan_lines(life, life.num_steps) == []


def test_plan_is_drawn_beside_the_view_and_changes_nothing_else(life: Recording) -> None:
    first, *rest = life.moments
    other = replace(first, plan=np.array([NOOP, DO, 16, END]))
    before, after = render_life(life), render_life(replace(life, moments=[other, *rest]))
    height, width = before[0].shape[:2]
    rows, columns = np.nonzero((before[0] != after[0]).any(-1))
    assert columns.min() > width - 190  # the plan's column
    assert rows.min() > 0.1 * height
    assert (before[-1] == after[-1]).all()


def test_long_plan_scrolls_with_what_is_next(life: Recording) -> None:
    plan = np.arange(200) % 17
    moments = [
        Moment(life.moments[0].observation, plan[step:], 200 - step, 0) for step in range(150)
    ]
    recording = replace(life, moments=[*moments, life.moments[-1]])
    highlight = (255, 214, 74)
    for index in (0, 60, 149):
        frame = render_life(replace(recording, moments=recording.moments[: index + 2]))[index]
        lit = np.nonzero((frame[:, -20] == highlight).all(-1))[0]
        assert 10 <= len(lit) <= 20, f"one line is next at step {index}"


# --------------------------------------------------------------------------------------- frames


def test_life_has_a_frame_per_step_and_one_for_the_end(life: Recording) -> None:
    frames = render_episode(life)
    assert len(frames) == life.num_steps + 1
    assert {frame.shape for frame in frames} == {frames[0].shape}
    assert frames[0].dtype == np.uint8
    assert len(render_episode(life, max_frames=4)) == 4
    scene = read_scene(life.moments[0].observation)
    shown = view_image(scene, 48, textures=assets_folder("craftax_classic"))
    corner = np.argwhere((frames[0] == shown[0, 0]).all(-1))
    assert any(
        (frames[0][y : y + len(shown), x : x + shown.shape[1]] == shown).all()
        for y, x in corner.tolist()
        if y + len(shown) <= len(frames[0]) and x + shown.shape[1] <= frames[0].shape[1]
    )


def test_achievements_and_the_needs_are_drawn(life: Recording) -> None:
    bare = replace(life, moments=[replace(m, unlocked=()) for m in life.moments])
    step = next(i for i, moment in enumerate(life.moments) if moment.unlocked)
    with_them, without = render_life(life), render_life(bare)
    assert achieved(life, step) == [(step, name) for name in reversed(life.moments[step].unlocked)]
    assert (with_them[step - 1] == without[step - 1]).all()
    assert (with_them[step] != without[step]).any()
    hungry = classic_observation(s12=0.9, s13=0.1, s14=0.9, s15=0.9)
    fed = classic_observation(s12=0.9, s13=0.9, s14=0.9, s15=0.9)
    pictures = [
        render_life(replace(life, moments=[replace(life.moments[0], observation=seen)]))[0]
        for seen in (hungry, fed)
    ]
    rows, _ = np.nonzero((pictures[0] != pictures[1]).any(-1))
    assert rows.min() > pictures[0].shape[0] - 48  # the footer


# ----------------------------------------------------------------------------------- full game


def full_life(observation: dict[str, np.ndarray]) -> Recording:
    names = load_game(FULL).action_names
    plan = np.array([42, 41, 18, end_token(43)])
    moments = [Moment(observation, plan, 4, 0), Moment(observation, plan[-1:], 0, 0, 1.0, ("a_b",))]
    return Recording(FULL, "script", 1, moments, False, True, 9, action_names=names)


def test_full_game_shows_what_is_carried_needed_and_known() -> None:
    root = {number: (count**0.5) / 10 for number, count in ((0, 37), (9, 4), (17, 2))}
    scalars = {10: 0.5, 11: 0.75, 12: 1.0, 13: 1.0, 15: 1.0, 35: 1.0, 37: 0.5, 41: 2.0} | root
    needs = {22: 0.9, 26: 0.7, 27: 0.3, 46: 1.0, 48: 0.2}
    observation = full_observation(**{f"s{k}": v for k, v in (scalars | needs).items()})
    scene = read_scene(observation)
    assert [(item.number, item.name) for item in scene.carried] == [
        (37, "wood"),
        (4, "arrow"),
        (1, "book"),
        (1, "iron pickaxe"),
        (1, "diamond sword of fire"),
        (1, "bow"),
        (1, "diamond helmet"),
        (1, "iron pants of ice"),
        (2, "green potion"),
        (1, "fireball spell"),
    ]
    assert scene.needs[0] == ("health", 9)
    assert scene.needs[4] == ("mana", 7)
    assert scene.skills[0] == ("xp", 3)
    assert scene.floor == 2
    folder = assets_folder("craftax")
    assert folder is not None
    for item in scene.carried:
        assert all((folder / f"{name}.png").is_file() for name in item.textures), item
    first, last = render_episode(full_life(observation))
    assert first.shape == last.shape
    assert (first != last).any()
    assert [line.text for line in plan_lines(full_life(observation), 0)] == [
        "enchant bow",
        "level up intelligence",
        "descend",
        "END",
    ]


@pytest.mark.slow
def test_life_in_the_full_game_is_recorded_and_drawn() -> None:
    with closing(make_vec_env([FULL])) as world:
        life = record_episode(Script(), world, LEVEL, max_steps=8)
    frames = render_episode(life)
    assert len(frames) == life.num_steps + 1
    scene = read_scene(life.moments[0].observation)
    assert scene.tiles.shape == (9, 11)
    assert scene.needs[0] == ("health", 9)
    assert scene.floor == 0


# ------------------------------------------------------------------------------- files and text


def test_gif_of_a_life_is_written_as_for_any_environment(tmp_path: Path) -> None:
    (path,) = write_gifs(tmp_path, Script(), [CLASSIC], seed=LEVEL, max_steps=10)
    with Image.open(path) as image:
        assert image.n_frames == 12
    assert path.stat().st_size < 12 * 16_000  # 300 frames stay below 5 MB


def test_vivid_gif_keeps_the_colour_of_the_heart_from_day_to_night(
    life: Recording, tmp_path: Path
) -> None:
    """Twelve shades of all kinds of ground would else take the palette from it."""
    moments = []
    for hour in range(12):
        seen = classic_observation(s12=0.9, s20=hour / 11)
        seen["tiles"][:] = 3 + np.arange(63).reshape(7, 9) % 15
        moments.append(replace(life.moments[0], observation=seen))
    frames = render_life(replace(life, moments=moments))
    heart = np.s_[-48:, :46]
    errors = []
    for vivid in (False, True):
        path = tmp_path / f"{vivid}.gif"
        write_gif(path, frames, vivid=vivid)
        with Image.open(path) as image:
            image.seek(6)
            read = np.asarray(image.convert("RGB")).astype(int)
        errors.append(int(np.abs(read[heart] - frames[6][heart]).max()))
    assert errors[1] < 0.8 * errors[0]


def test_observation_of_neither_kind_is_refused(life: Recording, tmp_path: Path) -> None:
    flat = {"symbolic": np.zeros(1345, np.float32)}
    assert not can_be_drawn(flat)
    assert can_be_drawn(life.moments[0].observation)
    strange = replace(life, moments=[replace(m, observation=flat) for m in life.moments])
    with pytest.raises(ValueError, match="arrays of a map"):
        render_episode(strange)
    with pytest.raises(ValueError, match="arrays of a map"):
        draw_gif(tmp_path / "a.gif", strange)
    with pytest.raises(ValueError, match="tiles, flags, scalars"):
        read_scene(flat)
    with pytest.raises(ValueError, match="22 or 51 scalars"):
        read_scene(classic_observation() | {"scalars": np.zeros(7, np.float32)})


def test_terminal_shows_the_view_the_plan_and_the_end(life: Recording) -> None:
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(life_text(life, 5))
    text = console.export_text()
    for words in ("place table", "END", "health 9", "+ collect sapling", "plan 2", "step 5 of"):
        assert words in text
    assert sum(text.count(sign) for sign in "\u25c0\u25b6\u25b2\u25bc") == 1
    console.print(life_text(life, life.num_steps))
    assert "alive after 11 steps" in console.export_text()
