"""Examples and the README's program in tiny form: real processes, in a folder with a space."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from remdm import Experiment, config
from tests.tiny_runs import TINY_PPO

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
RECIPES = {"00_gridworld": "gridworld", "01_minihack_dagger": "minihack_quick"}
SUGGESTED = re.compile(r'--bind "([^"]+)"')


def run_program(
    *argv: str, folder: Path, recipe: str = "gridworld"
) -> subprocess.CompletedProcess[str]:
    """Run a training program under smoke.gin in `folder`."""
    return run_script(*argv, "--configs", f"{recipe}.gin", "smoke.gin", folder=folder)


def run_script(*argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program on one thread in `folder`."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
    return subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def example(name: str) -> str:
    """Where an example lies."""
    return str(ROOT / "examples" / f"{name}.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name has a space in it."""
    made = tmp_path / "a folder"
    made.mkdir()
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["00_gridworld", pytest.param("01_minihack_dagger", marks=pytest.mark.minihack)],
)
def test_example_trains_tests_and_leaves_all_that_a_run_leaves(name: str, folder: Path) -> None:
    on_minihack = name.startswith("01")
    if on_minihack:
        pytest.importorskip("minihack")
    flags = ["--run_name", "my run", "--json", "rows.json"]
    done = run_program(example(name), *flags, folder=folder, recipe=RECIPES[name])
    assert done.returncode == 0, done.stderr
    for shown in ("planner", "single_step", "memory", "random", "mean, held-out"):
        assert shown in done.stdout
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    run = folder / "runs" / "my run"
    left = {"config.gin", "metrics.jsonl", "shards", "labels", "ckpts", "latest", "best", "report"}
    assert left <= {path.name for path in run.iterdir()}
    assert json.loads((run / "report" / "results.json").read_text())["rows"] == rows
    for file in ("table.md", "loss.png", "win_rate.png"):
        assert (run / "report" / file).is_file()
    envs, policies = ({row[key] for row in rows} for key in ("env", "policy"))
    assert len(rows) == len(envs) * len(policies)
    assert policies == {"random", "memory", "planner", "single_step"} | (
        {"planner+constraints"} if on_minihack else set()
    )
    if on_minihack:
        assert len(envs) == 7
    for row in rows:
        assert 0 <= row["ci_low"] <= row["win_rate"] <= row["ci_high"] <= 1
        assert row["mean_steps"] <= 40
    gifs = list((run / "report" / "gifs").glob("*.gif"))
    assert len(gifs) == len(envs)
    assert all(gif.read_bytes().startswith(b"GIF89a") for gif in gifs)


@pytest.mark.slow
def test_own_oracle_is_the_teacher_and_own_step_is_recorded(folder: Path) -> None:
    done = run_program(example("02_custom_oracle"), folder=folder)
    assert done.returncode == 0, done.stderr
    assert "rook" in done.stdout
    assert "of the planner's moves are diagonal" in done.stdout
    run = folder / "runs" / "custom_oracle"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [line["label/oracle_win_rate"] for line in lines if "label/oracle_win_rate" in line]
    assert rates == [1.0]
    rows = json.loads((run / "report" / "results.json").read_text())["rows"]
    assert {row["policy"] for row in rows} == {"random", "rook", "planner", "single_step"}
    text = (run / "config.gin").read_text()
    assert "Experiment.oracle_type = @RookOracle" in text


@pytest.mark.slow
def test_own_step_refuses_a_teacher_that_does_not_win(folder: Path) -> None:
    knob = "CheckedExperiment.least_win_rate"
    done = run_program(example("02_custom_oracle"), "--bind", f"{knob} = 1.1", folder=folder)
    assert done.returncode != 0
    assert f"ValueError: rook wins 1.00 of Gridworld-Room-9x9-v0; mend it or lower {knob}" in (
        done.stderr
    )


@pytest.mark.slow
def test_own_objective_is_minimised_beside_the_agents_own(folder: Path) -> None:
    done = run_program(example("06_custom_objective"), folder=folder)
    assert done.returncode == 0, done.stderr
    assert "turns in a plan; its teacher's have" in done.stdout
    run = folder / "runs" / "custom_objective"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("train/planner/turning/loss" in line for line in lines)
    assert "Experiment.objectives = (@OwnLoss, (@turning, 1.0))" in (run / "config.gin").read_text()


@pytest.mark.slow
def test_long_trajectories_are_walked_through_and_played_with_and_without_memory(
    folder: Path,
) -> None:
    flags, recipe = ["--demonstrations", "5"], "long_trajectories"
    done = run_program(example("07_long_trajectories"), *flags, folder=folder, recipe=recipe)
    assert done.returncode == 0, done.stderr
    told = re.compile(r"^(CueCorridor.+): won \d.+with its memory, .+ without$", re.MULTILINE)
    corridors = [f"CueCorridor-4x{steps}-v0" for steps in (2, 6, 14, 28)]
    assert told.findall(done.stdout) == corridors
    assert "walk 0 through the episodes" in done.stderr


