"""HTML in which nothing from outside can be anything but text."""

import html
from collections.abc import Iterable, Sequence
from typing import NewType

Html = NewType("Html", str)
"""Text that is HTML already; made here and nowhere else."""

_EMPTY = {"meta", "img", "br"}


def text(value: object) -> Html:
    """Any value as text."""
    return Html(html.escape(str(value)))


def joined(parts: Iterable[Html]) -> Html:
    """Pieces one after another."""
    return Html("\n".join(parts))


def tag(name: str, /, *inside: Html, **attributes: str) -> Html:
    """An element.

    Args:
        name: Its name.
        inside: What it holds; plain text goes through `text` first.
        attributes: Their values are text. One called `class_` or `for_` loses the underscore, and
            others have a hyphen for theirs.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    if name in _EMPTY:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{''.join(inside)}</{name}>")


def paragraph(words: str, **attributes: str) -> Html:
    """A paragraph of text."""
    return tag("p", text(words), **attributes)


def table(
    caption: str, head: Sequence[str], lines: Iterable[Sequence[object]], *, numbers: int = 1
) -> Html:
    """A table with headers for readers of screens; it scrolls by itself where it is too wide.

    Args:
        caption: What it shows.
        head: Names of columns.
        lines: Values; the first of a line names it.
        numbers: Column from which on there are numbers, which stand to the right.
    """
    side = ["number" if column >= numbers else "" for column in range(len(head))]
    heads = [
        tag("th", text(name), scope="col", class_=where)
        for name, where in zip(head, side, strict=True)
    ]
    rows = []
    for first, *others in lines:
        cells = [
            tag("td", text(value), class_=where)
            for value, where in zip(others, side[1:], strict=True)
        ]
        rows.append(tag("tr", tag("th", text(first), scope="row"), *cells))
    whole = tag(
        "table",
        tag("caption", text(caption)),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *rows),
    )
    # A region that scrolls must be reachable by keyboard, and so needs a name.
    return tag("div", whole, class_="wide", tabindex="0", role="region", aria_label=caption)
