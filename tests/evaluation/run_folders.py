"""Run folders with a few lines of metrics and a final table, and a page taken to pieces."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from remdm.training.tracking import JsonlLog

ENVS = ("Gridworld-Room-9x9-v0", "Gridworld-Maze-9x9-v0")
HELD_OUT = "Gridworld-DarkRoom-9x9-v0"
VOID = {"meta", "img", "br"}


def config_text(seed: int, **bindings: object) -> str:
    """A saved configuration; `epochs=3` binds `Experiment.epochs`."""
    values = {"seed": seed, "epochs": 3, "train_envs": "%TRAINING", **bindings}
    lines = "".join(f"Experiment.{name} = {value}\n" for name, value in values.items())
    return (
        "# Written by remdm 0.1.0. Loaded alone, this file repeats the run.\n\n"
        f"import no.such.module\n\nTRAINING = {ENVS!r}\n\n"
        f"Experiment.heldout_envs = ({HELD_OUT!r},)\n{lines}"
    )


def row(env: str, policy: str, wins: int, **changed: Any) -> dict[str, Any]:
    """A row of a results file; 20 episodes of 10 steps, 2 plans with 3 net calls each."""
    plain = {"env": env, "policy": policy, "episodes": 20, "wins": wins, "mean_steps": 10.0}
    counts = {"mean_steps_won": 8.0, "plans_per_episode": 2.0, "nfe_per_plan": 3.0}
    return {**plain, **counts, "first_seed": 0, **changed}


def make_run(
    root: Path,
    seed: int = 0,
    rates: Sequence[float] = (0.2, 0.6, 0.9),
    rows: Sequence[dict[str, Any]] = (),
    **bindings: object,
) -> Path:
    """A run that was validated after each epoch, and has a table if there are rows."""
    root.mkdir(parents=True)
    (root / "config.gin").write_text(config_text(seed, **bindings))
    log = JsonlLog(root / "metrics.jsonl")
    for epoch, rate in enumerate(rates):
        counters = {"epoch": epoch, "env_steps": 100 * (epoch + 1), "updates": 10 * (epoch + 1)}
        log.write({**counters, "train/planner/loss": 1.0 / (epoch + 1)})
        means = {"train/seconds_per_batch": 0.1, "seconds": 60.0 * (epoch + 1)}
        each = {f"val/win_rate/{env}": rate for env in ENVS}
        log.write({**counters, **means, "val/win_rate": rate, "val/episodes": 10.0, **each})
    if rows:
        write_results(root, rows)
    return root


def write_results(root: Path, rows: Sequence[Any]) -> None:
    """The final table of a run."""
    (root / "report").mkdir(exist_ok=True)
    (root / "report" / "results.json").write_text(json.dumps({"rows": list(rows)}))


def write_gif(path: Path, size: int = 8) -> None:
    """A small picture that moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.new("P", (size, size), colour) for colour in (1, 2)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


class Page(HTMLParser):
    """A page taken to pieces; fails where an element is not closed, or closed twice.

    Attributes:
        elements: (name, attributes) in order.
        words: Text outside of styles.
        drawn: Text in pictures.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = self.drawn = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []
        for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
            ElementTree.fromstring(svg)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words += f"{data} "
        if "svg" in self._open:
            self.drawn += f"{data} "

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def references(self) -> list[str]:
        """Everything that the page could load or lead to."""
        places = ("src", "href", "xlink:href", "data", "action", "poster", "srcset")
        return [a[p] or "" for _, a in self.elements for p in places if p in a]
