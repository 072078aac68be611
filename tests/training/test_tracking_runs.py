"""Curves that go on: whatever a run was stopped by, its trackers follow it."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.utils import LoggerType

from remdm.training import trackers
from remdm.training.trackers import Trackers
from remdm.training.tracking import JsonlLog
from tests.tiny_runs import learnt, metric_rows
from tests.wandb_runs import Run, Service

NOTES = "trackers.json"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """W&B, where no run is yet."""
    made = Service()
    monkeypatch.setitem(sys.modules, "wandb", made.module)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])
    return made


class Process:
    """A process of a run: its log, and the trackers that follow it."""

    def __init__(self, folder: Path, names: tuple[str, ...], role: str = "both") -> None:
        self.folder, self.role = folder, role
        self.log = JsonlLog(folder / "metrics.jsonl")
        self.accelerator = Accelerator(cpu=True, log_with=list(names) or None, project_dir=folder)
        self.trackers = Trackers(self.accelerator, self.log, folder / NOTES, "updates")

    def start(self, at: int = 0) -> "Process":
        wandb = {"job_type": self.role, "dir": str(self.folder)}
        self.trackers.start(
            "maze", {"seed": 1}, wandb, folder=self.folder, going_on_at=at if at else None
        )
        return self

    def learn(self, *updates: int) -> None:
        for update in updates:
            line = {"updates": update, "loss": 1 / update}
            self.trackers.tell(line, self.log.write(line))


def updates_in(lines: list[dict[str, Any]]) -> list[int]:
    return [line["updates"] for line in lines]


def known_as(folder: Path) -> Any:
    return json.loads((folder / NOTES).read_text())["wandb_id"]


WANDB = ("wandb",)


def test_a_run_that_is_started_again_goes_on_in_wandb_by_its_id(
    service: Service, tmp_path: Path
) -> None:
    Process(tmp_path, WANDB).start().learn(1, 2)
    Process(tmp_path, WANDB).start(2).learn(3)
    first, second = service.starts
    assert (first.asked["resume"], second.asked["resume"]) == ("allow", "must")
    assert first.id == second.id == known_as(tmp_path)
    assert updates_in(service.told(first.id)) == [1, 2, 3]
    assert second.defined == {"epoch": None, "env_steps": None, "updates": None, "*": "updates"}
    assert service.config == {"seed": "1"}


def test_lines_told_again_after_a_crash_are_drawn_once(service: Service, tmp_path: Path) -> None:
    killed = Process(tmp_path, WANDB).start()
    killed.learn(1, 2)
    checkpoint = killed.log.size
    killed.learn(3, 4)
    after = Process(tmp_path, WANDB)
    after.log.rewind(checkpoint)
    after.start(2).learn(3, 4, 5)
    assert updates_in(service.told(known_as(tmp_path))) == [1, 2, 3, 4, 5]


def test_lines_that_wandb_never_got_are_told_again(service: Service, tmp_path: Path) -> None:
    killed = Process(tmp_path, WANDB).start()
    killed.learn(1, 2)
    checkpoint = killed.log.size
    killed.learn(3, 4)
    del service.runs[known_as(tmp_path)][3]  # the machine died before it was sent
    after = Process(tmp_path, WANDB)
    after.log.rewind(checkpoint)
    after.start(2).learn(3, 4, 5)
    assert updates_in(service.told(known_as(tmp_path))) == [1, 2, 3, 4, 5]


def test_lines_between_two_updates_are_all_drawn(service: Service, tmp_path: Path) -> None:
    process = Process(tmp_path, WANDB).start()
    process.learn(1, 1, 1)
    assert updates_in(service.told(known_as(tmp_path))) == [1, 1, 1]


def test_a_tracker_that_is_added_later_is_told_everything(service: Service, tmp_path: Path) -> None:
    Process(tmp_path, ()).start().learn(1, 2)
    assert not (tmp_path / NOTES).exists()
    Process(tmp_path, WANDB).start().learn(3)
    assert updates_in(service.told(known_as(tmp_path))) == [1, 2, 3]
    Process(tmp_path, WANDB).start().learn(4)
    assert updates_in(service.told(known_as(tmp_path))) == [1, 2, 3, 4]


def test_a_run_that_is_new_to_wandb_twice_is_another_run_with_the_whole_curve(
    service: Service, tmp_path: Path
) -> None:
    """As after going back to an older checkpoint, which takes the notes away."""
    Process(tmp_path, WANDB).start().learn(1, 2, 3)
    given_up = known_as(tmp_path)
    (tmp_path / NOTES).unlink()
    back = Process(tmp_path, WANDB)
    back.log.forget_from(1)  # nothing: no line has an epoch
    back.log.rewind(len(back.log.path.read_bytes().splitlines(True)[0]))
    back.start(1).learn(2)
    assert known_as(tmp_path) != given_up
    assert updates_in(service.told(given_up)) == [1, 2, 3]
    assert updates_in(service.told(known_as(tmp_path))) == [1, 2]


def test_a_start_that_dies_while_it_catches_up_leaves_no_half_curve(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process(tmp_path, ()).start().learn(1, 2)

    def dies(run: Run, values: dict[str, Any], step: int | None = None) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", dies)
        with pytest.raises(MemoryError):
            Process(tmp_path, WANDB).start()
    half = known_as(tmp_path)
    Process(tmp_path, WANDB).start().learn(3)
    assert known_as(tmp_path) != half
    assert updates_in(service.told(known_as(tmp_path))) == [1, 2, 3]


def test_a_run_that_wandb_lost_is_told_with_what_to_do(service: Service, tmp_path: Path) -> None:
    Process(tmp_path, WANDB).start().learn(1)
    service.runs.clear()
    with pytest.raises(ValueError, match=r"must have run \w+ to go on.*Remove .*trackers.json"):
        Process(tmp_path, WANDB).start()
    (tmp_path / NOTES).unlink()
    Process(tmp_path, WANDB).start().learn(2)
    assert updates_in(service.told(known_as(tmp_path))) == [1, 2]


def test_other_errors_of_wandb_are_its_own(service: Service, tmp_path: Path) -> None:
    service.breaks = ConnectionError("no route")
    with pytest.raises(ConnectionError, match="no route"):
        Process(tmp_path, WANDB).start()


def test_a_run_that_was_only_offline_is_not_asked_for(service: Service, tmp_path: Path) -> None:
    service.offline = True
    Process(tmp_path, WANDB).start().learn(1)
    service.offline = False
    Process(tmp_path, WANDB).start().learn(2)
    Process(tmp_path, WANDB).start().learn(3)
    assert [run.asked["resume"] for run in service.starts] == ["allow", "allow", "must"]
    assert len({run.id for run in service.starts}) == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"wandb_id": "../x", "wandb_online": true, "told": []}', '{"wandb_id": 7}'],
)
def test_damaged_notes_begin_another_run_and_are_told(
    text: str, service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Process(tmp_path, WANDB).start().learn(1)
    (tmp_path / NOTES).write_text(text)
    with caplog.at_level(logging.WARNING):
        Process(tmp_path, WANDB).start().learn(2)
    assert "trackers.json is damaged" in caplog.text
    assert updates_in(service.told(known_as(tmp_path))) == [1, 2]
    assert len(service.runs) == 2


def test_an_experiment_goes_on_and_goes_back_in_wandb(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remdm.training.saved_run.SavedRun.publish_artifacts", lambda run: None)
    settings = {"trackers": "('wandb',)", "epochs": "2", "keep_every_ckpts": "1"}
    settings |= {"heldout_envs": "()", "val_interval": "None", "baseline_agent_type": "None"}
    run = learnt(tmp_path, **settings)
    first = known_as(tmp_path / "run")
    asked = service.starts[0].asked
    assert (asked["group"], asked["name"], asked["job_type"]) == ("run", "run", "both")
    assert asked["project"] == run.wandb_project
    lines = metric_rows(tmp_path / "run")
    drawn = [{k: v for k, v in row.items() if "second" not in k} for row in service.told(first)]
    assert drawn == lines
    learnt(tmp_path, **settings)
    assert known_as(tmp_path / "run") == first
    assert len(service.told(first)) == len(lines)
    learnt(tmp_path, resume="1", **settings)
    second = known_as(tmp_path / "run")
    assert second != first
    assert updates_in(service.told(second)) == updates_in(service.told(first))


ALONE = {"trackers": "('wandb',)", "heldout_envs": "()", "baseline_agent_type": "None"}
ALONE |= {"val_interval": "None", "augmentation_type": "None"}


def handed_on(service: Service) -> list[tuple[str, str]]:
    """Name and version of every artifact, without `latest`."""
    return [(draft.name, *aliases[1:]) for draft, aliases in service.artifacts]


def test_every_second_checkpoint_is_handed_on_with_its_configuration(
    service: Service, tmp_path: Path
) -> None:
    learnt(tmp_path, epochs="5", artifact_interval="2", **ALONE)
    assert handed_on(service) == [
        ("run-checkpoint", "epoch_000002"),
        ("run-checkpoint", "epoch_000004"),
        ("run-checkpoint", "epoch_000005"),  # the last
        ("Gridworld-Room-9x9-v0-policy",),
    ]
    for (draft, _), epoch in zip(service.artifacts, (2, 4, 5), strict=False):
        assert {"planner.safetensors", "planner_ema.safetensors"} <= draft.files.keys()
        assert json.loads(draft.files["state.json"])["progress"]["epoch"] == epoch
        assert draft.files["config.gin"] == (tmp_path / "run/config.gin").read_bytes()


def test_without_an_interval_only_the_weights_at_the_end_are_handed_on(
    service: Service, tmp_path: Path
) -> None:
    learnt(tmp_path, epochs="2", artifact_interval="None", **ALONE)
    assert handed_on(service) == [("Gridworld-Room-9x9-v0-policy",)]


def test_a_run_that_the_folder_does_not_know_goes_on_by_its_id(
    service: Service, tmp_path: Path
) -> None:
    service.runs["abc123"] = {0: {"updates": 1}}
    learnt(tmp_path, epochs="2", wandb_run_id="'abc123'", metric_names="'seed'", **ALONE)
    assert [(run.id, run.asked["resume"]) for run in service.starts] == [("abc123", "must")]
    assert known_as(tmp_path / "run") == "abc123"
    assert service.runs["abc123"][0] == {"updates": 1}
    last = service.told("abc123")[-1]
    assert last["iteration"] == last["epoch"] == 1
    assert last["train/progress"] == 1.0
    assert last["model/param_norm"] > last["model/param_drift_from_init"] > 0
    assert "diffusion/loss" in last
    assert "train/planner/loss" not in last
    own = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert own[-1]["train/planner/loss"] == last["diffusion/loss"]


def test_an_id_that_is_none_is_refused(service: Service, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wandb_run_id must be .* set Experiment\.wandb_run_id"):
        learnt(tmp_path, wandb_run_id="'../x'", **ALONE)
    assert service.starts == []


# The real ones, where they are installed


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return


@pytest.mark.usefixtures("offline")
def test_the_real_wandb_goes_on_by_the_id_offline(tmp_path: Path) -> None:
    for updates in ((1, 2), (3,)):
        process = Process(tmp_path, WANDB).start()
        process.learn(*updates)
        process.accelerator.end_training()
    runs = {path.parent.name.split("-")[3] for path in tmp_path.glob("wandb/offline-*/*.wandb")}
    assert runs == {known_as(tmp_path)}
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 2


def scalars(folder: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_lines_that_are_told_again_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    names = ("tensorboard",)
    killed = Process(tmp_path, names).start()
    killed.learn(1, 2)
    checkpoint = killed.log.size
    killed.learn(3, 4)
    killed.accelerator.end_training()
    after = Process(tmp_path, names)
    after.log.rewind(checkpoint)
    after.start(2).learn(3)
    after.accelerator.end_training()
    assert scalars(tmp_path / "maze")["loss"] == [1, 2, 3]


def test_a_missing_package_is_answered_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"wandb is needed here.*pip install -e '\.\[wandb\]'"):
        trackers.check_trackers(["wandb"])


def test_an_unknown_tracker_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'wandbb': did you mean 'wandb'"):
        trackers.check_trackers(["wandbb"])
    trackers.check_trackers([])
