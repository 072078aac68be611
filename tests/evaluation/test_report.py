import json

import pytest
import torch
from PIL import Image

from remdm.agent import DiffusionPlannerAgent
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import OraclePolicy
from remdm.evaluation.report import gif_name, write_curves, write_gifs, write_report
from remdm.evaluation.rollout import evaluate_policy
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.training.run_folder import RunFolder
from remdm.training.tracking import JsonlLog

TRAIN, HELD_OUT = ["Gridworld-Room-9x9-v0"], ["Gridworld-DarkRoom-9x9-v0"]


def play(env_names):
    return evaluate_policy(
        OraclePolicy(MemoryOracle()),
        env_names,
        episodes=3,
        first_seed=0,
        make_vec_env=make_vec_env,
    )


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "my run")
    folder.root.mkdir()
    log = JsonlLog(folder.metrics)
    for epoch in range(3):
        counters = {"epoch": epoch, "env_steps": 100 * epoch + 100, "updates": 10 * epoch + 10}
        rate = {f"val/win_rate/{TRAIN[0]}": epoch / 2, "val/episodes": 10.0}
        log.write({**counters, "train/planner/loss": 1.0 / (epoch + 1), **rate})
    return folder


@pytest.fixture
def agent():
    torch.manual_seed(0)
    return DiffusionPlannerAgent(map_observation_spec(9, 9), NUM_ACTIONS).eval()


def test_curves_are_drawn_of_all_processes(folder):
    folder.metrics.unlink()
    assert write_curves(folder.report, folder.metrics) == []
    log = JsonlLog(folder.root / "metrics-validate-0.jsonl")
    log.write({"epoch": 1, "env_steps": 9, "updates": 9, f"val/win_rate/{TRAIN[0]}": 0.5})
    assert write_curves(folder.report, folder.metrics) == [folder.report / "win_rate.png"]


def test_report_holds_table_numbers_curves_and_pictures(folder, agent):
    rows = play([*TRAIN, *HELD_OUT]).rows
    written = write_report(folder, rows, agent, TRAIN, HELD_OUT)
    names = {str(path.relative_to(folder.report)) for path in written}
    assert names == {
        "table.md",
        "results.json",
        "loss.png",
        "win_rate.png",
        "gifs/Gridworld-Room-9x9-v0.gif",
        "gifs/Gridworld-DarkRoom-9x9-v0.gif",
    }
    assert {p for p in folder.report.rglob("*") if p.is_file()} == set(written)
    assert "# my run" in (folder.report / "table.md").read_text()
    assert "mean, held-out" in (folder.report / "table.md").read_text()
    numbers = json.loads((folder.report / "results.json").read_text())
    assert [row["env"] for row in numbers["rows"]] == [*TRAIN, *HELD_OUT]


def test_report_without_metrics_has_no_curves(folder, agent):
    folder.metrics.unlink()
    written = write_report(folder, play(TRAIN).rows, agent, TRAIN, [])
    assert {path.name for path in written} == {"table.md", "results.json", gif_name(TRAIN[0])}


def test_gif_shows_the_episode_of_the_level_asked_for(tmp_path):
    result = play(TRAIN)
    for record in result.records:
        (path,) = write_gifs(tmp_path, OraclePolicy(MemoryOracle()), TRAIN, seed=record.seed)
        with Image.open(path) as image:
            assert image.n_frames == record.steps + 1


def test_gif_of_a_level_file_has_a_plain_name():
    assert gif_name("my levels/cave.des") == "my_levels_cave.des.gif"


@pytest.mark.minihack
def test_minihack_levels_can_be_played_and_pictured(tmp_path):
    envs = ["MiniHack-Room-Random-5x5-v0", "MiniHack-Corridor-R2-v0"]
    result = play(envs)
    assert all(row.win_rate == 1.0 for row in result.rows)
    paths = write_gifs(tmp_path, OraclePolicy(MemoryOracle()), envs, seed=0)
    for path, env in zip(paths, envs, strict=True):
        first = next(r for r in result.records if r.env == env)
        with Image.open(path) as image:
            assert image.n_frames == first.steps + 1
        assert path.stat().st_size < 1_000_000
