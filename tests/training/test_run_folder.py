"""Whose run a folder holds, and who may write to it."""

from pathlib import Path

import pytest

from remdm import config
from remdm.training.roles import BOTH, role_of
from remdm.training.run_folder import RunFolder
from tests.tiny_runs import files_below


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A folder that holds a run with seed 1."""
    config.load_config([], ["Experiment.seed = 1", "Experiment.epochs = 3"])
    folder = RunFolder(tmp_path / "run")
    folder.keep_config()
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
    folder.keep_config(may_change={"Experiment.seed"})
    assert files_below(folder.root) == before


def test_existing_run_is_refused_where_none_may_be(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"holds a run already.*--run_name"):
        folder.check(resume="never")


def test_missing_run_is_refused_where_one_must_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run to go on with"):
        RunFolder(tmp_path / "run").check(resume="must")


def test_process_that_comes_second_keeps_the_config_of_the_first(folder: RunFolder) -> None:
    config.load_config([], ["Experiment.seed = 2"])
    with pytest.raises(ValueError, match=r"Experiment\.seed is 2 now, 1 there"):
        folder.keep_config()
    assert "Experiment.seed = 1" in folder.config.read_text()


def test_validator_leaves_what_the_learner_is_writing(folder: RunFolder) -> None:
    (folder.root / ".partial-77-best").mkdir()
    (folder.root / ".partial-77-last").mkdir()
    folder.tidy(role_of("validate"))
    assert [path.name for path in folder.root.glob(".partial-*")] == [".partial-77-last"]
    folder.tidy(role_of("learn"))
    assert list(folder.root.glob(".partial-*")) == []


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
    folder.tidy(BOTH)
    assert [rest for rest in rests if rest.exists()] == []
    assert folder.latest.is_dir()


def test_folder_that_was_about_to_be_replaced_comes_back(folder: RunFolder) -> None:
    """Killed after the old one was put aside and before the new one took its place."""
    old = folder.root / ".replaced-.partial-77-best"
    new = folder.root / ".partial-77-best"
    for place, text in ((old, "old"), (new, "new")):
        place.mkdir()
        (place / "state.json").write_text(text)
    folder.tidy(BOTH)
    assert (folder.best / "state.json").read_text() == "old"
    assert not old.exists()
    assert not new.exists()
