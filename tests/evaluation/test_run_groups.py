import csv
import io
import json
import sys

import numpy as np
import pytest

from remdm.evaluation.report_numbers import report_csv, report_document
from remdm.evaluation.run_groups import (
    band,
    differences,
    first_reached,
    played,
    read_groups,
    score_tables,
)
from remdm.evaluation.run_record import config_values, read_run
from remdm.training.tracking import JsonlLog
from tests.evaluation.run_folders import ENVS, HELD_OUT, make_run, row, write_gif, write_results


def names(groups):
    return [(group.name, [run.name for run in group.runs]) for group in groups]


# One run


def test_a_configuration_is_read_without_importing_what_it_names(tmp_path):
    run = read_run(make_run(tmp_path / "run", 7))
    assert (run.seed, run.version) == ("7", "0.1.0")
    assert run.groups == {"training": list(ENVS), "held-out": [HELD_OUT]}
    assert "no.such" not in sys.modules


def test_macros_are_what_they_stand_for_wherever_they_are():
    text = "A = 3\nB = (%A, 1)\nX.y = {'k': [%B]}\nX.z = @scope/Class()\nX.w = %OTHER\n"
    values = config_values(text)
    assert {name: repr(value) for name, value in values.items()} == {
        "X.y": "{'k': [(3, 1)]}",
        "X.z": "@scope/Class()",
        "X.w": "%OTHER",
    }


@pytest.mark.parametrize(
    "text", ["X.y = (1", "X.y = )", "A = %A\nX.y = %A", "X.y = %s" % ("(" * 999)]
)
def test_a_configuration_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="must be gin text"):
        config_values(text)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.gin"):
        read_run(tmp_path)