@pytest.mark.slow
def test_maze_paths_are_learnt_by_both_nets_and_counted(folder: Path) -> None:
    flags = ["--mazes", "300", "--updates", "3", "--held_out", "40", "--json", "rows.json"]
    done = run_script(example("03_maze_paths"), *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert [row["planner"] for row in rows] == ["masked diffusion", "autoregressive"]
    assert all(row["planner"] in done.stdout for row in rows)
    assert rows[0]["parameters"] == rows[1]["parameters"] < 1_000_000
    for row in rows:
        assert 0 <= row["ci_low"] <= row["solved"] <= row["ci_high"] <= 1
        assert row["net_calls"] >= 1


@pytest.mark.slow
@pytest.mark.craftax
def test_craftax_expert_is_trained_and_measured(folder: Path) -> None:
    pytest.importorskip("craftax")
    binds = [word for bind in TINY_PPO for word in ("--bind", bind)]
    flags = ["--lives", "8", "--max_steps", "64", "--run_name", "an expert"]
    done = run_script(example("04_craftax_expert"), *flags, *binds, folder=folder)
    assert done.returncode == 0, done.stderr
    for shown in ("random", "expert", "share of expert", "Crafter score", "lives (ended)"):
        assert shown in done.stdout
    assert (folder / "runs" / "an expert" / "expert" / "policy.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.craftax
def test_craftax_planner_learns_from_an_expert_that_is_trained_first(folder: Path) -> None:
    pytest.importorskip("craftax")
    binds = [word for bind in TINY_PPO for word in ("--bind", bind)]
    recipe, flags = "craftax_classic_quick", ["--run_name", "my run"]
    done = run_program(example("05_craftax_dagger"), *flags, *binds, folder=folder, recipe=recipe)
    assert done.returncode == 0, done.stderr
    for shown in ("random", "expert", "planner", "single_step", "share of expert"):
        assert shown in done.stdout
    report = folder / "runs" / "my run" / "report"
    rows = json.loads((report / "results.json").read_text())["rows"]
    assert {row["policy"] for row in rows} == {"random", "expert", "planner", "single_step"}
    assert all(row["lives"]["lives"] == row["episodes"] for row in rows)
    assert (report / "gifs" / "Craftax-Classic-Symbolic-v1.gif").is_file()
    assert "share of expert" in (report / "table.md").read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_names_that_an_example_mentions_exist(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"python examples/{path.name}" in doc
    for recipe in re.findall(r"\w+\.gin", doc):
        assert (ROOT / "gin_configs" / recipe).is_file()
    for binding in SUGGESTED.findall(doc):
        if not binding.startswith("CheckedExperiment."):  # the example's own, tested above
            config.load_config(["gridworld"], [binding])


@pytest.mark.slow
def test_program_in_the_readme_trains(folder: Path) -> None:
    readme = (ROOT / "README.md").read_text().partition("## Adding things")[2]
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (recipe,) = re.findall(r"^```\n(import mine\n.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (folder / "mine.py").write_text("\n".join(blocks))
    (folder / "mine.gin").write_text(recipe)
    done = run_program("-m", "remdm", "train", folder=folder, recipe="mine")
    assert done.returncode == 0, done.stderr
    assert "Slippery-Gridworld" in done.stdout
    assert "brisk" in done.stdout


@pytest.mark.slow
def test_lines_of_the_readme_train_a_policy_from_any_expert(folder: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("## Any expert")[2]
    found = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    given = """import importlib.util
import gymnasium
spec = importlib.util.spec_from_file_location("example", EXAMPLE)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
expert = module.Balance()
observation, _ = gymnasium.make("CartPole-v1").reset(seed=0)
""".replace("EXAMPLE", repr(example("08_dagger_any_expert")))
    lines = found[1].replace("5_000", "250").replace("1_000", "250")
    assert lines != found[1]
    (folder / "mine.py").write_text(f"{given}\n{lines}\nassert action in (0, 1)\n")
    done = run_script("mine.py", folder=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "cartpole_policy" / "policy.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.minihack
def test_recipe_of_the_seed_runs_when_tiny(tmp_path: Path) -> None:
    """The other recipes are run by the examples."""
    pytest.importorskip("minihack")
    base = {"Experiment.ckpt_base_dir": ("--ckpt_base_dir", str(tmp_path))}
    config.load_config(["minihack_seed_dagger", "smoke"], ["Experiment.epochs = 1"], base)
    experiment = Experiment("tiny")
    experiment.start()
    try:
        experiment.learn()
        assert experiment.progress.finished
        assert experiment.trainers["planner"].updates == 2
    finally:
        experiment.close()


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_dagger_learns_from_a_scripted_expert_and_tells_its_share(env: str, folder: Path) -> None:
    flags = ["--env", env, "--total_steps", "250", "--seeds", "2", "--episodes", "2"]
    done = run_script(example("08_dagger_any_expert"), *flags, "--json", "it.json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "share of the expert's gain over chance" in done.stdout
    found = json.loads((folder / "it.json").read_text())
    assert found["chance"] < found["expert"]
    assert len(found["learner"]) == len(found["shares"]) == 2
    for seed in range(2):
        assert (folder / "runs" / f"dagger {env} seed {seed}" / "policy" / "config.gin").is_file()
