"""HTML elements of the page. All text arguments are escaped here, and only here."""

import base64
import struct
from collections.abc import Iterable, Sequence
from html import escape

Cell = str | tuple[str, str]
"""Text, or text and a CSS class."""


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, numbers: int = 0) -> str:
    """A table that scrolls by itself where the page is narrow.

    Args:
        heads: texts of the head row.
        rows: cells as text.
        numbers: how many columns from the right hold numbers, set flush right.
    """
    first_number = len(heads) - numbers
    head = "".join(
        f"<th scope=col{' class=n' if at >= first_number else ''}>{escape(text)}</th>"
        for at, text in enumerate(heads)
    )
    body = "".join(
        "<tr>" + "".join(_cell(cell, at, first_number) for at, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell, at: int, first_number: int) -> str:
    text, kind = (cell, "") if isinstance(cell, str) else cell
    kinds = " ".join(part for part in (kind, "n" if at >= first_number else "") if part)
    attribute = f' class="{escape(kinds)}"' if kinds else ""
    if at == 0:
        return f"<th scope=row{attribute}>{escape(text)}</th>"
    return f"<td{attribute}>{escape(text)}</td>"


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """A list of names and values."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in items)
    return f"<dl>{rows}</dl>"


def lines(texts: Iterable[str], kind: str = "note") -> str:
    """Make one paragraph per line."""
    return "".join(f"<p class={escape(kind)}>{escape(text)}</p>" for text in texts)


def picture(png: bytes, caption: str) -> str:
    """A PNG inside the page; wide ones take the whole row."""
    width, height = png_size(png)
    kind = "picture wide" if width > 1.6 * height else "picture"
    data = base64.b64encode(png).decode()
    return (
        f'<figure class="{kind}"><img src="data:image/png;base64,{data}" width={width}'
        f' height={height} alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption>'
        "</figure>"
    )


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header that comes first; (1, 1) of a torn file."""
    if len(png) < 24:
        return 1, 1
    width, height = struct.unpack(">II", png[16:24])
    return max(1, width), max(1, height)
