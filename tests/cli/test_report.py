"""`remdm report` on runs that were really trained."""

import json
from pathlib import Path

import pytest

from remdm.cli import main
from tests.evaluation.run_folders import Page, make_run
from tests.tiny_runs import tiny_bindings


def test_report_of_real_seeds_is_one_page_with_bands_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1"):
        bindings = tiny_bindings(tmp_path, seed=seed, epochs="2", heldout_envs="()")
        flags = [word for binding in bindings for word in ("--bind", binding)]
        assert main(["train", "--run_name", f"tiny-{seed}", *flags]) == 0
    runs = [str(tmp_path / f"tiny-{seed}") for seed in (0, 1)]
    assert main(["report", *runs]) == 2
    assert "--out FILE" in capsys.readouterr().err
    files = [tmp_path / "out" / f"all.{kind}" for kind in ("html", "csv", "json")]
    page, table, numbers = files
    flags = ["--out", str(page), "--csv", str(table), "--json", str(numbers)]
    assert main(["report", *runs, *flags]) == 0
    parts = Page(page.read_text())
    assert "tiny" in parts.words
    assert "bands reach from the lowest run to the highest" in parts.words
    assert len(parts.named("img")) == 2
    assert all(place.startswith(("#", "data:image/gif;")) for place in parts.references())
    document = json.loads(numbers.read_text())
    (group,) = document["groups"]
    assert [(run["run"], run["epochs"], run["finished"]) for run in group["runs"]] == [
        ("tiny-0", 2, "yes"),
        ("tiny-1", 2, "yes"),
    ]
    assert {row["policy"] for row in document["rows"]} >= {"random", "planner", "single_step"}
    assert len(table.read_text().splitlines()) == 1 + len(document["rows"])


def test_report_of_one_run_goes_into_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_run(tmp_path / "alone")
    assert main(["report", str(root)]) == 0
    assert "alone" in Page((root / "report" / "index.html").read_text()).words
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no config.gin" in capsys.readouterr().err
