"""Bindings that nothing in a run used, and the likely reason of each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gin import config as gin_config

from remdm import gin_names, gin_text
from remdm.gin_reading import Key

# So many bindings of a class that nobody made are told one by one; more are told together.
_APART = 2
_MACRO = "no value in use refers to this macro."


class Unused(NamedTuple):
    """A binding without effect.

    Attributes:
        owner: Its class or function, without scope and module; of a macro, empty.
        name: `Class.argument`, with its scope; a macro's name.
        origin: `file:line`, `--bind`, or the flag that set it.
        reason: A sentence.
        close: Where nothing used its owner: bindings that would have had an effect instead.
        unmade: Whether nothing used its owner at all.
    """

    owner: str
    name: str
    origin: str
    reason: str
    close: tuple[str, ...]
    unmade: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.origin}): {self.reason}{_hint(self.close)}"


def unused(bound: Mapping[Key, Any], origins: Mapping[Key, Sequence[str]]) -> list[Unused]:
    """What had no effect so far, sorted by name.

    A binding counts as used when its configurable was called, in its scope, and took its value.

    Args:
        bound: Present values.
        origins: Where each came from; the last entry is the one that counts.
    """
    used = gin_config._OPERATIVE_CONFIG
    found = []
    for key, value in bound.items():
        scope, selector, argument = key
        calls = [
            arguments
            for (called_scope, called), arguments in used.items()
            if called == selector and f"{called_scope}/".startswith(f"{scope}/" if scope else "")
        ]
        if not any(argument in call and call[argument] == value for call in calls):
            is_macro = selector == "gin.macro"
            unmade = not is_macro and not calls
            owner = "" if is_macro else gin_config._REGISTRY.minimal_selector(selector)
            reason = (
                "no value in use refers to this macro."
                if is_macro
                else _why(owner, argument, calls)
            )
            close = _close(f"{owner}.{argument}") if unmade else ()
            name, origin = gin_text.binding_name(*key), origins.get(key, ["code"])[-1]
            short = owner.rsplit(".", 1)[-1]
            found.append(Unused(short, name, origin, reason, close, unmade))
    return sorted(found, key=str)


def _why(owner: str, argument: str, calls: list[dict[str, Any]]) -> str:
    if any(argument in call for call in calls):
        return f"{owner} was made before this was bound, or a nearer scope overrules it."
    if calls:
        return f"the program passes {argument} to {owner} itself, which hides the binding."
    return f"nothing in this run used {owner}."


def _close(name: str) -> tuple[str, ...]:
    """What is in use and takes the same argument, or else is spelt alike."""
    in_use = {
        f"{gin_config._REGISTRY.minimal_selector(called)}.{given}"
        for _, called in gin_config._OPERATIVE_CONFIG
        if called not in gin_names.GIN_BUILTINS
        for given in gin_names.bindable_arguments(gin_config._REGISTRY[called])
    }
    argument = name.rsplit(".", 1)[-1]
    same = sorted(full for full in in_use if full.endswith(f".{argument}"))
    return tuple(same or gin_names.nearest(name, in_use))


def _hint(close: Iterable[str]) -> str:
    names = " or ".join(dict.fromkeys(close))
    return f" Did you mean {names}?" if names else ""


def told(found: Iterable[Unused]) -> list[str]:
    """A sentence for each, but one for all bindings of a class that nobody made.

    Whoever gives a whole recipe to a command that trains nothing reads the classes, not each line.
    """
    found = list(found)
    sentences = []
    for owner in dict.fromkeys(one.owner for one in found):
        own = [one for one in found if one.owner == owner]
        if len(own) <= _APART or not all(one.unmade for one in own):
            sentences += [str(one) for one in own]
            continue
        files = ", ".join(dict.fromkeys(one.origin.rsplit(":", 1)[0] for one in own))
        hint = _hint(name for one in own for name in one.close)
        sentences.append(
            f"{owner} ({len(own)} bindings, {files}): nothing in this run used it.{hint}"
        )
    return sentences
