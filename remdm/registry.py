"""Names that users type, resolved lazily to the objects they stand for."""

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like `name`, best first; letter case does not matter."""
    by_lower = {k.lower(): k for k in known}
    return [by_lower[m] for m in difflib.get_close_matches(name.lower(), by_lower, count, 0.4)]


class Registry:
    """A table from names to objects given as values or as lazy `"module:attribute"` strings.

    Lazy entries keep optional packages unimported until somebody asks for them.
    """

    def __init__(self, kind: str) -> None:
        """Args:
        kind: What the names stand for, in the singular; used in error messages.
        """
        self.kind = kind
        self._entries: dict[str, Any] = {}

    def register(self, name: str, entry: Any | str) -> None:
        """Add `name`; a string entry of the form `"module:attribute"` is imported on first use."""
        self._entries[name] = entry

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._entries)

    def get(self, name: str) -> Any:
        """The object behind `name`.

        Raises:
            ValueError: If the name is not registered; names the nearest matches.
        """
        if name not in self._entries:
            raise ValueError(unknown_name_message(self.kind, name, self.names()))
        entry = self._entries[name]
        if isinstance(entry, str):
            module, attribute = entry.split(":")
            entry = getattr(importlib.import_module(module), attribute)
            self._entries[name] = entry
        return entry


def unknown_name_message(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for an unknown name: what came, the nearest matches, all the rest."""
    known = list(known)
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "none is similar."
    return f"unknown {kind} {name!r}: {hint} Known: {', '.join(known)}."


def import_extra(module: str, extra: str) -> Any:
    """Import an optional package, or say which pip line installs it.

    Args:
        module: Module to import.
        extra: Name of the `remdm` extra that brings it.

    Raises:
        ImportError: If the module is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is needed here and could not be imported ({error}); "
            f"install it with: pip install -e '.[{extra}]' -c constraints.txt"
        ) from error


Factory = Callable[..., Any]
