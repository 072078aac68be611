"""Compiling levels: once, from any path, and never silently wrong."""

import importlib.resources
import os
from pathlib import Path

import pytest

pytest.importorskip("minihack")

from remdm.envs.level_compiler import LevelCompiler, LevelError, level_compiler

pytestmark = pytest.mark.minihack

GOOD = """MAZE: "mylevel",' '
GEOMETRY:center,center
MAP
-----
|...|
-----
ENDMAP
STAIR:(3,1),down
BRANCH:(1,1,1,1),(0,0,0,0)
"""


@pytest.fixture
def compiler() -> LevelCompiler:
    shared = level_compiler()
    return LevelCompiler(shared.tool_folder, shared.library_folder, shared.level_folder)


def test_a_level_is_compiled_once_however_it_is_given(
    compiler: LevelCompiler, tmp_path: Path
) -> None:
    file = tmp_path / "level.des"
    file.write_text(GOOD)
    first = compiler.compile(GOOD)
    assert b"mylevel" in first
    assert compiler.compile(str(file)) is first
    assert compiler.num_compiled == 1


def test_a_changed_file_is_compiled_again(compiler: LevelCompiler, tmp_path: Path) -> None:
    file = tmp_path / "level.des"
    file.write_text(GOOD)
    first = compiler.compile(str(file))
    file.write_text(GOOD.replace("(3,1)", "(2,1)"))
    assert compiler.compile(str(file)) != first


def test_levels_that_come_with_minihack_are_found_by_name(compiler: LevelCompiler) -> None:
    assert compiler.compile("corridor2.des")


def test_an_error_shows_the_compilers_words_and_the_file(
    compiler: LevelCompiler, tmp_path: Path
) -> None:
    file = tmp_path / "broken.des"
    file.write_text(GOOD.replace("down", "downwards"))
    with pytest.raises(LevelError, match=r'line \d+.*syntax error at "downwards"') as raised:
        compiler.compile(str(file))
    assert str(file) in str(raised.value)


def test_an_error_is_found_where_the_compiler_reports_success(compiler: LevelCompiler) -> None:
    # lev_comp takes an empty file without a word, and MiniHack then plays another level.
    with pytest.raises(LevelError, match="must define a level called 'mylevel'"):
        compiler.compile("")


def test_a_level_of_another_name_is_an_error(compiler: LevelCompiler) -> None:
    with pytest.raises(LevelError, match="must define a level called 'mylevel'"):
        compiler.compile(GOOD.replace("mylevel", "other"))


def test_a_missing_file_is_an_error(compiler: LevelCompiler, tmp_path: Path) -> None:
    with pytest.raises(LevelError, match=r"no level file at .*nowhere\.des"):
        compiler.compile(str(tmp_path / "nowhere.des"))


def test_tools_and_levels_may_live_under_a_path_with_spaces(
    compiler: LevelCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a folder  with spaces"
    place.mkdir()
    (place / "my tools").symlink_to(compiler.tool_folder)
    (place / "my lib").symlink_to(compiler.library_folder)
    (place / "my level.des").write_text(GOOD)
    (place / "tmp dir").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "tmp dir"))
    spaced = LevelCompiler(place / "my tools", place / "my lib")
    assert spaced.compile(str(place / "my level.des")) == compiler.compile(GOOD)
    assert os.listdir(place / "tmp dir") == []


def test_installing_leaves_the_installed_game_alone(
    compiler: LevelCompiler, tmp_path: Path
) -> None:
    installed = Path(str(importlib.resources.files("nle"))) / "nethackdir" / "nhdat"
    before = installed.stat()
    (tmp_path / "nhdat").symlink_to(installed)  # what NLE puts into a new game's folder
    compiler.install(GOOD, tmp_path)
    assert (tmp_path / "nhdat").read_bytes() == compiler.compile(GOOD)
    assert installed.stat().st_size == before.st_size
    assert installed.stat().st_mtime_ns == before.st_mtime_ns
