"""Whose run a folder holds, and who may write to it."""

import subprocess
import sys
from pathlib import Path

import pytest

from remdm import config
from remdm.training.run_folder import RunFolder
from tests.tiny_runs import files_below

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A folder that holds a run with seed 1."""
    config.load_config([], ["Experiment.seed = 1", "Experiment.epochs = 3"])
    folder = RunFolder(tmp_path / "run")
    folder.claim().close()
    return folder


def test_fresh_folder_is_made_with_the_config_that_repeats_the_run(folder: RunFolder) -> None:
    config.clear_config()
    config.load_config([folder.config])
    assert config.bound_value("Experiment.seed") == 1
    folder.check(resume="auto")
    folder.check(resume="must")


def test_check_makes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").check(resume="auto")
    assert list(tmp_path.iterdir()) == []


def test_another_config_is_refused_with_every_difference(folder: RunFolder) -> None:
    before = files_below(folder.root)
    config.load_config([], ["Experiment.seed = 2", "Experiment.batch_size = 9"])
    with pytest.raises(ValueError, match="another configuration") as caught:
        folder.check(resume="auto")
    text = str(caught.value)
    assert "Experiment.seed is 2 now, 1 there" in text
    assert "Experiment.batch_size is 9 now, not bound there" in text
    assert "Experiment.epochs is not bound now, 3 there" in text
    assert "--run_name" in text
    assert files_below(folder.root) == before


def test_what_may_change_may_differ_and_the_saved_config_stays(folder: RunFolder) -> None:
    before = files_below(folder.root)
    config.load_config([], ["Experiment.seed = 2", "Experiment.epochs = 3"])
    folder.check(resume="auto", may_change={"Experiment.seed"})
    folder.claim().close()
    assert files_below(folder.root) == before


def test_existing_run_is_refused_where_none_may_be(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"holds a run already.*--run_name"):
        folder.check(resume="never")


def test_missing_run_is_refused_where_one_must_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run to go on with"):
        RunFolder(tmp_path / "run").check(resume="must")


CLAIM = """
import sys
from pathlib import Path
from remdm.training.run_folder import RunFolder
lock = RunFolder(Path(sys.argv[1])).claim()
print("claimed", flush=True)
sys.stdin.read()
"""


def test_folder_in_use_by_another_process_is_refused_until_that_has_died(
    folder: RunFolder,
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder.root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "claimed\n"
    with pytest.raises(ValueError, match="another process is training in"):
        folder.claim()
    other.kill()
    other.communicate()
    folder.claim().close()


def test_rests_of_a_killed_process_are_cleared_away(folder: RunFolder) -> None:
    folder.checkpoints.mkdir()
    rests = [
        folder.checkpoints / ".partial-77-epoch_000002",
        folder.root / ".partial-77-best",
        folder.root / ".replaced-.partial-77-latest",
    ]
    folder.latest.mkdir()
    for rest in rests:
        rest.mkdir()
        (rest / "state.json").write_text("{}")
    folder.claim().close()
    assert [rest for rest in rests if rest.exists()] == []
    assert folder.latest.is_dir()


def test_folder_that_was_about_to_be_replaced_comes_back(folder: RunFolder) -> None:
    """Killed after the old one was put aside and before the new one took its place."""
    old = folder.root / ".replaced-.partial-77-best"
    new = folder.root / ".partial-77-best"
    for place, text in ((old, "old"), (new, "new")):
        place.mkdir()
        (place / "state.json").write_text(text)
    folder.claim().close()
    assert (folder.best / "state.json").read_text() == "old"
    assert not old.exists()
    assert not new.exists()
