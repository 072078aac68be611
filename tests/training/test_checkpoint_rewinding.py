"""Going back to an older checkpoint, and dying at every step of it."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from remdm.training.checkpoint import (
    CheckpointError,
    list_checkpoints,
    read_state,
    save_plain,
    save_weights,
    write_checkpoint,
)
from remdm.training.rewinding import INTENT_FILE, SUPERSEDED, rewind
from remdm.training.run_folder import RunFolder, find_checkpoint
from remdm.training.tracking import JsonlLog
from remdm.training.whole_state import newest_checkpoint
from tests.tiny_runs import assert_same_run, files_below, learnt, started

DONE_EPOCHS = (0, 2, 4, 5, 6)


def fill(folder: Path) -> None:
    save_weights(folder / "planner.safetensors", {"weight": torch.ones(3)})
    save_plain(folder / "process_0.pt", {"epoch": 3})


def put(folder: Path, epoch: int, *, batches: int | None = None, best_epoch: int = -1) -> None:
    progress = {"epoch": epoch, "collected": batches is not None, "batches": batches or 0}
    state = {"progress": progress | {"best_epoch": best_epoch}}
    write_checkpoint(folder.parent, folder.name, state, fill)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """What a run leaves that is done with six epochs and a part of the seventh; best in epoch 5."""
    folder = RunFolder(tmp_path_factory.mktemp("made") / "run")
    for epoch in DONE_EPOCHS:
        put(folder.checkpoints / f"epoch_{epoch:06d}", epoch)
    put(folder.checkpoints / "epoch_000004_batch_000000", 4, batches=0)
    put(folder.checkpoints / "epoch_000006_batch_000007", 6, batches=7)
    put(folder.best, 5, best_epoch=5)
    put(folder.last, 6)
    folder.config.touch()
    folder.done.write_text("{}")
    (folder.root / "trackers.json").write_text('{"wandb_id": "abc"}')
    (folder.root / "trackers-collect-0.json").write_text('{"wandb_id": "def"}')
    for name in ("metrics.jsonl", "metrics-validate-0.jsonl", "metrics-collect-0.jsonl"):
        for epoch in range(7):
            JsonlLog(folder.root / name).write({"epoch": epoch, "loss": 0.5})
    return folder


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it that a test may change."""
    shutil.copytree(made.root, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def names(root: Path) -> list[str]:
    return [path.name for path in list_checkpoints(root)]


def epochs_in(log: Path) -> list[int]:
    return [row["epoch"] for row in JsonlLog(log).read()]


def test_later_checkpoints_are_set_aside_and_the_one_asked_for_is_the_newest(
    run: RunFolder,
) -> None:
    before = files_below(run.root)
    aside = rewind(run, 4)
    assert aside == run.checkpoints / SUPERSEDED / "1"
    assert names(run.checkpoints) == ["epoch_000000", "epoch_000002", "epoch_000004"]
    assert newest_checkpoint(run.checkpoints) == run.checkpoints / "epoch_000004"
    assert sorted(p.name for p in aside.iterdir() if p.is_dir()) == [
        "best",
        "epoch_000004_batch_000000",
        "epoch_000005",
        "epoch_000006",
        "epoch_000006_batch_000007",
        "last",
    ]
    assert find_checkpoint(run.root)[1] == run.checkpoints / "epoch_000004"
    assert not run.done.exists()
    # Nothing is lost but the mark of the end, and each thing is there once.
    metrics = {name for name in before if name.startswith("metrics")}
    after = {name: text for name, text in files_below(run.root).items() if name not in metrics}
    kept = {name: text for name, text in before.items() if name not in {"DONE", *metrics}}
    assert sorted(after.values()) == sorted([*kept.values(), *(before[m] for m in metrics)])


def test_best_weights_of_an_earlier_epoch_stay(run: RunFolder) -> None:
    put(run.best, 4, best_epoch=3)
    aside = rewind(run, 4)
    assert aside is not None
    assert run.best.is_dir()
    assert not (aside / "best").exists()


def test_only_the_validator_forgets_lines_and_all_are_kept_aside(run: RunFolder) -> None:
    aside = rewind(run, 4)
    assert aside is not None
    assert epochs_in(run.root / "metrics-validate-0.jsonl") == [0, 1, 2, 3]
    assert epochs_in(run.root / "metrics-collect-0.jsonl") == list(range(7))
    for name in ("metrics.jsonl", "metrics-validate-0.jsonl", "metrics-collect-0.jsonl"):
        assert epochs_in(aside / name) == list(range(7))


def test_going_back_to_the_newest_checkpoint_changes_nothing(run: RunFolder) -> None:
    rewind(run, 4)
    before = files_below(run.root)
    assert rewind(run, 4) is None
    assert rewind(run) is None
    assert files_below(run.root) == before


def test_each_time_has_a_folder_of_its_own(run: RunFolder) -> None:
    rewind(run, 4)
    put(run.checkpoints / "epoch_000005", 5)
    assert rewind(run, 2) == run.checkpoints / SUPERSEDED / "2"
    assert (run.checkpoints / SUPERSEDED / "1/epoch_000005").is_dir()
    assert (run.checkpoints / SUPERSEDED / "2/epoch_000005").is_dir()


def test_a_newest_checkpoint_that_cannot_be_read_is_set_aside(run: RunFolder) -> None:
    (run.checkpoints / "epoch_000006/state.json").write_text("torn")
    with pytest.raises(CheckpointError, match="epoch_000006"):
        newest_checkpoint(run.checkpoints)
    aside = rewind(run, 4)
    assert aside is not None
    assert (aside / "epoch_000006/state.json").read_text() == "torn"
    assert newest_checkpoint(run.checkpoints) == run.checkpoints / "epoch_000004"


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: torn(f / "planner.safetensors"), "planner.safetensors is damaged"),
        (lambda f: torn(f / "process_0.pt"), "process_0.pt is damaged"),
        (lambda f: torn(f / "state.json"), "those after 0, 2, 5, 6;"),
        (lambda f: put(f, 3), "is not of 4 epochs"),
        (shutil.rmtree, "those after 0, 2, 5, 6;"),
    ],
)
def test_a_checkpoint_that_is_no_use_is_refused_and_nothing_moves(
    damage: Callable[[Path], None], message: str, run: RunFolder
) -> None:
    damage(run.checkpoints / "epoch_000004")
    before = files_below(run.root)
    with pytest.raises(CheckpointError, match=message):
        rewind(run, 4)
    assert files_below(run.root) == before


