"""Config files read statement by statement, so that every error knows its file and line.

The grammar is gin's: its own parser does the work. This reader decides what happens with each
statement: where includes are found, which names exist, what may be bound.
"""

import difflib
import importlib
import io
import os
import re
import sys
import tokenize
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from gin import config as gin_config
from gin import config_parser

from remdm import gin_names, gin_text
from remdm.gin_names import UnknownNameError

# (scope, complete selector, argument), as gin keys its bindings.
Key = tuple[str, str, str]

# The project's configs: beside the package in a checkout, absent in an installed wheel.
PROJECT_CONFIGS = Path(__file__).parent.parent / "gin_configs"

_BAD_TOKEN = re.compile(r"Failed to parse token '(.*)'", re.DOTALL)
_LITERAL_HINTS = {
    "true": "write True",
    "false": "write False",
    "none": "write None",
    "null": "write None",
    "inf": "write %INF",
    "nan": "write %NAN",
}


class ConfigError(ValueError):
    """Something in a config file, a `--bind` or a flag is wrong."""


class RunConfig(os.PathLike[str]):
    """The config file of a run. Whoever wrote it is not to choose what code runs here.

    It may name this package, and modules that this process has imported already; another one would
    be run by importing it. It includes no other files.

    Args:
        path: The file, as `save_config` writes it.
        allow_imports: Other modules it may import, with all that is below them.
    """

    def __init__(self, path: str | os.PathLike[str], allow_imports: Collection[str] = ()) -> None:
        self._path, self._packages = os.fspath(path), ("remdm", *allow_imports)

    def __fspath__(self) -> str:
        return self._path

    def check_import(self, module: str, where: str) -> None:
        """See that a module may be imported.

        Raises:
            ConfigError: If not; says how to allow it.
        """
        below = any(f"{module}.".startswith(f"{name}.") for name in self._packages)
        if not below and module not in sys.modules:
            raise ConfigError(
                f"{where}: a run must not bring code along, and this one imports {module!r}, which "
                "would be run. If you trust whoever made the run, and that module, add "
                f"--allow_import {module}."
            )


