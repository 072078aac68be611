"""Runs that came from elsewhere: what is in their folders is data, and none of it is run."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from remdm import config
from remdm.cli import main
from remdm.config import ConfigError, RunConfig
from remdm.training.run_folder import RunFolder

SETTINGS = "Experiment.train_envs = ['Gridworld-Room-9x9-v0']\n"


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in where code lies beside a run that imports it; says what it leaves."""
    run = tmp_path / "foreign"
    (run / "best").mkdir(parents=True)
    (run / "best/state.json").write_text(json.dumps({"format_version": 1}))
    (run / "config.gin").write_text(f"import foreign.evil\n{SETTINGS}")
    left = tmp_path / "it was here"
    (run / "evil.py").write_text(f"open({str(left)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield left
    for name in ("foreign.evil", "foreign"):
        sys.modules.pop(name, None)


COMMANDS = (
    ["eval", "foreign"],
    ["eval", "foreign/best"],
    ["watch", "foreign"],
    ["train", "--run_name", "foreign", "--ckpt_base_dir", ".", "--bind", SETTINGS.strip()],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_code_that_lies_in_a_run_is_not_run(
    command: list[str], evil: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "config.gin:1: a run must not bring code along" in said
    assert "imports 'foreign.evil'" in said
    assert not evil.exists()
    assert "foreign.evil" not in sys.modules


def test_code_is_run_where_somebody_says_so(evil: Path) -> None:
    """The import is all that is asked for: the run has no weights."""
    assert main(["eval", "foreign", "--allow_import", "foreign.evil"]) == 2
    assert evil.exists()


def written(folder: Path, text: str) -> Path:
    path = folder / "config.gin"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "line",
    [
        "import antigravity",
        "import remdm_of_somebody",
        "from remdm_of_somebody import agent",
        "import remdmx as remdm",
        "import tests_of.mine",
    ],
)
def test_only_named_modules_can_be_imported_by_the_config_of_a_run(
    line: str, tmp_path: Path
) -> None:
    path = written(tmp_path, f"{line}\n{SETTINGS}")
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"config.gin:1: .*add --allow_import \w+"):
        config.load_config([RunConfig(path, ["tests_of.me"])])
    assert set(sys.modules) == before


def test_a_config_of_a_run_names_the_package_and_what_is_imported_already(tmp_path: Path) -> None:
    path = written(tmp_path, f"import remdm.agent\nimport json\n{SETTINGS}")
    config.load_config([RunConfig(path)])
    assert config.bound_value("Experiment.train_envs") == ["Gridworld-Room-9x9-v0"]


def test_a_module_that_is_named_may_be_imported_with_those_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "house_of_mine").mkdir()
    (tmp_path / "house_of_mine/room.py").touch()
    path = written(tmp_path, f"import house_of_mine.room\n{SETTINGS}")
    config.load_config([RunConfig(path, ["house_of_mine"])])
    assert sys.modules.pop("house_of_mine.room")
    del sys.modules["house_of_mine"]


def test_a_config_of_a_run_reads_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "more.gin").write_text("import antigravity\n")
    path = written(tmp_path, f"include 'more.gin'\n{SETTINGS}")
    with pytest.raises(ConfigError, match=r"config.gin:1: a run's config must stand alone"):
        config.load_config([RunConfig(path)])


def test_ones_own_config_files_import_what_they_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "room_of_mine.py").touch()
    run = written(tmp_path, SETTINGS)
    (tmp_path / "mine.gin").write_text("import room_of_mine\nExperiment.seed = 3\n")
    config.load_config([RunConfig(run), tmp_path / "mine.gin"])
    assert sys.modules.pop("room_of_mine")


def test_every_run_of_ones_own_can_be_opened_and_gone_on_with(tmp_path: Path) -> None:
    """What `save_config` writes needs no more than is allowed."""
    config.load_config([], [SETTINGS.strip(), "Experiment.oracle_type = @SeedOracle"])
    folder = RunFolder(tmp_path / "run")
    folder.keep_config()
    assert "import remdm.oracles.seed_oracle" in folder.config.read_text()
    folder.check(resume="must")
    config.load_config([RunConfig(folder.config)])


@pytest.mark.parametrize("place", ["metrics.jsonl", "logs/learn.log", "report/gifs/a.gif", "x"])
def test_a_run_with_links_in_place_of_files_is_not_gone_on_with(place: str, tmp_path: Path) -> None:
    config.load_config([], [SETTINGS.strip()])
    folder = RunFolder(tmp_path / "run")
    folder.keep_config()
    (tmp_path / "scratch").mkdir()
    (folder.root / "shards").symlink_to(tmp_path / "scratch")  # as on another disk
    folder.check(resume="auto")
    link = folder.root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=f"{link} must be a file of the run and is a link"):
        folder.check(resume="auto")
    assert not (tmp_path / "mine").exists()
