"""Bindings written as text that gin reads back to the same values.

gin's own writer leaves out what it cannot write (classes, functions, inf) without a word. Here a
value is either written or refused.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gin
import numpy as np
from gin import config as gin_config

from remdm import gin_names
from remdm._version import __version__

MAX_LINE = 100

# What Python literals cannot say. Files write %INF, %NEG_INF and %NAN.
CONSTANTS = {"INF": math.inf, "NEG_INF": -math.inf, "NAN": math.nan}
for _name, _value in CONSTANTS.items():
    gin.constant(f"remdm.{_name}", _value)


def format_value(value: Any) -> str:
    """Text that gin parses to `value`.

    Raises:
        ValueError: If there is no such text.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, str, bytes)) or type(value) is int:
        return repr(value)
    if isinstance(value, float):
        return _format_float(value)
    if isinstance(value, gin_config.ConfigurableReference):
        return repr(value).replace("%remdm.", "%")
    if type(value) in (list, tuple, dict):
        return _join(value, ", ")
    name = gin_names.registered_name(value)
    if name is not None:
        return f"@{name}"
    raise ValueError(
        f"{value!r} ({type(value).__name__}) cannot be written into a config: use numbers, text, "
        "None, lists, tuples, dicts of these, or a class or function decorated with "
        "@gin.configurable."
    )


def _format_float(value: float) -> str:
    if math.isnan(value):
        return "%NAN"
    if math.isinf(value):
        return "%INF" if value > 0 else "%NEG_INF"
    return repr(float(value))


def _join(container: Any, separator: str, first: str = "", last: str = "") -> str:
    """The items of a list, tuple or dict in its brackets, `first` and `last` inside of them."""
    if isinstance(container, Mapping):
        items = [f"{format_value(k)}: {format_value(v)}" for k, v in container.items()]
        opening, closing = "{", "}"
    else:
        items = [format_value(item) for item in container]
        opening, closing = "[]" if isinstance(container, list) else "()"
    text = separator.join(items)
    if isinstance(container, tuple) and len(items) == 1:
        text += ","
    return f"{opening}{first}{text}{last}{closing}" if items else opening + closing


def format_binding(name: str, value: Any) -> str:
    """`name = value`, broken over lines inside the brackets where it is long."""
    line = f"{name} = {format_value(value)}"
    if len(line) > MAX_LINE and type(value) in (list, tuple, dict):
        broken = _join(value, ",\n    ", "\n    ", "\n")
        line = f"{name} = {broken}"
    return line


def python_modules(entries: Iterable[tuple[str, str, Any]]) -> set[str]:
    """Modules to import so that everything bound or referred to is known.

    Args:
        entries: (scope, complete selector, value) of each binding.
    """
    modules = set()
    for _, selector, value in entries:
        modules.add(gin_config._REGISTRY[selector].wrapped.__module__)
        for leaf in leaves(value):
            if isinstance(leaf, gin_config.ConfigurableReference):
                modules.add(leaf.configurable.wrapped.__module__)
            elif callable(leaf):
                modules.add(leaf.__module__)
    return modules - {"gin.config", "__main__", "__mp_main__"}


def leaves(value: Any) -> Iterator[Any]:
    """What nested lists, tuples and dicts hold."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(key)
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def references(value: Any) -> list[gin_config.ConfigurableReference]:
    """The references to configurables and macros in a value."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, gin_config.ConfigurableReference)]


def format_config(bindings: Mapping[tuple[str, str, str], Any], imports: Iterable[str]) -> str:
    """A whole config as text: imports, macros, then bindings sorted by name.

    Args:
        bindings: Values by (scope, complete selector, argument).
        imports: Modules that config files asked for.

    Raises:
        ValueError: Names the binding whose value cannot be written.
    """
    macros: list[str] = []
    others: list[str] = []
    for (scope, selector, argument), value in sorted(bindings.items(), key=lambda item: item[0]):
        name = binding_name(scope, selector, argument)
        try:
            text = format_binding(name, value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        (macros if selector == "gin.macro" else others).append(text)
    entries = [(scope, selector, value) for (scope, selector, _), value in bindings.items()]
    modules = python_modules(entries) | set(imports)
    if any("%" in text for text in macros + others):
        modules.add("remdm.gin_text")  # defines the constants
    head = [f"# Written by remdm {__version__}. Loaded alone, this file repeats the run."]
    blocks = [head, [f"import {name}" for name in sorted(modules)], macros, sorted(others)]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def binding_name(scope: str, selector: str, argument: str) -> str:
    """What a person writes left of the equals sign."""
    if selector == "gin.macro":
        return scope
    owner = gin_config._REGISTRY.minimal_selector(selector)
    return f"{scope}/{owner}.{argument}" if scope else f"{owner}.{argument}"
