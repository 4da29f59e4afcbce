"""Tables for the terminal, and the rows that tables, JSON and CSV share."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from uspex_bridge.results.duplicates import Phase
from uspex_bridge.results.hull import TIE
from uspex_bridge.results.matching import Known
from uspex_bridge.results.stability import Assessment

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


def short_name(assessment: Assessment, phase: Phase) -> str:
    """Return ``EA12`` where there is only one source, else run and ID."""
    return f"EA{phase.entry.id}" if len(assessment.pool.sources) == 1 else phase.entry.name


def phase_rows(assessment: Assessment, known: Mapping[str, Known] | None = None) -> list[dict[str, Any]]:
    """Return one row of plain values per phase: its entry's, and what the hull says of it."""
    rows = []
    for phase in assessment.phases:
        point = assessment.point(phase)
        row = point.entry.row()
        if row["space_group_symbol"] is None:
            row["space_group_symbol"] = assessment.space_group(phase)
        row |= {
            "formation_enthalpy": round(point.formation, 6) + 0.0,
            "above_hull": round(point.above, 6),
            "stable": point.vertex,
            "tie": point.above <= TIE and not point.vertex,
            "found": phase.found,
            "duplicates": [entry.name for entry in phase.duplicates],
        }
        if known is not None:
            row["known"] = str(known[phase.entry.name]) if phase.entry.name in known else "new"
        rows.append(row)
    return rows


def phase_table(assessment: Assessment, known: Mapping[str, Known] | None = None) -> str:
    """Return the phases as a table."""
    headings = [
        ("", ""),
        ("formula", ""),
        ("space group", ""),
        ("above hull", "eV/atom"),
        ("formation", "eV/atom"),
        ("H", "eV/atom"),
        ("V", "Å³/atom"),
        ("gen", ""),
        ("origin", ""),
        ("found", ""),
        *([("known as", "")] if known is not None else []),
        ("flags", ""),
    ]
    rows = []
    for phase in assessment.phases:
        point, entry = assessment.point(phase), phase.entry
        rows.append(
            [
                short_name(assessment, phase),
                entry.formula,
                assessment.space_group(phase),
                "stable" if point.vertex else f"{point.above:.4f}" + (" tie" if point.above <= TIE else ""),
                f"{round(point.formation, 4) + 0.0:.4f}",  # no -0.0000
                f"{point.entry.enthalpy_per_atom:.4f}",
                f"{entry.volume_per_atom:.3f}",
                "" if entry.generation is None else str(entry.generation),
                entry.origin,
                str(phase.found),
                *([str(known.get(entry.name, "new"))] if known is not None else []),
                " ".join(entry.record.flags) if entry.record else "",
            ]
        )
    return layout(headings, rows)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; lists are joined by blanks."""
    stream = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()})
    return stream.getvalue()
