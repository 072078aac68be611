"""gin bindings on their way to worker processes, and word of those that were used on its way back.

Processes started by spawn or forkserver begin without bindings. They get the parent's as text,
and read those of the configurables they know: their environments, not the nets that the same
config binds.
"""

import gin
from gin import config as gin_config

from remdm import config

# (scope, complete name) of a configurable and the names of its arguments.
Used = list[tuple[str, str, list[str]]]


def bindings_text() -> str:
    """The bindings of this process. Imports of the package's own modules are left out.

    Raises:
        ConfigError: If a value has no text.
    """
    lines = config.config_for_workers().splitlines()
    return "\n".join(line for line in lines if not line.startswith("import remdm."))


def adopt_bindings(text: str) -> None:
    """Take over `bindings_text` of another process, as far as this one knows the names.

    `config.apply_worker_config` would import whatever the names stand for, nets and torch too.
    """
    gin_config._OPERATIVE_CONFIG.clear()  # a forked process inherits its parent's
    with gin.unlock_config():
        gin.parse_config(text, skip_unknown=True)


def used_arguments() -> Used:
    """Arguments that configurables of this process have been called with."""
    calls = gin_config._OPERATIVE_CONFIG.items()
    return [(scope, selector, list(arguments)) for (scope, selector), arguments in calls]


def mark_as_used(used: Used) -> None:
    """Note bindings as used, for the checks for useless ones that a run makes here."""
    for scope, selector, arguments in used:
        parts = scope.split("/") if scope else []
        calls = gin_config._OPERATIVE_CONFIG.setdefault((scope, selector), {})
        for count in range(len(parts) + 1):  # inner scopes overrule outer ones
            bound = gin_config._CONFIG.get(("/".join(parts[:count]), selector), {})
            calls |= {name: bound[name] for name in arguments if name in bound}