def test_a_run_is_asked_for_an_epoch_that_it_has(run: RunFolder, tmp_path: Path) -> None:
    run.check(resume=5)
    with pytest.raises(CheckpointError, match=r"after 3 epochs.*after 0, 2, 4, 5, 6; set Exp"):
        run.check(resume=3)
    with pytest.raises(ValueError, match="holds no run to go on with"):
        RunFolder(tmp_path / "other").check(resume=3)


# Real SIGKILLs

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


def rewound_by_a_process(run: RunFolder, epochs: int | None, dies_before: int) -> int:
    """Let a forked process go back and kill it before one of its changes; returns how many it made.

    Args:
        run: The run.
        epochs: See `rewind`.
        dies_before: Number of a change on disk, from 0.
    """
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            written = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wxa"
            if event in CHANGES or written:
                if count == dies_before:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        try:
            sys.addaudithook(hook)
            rewind(run, epochs)
            os.write(writes, str(count).encode())
        finally:
            os._exit(0)
    os.close(writes)
    _, status = os.waitpid(child, 0)
    said = os.read(reads, 20)
    os.close(reads)
    assert os.WIFSIGNALED(status) == (not said)
    return int(said or dies_before)


def visible(run: RunFolder) -> dict[str, bytes]:
    return {name: text for name, text in files_below(run.root).items() if "/." not in f"/{name}"}


