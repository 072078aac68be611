"""The table of the README: its commands can be typed, its means and intervals are right."""

import json
from pathlib import Path

import pytest

from benchmarks.inputs import ablation_cells
from benchmarks.inputs.results_cells import cells_of
from benchmarks.inputs.results_table import GROUPS, Played, Row, read_rows, table_text, together
from remdm import cli, config
from remdm.evaluation.statistics import Rate, mean_rate

HELD_OUT = list(GROUPS["held-out"])


def held_out(*wins: int, calls: float = 1.0) -> dict[str, Played]:
    """Won of 100 levels each."""
    return {env: Played(Rate.of(won, 100), calls) for env, won in zip(HELD_OUT, wins, strict=True)}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("make", [cells_of, ablation_cells.cells_of])
def test_every_cell_is_commands_that_remdm_knows(tmp_path, make, quick):
    cells = make(tmp_path, [0, 1, 2], 400, quick)
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        for command in cell.commands:
            assert cli.parse(command).command == command[0]


def test_every_seed_has_the_planner_and_six_baselines_with_two_encoders(tmp_path):
    names = [cell.name for cell in cells_of(tmp_path, [0, 1, 2], 400)]
    for seed in range(3):
        mine = [name for name in names if name.endswith(f"-s{seed}")]
        assert len(mine) == 4 + 2 * 6


@pytest.mark.parametrize("bindings", ablation_cells.VARIANTS.values())
def test_every_ablation_is_a_configuration_that_can_be_loaded(bindings):
    config.load_config(["minihack_quick.gin"], bindings)


def test_rows_that_are_not_shown_are_left_out_and_missing_files_are_no_rows(tmp_path: Path):
    file = tmp_path / "a.json"
    assert read_rows(file, {"planner": "ours"}) == []
    rows = [
        {"policy": name, "env": HELD_OUT[0], "wins": 3, "episodes": 4, "nfe_per_step": 0.5}
        for name in ("planner", "random")
    ]
    file.write_text(json.dumps({"rows": rows}))
    (row,) = read_rows(file, {"planner": "ours"})
    assert (row.name, row.env_rate(HELD_OUT[0])) == ("ours", 0.75)


def test_runs_of_one_policy_are_one_row():
    rows = [Row("a", [held_out(1, 1, 1)]), Row("b"), Row("a", [held_out(2, 2, 2)])]
    first, second = together(rows)
    assert (first.name, len(first.runs), second.name) == ("a", 2, "b")


def test_one_run_has_the_interval_of_its_levels():
    row = Row("oracle", [held_out(90, 80, 100)])
    wanted = mean_rate([played.won for played in held_out(90, 80, 100).values()])
    assert row.group_rate("held-out") == pytest.approx(0.9)
    assert row.group_interval("held-out") == (wanted.low, wanted.high)


def test_several_runs_have_students_interval_over_their_means():
    # Means 0.8, 0.9 and 0.7: standard deviation 0.1, t(0.975, 2) = 4.303.
    row = Row("ours", [held_out(80, 80, 80), held_out(80, 90, 100), held_out(60, 80, 70)])
    low, high = row.group_interval("held-out")
    assert row.group_rate("held-out") == pytest.approx(0.8)
    assert high == pytest.approx(1.0)  # 0.8 + 0.248 is cut
    assert low == pytest.approx(0.8 - 4.3027 * 0.1 / 3**0.5, abs=1e-4)


def test_net_calls_are_means_over_environments_and_runs():
    row = Row("ours", [held_out(80, 90, 100, calls=0.5), held_out(80, 90, 100, calls=0.9)])
    row.runs[0][HELD_OUT[0]] = Played(Rate.of(80, 100), 1.1)
    assert row.group_calls("held-out") == pytest.approx((0.7 + 0.9) / 2)
    assert row.group_calls("training") is None


def test_what_was_not_played_is_a_dash():
    text = table_text([Row("ours", [held_out(80, 90, 100)])])
    training, heldout = "- | - | - | - | **-**", "0.800 | 0.900 | 1.000 | **0.900** [0.86, 0.93]"
    assert text.splitlines()[-1] == f"| ours | 1 | {training} | {heldout} | 1.00 |"
