"""Names in gin files, looked up with errors a person can act on.

gin knows only the configurables of modules that were imported. The package's own ones are found
by reading its source, and their module is imported when a binding first names them; so a file may
bind `DiffusionPlannerAgent.eta` without an import line. Other packages need `import their.module`.

gin 0.5 has no public way to list what is registered, hence the few uses of its private tables.
"""

import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from gin import config as gin_config

from remdm.registry import nearest

# Functions that gin registers for itself.
GIN_BUILTINS = ("gin.macro", "gin.constant", "gin.singleton")
_DECORATED = re.compile(r"^@gin\.configurable\b.*?^(?:class|def)\s+(\w+)", re.MULTILINE | re.DOTALL)


class UnknownNameError(Exception):
    """A name that stands for nothing, or for several things; says what to write instead."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@functools.cache
def own_configurables() -> dict[str, str]:
    """Names of the package's configurables and the modules that define them."""
    root = Path(__file__).parent
    found = {}
    for path in sorted(root.rglob("*.py")):
        module = ".".join(("remdm", *path.relative_to(root).with_suffix("").parts))
        for name in _DECORATED.findall(path.read_text(encoding="utf-8")):
            found[name] = module.removesuffix(".__init__")
    return found


def known_configurables() -> list[str]:
    """The shortest unambiguous name of every configurable, imported or the package's own."""
    registered = {
        gin_config._REGISTRY.minimal_selector(selector)
        for selector, _ in gin_config._REGISTRY.items()
        if selector not in GIN_BUILTINS
    }
    return sorted(registered | set(own_configurables()))


def find_configurable(selector: str) -> gin_config.Configurable:
    """The configurable that `selector` (a name, or the end of a dotted one) stands for.

    Raises:
        UnknownNameError: If none or several match.
        ImportError: If the package's own module cannot be imported, as when an extra is missing.
    """
    matches = gin_config._REGISTRY.matching_selectors(selector)
    own_module = own_configurables().get(selector.rsplit(".", 1)[-1])
    if not matches and own_module:
        importlib.import_module(own_module)
        matches = gin_config._REGISTRY.matching_selectors(selector)
    if len(matches) == 1:
        return gin_config._REGISTRY[matches[0]]
    if matches:
        raise UnknownNameError(
            f"{selector!r} could be any of {', '.join(sorted(matches))}; write the longer name."
        )
    close = nearest(selector, known_configurables())
    hint = f"did you mean {' or '.join(close)}?" if close else "no name is similar."
    raise UnknownNameError(
        f"nothing configurable is called {selector!r}: {hint} A class of your own needs an "
        "`import its.module` line above."
    )


def short_name(configurable: gin_config.Configurable) -> str:
    """The shortest name that stands for this configurable alone."""
    return str(gin_config._REGISTRY.minimal_selector(configurable.selector))


def registered_name(value: Any) -> str | None:
    """The name under which a class or function is configurable, None where it is not.

    gin keeps classes by what was decorated, which may differ from what the module holds.
    """
    for selector, configurable in gin_config._REGISTRY.items():
        if value is configurable.wrapper or value is configurable.wrapped:
            return str(gin_config._REGISTRY.minimal_selector(selector))
    return None


def _specs(configurable: gin_config.Configurable) -> list[inspect.FullArgSpec]:
    """Signatures that take the arguments of a call, the configurable's own first.

    A constructor with `**arguments` hands them on to the next constructor of its bases.
    """
    wrapped = configurable.wrapped
    if not inspect.isclass(wrapped):
        return [inspect.getfullargspec(inspect.unwrap(wrapped))]
    specs = []
    for base in inspect.getmro(wrapped):
        function = base.__dict__.get("__init__") or base.__dict__.get("__new__")
        if function is None or base is object:
            continue
        specs.append(inspect.getfullargspec(inspect.unwrap(function)))
        if specs[-1].varkw is None:
            break
    return specs


def bindable_arguments(configurable: gin_config.Configurable) -> list[str]:
    """Arguments that a config may set: those with a default, not in the denylist."""
    names: dict[str, None] = {}
    for spec in _specs(configurable):
        with_default = spec.args[len(spec.args) - len(spec.defaults or ()) :]
        names.update(dict.fromkeys([*with_default, *spec.kwonlyargs]))
    if configurable.allowlist:
        names = {name: None for name in names if name in configurable.allowlist}
    return [name for name in names if name not in (configurable.denylist or ())]


def defaults(configurable: gin_config.Configurable) -> dict[str, Any]:
    """The code's default of every bindable argument."""
    values: dict[str, Any] = {}
    for spec in _specs(configurable):
        positional = spec.args[len(spec.args) - len(spec.defaults or ()) :]
        given = dict(zip(positional, spec.defaults or (), strict=True))
        values = given | (spec.kwonlydefaults or {}) | values
    return {name: values[name] for name in bindable_arguments(configurable) if name in values}


def check_argument(configurable: gin_config.Configurable, argument: str) -> None:
    """Refuse an argument that does not exist or that the program sets itself.

    Raises:
        UnknownNameError: Names the nearest arguments.
    """
    names = bindable_arguments(configurable)
    specs = _specs(configurable)
    if argument in names or configurable.selector == "gin.macro":
        return
    owner = short_name(configurable)
    if not names:
        raise UnknownNameError(f"{owner} has no arguments to bind, so no {argument!r} either.")
    if any(argument in spec.args for spec in specs) or argument in (configurable.denylist or ()):
        raise UnknownNameError(
            f"{owner}.{argument} is worked out by the program and cannot be bound; "
            f"its own arguments are {', '.join(names)}."
        )
    if not inspect.isclass(configurable.wrapped) and specs[0].varkw is not None:
        return  # handed on to somebody who is not known here
    close = nearest(argument, names)
    hint = f"did you mean {' or '.join(f'{owner}.{name}' for name in close)}?"
    raise UnknownNameError(
        f"{owner} has no argument {argument!r}: {hint if close else 'none is similar.'} "
        f"Known: {', '.join(names)}."
    )


def owners_of(argument: str) -> list[str]:
    """`Class.argument` for each imported configurable that has this argument, best match first."""
    full = {
        f"{short_name(configurable)}.{name}": name
        for selector, configurable in gin_config._REGISTRY.items()
        if selector not in GIN_BUILTINS
        for name in bindable_arguments(configurable)
    }
    exact = sorted(key for key, name in full.items() if name == argument)
    return exact or nearest(argument, full)
