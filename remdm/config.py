"""Loading, checking and saving the configuration of a run.

Values are decided in this order, later ones win: the default in the code, the `.gin` files in the
order given (a file's includes before its own lines), `--bind "Class.argument = value"`, and the
flags a user typed, which become bindings too, so that the saved config holds everything.

What differs from plain gin, and why:

- Names and values are checked when they are read; errors name file, line and the nearest match.
- Includes are looked for beside the including file, then in the project's `gin_configs/`, and must
  come before a file's own bindings: above them they would silently overrule them. Binding one
  argument twice in a file is an error.
- Every value can be written back (`save_config`) or is refused; `%INF`, `%NEG_INF` and `%NAN` are
  ready to use.
- The configuration is not locked after loading: gin's lock also forbids to register configurables,
  so a module imported late, like an optional environment, would end the run. Changes made too
  late to matter are reported by `check_bindings` instead, together with bindings nobody read.
- A scoped reference without parentheses (`@scope/Class`) is refused: it makes a class that cannot
  be sent to worker processes.

A subclass of a configurable receives the bindings of its base. To give it arguments of its own:

    @gin.configurable
    class MyExperiment(Experiment):
        def __init__(self, run_name: str, *, extra: int = 1, **arguments: Any) -> None:
            super().__init__(run_name, **arguments)

Then `MyExperiment.extra` is its own, `Experiment.epochs` still applies, and `MyExperiment.epochs`
wins over it. An argument passed by keyword in code wins over every binding and is not recorded;
`check_bindings` reports the binding it hides.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config

from remdm import gin_names, gin_reading, gin_text, gin_unused
from remdm.gin_reading import ConfigError as ConfigError
from remdm.gin_reading import Key
from remdm.gin_reading import RunConfig as RunConfig

logger = logging.getLogger(__name__)

# Where each present binding came from; the last entry is the one that counts.
_origins: dict[Key, list[str]] = {}
# Values that a later source replaced.
_overruled: dict[Key, list[Any]] = {}
# Modules that config files imported, in order.
_imports: list[str] = []


@dataclasses.dataclass(frozen=True, slots=True)
class Binding:
    """One bound argument.

    Attributes:
        name: `Class.argument`, with its scope; a macro's name.
        text: The value as a config file writes it.
        origin: `file:line`, `--bind`, or the flag that set it.
        overruled: Origins of values that this one replaced, oldest first.
    """

    name: str
    text: str
    origin: str
    overruled: tuple[str, ...] = ()


def load_config(
    files: Sequence[str | os.PathLike[str]] = (),
    bindings: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
) -> None:
    """Replace the configuration by the one that files, bindings and flags make.

    Args:
        files: Config files, later ones win. A name that is not found is looked for in the
            project's `gin_configs/`, with and without `.gin`. That of a run is a `RunConfig`.
        bindings: Texts `Class.argument = value`; they win over files.
        flags: `Class.argument` to (flag as typed, value); they win over everything.

    Raises:
        ConfigError: If a file is missing, a name unknown, or a value unreadable. The previous
            configuration is then still in place.
        ImportError: If a named module needs a package that is not installed.
    """
    foreign = [gin_text.binding_name(*key) for key in _bound() if key not in _origins]
    if foreign:
        raise ConfigError(
            f"{', '.join(foreign)} bound before load_config, which starts afresh; "
            "pass such values in its `bindings`."
        )
    before = _take()
    try:
        clear_config()
        reader = gin_reading.Reader(_bind, _imports.append)
        for file in files:
            reader.read_file(file)
        for text in bindings:
            reader.read_binding(text, "--bind")
        for name, (flag, value) in (flags or {}).items():
            reader.read_binding(f"{name} = {_text_of(flag, value)}", flag)
        _check_macros()
        with gin.unlock_config():  # finalize checks, then locks; leaving unlocks again
            gin.finalize()
    except BaseException:
        _put(before)
        raise


def _text_of(flag: str, value: Any) -> str:
    try:
        return gin_text.format_value(value)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from None


def _bind(key: Key, value: Any, origin: str) -> None:
    if key in (bound := _bound()):
        _overruled.setdefault(key, []).append(bound[key])
    gin.bind_parameter(key, value)
    _origins.setdefault(key, []).append(origin)


def _bound() -> dict[Key, Any]:
    """All present bindings, macros included."""
    return {
        (scope, selector, argument): value
        for (scope, selector), arguments in gin_config._CONFIG.items()
        for argument, value in arguments.items()
    }


def _check_macros() -> None:
    for key, value in _bound().items():
        for leaf in gin_text.references(value):
            if leaf.configurable.selector == "gin.macro" and leaf.config_key not in _macros():
                known = [scope for scope, _ in _macros()] + sorted(gin_text.CONSTANTS)
                raise ConfigError(
                    f"{_origins[key][-1]}: {gin_text.binding_name(*key)} uses %{leaf.scopes[0]}, "
                    f"which is nowhere defined. Defined: {', '.join(known)}."
                )


def _macros() -> list[tuple[str, str]]:
    return [key for key in gin_config._CONFIG if key[1] == "gin.macro"]


def clear_config() -> None:
    """Forget every binding; what is configurable stays so."""
    gin.clear_config()
    _origins.clear()
    _overruled.clear()
    _imports.clear()


def current_bindings() -> list[Binding]:
    """What is bound now, sorted by name.

    Raises:
        ConfigError: If a value cannot be written.
    """
    found = []
    for key, value in _bound().items():
        name = gin_text.binding_name(*key)
        origins = _origins.get(key, ["code"])
        found.append(Binding(name, _text_of(name, value), origins[-1], tuple(origins[:-1])))
    return sorted(found, key=lambda binding: binding.name)


def config_text() -> str:
    """The configuration as the text of a config file.

    Raises:
        ConfigError: If a value cannot be written; names its binding.
    """
    try:
        return gin_text.format_config(_bound(), _imports)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def save_config(path: str | os.PathLike[str]) -> None:
    """Write the configuration to `path`, whole or not at all.

    Raises:
        ConfigError: If a value cannot be written, or the text would not read back the same.
    """
    text = config_text()
    with gin_sandbox():
        gin_reading.Reader(_bind, _imports.append).read_text(text, os.fspath(path))
        if config_text() != text:
            raise ConfigError(f"{path}: the configuration does not read back the same.")
    partial = Path(f"{os.fspath(path)}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def config_differences(path: str | os.PathLike[str], ignore: Collection[str] = ()) -> list[str]:
    """How the present configuration differs from a saved one, one sentence per binding.

    Args:
        path: A file written by `save_config`.
        ignore: Names (`Class.argument`) that may differ.

    Raises:
        ConfigError: If the file cannot be read.
    """
    here = {binding.name: binding.text for binding in current_bindings()}
    with gin_sandbox():
        load_config([RunConfig(path)])
        there = {binding.name: binding.text for binding in current_bindings()}
    names = sorted(name for name in here.keys() | there.keys() if name not in ignore)
    return [
        f"{name} is {here.get(name, 'not bound')} now, {there.get(name, 'not bound')} there"
        for name in names
        if here.get(name) != there.get(name)
    ]


def unused_bindings() -> list[gin_unused.Unused]:
    """Bindings that have had no effect so far, each with the likely reason."""
    return gin_unused.unused(_bound(), _origins)


def drop_replaced() -> None:
    """Call when everything is built: forget the bindings of what later sources replaced.

    A recipe binds `Experiment.beta_schedule_type = @LinearBeta` and `LinearBeta.first`; where
    `--bind` chooses another schedule, the latter is of no use and no mistake either.
    """
    replaced: set[str] = set()
    new = {x.configurable.selector for v in _overruled.values() for x in gin_text.references(v)}
    while new - replaced:  # and what only it refers to
        replaced |= new
        parts = [v for (_, selector, _), v in _bound().items() if selector in replaced]
        new = {x.configurable.selector for x in gin_text.references(parts)}
    replaced -= {selector for _, selector in gin_config._OPERATIVE_CONFIG}
    for key in [key for key in _bound() if key[1] in replaced]:
        logger.info("%s is left out: its class was replaced", gin_text.binding_name(*key))
        del gin_config._CONFIG[key[:2]][key[2]]
        _origins.pop(key, None)


def check_bindings(allow: Collection[str] = ()) -> None:
    """Call when everything is built: every binding must have been used.

    Args:
        allow: Names of configurables (`Class`) used later or in other processes.

    Raises:
        ConfigError: Lists what had no effect, with the nearest names that would have.
    """
    found = [one for one in unused_bindings() if one.owner not in allow]
    if found:
        raise ConfigError("bindings without effect:\n  " + "\n  ".join(gin_unused.told(found)))


def bound_value(name: str) -> Any:
    """The value bound to `Class.argument` with macros resolved; None where nothing is bound."""
    owner, argument = name.rsplit(".", 1)
    selectors = gin_config._REGISTRY.matching_selectors(owner)
    return gin.get_bindings(selectors[0]).get(argument) if selectors else None


def mentioned_configurables() -> list[gin_config.Configurable]:
    """Everything that is bound or referred to, sorted by name."""
    found = {}
    for (_, selector, _), value in _bound().items():
        found[selector] = gin_config._REGISTRY[selector]
        for leaf in gin_text.references(value):
            found[leaf.configurable.selector] = leaf.configurable
    return [found[key] for key in sorted(found) if key not in gin_names.GIN_BUILTINS]


def config_dict() -> dict[str, Any]:
    """Bound values by name for trackers: plain values as they are, all others as text."""
    values = {}
    for key, value in _bound().items():
        name = gin_text.binding_name(*key)
        plain = isinstance(value, (bool, int, float, str))
        values[name] = value if plain else gin_text.format_value(value)
    return dict(sorted(values.items()))


def config_for_workers() -> str:
    """The configuration as text for another process, which hands it to `apply_worker_config`.

    Processes started by spawn or forkserver begin with an empty configuration and would run on
    the defaults.
    """
    return config_text()


def apply_worker_config(text: str) -> None:
    """Take over the configuration of the process that started this one.

    Bindings of classes defined in the main script are dropped with a warning where this process
    cannot see them: nothing here can use them either.
    """
    clear_config()
    reader = gin_reading.Reader(_bind, _imports.append, on_unknown=logger.warning)
    reader.read_text(text, "configuration from the parent process")


@contextlib.contextmanager
def gin_sandbox() -> Iterator[None]:
    """A block with an empty configuration of its own; the present one comes back after it."""
    before = _take()
    clear_config()
    try:
        with gin.config_scope(None):
            yield
    finally:
        _put(before)


_State = tuple[
    dict[Any, Any], dict[Any, Any], dict[Key, list[str]], dict[Key, list[Any]], list[str], bool
]


def _take() -> _State:
    """A copy of all global state, gin's and ours."""
    return (
        {key: dict(arguments) for key, arguments in gin_config._CONFIG.items()},
        {key: dict(arguments) for key, arguments in gin_config._OPERATIVE_CONFIG.items()},
        {key: list(origins) for key, origins in _origins.items()},
        {key: list(values) for key, values in _overruled.items()},
        list(_imports),
        gin.config_is_locked(),
    )


def _put(state: _State) -> None:
    clear_config()
    bound, used, origins, overruled, imports, locked = state
    gin_config._CONFIG.update(bound)
    gin_config._OPERATIVE_CONFIG.update(used)
    _origins.update(origins)
    _overruled.update(overruled)
    _imports.extend(imports)
    gin_config._set_config_is_locked(locked)
