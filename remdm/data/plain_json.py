"""JSON and words that lay on a disk: nothing in them is believed before it was looked at."""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

# Names in a message are cut after so many characters: they may come from the file, too.
_WORD = 60


def parsed_object(raw: str | bytes) -> dict[str, Any]:
    """The JSON object that `raw` spells.

    Raises:
        ValueError: If it spells none; says why in few words.
    """
    try:
        value = json.loads(raw)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        # Its representation would hold all that could not be decoded.
        raise ValueError(f"its JSON is no UTF-8 at byte {error.start}") from None
    if not isinstance(value, dict):
        raise ValueError(f"it must be a JSON object, got {reprlib.repr(value)}")
    return value


def typed(values: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """The value called `name`, of exactly one of some types: True is no number.

    Raises:
        ValueError: If it is missing or of another type.
    """
    if name not in values:
        raise ValueError(f"it has no {one_line(name, _WORD)}")
    value = values[name]
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{one_line(name, _WORD)} must be {wanted}, got {reprlib.repr(value)}")
    return value


def counted(values: Mapping[str, Any], name: str, least: int = 0) -> int:
    """The number called `name`, from `least` to what an int64 holds.

    Raises:
        ValueError: If it is missing or none.
    """
    value: int = typed(values, name, int)
    if not least <= value < 2**63:
        raise ValueError(
            f"{one_line(name, _WORD)} must be in {least}..2**63 - 1, got {reprlib.repr(value)}"
        )
    return value


def one_line(text: str, length: int | None = None) -> str:
    """`text` without what a terminal obeys or UTF-8 cannot hold, cut after `length` characters."""
    if length is not None and len(text) > length:
        text = text[:length] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
