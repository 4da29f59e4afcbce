"""Tables for the terminal, and the rows that tables, JSON and CSV share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uspex_bridge.base.tables import layout
from uspex_bridge.results.matching import Known
from uspex_bridge.results.model import TIE
from uspex_bridge.results.phases import Phase
from uspex_bridge.results.stability import Assessment


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