def test_torn_and_senseless_lines_of_metrics_do_not_matter(tmp_path):
    root = make_run(tmp_path / "run")
    with (root / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"epoch": "x", "env_steps": null, "val/win_rate": true}\n{"epoch": 3, "en')
    run = read_run(root)
    assert (run.epochs, run.last("env_steps"), run.finished) == (3, 300.0, "yes")


def test_metrics_of_separate_processes_count_with_their_clock(tmp_path):
    root = make_run(tmp_path / "run", rates=())
    for name, at in (("metrics.jsonl", 1e9), ("metrics-validate-0.jsonl", 1e9 + 50)):
        log = JsonlLog(root / name)
        log.write({"unix_seconds": at, "epoch": 0, "env_steps": 5, "updates": 1, "x": at})
    log.write({"unix_seconds": 1e9 + 90, "epoch": 1, "env_steps": 9, "val/win_rate": 0.9})
    run = read_run(root)
    assert (run.last("seconds"), run.last("env_steps")) == (90.0, 9.0)
    assert first_reached(run, 0.9, "seconds") == 90.0
    (root / "DONE").write_text("{}")
    assert read_run(root).finished == "yes (DONE)"


def test_rows_that_are_none_are_left_out_and_named(tmp_path):
    root = make_run(tmp_path / "run")
    good = row(ENVS[0], "planner", 3, ci_low=-7.0)
    bad = [
        row(ENVS[0], "random", 21),
        row(ENVS[0], "random", 1, mean_steps=float("nan")),
        row(ENVS[0], "random", True),
        {"env": ENVS[0]},
        "row",
    ]
    write_results(root, [*bad, good])
    run = read_run(root)
    assert [(r.policy, r.wins) for r in run.rows] == [("planner", 3)]
    assert run.rows[0].ci_low == pytest.approx(0.0524, abs=1e-4)  # by Wilson, not as written
    assert len(run.notes) == len(bad)
    (root / "report" / "results.json").write_text("[" * 100_000)
    assert "cannot be read" in read_run(root).notes[0]


def test_only_gifs_of_the_folder_are_taken(tmp_path):
    root = make_run(tmp_path / "run")
    write_gif(tmp_path / "secret.gif")
    write_gif(root / "report" / "gifs" / "good.gif")
    (root / "report" / "gifs" / "link.gif").symlink_to(tmp_path / "secret.gif")
    (root / "report" / "gifs" / "text.gif").write_text("root:x:0:0")
    run = read_run(root)
    assert list(run.gifs) == ["good"]
    assert sum("is left out" in note for note in run.notes) == 2


# Several


def test_runs_that_differ_in_seed_and_places_are_one_recipe(tmp_path):
    runs = [
        make_run(tmp_path / "a-seed0", 0, buffer_dir="'/one'", log_interval=5),
        make_run(tmp_path / "a-seed1", 1, buffer_dir="'/two'"),
        make_run(tmp_path / "more" / "a", 0, learning_rate=0.5),
    ]
    groups = read_groups(runs)
    assert names(groups) == [("a", ["a-seed0", "a-seed1"]), ("a (2)", ["a"])]
    assert differences(groups) == {"Experiment.learning_rate": ["(default)", "0.5"]}
    with pytest.raises(ValueError, match="named once"):
        read_groups([runs[0], runs[0]])


def test_a_band_is_the_lowest_and_highest_run_where_all_have_been(tmp_path):
    runs = [
        make_run(tmp_path / "a-0", 0, (0.0, 0.4, 0.8)),
        make_run(tmp_path / "a-1", 1, (0.4, 0.6)),
    ]
    (group,) = read_groups(runs)
    found = band(group, "val/win_rate", "env_steps")
    assert found is not None
    np.testing.assert_array_equal(found.x, [100, 200])
    np.testing.assert_allclose(
        [found.low, found.mean, found.high], [[0, 0.4], [0.2, 0.5], [0.4, 0.6]]
    )
    assert [len(run.x) for run in found.runs] == [3, 2]
    assert band(group, "val/nothing", "env_steps") is None


def test_rates_of_seeds_are_pooled_and_an_oracle_counts_once(tmp_path):
    runs = [
        make_run(
            tmp_path / f"a-{seed}",
            seed,
            rows=[row(ENVS[0], "planner", wins), row(ENVS[0], "oracle", 20, nfe_per_plan=0.0)],
        )
        for seed, wins in ((0, 10), (1, 14))
    ]
    planner, oracle = played(read_groups(runs))
    assert (planner.rate.wins, planner.rate.episodes) == (24, 40)
    assert (planner.nfe_per_plan, planner.nfe_per_env_step) == pytest.approx((3.0, 0.6))
    assert (oracle.rate.wins, oracle.rate.episodes) == (20, 20)


def test_scores_of_a_run_that_did_not_play_everything_are_left_out(tmp_path):
    runs = [
        make_run(tmp_path / "a-0", 0, rows=[row(env, "planner", 10) for env in (*ENVS, HELD_OUT)]),
        make_run(tmp_path / "a-1", 1, rows=[row(ENVS[0], "planner", 20)]),
    ]
    tables = score_tables(read_groups(runs), np.random.default_rng(0), 100)
    assert [(t.envs, t.names, t.scores) for t in tables] == [
        ("training", list(ENVS), [[0.5, 0.5]]),
        ("held-out", [HELD_OUT], [[0.5]]),
    ]


def test_numbers_for_programs_are_those_of_the_runs(tmp_path):
    rows = [row(ENVS[0], "=cmd()", 5), row(ENVS[1], "planner", 15)]
    runs = [make_run(tmp_path / f"a-{seed}", seed, rows=rows) for seed in (0, 1)]
    groups = read_groups(runs)
    lines = list(csv.DictReader(io.StringIO(report_csv(groups))))
    assert [(line["run"], line["policy"]) for line in lines][:2] == [
        ("a-0", "'=cmd()"),
        ("a-0", "planner"),
    ]
    assert {line["env_group"] for line in lines} == {"training"}
    assert float(lines[1]["nfe_per_env_step"]) == pytest.approx(0.6)
    tables = score_tables(groups, np.random.default_rng(0), 100)
    document = json.loads(json.dumps(report_document(groups, tables), allow_nan=False))
    (group,) = document["groups"]
    assert [run["seed"] for run in group["runs"]] == ["0", "1"]
    assert group["runs"][0]["reached"][1]["env_steps"] == 300.0
    assert document["scores"][1]["scores"] == [[0.75], [0.75]]
