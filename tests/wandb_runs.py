"""A stand-in for the runs of W&B: its client and its servers, as far as a run that goes on needs.

What it does is what W&B documents: `must` and `allow`, steps that may only grow, lines of one step
that are merged, and a first step after the last one for a run that goes on.
"""

import importlib.machinery
import types
from typing import Any

from tests.wandb_store import Draft


class UsageError(Exception):
    """As W&B's, which is told by its name."""


class Run:
    """One run of a service, as `wandb.init` returns it."""

    disabled = False
    entity, project = "team", "maze"

    def __init__(self, service: "Service", asked: dict[str, Any], lines: dict[int, Any]) -> None:
        self.service, self.asked, self.lines = service, asked, lines
        self.id, self.offline = asked["id"], service.offline
        self.starting_step = 0 if self.offline else max(lines, default=-1) + 1
        self.defined: dict[str, str | None] = {}
        self.ended = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.defined[name] = step_metric

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        assert step is not None
        assert step >= self.starting_step, "the client would say that it drops this"
        self.lines[step] = self.lines.get(step, {}) | values

    def log_artifact(self, artifact: Draft, aliases: list[str]) -> None:
        self.service.artifacts.append((artifact, aliases))

    def finish(self) -> None:
        self.ended = True


class Service:
    """All runs of a project."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[int, Any]] = {}
        self.starts: list[Run] = []
        self.artifacts: list[tuple[Draft, list[str]]] = []
        self.offline = False
        self.config: dict[str, Any] = {}
        self.breaks: Exception | None = None
        self.module = types.ModuleType("wandb")
        self.module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.module.init = self.init
        self.module.Artifact = Draft
        self.module.config = types.SimpleNamespace(update=self.update)

    def init(self, **asked: Any) -> Run:
        if self.breaks is not None:
            raise self.breaks
        if asked["resume"] == "must" and asked["id"] not in self.runs:
            raise UsageError(f"resume='must' but run ({asked['id']}) doesn't exist")
        lines = {} if self.offline else self.runs.setdefault(asked["id"], {})
        self.starts.append(Run(self, asked, lines))
        return self.starts[-1]

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        assert allow_val_change
        self.config |= values

    def told(self, wandb_id: str) -> list[dict[str, Any]]:
        """What is drawn: the lines of a run, in order."""
        return [values for _, values in sorted(self.runs[wandb_id].items())]
