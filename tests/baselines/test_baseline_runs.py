"""`remdm baseline`: every algorithm from a command line to tables, and what is left on disk."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from remdm import config
from remdm.baselines.baseline import Baseline, check_all_is_used
from remdm.baselines.watch import WEIGHTS_FILE, load_policy
from remdm.cli import main
from remdm.envs.making import make_vec_env
from remdm.evaluation.rollout import evaluate_policy
from remdm.evaluation.run_record import read_run
from remdm.evaluation.suite import evaluate_suite
from remdm.experiment import Experiment
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.seeding import TEST_SEEDS
from remdm.training.checkpoint import CheckpointError, check_whole, list_checkpoints, load_weights
from remdm.training.interrupt import StopRequest
from tests.baselines.tiny_baselines import DARK, ROOM, arguments, opened, trained
from tests.cli.told_errors import errors_of

ALGORITHMS = ("ppo", "a2c", "dqn", "ppo-rnn", "bc", "dt")


def wins_of(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(row["env"], row["policy"], row["wins"]) for row in rows]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_is_trained_measured_and_reported(algorithm: str, tmp_path: Path) -> None:
    root = trained(tmp_path, algorithm, "--policies", algorithm, f"{algorithm}:greedy")
    run = read_run(root)
    assert run.finished == "yes (DONE)"
    assert run.groups == {"training": [ROOM], "held-out": [DARK]}
    assert {(row.env, row.policy, row.episodes, row.first_seed) for row in run.rows} == {
        (env, policy, 3, TEST_SEEDS.start)
        for env in (ROOM, DARK)
        for policy in (algorithm, f"{algorithm}:greedy")
    }
    assert all(1 <= row.nfe_per_plan <= 2 for row in run.rows)
    steps = run.last("env_steps")
    assert steps is not None
    assert 100 < steps <= 200
    losses = [line for line in run.metrics if any(name.endswith("loss") for name in line)]
    validated = [line for line in run.metrics if "val/win_rate" in line]
    assert losses
    assert [line["val/episodes"] for line in validated] == [2, 2]
    assert len(list((root / "ckpts").glob("*/state.json"))) == 2
    assert check_whole(root / "best")["algorithm"] == algorithm
    assert (
        list_checkpoints(root / "ckpts") == []
    )  # nothing that `remdm eval` would take for its own
    files = [path for path in root.rglob("*") if path.is_file()]
    known = {".safetensors", ".json", ".jsonl", ".gin", ".md", ".png", ""}
    assert {path.suffix for path in files} <= known
    assert not any(zipfile.is_zipfile(path) for path in files)  # as SB3's archives with pickles are
    table = json.loads((tmp_path / f"baseline_{algorithm}.json").read_text())
    assert table["algorithm"] == algorithm
    assert table["total_timesteps"] == 200
    assert len(table["rows"]) == 4
    assert wins_of(table["per_seed"]["0"]["rows"]) == wins_of([r.to_dict() for r in run.rows])


def test_a_finished_seed_is_not_trained_again_nor_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trained(tmp_path, "a2c", "--policies", "a2c")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert main(arguments(tmp_path, "a2c", "--policies", "a2c", "--seeds", "0", "1")) == 0
    after = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert {p: t for p, t in after.items() if "roles" not in p.parts} == {
        p: t for p, t in before.items() if "roles" not in p.parts
    }
    table = json.loads((tmp_path / "baseline_a2c.json").read_text())
    assert table["seeds"] == [0, 1]
    assert [row["episodes"] for row in table["rows"]] == [6, 6]
    rates = {line["group"]: line["seeds"] for line in table["spread"]}
    assert rates["training"].keys() == {"0", "1"}
    capsys.readouterr()
    text = errors_of(capsys, *arguments(tmp_path, "a2c", ReinforcementLearning__rows_per_env="1"))
    assert "another configuration" in text
    assert "ReinforcementLearning.rows_per_env is 1 now, not bound there" in " ".join(text.split())


def test_a_stopped_seed_begins_anew_and_comes_to_the_same(tmp_path: Path) -> None:
    whole = trained(tmp_path, "ppo", "--policies", "ppo")
    stopped = tmp_path / "stopped"
    stopped.mkdir()

    class AfterAWhile(StopRequest):
        asked = 0

        @property
        def requested(self) -> bool:  # type: ignore[override]
            self.asked += 1
            return self.asked > 60

        @requested.setter
        def requested(self, value: bool) -> None:
            pass

    one = opened(stopped, "ppo", Experiment__resume="'auto'")
    assert not one.train(AfterAWhile())
    assert not one.finished
    again = opened(stopped, "ppo", Experiment__resume="'auto'")
    assert again.train(StopRequest())
    expected = load_weights(whole / "best" / WEIGHTS_FILE)
    found = load_weights(again.folder.best / WEIGHTS_FILE)
    assert expected.keys() == found.keys()
    assert all(bool((expected[name] == found[name]).all()) for name in expected)


def test_a_run_is_measured_again_without_training_and_by_its_own_weights_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trained(tmp_path, "bc", "--policies", "bc", "bc:greedy")
    before = (root / "best" / WEIGHTS_FILE).read_bytes()
    results = (root / "report" / "results.json").read_bytes()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    root = root.rename(moved / "other_name")
    table = tmp_path / "again.json"
    assert main(["baseline", str(root), "--policies", "bc", "bc:greedy", "--json", str(table)]) == 0
    assert json.loads(table.read_text())["per_seed"]["0"] == json.loads(results)
    asked = ["--envs", DARK, "--test_episodes", "4", "--policies", "bc:greedy", "random"]
    assert main(["baseline", str(root), *asked, "--json", str(table)]) == 0
    rows = json.loads(table.read_text())["rows"]
    assert [(row["env"], row["policy"], row["episodes"]) for row in rows] == [
        (DARK, "bc:greedy", 4),
        (DARK, "random", 4),
    ]
    assert (root / "best" / WEIGHTS_FILE).read_bytes() == before
    capsys.readouterr()
    assert "leave out --algo" in errors_of(capsys, "baseline", str(root), "--algo", "bc")
    other = opened(tmp_path, "ppo")
    with pytest.raises(CheckpointError, match="algorithm 'bc', and here it is 'ppo'"):
        load_policy(root / "best", other.learner.module, other.facts)
    (root / "best" / WEIGHTS_FILE).write_bytes(b"\x80\x04N.")
    assert "damaged" in errors_of(capsys, "baseline", str(root))


def test_all_play_the_levels_that_a_planner_is_tested_on(tmp_path: Path) -> None:
    one = opened(tmp_path, "dt")
    begun: dict[str, set[int]] = {}
    (actor, greedy), others = one.actors(None)
    assert (actor.name, greedy.name, others) == ("dt", "dt:greedy", ["random", "memory"])
    begin = actor.begin

    def noted(rows: np.ndarray, envs: Sequence[str], seeds: Sequence[int]) -> None:
        for env, seed in zip(envs, seeds, strict=True):
            begun.setdefault(env, set()).add(seed)
        begin(rows, envs, seeds)

    actor.begin = noted  # type: ignore[method-assign]
    one.actors = lambda policies: ([actor], ["random"])  # type: ignore[method-assign]
    rows = one.test()
    assert begun == {ROOM: {0, 1, 2}, DARK: {0, 1, 2}}
    expected = evaluate_suite(
        {}, MemoryOracle(), one.envs, policies=["random"], episodes=3, first_seed=0, rows=2,
        seed=0, make_vec_env=make_vec_env, max_episode_steps=12, shown=False,
    )  # fmt: skip
    assert [row for row in rows if row.policy == "random"] == expected
    assert {row.max_steps for row in rows} == {12}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--algo", "pop"], "did you mean 'ppo'"),
        (["--encoder", "rawr"], "did you mean 'raw'"),
        (["--total_timesteps", "8"], "at least 16 env steps"),
        (["--bind", "ReinforcementLearning.dqn = {'bufer_size': 3}"], "did you mean 'buffer_size'"),
        (["--bind", "ReinforcementLearning.reward = 'rich'"], "'shaped' or 'sparse'"),
        (["--seeds", "1", "1"], "different numbers"),
        (["--seeds", "1", "--num_seeds", "2"], "give one"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {"ReinforcementLearning__dqn": "{'train_freq': 8}"}
    if any("dqn" in word for word in more):
        changed = {}
    assert says in errors_of(capsys, *arguments(tmp_path, "dqn", *more, **changed))


def test_raw_glyph_ids_are_a_second_choice(tmp_path: Path) -> None:
    one = opened(tmp_path, "bc", Baseline__encoder="'raw'")
    assert one.train(StopRequest())
    assert check_whole(one.folder.best)["encoder"] == "raw"
    weights = load_weights(one.folder.best / WEIGHTS_FILE)
    assert weights["features_extractor.local.0.weight"].shape == (16, 1, 3, 3)


@pytest.mark.minihack
def test_nethack_is_learnt_from_beside_the_planners_reach_encoder(tmp_path: Path) -> None:
    pytest.importorskip("nle")
    small = "MiniHack-Room-Random-5x5-v0"
    one = opened(
        tmp_path,
        "ppo",
        Experiment__train_envs=repr([small]),
        Experiment__heldout_envs="()",
        Experiment__total_timesteps="64",
        PlannerFeatures__encoder_type="@ReachEncoder",
    )
    assert one.train(StopRequest())
    (actor, _), _ = one.actors(None)
    played = evaluate_policy(
        actor, [small], episodes=2, first_seed=0, make_vec_env=make_vec_env, max_episode_steps=5
    )
    assert [record.seed for record in played.records] == [0, 1]
    assert config.bound_value("PlannerFeatures.encoder_type") is not None


@pytest.mark.minihack
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_recipe_starts_with_every_algorithm_and_uses_all_it_binds(
    algorithm: str, tmp_path: Path
) -> None:
    pytest.importorskip("nle")
    binds = [f"Experiment.ckpt_base_dir = {str(tmp_path)!r}", f"Baseline.algorithm = {algorithm!r}"]
    config.load_config(["minihack_baselines.gin"], binds)
    one = Baseline(Experiment("run"))
    check_all_is_used()
    assert one.names == [algorithm, f"{algorithm}:greedy"]
    assert list(tmp_path.iterdir()) == []
