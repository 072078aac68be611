import dataclasses
import io
import json

import pytest
from rich.console import Console

from remdm.evaluation.rollout import EvalRow
from remdm.evaluation.statistics import Rate
from remdm.evaluation.tables import (
    ENV_NOTES,
    build_table,
    format_steps,
    markdown_table,
    report_markdown,
    report_table,
    results_document,
    rich_table,
    write_json,
)

GROUPS = {"training": ["MiniHack-Room-5x5-v0", "B"], "held-out": ["Dark"]}


def row(env, policy, wins, steps, episodes=200):
    rate = Rate.of(wins, episodes)
    return EvalRow(
        env=env,
        episodes=episodes,
        wins=wins,
        win_rate=rate.rate,
        ci_low=rate.low,
        ci_high=rate.high,
        mean_steps_won=steps,
        policy=policy,
        mean_steps=50.0,
        plans_per_episode=10.0,
        nfe_per_plan=3.5,
        first_seed=0,
    )


@pytest.fixture
def rows():
    return [
        row("MiniHack-Room-5x5-v0", "random", 100, 12.34),
        row("B", "random", 50, 1000.0),
        row("Dark", "random", 0, None),
        row("MiniHack-Room-5x5-v0", "planner", 200, 2.3),
        row("B", "planner", 180, 33.26),
        row("Dark", "planner", 140, 86.0),
    ]


def markdown_row(text, label):
    return next(line for line in text.splitlines() if line.startswith(f"| {label}"))


def test_markdown_shows_rates_with_intervals_and_steps(rows):
    text = markdown_table(build_table(rows, GROUPS), title="my run")
    assert text.startswith("# my run\n")
    rates, steps = text.split("## Steps per won episode")
    assert markdown_row(rates, "Room-5x5") == (
        "| Room-5x5 | 0.500 [0.431, 0.569] | 1.000 [0.981, 1.000] |"
    )
    assert markdown_row(steps, "Room-5x5") == "| Room-5x5 | 12.3 | 2.3 |"
    assert markdown_row(steps, "B") == "| B | 1000 | 33.3 |"
    assert markdown_row(steps, "Dark") == "| Dark | - | 86.0 |"
    assert "200 episodes per environment, level seeds from 0" in text


def test_groups_are_closed_by_their_own_means(rows):
    table = build_table(rows, GROUPS)
    assert [name for name, _ in table.sections] == ["training", "held-out"]
    training, heldout = (lines[-1] for _, lines in table.sections)
    assert training.cells["random"][0].rate == pytest.approx(0.375)
    assert training.cells["planner"][0].rate == pytest.approx(0.95)
    assert training.cells["planner"][1] == pytest.approx((2.3 + 33.26) / 2)
    assert heldout.cells["random"][1] is None


def test_mean_is_left_out_where_a_policy_did_not_play_everything(rows):
    table = build_table(rows[:5], GROUPS)
    text = markdown_table(table)
    assert "planner" in table.sections[0][1][-1].cells
    assert "planner" not in table.sections[1][1][-1].cells
    assert markdown_row(text, "Dark") == "| Dark | 0.000 [0.000, 0.019] |  |"


def test_environments_of_no_group_follow_in_their_own(rows):
    table = build_table([*rows, row("New", "planner", 1, 1.0)], GROUPS)
    assert [name for name, _ in table.sections] == ["training", "held-out", "other"]


def test_footnote_is_marked_beside_its_environment(rows):
    text = markdown_table(build_table(rows, GROUPS, notes={"Dark": "lit rooms", "Z": "unused"}))
    assert markdown_row(text, "Dark").startswith("| Dark [1] |")
    assert "[1] lit rooms" in text
    assert "unused" not in text


def test_dark_room_is_footnoted_where_a_trained_network_played():
    dark = "MiniHack-Room-Dark-15x15-v0"
    planner = row(dark, "planner", 200, 86.0)
    oracle = dataclasses.replace(planner, policy="memory", nfe_per_plan=0.0)
    assert build_table([planner], GROUPS).footnotes == [ENV_NOTES[dark]]
    assert build_table([oracle], GROUPS).footnotes == []
    assert build_table([planner], GROUPS, notes={}).footnotes == []
    assert results_document([planner], GROUPS)["notes"] == {dark: ENV_NOTES[dark]}


def test_later_row_replaces_an_earlier_one(rows):
    table = build_table([*rows, row("Dark", "planner", 200, 80.0)], GROUPS)
    assert table.sections[1][1][0].cells["planner"][0].rate == 1.0


def test_terminal_table_of_four_policies_fits_into_80_columns(rows):
    more = [row(r.env, r.policy + "+constraints", r.wins, r.mean_steps_won) for r in rows]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(build_table([*rows, *more], GROUPS, notes={"Dark": "a note"})))
    text = console.export_text()
    assert "\u2026" not in text
    assert "0.500 / 12.3" in text
    assert "0.981-1.000" in text
    assert "[1] a note" in text


def test_table_without_rows_is_refused():
    with pytest.raises(ValueError, match="at least one evaluation row"):
        build_table([], GROUPS)


def test_json_has_exactly_the_promised_fields_and_more_only_behind_them(rows, tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(path, results_document(rows, GROUPS, notes={"Dark": "n"}, extra={"command": "x"}))
    read = json.loads(path.read_text())
    assert list(read) == ["schema_version", "rows", "means", "notes", "command"]
    assert [r["env"] for r in read["rows"]] == [r.env for r in rows]
    assert list(read["rows"][0]) == [
        "env",
        "episodes",
        "wins",
        "win_rate",
        "ci_low",
        "ci_high",
        "mean_steps_won",
        "policy",
        "mean_steps",
        "plans_per_episode",
        "nfe_per_plan",
        "first_seed",
        "mean_return",
        "return_low",
        "return_high",
        "lives",
        "max_steps",
        "nfe_per_step",
    ]
    assert read["rows"][2]["mean_steps_won"] is None
    means = {(m["group"], m["policy"]): m["win_rate"] for m in read["means"]}
    assert means["training", "planner"] == pytest.approx(0.95)


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("steps", "text"), [(None, "-"), (2.34, "2.3"), (99.94, "99.9"), (99.96, "100"), (243.4, "243")]
)
def test_steps_have_a_decimal_while_they_are_few(steps, text):
    assert format_steps(steps) == text


def test_environments_without_a_win_are_compared_by_their_returns():
    cart = "Gymnasium:CartPole-v1"
    scored = dataclasses.replace(
        row(cart, "planner", 0, None), mean_return=90.0, return_low=80.0, return_high=100.0
    )
    text = report_markdown([row("B", "planner", 200, 3.0), scored], GROUPS)
    assert f"| {cart} | planner | 90.00 [80.00, 100.00] | 50.0 |" in text
    assert "1.000 [" in text
    assert "0.000 [" not in text
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report_table([scored], GROUPS))
    assert "90.00 [80.00, 100.00]" in console.export_text()