class _Delegate(config_parser.ParserDelegate):
    """Turns `@Name` and `%NAME` into gin's references, after checking the name."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
        *scopes, selector = scoped_selector.split("/")
        gin_names.find_configurable(selector)
        if scopes and not evaluate:
            raise UnknownNameError(
                f"@{scoped_selector} makes a class of its own that worker processes cannot be "
                f"sent; write @{scoped_selector}() for a finished object, or use the bindings of "
                f"@{selector} without a scope."
            )
        return gin_config.ConfigurableReference(scoped_selector, evaluate)

    def macro(self, name: str) -> Any:
        return gin_config.ParserDelegate().macro(name)


class Reader:
    """Reads files, single bindings and texts into `bind(key, value, origin)` calls.

    Args:
        bind: Called for every binding in the order that decides which one wins.
        imported: Called with the name of every module a file imports.
        on_unknown: Where given, unknown names in bindings are reported to it instead of raised.
    """

    def __init__(
        self,
        bind: Callable[[Key, Any, str], None],
        imported: Callable[[str], None],
        on_unknown: Callable[[str], None] | None = None,
    ) -> None:
        self._bind = bind
        self._imported = imported
        self._on_unknown = on_unknown
        self._open_files: list[Path] = []
        self._run: RunConfig | None = None

    def read_file(self, name: str | os.PathLike[str], beside: Path | None = None) -> None:
        """Read one config file, its includes first.

        Args:
            name: Path, or the name of a file in the project's `gin_configs/`; or a `RunConfig`.
            beside: Folder of the file that includes this one.

        Raises:
            ConfigError: If it is missing or wrong.
        """
        self._run = name if isinstance(name, RunConfig) else None
        path = find_file(os.fspath(name), beside)
        if path in self._open_files:
            chain = " -> ".join(file.name for file in [*self._open_files, path])
            raise ConfigError(f"config files include each other in a circle: {chain}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{shown(path)}: a config file must be text ({error}).") from None
        self._open_files.append(path)
        self.read_text(text, shown(path), path.parent)
        self._open_files.pop()

    def read_binding(self, text: str, origin: str) -> None:
        """Read one `Class.argument = value`.

        Raises:
            ConfigError: If it is anything else, or wrong.
        """
        if "=" not in text:
            raise ConfigError(f"{origin} must be 'Class.argument = value', got {text!r}.")
        for statement, where in self._statements(text, f"{origin} {text!r}", lines=False):
            if not isinstance(statement, config_parser.BindingStatement):
                raise ConfigError(f"{where}: only 'Class.argument = value' can stand here.")
            self._bind_statement(statement, where, origin)

    def read_text(self, text: str, origin: str, folder: Path | None = None) -> None:
        """Read the text of a config file that is called `origin` and lies in `folder`.

        Raises:
            ConfigError: If something in it is wrong.
        """
        seen: dict[Key, str] = {}
        for statement, where in self._statements(text, origin, lines=True):
            if isinstance(statement, config_parser.ImportStatement):
                self._import(statement, where)
            elif isinstance(statement, config_parser.IncludeStatement):
                if seen:
                    raise ConfigError(
                        f"{where}: includes come first; put this line above {next(iter(seen))}, "
                        "or the included file overrules what stands above it."
                    )
                self._include(statement.filename, where, folder)
            elif isinstance(statement, config_parser.BindingStatement):
                key = self._bind_statement(statement, where, where)
                if key in seen:
                    name = gin_text.binding_name(*key)
                    raise ConfigError(f"{where}: {name} is bound already at {seen[key]}.")
                if key is not None:
                    seen[key] = where

    def _statements(self, text: str, origin: str, *, lines: bool) -> Any:
        """Yields (statement, where it stands), with gin's errors made readable."""
        parser: Any = None

        def where(line: int) -> str:
            return f"{origin}:{line}" if lines else origin

        try:
            parser = config_parser.ConfigParser(io.StringIO(text), _Delegate())
            for statement in parser:
                yield statement, where(statement.location.line_num)
        except SyntaxError as error:
            quoted = f"cannot read {(error.text or '').strip()!r}: " if lines else ""
            raise ConfigError(f"{where(error.lineno or 1)}: {quoted}{_readable(error)}") from None
        except tokenize.TokenError as error:
            line = error.args[1][0] if len(error.args) > 1 else 1
            raise ConfigError(f"{where(line)}: a bracket or quote is not closed.") from None
        except UnknownNameError as error:
            raise ConfigError(f"{where(parser.current_token.start[0])}: {error.reason}") from None

    def _bind_statement(
        self, statement: config_parser.BindingStatement, where: str, origin: str
    ) -> Key | None:
        scope, selector, argument, value, _ = statement
        if not argument:
            return self._bind_macro(f"{scope}/{selector}" if scope else selector, value, origin)
        try:
            configurable = gin_names.find_configurable(selector)
            gin_names.check_argument(configurable, argument)
        except UnknownNameError as error:
            if self._on_unknown is None:
                raise ConfigError(f"{where}: {error.reason}") from None
            self._on_unknown(f"{where}: {error.reason}")
            return None
        except ImportError as error:
            raise ImportError(f"{where}: {error}") from error
        key = (scope, configurable.selector, argument)
        self._bind(key, value, origin)
        return key

    def _bind_macro(self, name: str, value: Any, origin: str) -> Key:
        if name.upper() != name:
            close = gin_names.owners_of(name)
            hint = f"did you mean {' or '.join(close)}?" if close else "write Class.argument."
            raise ConfigError(
                f"{origin}: {name!r} names no class: {hint} (Macros are written in capitals.)"
            )
        key = (name, "gin.macro", "value")
        self._bind(key, value, origin)
        return key

    def _import(self, statement: config_parser.ImportStatement, where: str) -> None:
        if statement.module.startswith("__gin__"):
            raise ConfigError(f"{where}: gin's dynamic registration is not supported.")
        if self._run is not None:
            self._run.check_import(statement.module, where)
        try:
            importlib.import_module(statement.module)
        except ModuleNotFoundError as error:
            if not statement.module.startswith(error.name or "\0"):
                raise ImportError(f"{where}: {error}") from error
            raise ConfigError(
                f"{where}: no module called {error.name!r}; install it, or start from the folder "
                "that holds it."
            ) from None
        except ImportError as error:
            raise ImportError(f"{where}: {error}") from error
        self._imported(statement.module)

    def _include(self, name: str, where: str, folder: Path | None) -> None:
        if self._run is not None:
            raise ConfigError(f"{where}: a run's config must stand alone, and includes {name!r}.")
        try:
            find_file(name, folder)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        self.read_file(name, folder)


def _readable(error: SyntaxError) -> str:
    """A parse error of gin in one sentence, with a hint for the usual slips."""
    token = _BAD_TOKEN.search(error.msg)
    if token is None:
        hint = " (gin does no arithmetic)" if "Expected newline" in error.msg else ""
        return " ".join(error.msg.split()).rstrip(".") + f"{hint}."
    word = token.group(1)
    hint = _LITERAL_HINTS.get(word.lower(), f"text needs quotes ('{word}'), a class @{word}")
    return f"{word!r} is no value; {hint}."


def shown(path: Path) -> str:
    """`path` as errors and origins print it: relative to the working folder where it lies in it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def find_file(name: str, beside: Path | None = None) -> Path:
    """The config file that `name` means.

    Args:
        name: Path as written.
        beside: Folder of the including file, tried first; the working folder where None.

    Raises:
        ConfigError: If there is none; names the nearest files.
    """
    folders = [beside or Path.cwd(), PROJECT_CONFIGS]
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.gin"):
            if candidate.is_file():
                return candidate.resolve()
    known = {file.name: file for folder in folders for file in sorted(folder.glob("*.gin"))}
    close = difflib.get_close_matches(Path(name).name, known, 3, 0.4)
    hint = f" Did you mean {' or '.join(shown(known[file]) for file in close)}?" if close else ""
    places = " and ".join(shown(folder) or "." for folder in folders)
    raise ConfigError(f"no config file {name!r} in {places}.{hint}")
