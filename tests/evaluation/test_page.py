import re
from pathlib import Path

import numpy as np
import pytest

from remdm.evaluation.page import report_page
from remdm.evaluation.run_groups import read_groups, score_tables
from tests.evaluation.run_folders import ENVS, HELD_OUT, Page, make_run, row, write_gif

ROWS = [
    row(env, policy, wins)
    for policy, wins in (("random", 4), ("planner", 18))
    for env in (*ENVS, HELD_OUT)
]
HOSTILE = "$x_2$<script>alert(1)</script>\"'&--><img src=http://a.b/c>]]>"


def page_of(*roots: Path, max_gif_mib: float = 1.0) -> Page:
    groups = read_groups(roots)
    tables = score_tables(groups, np.random.default_rng(0), 200)
    return Page(report_page(groups, tables, 200, max_gif_mib))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    two = [make_run(folder / f"maze-s{seed}", seed, rows=ROWS) for seed in (0, 1)]
    other = make_run(folder / "slow", 0, (0.1, 0.2, 0.3), rows=ROWS, learning_rate=1e-4)
    write_gif(two[0] / "report" / "gifs" / "Gridworld-Room-9x9-v0.gif")
    return [*two, other]


@pytest.fixture(scope="module")
def page(runs) -> Page:
    return page_of(*runs)


def test_page_refers_to_nothing_outside_itself_and_has_no_script(page):
    references = page.references()
    assert any(place.startswith("data:image/gif;base64,") for place in references)
    assert all(place.startswith(("data:image/gif;base64,", "#")) for place in references)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {
        n for n, _ in page.elements
    }
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    policies = [a["content"] for a in page.named("meta") if "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_page_names_every_element_once_and_points_only_to_those_there(page):
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names)) > 0
    assert {place[1:] for place in page.references() if place.startswith("#")} <= set(names)


def test_page_can_be_read_without_seeing_it(page):
    pictures = [*page.named("svg"), *page.named("img")]
    described = [a.get("aria-label") or a.get("alt") for a in pictures]
    # 3 axes, 2 environments, 1 loss, 3 charts of bars, 1 GIF.
    assert len(described) == 10
    assert all(described)
    assert all(a["scope"] in ("col", "row") for a in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table")) > 0
    assert page.named("html") == [{"lang": "en"}]
    assert "At the end: maze (2 seeds) 0.9, slow (1 seed) 0.3." in described[0]


def test_page_tells_where_recipes_differ_and_who_is_alone(page):
    assert "Experiment.learning_rate" in page.words
    assert "Experiment.seed" not in page.words
    assert "Of one run alone, without a band: slow." in page.words
    assert "Fewer than 5 seeds are an indication" in page.words
    assert "one seed" in page.words


def test_page_has_intervals_net_calls_and_what_it_took(page):
    assert "0.900 [0.769, 0.960]" in page.words  # 36 of 40 by Wilson
    assert re.search(r"planner +40 .*? 3\.00 +0\.600", page.words)
    assert re.search(r"maze +0\.80 +2 of 2 +300 \(300 to 300\) +30 \(30 to 30\)", page.words)
    assert re.search(r"slow +0\.50 +0 of 1 +- +- +-", page.words)


def test_hostile_names_stay_text(tmp_path):
    # Names of folders cannot have a slash.
    root = make_run(
        tmp_path / HOSTILE.replace("/", ":"),
        rates=(0.0, 0.5, 1.0),
        rows=[row(HOSTILE, HOSTILE, 3, lives={HOSTILE: HOSTILE})],
        run_note=repr(HOSTILE),
        train_envs=repr([HOSTILE]),
    )
    metrics = root / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace(ENVS[0], HOSTILE.replace('"', '\\"')))
    other = make_run(tmp_path / "other", run_note="'plain'")
    write_gif(root / "report" / "gifs" / f"{HOSTILE.replace('/', ':')}.gif")
    page = page_of(root, other)
    assert "script" not in {name for name, _ in page.elements}
    assert not [place for place in page.references() if place.startswith("http")]
    assert page.words.count("<script>alert(1)</script>") > 3
    assert "$x_2$<script>" in page.drawn
    assert len(page.named("img")) == 1


def test_missing_parts_are_said_to_be_missing(tmp_path):
    root = make_run(tmp_path / "young", rates=())
    words = page_of(root).words
    for sentence in (
        "It has no metrics yet.",
        "It has no final table yet.",
        "No run has been validated yet.",
        "No run has trained yet.",
        "No run has a final table yet.",
        "No run has pictures of episodes.",
        "no: epoch 0 of 3",
    ):
        assert sentence in words


def test_large_gifs_are_left_out_with_a_word(runs):
    page = page_of(runs[0], max_gif_mib=1e-5)
    assert page.named("img") == []
    assert "left out" in page.words


def test_returns_are_shown_where_nothing_is_won(tmp_path):
    returns = {"mean_return": 7.0, "return_low": 6.5, "return_high": 7.5}
    root = make_run(tmp_path / "life", rates=(), rows=[row("Life", "planner", 0, **returns)])
    page = page_of(root)
    assert "7.00 [6.50, 7.50]" in page.words
    assert "mean return (nothing is won here)" in page.words
    assert re.search(r"planner +other +mean return +1 +1 +7\.000 +one seed", page.words)