def test_whenever_it_is_killed_the_next_start_ends_where_it_would_have_ended(
    run: RunFolder, tmp_path: Path
) -> None:
    def copy(name: str, source: RunFolder = run) -> RunFolder:
        shutil.copytree(source.root, tmp_path / name)
        return RunFolder(tmp_path / name)

    before, whole = visible(run), copy("whole")
    changes = rewound_by_a_process(whole, 4, -1)
    after = visible(whole)
    assert changes > 20
    begun = 0
    for number in range(changes):
        killed = copy(f"killed {number}")
        assert rewound_by_a_process(killed, 4, number) == number
        # Whoever looks meanwhile sees a point that the run was at.
        newest = newest_checkpoint(killed.checkpoints)
        assert newest is not None
        assert newest.parent == killed.checkpoints
        pending = (killed.checkpoints / INTENT_FILE).exists()
        begun += pending
        again = copy(f"again {number}", killed)
        rewind(again, 4)
        assert visible(again) == after
        rewind(killed)
        finished = pending or newest.name == "epoch_000004"
        assert visible(killed) == (after if finished else before)
    assert begun > 15


def test_another_epoch_may_be_asked_for_after_a_kill(run: RunFolder, tmp_path: Path) -> None:
    (run.checkpoints / INTENT_FILE).write_text(json.dumps({"epochs": 4, "number": 1}))
    rewind(run, 2)
    assert names(run.checkpoints) == ["epoch_000000", "epoch_000002"]
    assert not (run.checkpoints / INTENT_FILE).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"epochs": 4}', '{"epochs": 4, "number": "../../x"}'])
def test_a_damaged_intent_is_refused_and_nothing_moves(text: str, run: RunFolder) -> None:
    (run.checkpoints / INTENT_FILE).write_text(text)
    before = files_below(run.root)
    with pytest.raises(CheckpointError, match=r"rewind.json is damaged.*remove it"):
        rewind(run)
    assert files_below(run.root) == before


# Whole runs


KEPT = {
    "always_load_latest": "True",
    "keep_every_ckpts": "1",
    "baseline_agent_type": "None",
    "heldout_envs": "()",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that kept all its checkpoints, and acts by published weights."""
    folder = tmp_path_factory.mktemp("kept")
    learnt(folder, **KEPT)
    return folder / "run"


def test_run_that_goes_back_is_the_same_run_again(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "run")
    best = read_state(kept / "best")["progress"]["best_epoch"]
    assert best == 3
    run = started(tmp_path, resume="'1'", **KEPT)  # as it comes from the command line
    assert run.progress.epoch == 1
    assert run.progress.best_epoch == -1
    assert not (tmp_path / "run/best").exists()
    aside = tmp_path / "run/ckpts/superseded/1"
    kinds = {path.name for path in aside.iterdir() if path.is_dir()}
    assert kinds == {"epoch_000002", "epoch_000003", "epoch_000004", "best"}
    assert (aside / "metrics.jsonl").read_bytes() == (kept / "metrics.jsonl").read_bytes()
    run.learn()
    run.close()
    assert_same_run(tmp_path / "run", kept)
    assert read_state(tmp_path / "run/best")["progress"]["best_epoch"] == best
    before = files_below(tmp_path / "run/ckpts")
    started(tmp_path, **KEPT).close()
    assert files_below(tmp_path / "run/ckpts") == before


def test_start_after_one_that_was_killed_while_going_back_finishes_that(
    kept: Path, tmp_path: Path
) -> None:
    shutil.copytree(kept, tmp_path / "run")
    ckpts = tmp_path / "run/ckpts"
    (ckpts / "superseded/1").mkdir(parents=True)
    (ckpts / "rewind.json").write_text('{"epochs": 2, "number": 1}')
    (ckpts / "epoch_000004").rename(ckpts / "superseded/1/epoch_000004")
    learnt(tmp_path, **KEPT)
    assert (ckpts / "superseded/1/epoch_000003").is_dir()
    assert_same_run(tmp_path / "run", kept)
