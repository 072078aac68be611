"""Configurable classes for the tests of the configuration, shaped like those of the package."""

import textwrap
from pathlib import Path
from typing import Any

import gin

from remdm import config


@gin.configurable(module="tests")
class Widget:
    """Shaped like `Experiment`: inferred arguments positional, knobs keyword-only."""

    def __init__(
        self,
        label: str,
        *,
        size: int = 1,
        ratio: float = 0.5,
        kind: Any = None,
        note: str = "",
        items: Any = (),
    ) -> None:
        self.label, self.size, self.ratio = label, size, ratio
        self.kind, self.note, self.items = kind, note, items


class PlainSubWidget(Widget):
    """Overrides a step only."""


@gin.configurable(module="tests")
class DecoratedSubWidget(Widget):
    """Decorated, no constructor of its own."""


@gin.configurable(module="tests")
class OwnSubWidget(Widget):
    """The blessed pattern for arguments of one's own."""

    def __init__(self, label: str, *, extra: int = 7, **arguments: Any) -> None:
        super().__init__(label, **arguments)
        self.extra = extra


@gin.configurable(module="tests")
class Gadget:
    def __init__(self, *, size: int = 1, weight: float = 1.0) -> None:
        self.size, self.weight = size, weight


@gin.configurable(module="tests", denylist=["size"])
def build_gadget(size: int = 3, *, weight: float = 1.0) -> float:
    return size * weight


def write(path: Path, text: str) -> Path:
    """Write a file and the folders above it; leading blanks common to all lines are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def values() -> dict[str, str]:
    """What is bound, as text by name."""
    return {binding.name: binding.text for binding in config.current_bindings()}


def origins() -> dict[str, str]:
    """Where it came from."""
    return {binding.name: binding.origin for binding in config.current_bindings()}
