"""The study's command: all parts of a cell in tiny form, what is not done twice, and its sums."""

import json
from pathlib import Path

import pytest

from benchmarks import where_planning_pays
from benchmarks.inputs.planning_cells import FULL, all_cells
from benchmarks.inputs.planning_tables import BEGIN, END, fulfilled, rewrite, row_of
from remdm.evaluation.statistics import paired_difference

CELLS = (
    "explore-offline-head",
    "explore-rollout-autoregressive",
    "explore-tours-diffusion",
)


def told(folder: Path, *cells: str) -> dict[str, str]:
    """Files that the command wrote, with their time and size."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mtime_ns} {path.stat().st_size}"
        for kind in ("trained", "episodes", "runs")
        for path in sorted((folder / kind).rglob("*"))
        if path.is_file() and any(cell in str(path) for cell in cells)
    }


def bound(folder: Path, cell: str) -> str:
    return (folder / "runs" / f"{cell}-s0" / "config.gin").read_text()


def test_cells_are_trained_and_played_once_and_compared_with_their_heads(tmp_path, capsys):
    flags = [
        "--quick",
        "--json",
        "--epochs",
        "1",
        "--episodes",
        "1",
        "--out",
        str(tmp_path),
        "--cells",
    ]
    assert where_planning_pays.main([*flags, CELLS[0]]) == 0
    first = told(tmp_path, CELLS[0])
    document = tmp_path / "study.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert where_planning_pays.main([*flags, *CELLS, "--doc", str(document)]) == 0
    assert len(first) > 3
    assert told(tmp_path, CELLS[0]) == first

    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    rows = line["rows"]["explore"]
    labels = [row["labels, agent / replan"] for row in rows]
    planners = ("tours diffusion", "rollout autoregressive")
    wanted = ["offline head / 1", *(f"{name} / {k}" for name in planners for k in (1, 4, 8))]
    wanted.append("tours diffusion / 3, gamma 1")
    assert sorted(labels) == sorted(wanted)
    # The head of cut plans and tours was not among the cells, the other one was.
    compared = {
        label: row["difference"] is not None for label, row in zip(labels, rows, strict=True)
    }
    assert not compared["offline head / 1"]
    assert not compared["tours diffusion / 4"]
    assert compared["rollout autoregressive / 4"]
    assert {one["updates"] for one in line["trainings"]} == {4}

    assert "@TourOracle" in bound(tmp_path, "explore-tours-diffusion")
    assert "DiskTrajDataset.target = 'executed'" in bound(tmp_path, CELLS[1])
    assert "DiskTrajDataset.target = 'plan'" in bound(tmp_path, CELLS[0])
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| rollout | autoregressive | 4 |" in text


def test_cells_that_nobody_knows_are_refused():
    with pytest.raises(ValueError, match="chooses none of explore-cut-head"):
        where_planning_pays.main(["--quick", "--cells", "explore-nothing"])


def test_every_cell_but_the_control_has_both_planners_and_each_head_comes_before_them():
    cells = all_cells(FULL)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    for place, cell in enumerate(cells):
        assert names.index(cell.head) <= place
    twins = {c.labels for c in cells if c.agent == "autoregressive"}
    planners = {c.labels for c in cells if c.agent == "diffusion"}
    assert planners - twins == {"offline"}


GROUPS = {"training": ("a",), "held-out": ("b", "c")}


def measured(cell: str, agent: str, b: str, c: str, nfe: float) -> dict:
    """Two training seeds of two episodes a map; every episode has ten steps and five plans."""
    maps = [
        {
            env: {"won": won[i : i + 2], "steps": [10, 10], "plans": 10, "nfe": nfe}
            for env, won in (("a", "1111"), ("b", b), ("c", c))
        }
        for i in (0, 2)
    ]
    return {
        "cell": cell,
        "labels": "cut",
        "agent": agent,
        "replan": "4",
        "ms_per_plan": 3.0,
        "maps": maps,
    }


def test_a_line_has_means_over_maps_costs_per_step_and_the_paired_difference():
    head = measured("h", "head", "0011", "0000", 20.0)
    planner = measured("p", "diffusion", "1011", "0100", 8.0)
    row = row_of(planner, head, GROUPS)
    assert row["training"] == 1.0
    assert row["held-out"] == (0.75 + 0.25) / 2
    assert row["calls/step"] == 8.0 / 20
    assert row["ms/step"] == 0.5 * 3.0
    assert row["steps won"] == 10.0
    assert row["by map"]["b"]["win_rate"] == 0.75
    won = [{"b": [1, 0, 1, 1], "c": [0, 1, 0, 0]}, {"b": [0, 0, 1, 1], "c": [0, 0, 0, 0]}]
    pair = paired_difference(*won)
    assert (row["difference"], row["low"], row["high"]) == (0.25, pair.low, pair.high)
    assert row["p_value"] == 0.5  # two episodes that only the planner won
    assert row_of(head, head, GROUPS)["difference"] is None

    dear = row_of(measured("q", "diffusion", "1011", "0100", 12.0), head, GROUPS)
    worse = row_of(measured("r", "diffusion", "0001", "0000", 8.0), head, GROUPS)
    assert fulfilled([row, dear, worse]) == ["cut / 4"]
    assert fulfilled([dear, worse]) == []


def test_a_document_without_markers_is_left_alone(tmp_path):
    document = tmp_path / "other.md"
    document.write_text("nothing here\n")
    with pytest.raises(ValueError, match="must have a line"):
        rewrite(document, "tables")
    assert document.read_text() == "nothing here\n"
