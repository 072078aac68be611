"""One HTML page about one run or many, which needs nothing beside itself.

Styles, pictures and numbers are inside of it; it has no script, and its own policy forbids it to
load anything. Parts that a run has no numbers for are left out with a sentence.
"""

from collections.abc import Sequence
from itertools import count

from remdm._version import __version__
from remdm.evaluation.html_parts import Html, joined, paragraph, table, tag, text
from remdm.evaluation.page_sections import (
    curve_sections,
    efficiency_section,
    gif_section,
    iqm_section,
    section,
    table_sections,
)
from remdm.evaluation.report_numbers import run_facts
from remdm.evaluation.run_groups import RunGroup, ScoreTable, differences
from remdm.training.progress import time_text

MAX_GIF_MIB = 3.0
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #ffffff; --line: #d6dae1;
  --soft: #596273; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #14171c; --line: #3b424d;
  --soft: #a3acba; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.5rem; }
p { margin: 0.4rem 0 0.8rem; max-width: 46rem; color: var(--soft); }
.pictures { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; padding: 0.5rem; border: 1px solid var(--line); border-radius: 0.5rem; }
figure svg { display: block; width: 100%; height: auto; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption, caption { color: var(--soft); font-size: 0.9rem; text-align: left; padding: 0.3rem 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; overflow-wrap: normal; }
th, td { padding: 0.3rem 0.7rem 0.3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); max-width: 24rem; overflow-wrap: break-word; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; min-width: 7rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; }
summary { cursor: pointer; margin-bottom: 0.6rem; }
"""


def report_page(
    groups: Sequence[RunGroup],
    tables: Sequence[ScoreTable],
    resamples: int,
    max_gif_mib: float = MAX_GIF_MIB,
) -> str:
    """The page as text.

    Args:
        groups: Runs.
        tables: Their interquartile means.
        resamples: Behind the intervals of these.
        max_gif_mib: Larger GIFs are left out.
    """
    runs = sum(len(group.runs) for group in groups)
    title = groups[0].name if len(groups) == 1 else f"{len(groups)} recipes compared"
    numbers = count()
    body = tag(
        "body",
        tag(
            "main",
            tag("h1", text(title)),
            paragraph(f"{runs} run{'s' * (runs > 1)}; written by remdm {__version__}."),
            _runs(groups),
            _differences(groups),
            *curve_sections(groups, numbers),
            *table_sections(groups, numbers),
            iqm_section(tables, resamples),
            efficiency_section(groups),
            gif_section(groups, max_gif_mib),
        ),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", text(f"{title} - remdm report")),
        tag("style", Html(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _runs(groups: Sequence[RunGroup]) -> Html:
    """The facts of each run, and what could not be read of it."""
    lines, notes = [], []
    for group in groups:
        for run in group.runs:
            facts = run_facts(run)
            steps, updates = (_whole(facts[name]) for name in ("env_steps", "updates"))
            seconds = facts["seconds"]
            time = "-" if seconds is None else time_text(min(seconds, 1e9))
            version, epochs = run.version or "not known", run.epochs
            words = (run.name, group.name, run.seed, run.finished, version)
            lines.append((*words, epochs, steps, updates, time))
            notes += [f"{run.name}: {note}" for note in run.notes]
        if group.seeds < len(group.runs):
            notes.append(
                f"{group.name}: some runs have the same seed, and so are no independent runs."
            )
    head = ["run", "group", "seed", "finished", "remdm", "epochs", "env steps", "updates", "time"]
    said = [tag("ul", joined(tag("li", text(note)) for note in notes))] if notes else []
    return section("Runs", table("What there is", head, lines, numbers=5), *said)


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _differences(groups: Sequence[RunGroup]) -> Html:
    """In which bindings groups differ."""
    if len(groups) == 1:
        alone = len(groups[0].runs) == 1
        words = "" if alone else "All runs have the same configuration but for their seeds."
        return paragraph(words) if words else Html("")
    found = differences(groups)
    lines = [(name, *values) for name, values in found.items()]
    head = ["binding", *(group.name for group in groups)]
    return section("Configuration differences", table("By group", head, lines, numbers=len(head)))
