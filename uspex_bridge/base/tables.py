"""Tables for the terminal and for spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from textwrap import fill, wrap
from typing import Any

#: Columns of a terminal that every table fits in where names allow it.
_WIDTH = 80
#: Texts are not wrapped in columns narrower than this.
_NARROW = 12
_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")

Headings = Sequence[tuple[str, str]]
Rows = Sequence[Sequence[str]]


def layout(headings: Headings, rows: Rows, below: Rows = ()) -> str:
    """Lay out rows under headings with their units; columns of numbers to the right.

    Where 80 columns are too few, texts are wrapped in the widest columns of text.

    Args:
        headings: name and unit of each column.
        rows: a text for each column.
        below: of each row further lines that stand under it.
    """
    named = [[name for name, _ in headings], [unit for _, unit in headings]]
    head = named[: 2 if any(named[1]) else 1]
    right = [bool(rows) and all(not row[k] or _NUMBER.fullmatch(row[k]) for row in rows) for k in range(len(headings))]
    words = [[word for row in (*head, *rows) for word in row[k].split()] for k in range(len(headings))]
    least = [max([_NARROW, *map(len, column)]) for column in words]
    widths = _narrowed(_widths(headings, rows), [0 if r else low for r, low in zip(right, least, strict=True)])
    text = [line for row in head for line in _lines(row, widths, right)]
    for row, more in zip_longest(rows, below, fillvalue=()):
        text += _lines(row, widths, right)
        text += [wrapped(words, "    ") for words in more]
    return "\n".join(text)


def _widths(headings: Headings, rows: Rows) -> list[int]:
    return [max(map(len, column)) for column in zip(*zip(*headings, strict=True), *rows, strict=True)]


def _fit(widths: Sequence[int]) -> bool:
    """Tell whether columns of these widths and the gaps between them fit a terminal."""
    return sum(widths) + 2 * (len(widths) - 1) <= _WIDTH


def _narrowed(widths: list[int], least: Sequence[int]) -> list[int]:
    """Return widths of which the widest are smaller, until all fit or are ``least`` (0 for a column of numbers)."""
    widths = list(widths)
    while not _fit(widths):
        wide = [k for k, low in enumerate(least) if low and widths[k] > low]
        if not wide:
            break
        widths[max(wide, key=lambda k: widths[k])] -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    cells = [
        [c] if len(c) <= w else wrap(c, w, break_on_hyphens=False, break_long_words=False)
        for c, w in zip(row, widths, strict=True)
    ]
    lines = []
    for parts in zip_longest(*cells, fillvalue=""):
        placed = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(parts, widths, right, strict=True))
        lines.append("  ".join(placed).rstrip())
    return lines


def fitted(headings: Headings, rows: Rows, spare: Sequence[str], below: Rows = ()) -> str:
    """Lay out rows in 80 columns; where they need more, the columns ``spare`` are left out, the first one first."""
    kept = list(range(len(headings)))
    for name in ("", *spare):
        kept = [k for k in kept if not name or headings[k][0] != name]
        chosen, cells = [headings[k] for k in kept], [[row[k] for k in kept] for row in rows]
        if _fit(_widths(chosen, cells)):
            break
    return layout(chosen, cells, below)


def wrapped(text: str, indent: str = "") -> str:
    """Return a sentence in lines of a terminal's width."""
    further = f"{indent}  "
    return fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False, break_long_words=False
    )


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; lists are joined by blanks."""
    stream = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()})
    return stream.getvalue()
