"""`remdm oracle` and `remdm eval`: who plays what, by which weights, and what is said of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from remdm import config
from remdm.cli import evaluate, main
from remdm.cli.runs import open_run
from remdm.training.checkpoint import list_checkpoints
from tests.cli.told_errors import errors_of
from tests.configurables import write
from tests.tiny_runs import learnt

ROOM = "MiniHack-Room-Random-5x5-v0"
GRIDWORLD = "Gridworld-Room-9x9-v0"
LEVEL = """\
MAZE: "mylevel", ' '
FLAGS: premapped
GEOMETRY: center,center
MAP
-------
|.....|
|.....|
-------
ENDMAP
REGION:(0,0,6,3),lit,"ordinary"
STAIR:(5,2),down
BRANCH:(1,1,1,1),(0,0,0,0)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a second in a room of NetHack."""
    folder = tmp_path_factory.mktemp("trained")
    learnt(
        folder,
        train_envs=repr([ROOM]),
        heldout_envs="[]",
        train_step_caps="(20,)",
        epochs="2",
        val_interval="1",
        augmentation_type="None",
    )
    config.clear_config()
    return folder / "run"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(run: Path, *argv: str) -> dict[str, Any]:
    """What `remdm eval` writes; a few steps of two levels unless told otherwise."""
    short = ["--episodes", "2", "--max_steps", "6", "--json", "rows.json"]
    assert main(["eval", str(run), *short, *argv]) == 0
    document: dict[str, Any] = json.loads(Path("rows.json").read_text())
    return document


# oracle


def test_oracle_writes_one_row_per_environment(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    argv = ["oracle", "--oracle", "memory", "random", "--envs", "gridworld", "--episodes", "2"]
    assert main([*argv, "--json", "out/rows.json"]) == 0
    rows = json.loads((folder / "out/rows.json").read_text())["rows"]
    wanted = {"env", "episodes", "wins", "win_rate", "ci_low", "ci_high", "mean_steps_won"}
    assert all(wanted | {"policy"} <= row.keys() for row in rows)
    assert {row["policy"] for row in rows} == {"memory", "random"}
    assert all(row["wins"] == 2 for row in rows if row["policy"] == "memory")
    assert "Maze-9x9" in capsys.readouterr().out


def test_oracle_refuses_a_binding_that_nothing_used(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    argv = ["oracle", "--envs", GRIDWORLD, "--episodes", "1"]
    text = errors_of(capsys, *argv, "--bind", "MiniHackEnv.reward = 'shaped'")
    assert "MiniHackEnv.reward (--bind): nothing in this run used MiniHackEnv" in text


@pytest.mark.minihack
def test_oracle_plays_level_files_by_the_names_of_their_stems(folder: Path) -> None:
    write(folder / "levels/hall.des", LEVEL)
    argv = ["oracle", "--des", "levels/hall.des", "--episodes", "2", "--json", "rows.json"]
    assert main([*argv, "--max_steps", "40"]) == 0
    document = json.loads((folder / "rows.json").read_text())
    (row,) = document["rows"]
    assert (row["env"], row["wins"], row["max_steps"]) == ("hall", 2, 40)
    assert document["policies"]["memory"]["kind"] == "MemoryOracle"
    assert document["level_seeds"] == {"first": 0, "episodes": 2}


# eval


@pytest.mark.minihack
def test_eval_says_by_what_and_where_rows_were_played(
    trained: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    policies = ["planner", "planner:temperature=0.9", "random"]
    found = evaluated(trained, "--seed", "50", "--policies", *policies)
    assert [(row["policy"], row["first_seed"], row["max_steps"]) for row in found["rows"]] == [
        (policy, 50, 6) for policy in policies
    ]
    assert found["level_seeds"] == {"first": 50, "episodes": 2}
    run = found["run"]
    assert (run["weights"], run["checkpoint"]) == ("averaged", str(trained / "best"))
    assert run["updates"] in (4, 8)
    said = found["policies"]
    assert [said[name].get("temperature") for name in policies] == [0.5, 0.9, None]
    assert said["planner"]["kind"] == "DiffusionPlannerAgent"
    assert "averaged weights of" in capsys.readouterr().out
    again = evaluated(trained, "--seed", "50", "--policies", *policies)
    assert again == found


@pytest.mark.minihack
def test_eval_takes_a_checkpoint_and_other_settings(trained: Path, folder: Path) -> None:
    newest = list_checkpoints(trained / "ckpts")[-1]
    argv = ["--envs", ROOM, "--bind", "DiffusionPlannerAgent.replan_every = 1"]
    found = evaluated(newest, *argv, "--policies", "planner")
    assert found["run"]["checkpoint"] == str(newest)
    assert (found["run"]["epochs"], found["run"]["updates"]) == (2, 8)
    assert found["policies"]["planner"]["replan_every"] == 1


@pytest.mark.minihack
def test_raw_weights_are_those_that_were_trained(trained: Path, folder: Path) -> None:
    newest = list_checkpoints(trained / "ckpts")[-1]
    raw = open_run(trained, [], [], raw=True)
    averaged = open_run(newest, [], [])
    assert raw.source == averaged.source == newest
    for opened, name in ((raw, "planner"), (averaged, "planner_ema")):
        stored = load_file(newest / f"{name}.safetensors")
        own = opened.agents["planner"].state_dict()
        assert all(torch.equal(own[key], stored[key]) for key in stored)
    differ = [
        not torch.equal(a, b)
        for a, b in zip(
            raw.agents["planner"].parameters(), averaged.agents["planner"].parameters(), strict=True
        )
    ]
    assert any(differ)
    assert evaluated(trained, "--raw")["run"]["weights"] == "raw"


@pytest.mark.minihack
def test_raw_weights_of_a_folder_that_has_none_are_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = errors_of(capsys, "eval", str(trained / "best"), "--raw")
    assert "averaged weights only" in text


@pytest.mark.minihack
def test_blind_agents_are_rows_of_their_own_and_others_see_all(trained: Path, folder: Path) -> None:
    policies = ["planner", "planner+constraints", "memory"]
    found = evaluated(trained, "--blind", "--near", "5", "--policies", *policies)
    rows = [row["policy"] for row in found["rows"]]
    assert rows == ["planner:near=5", "planner+constraints:near=5", "memory"]
    assert [found["policies"][name].get("near") for name in rows] == [5, 5, None]
    assert found["policies"][rows[1]]["constrained"]
    own = evaluated(trained, "--blind", "--policies", "planner", "single_step")
    # The crop of the default net.
    assert [row["policy"] for row in own["rows"]] == ["planner:near=21", "single_step:near=21"]


@pytest.mark.minihack
def test_latency_is_measured_for_one_plan_and_for_many(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "TIMED_CALLS", 4)
    found = evaluated(trained, "--latency", "--rows", "2", "--policies", "planner", "random")
    timed = found["latency"]
    assert [(row["policy"], row["rows"]) for row in timed] == [
        (policy, rows) for rows in (1, 2) for policy in ("planner", "random")
    ]
    for row in timed:
        assert row["env"] == ROOM
        assert row["calls"] == 4
        assert 0 < row["plan_ms_median"] <= row["plan_ms_p95"]
        assert row["plan_ms_per_step"] > 0
    assert timed[0]["nfe_per_plan"] >= 1
    assert timed[1]["nfe_per_plan"] == 0
    assert {"device", "torch", "threads"} <= found["machine"].keys()
    assert "ms a call" in capsys.readouterr().out


@pytest.mark.minihack
def test_level_files_are_played_beside_environments_of_other_sizes(
    trained: Path, folder: Path
) -> None:
    write(folder / "levels/hall.des", LEVEL)
    argv = ["--envs", GRIDWORLD, ROOM, "--des", "levels/hall.des", "--policies", "memory"]
    found = evaluated(trained, *argv, "--max_steps", "30")
    assert {row["env"]: row["wins"] for row in found["rows"]} == {GRIDWORLD: 2, ROOM: 2, "hall": 2}
    assert found["level_files"] == {"hall": "levels/hall.des"}
    assert [mean["group"] for mean in found["means"]] == ["training", "selected", "levels"]


@pytest.mark.minihack
def test_eval_says_how_likely_the_planner_finds_the_plans_of_the_oracle(
    trained: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    found = evaluated(trained, "--policies", "planner", "--nelbo")
    assert [row["env"] for row in found["nelbo"]] == [ROOM]
    assert all(0 < row["per_token"] < row["per_plan"] for row in found["nelbo"])
    assert "nats per plan" in capsys.readouterr().out


# Mistakes


@pytest.mark.minihack
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--policies planer", "did you mean 'planner'"),
        ("--envs MiniHack-Room-Random-5x6-v0", f"did you mean '{ROOM}'"),
        ("--des nowhere.des", "takes level files of NetHack (.des), and 'nowhere.des' is none"),
        ("--des torn.des", "torn.des must compile and does not"),
        ("--des hall.des other/hall.des", "two environments would be called 'hall'"),
        ("--max_steps 0", "max_episode_steps must be at least 1, got 0"),
        ("--near 5", "give --blind as well"),
        ("--blind --near 4", "an odd number of cells"),
        ("--policies planner:near=x", "near must be a whole number"),
    ],
)
def test_mistake_is_one_message(
    typed: str, message: str, trained: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write(folder / "hall.des", LEVEL)
    write(folder / "other/hall.des", LEVEL)
    write(folder / "torn.des", LEVEL.replace("ENDMAP", ""))
    assert message in errors_of(capsys, "eval", str(trained), "--episodes", "1", *typed.split())


def test_checkpoint_that_is_not_there_is_one_message(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    for place in ("runs/nothing", str(folder)):
        assert "neither a run folder nor a checkpoint" in errors_of(capsys, "eval", place)
    assert "an artifact must be named wandb:" in errors_of(capsys, "eval", "wandb:team/name")


@pytest.mark.minihack
def test_environment_that_the_agents_do_not_speak_for_is_refused(trained: Path) -> None:
    run = open_run(trained, [], [])
    assert evaluate.playable_sets(run, [GRIDWORLD, ROOM]) == [[GRIDWORLD], [ROOM]]
    foreign = dataclasses.replace(run, action_names=("LEFT", "RIGHT"))
    with pytest.raises(ValueError, match=f"cannot play {GRIDWORLD}"):
        evaluate.playable_sets(foreign, [GRIDWORLD])


@pytest.mark.parametrize(
    ("name", "said"), [("moon", "a device is named"), ("cuda:9", "finds no device 'cuda:9'")]
)
def test_a_device_that_is_not_there_is_said_before_anything_is_read(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in errors_of(capsys, "eval", "runs/nothing", "--device", name)
