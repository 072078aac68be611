"""What a scan finds out about MiniHack tasks, and how it is shown."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("minihack")

from remdm.cli import main
from remdm.cli.scan import matching, report_of
from remdm.evaluation.scan_processes import CRASHED, HUNG, Outcome
from remdm.evaluation.scan_table import counts, markdown_scan, rich_scan, scan_document
from remdm.evaluation.scan_task import ScanOptions, TaskReport, agreement, examine
from remdm.evaluation.suite import oracle_policy
from remdm.oracles.memory_oracle import MemoryOracle
from tests.tiny_runs import learnt

pytestmark = pytest.mark.minihack

OPTIONS = ScanOptions(episodes=2, first_seed=0, max_steps=None)
ROOM = "MiniHack-Room-Random-5x5-v0"


def looked_at(task: str) -> TaskReport:
    return examine(task, OPTIONS, oracle_policy(MemoryOracle()), None, lambda report: None)


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ([3, 1, 2], "EXACT"),
        ([1, 2, 3, 4, 5], "SUPERSET (+2)"),
        ([2], "SUBSET (-2)"),
        ([1, 2, 9, 8, 7], "CONFLICT (+3 -1)"),
        ([], "SUBSET (-3)"),
    ],
)
def test_action_sets_are_compared_whatever_their_order(own: list[int], found: str) -> None:
    assert agreement(own, [1, 2, 3]) == found


def test_a_room_loads_and_plays_and_its_oracle_wins() -> None:
    report = looked_at(ROOM)
    assert (report.loads, report.plays, report.trouble) == (True, True, "")
    # Eight moves of its own; OPEN, KICK, SEARCH and WAIT are ours.
    assert (report.max_steps, report.num_actions, report.agreement) == (100, 8, "SUBSET (-4)")
    assert report.oracle is not None
    assert (report.oracle["wins"], report.oracle["episodes"]) == (2, 2)


def test_a_task_that_needs_other_actions_names_them() -> None:
    report = looked_at("MiniHack-WoD-Easy-Restricted-v0")
    assert report.plays
    assert {"ZAP", "PICKUP"} <= set(report.lacking)
    assert report.agreement.startswith("CONFLICT")


@pytest.mark.parametrize("task", ["MiniHack-Boxoban-Hard-v0", "MiniHack-Skill-Custom-v0"])
def test_a_task_that_does_not_load_says_why(task: str) -> None:
    report = looked_at(task)
    assert (report.loads, report.plays, report.oracle) == (False, False, None)
    assert report.trouble
    assert task not in report.trouble


def test_what_is_known_is_told_before_every_stage() -> None:
    stages = []
    policy = oracle_policy(MemoryOracle())
    examine(ROOM, OPTIONS, policy, None, lambda report: stages.append(report.stage))
    assert stages == ["game", "ours", "oracle", ""]


@pytest.mark.parametrize(
    ("stage", "ending", "loads", "plays"),
    [
        ("game", CRASHED, False, False),
        ("ours", HUNG, True, False),
        ("oracle", HUNG, True, True),
    ],
)
def test_a_process_that_ended_early_leaves_what_was_known(
    stage: str, ending: str, loads: bool, plays: bool
) -> None:
    told = TaskReport(ROOM, stage=stage, num_actions=None if stage == "game" else 8)
    report = report_of(ROOM, Outcome(0, ending, told, 5.0, "SIGSEGV"))
    assert (report.loads, report.plays) == (loads, plays)
    assert report.trouble == f"{stage}: {'no end after 5 s' if ending == HUNG else 'SIGSEGV'}"
    silent = report_of(ROOM, Outcome(0, CRASHED, None, 5.0, "SIGSEGV"))
    assert (silent.task, silent.loads, silent.trouble) == (ROOM, False, "game: SIGSEGV")


@pytest.mark.parametrize(
    ("task", "family"),
    [
        (ROOM, "Room"),
        ("MiniHack-LavaCrossingS11N5-v0", "LavaCrossing"),
        ("MiniHack-Sokoban1a-v1", "Sokoban"),
        ("MiniHack-WoD-Hard-Full-v0", "WoD"),
    ],
)
def test_sizes_and_versions_do_not_make_a_family(task: str, family: str) -> None:
    assert TaskReport(task).family == family


def test_tasks_are_chosen_by_a_part_of_their_ids() -> None:
    tasks = [ROOM, "MiniHack-Corridor-R2-v0"]
    assert matching(tasks, None) == tasks
    assert matching(tasks, "corridor") == tasks[1:]
    with pytest.raises(ValueError, match="no MiniHack task has 'Coridor-R2' in its id; near are"):
        matching(tasks, "Coridor-R2")


def test_tables_show_what_plays_and_why_the_rest_does_not() -> None:
    reports = [
        looked_at(ROOM),
        TaskReport("MiniHack-Room-15x15-v0", stage="", game_error="no level", our_error="no"),
        TaskReport("MiniHack-Sink-v0", stage="", our_error="no", num_actions=8, agreement="EXACT"),
    ]
    assert counts(reports) == {
        "tasks": 3, "load": 2, "play": 1, "exact": 1, "superset": 0, "subset": 1, "conflict": 0
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    console.print(rich_scan(reports))
    for text in (console.file.getvalue(), markdown_scan(reports, title="Tasks")):
        assert "Room-Random-5x5" in text
        assert "1 does not load: no level (Room-15x15)" in text
        assert "1 loads: no (Sink)" in text
        assert "3 tasks: 2 load" in text
    document = json.loads(json.dumps(scan_document(reports, {"oracle": "memory"})))
    assert [task["task"] for task in document["tasks"]] == sorted(r.task for r in reports)


def test_scan_command_measures_a_run_in_every_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt(
        tmp_path, train_envs=repr([ROOM]), heldout_envs="[]", train_step_caps="(20,)", epochs="1"
    )
    argv = ["scan", "--match", "Room-Random", "--episodes", "1", "--max_steps", "5"]
    argv += ["--run", str(tmp_path / "run"), "--json", str(tmp_path / "scan.json")]
    assert main([*argv, "--markdown", str(tmp_path / "scan.md")]) == 0
    document = json.loads((tmp_path / "scan.json").read_text())
    assert (document["counts"]["tasks"], document["counts"]["play"]) == (2, 2)
    for task in document["tasks"]:
        assert task["planner"]["policy"] == "planner"
        assert task["planner"]["episodes"] == 1
        assert task["planner"]["plans_per_second"] > 0
        assert task["planner"]["nfe_per_plan"] >= 1
    assert "Room-Random-15x15" in capsys.readouterr().out
    assert (tmp_path / "scan.md").read_text().startswith("# MiniHack tasks\n")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--match NoSuchTask", "no MiniHack task has 'NoSuchTask' in its id"),
        ("--episodes 0", "--episodes must be at least 1, got 0"),
        ("--run nowhere", "neither a run folder nor a checkpoint"),
        ("--oracle memmory", "did you mean 'memory'"),
    ],
)
def test_mistake_is_one_message(
    typed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", *typed.split()]) == 2
    assert message in capsys.readouterr().err
