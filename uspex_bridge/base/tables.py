"""Tables for the terminal and for spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Columns of a terminal that every table fits in where names allow it.
_WIDTH = 80
_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


def layout(headings: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows under headings with their units; columns of numbers to the right."""
    named = [[name for name, _ in headings], [unit for _, unit in headings]]
    lines = [*named[: 2 if any(named[1]) else 1], *rows]
    count = len(headings)
    widths = [max(len(line[k]) for line in lines) for k in range(count)]
    right = [bool(rows) and all(not row[k] or _NUMBER.fullmatch(row[k]) for row in rows) for k in range(count)]
    text = []
    for line in lines:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def fitted(headings: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], spare: Sequence[str]) -> str:
    """Lay out rows in 80 columns; where they need more, the columns ``spare`` are left out, the first one first."""
    kept = list(range(len(headings)))
    for name in ("", *spare):
        kept = [k for k in kept if not name or headings[k][0] != name]
        table = layout([headings[k] for k in kept], [[row[k] for k in kept] for row in rows])
        if max(map(len, table.split("\n"))) <= _WIDTH:
            break
    return table


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; lists are joined by blanks."""
    stream = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()})
    return stream.getvalue()
