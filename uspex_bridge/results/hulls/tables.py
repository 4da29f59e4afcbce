"""Phases as a table for the terminal, and as the rows and documents that JSON, CSV and notebooks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from uspex_bridge.base.tables import fitted, wrapped
from uspex_bridge.base.words import counted, short_names
from uspex_bridge.results.hulls.groups import phase_groups
from uspex_bridge.results.hulls.stability import Assessment, stable_phases
from uspex_bridge.results.phases.definition import Phase
from uspex_bridge.results.phases.matching import Known
from uspex_bridge.results.reading.model import TIE

#: Units of the values that documents hold.
UNITS = {
    "enthalpy": "eV per cell",
    "energy": "eV per cell",
    "enthalpy_per_atom": "eV/atom",
    "formation_enthalpy": "eV/atom",
    "above_hull": "eV/atom",
    "within": "eV/atom",
    "references": "eV per formula",
    "volume": "Å³ per cell",
    "volume_per_atom": "Å³/atom",
    "pressure_gpa": "GPa",
    "density": "g/cm³",
    "fmax": "eV/Å",
    "stress_left_gpa": "GPa",
    "symprec": "Å",
}
#: Columns that are left out where the table would be wider than a terminal, the first one first.
_SPARE = ("origin", "gen", "H", "found", "formation", "known as")


def units(*names: str) -> dict[str, str]:
    """Return the units of some values."""
    return {name: UNITS[name] for name in names}


def short_name(assessment: Assessment, phase: Phase) -> str:
    """Return ``EA12`` where there is only one source, else the end of the run's name and the ID."""
    runs = short_names(assessment.pool.sources)
    return f"EA{phase.entry.id}" if len(runs) == 1 else f"{runs[phase.entry.run]}:EA{phase.entry.id}"


def phase_rows(
    assessment: Assessment, known: Mapping[str, Known] | None = None, phases: Sequence[Phase] | None = None
) -> list[dict[str, Any]]:
    """Return one row of plain values per phase: its entry's, its space groups, and what the hull says of it."""
    phases = assessment.phases if phases is None else phases
    groups = phase_groups(assessment, phases)
    rows = []
    for phase in phases:
        point = assessment.point(phase)
        row = point.entry.row() | {"space_group_uspex": point.entry.space_group} | groups[phase.entry.name].row()
        row |= {
            "symprec": assessment.question.symprec,
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


def phase_table(
    assessment: Assessment, known: Mapping[str, Known] | None = None, phases: Sequence[Phase] | None = None
) -> str:
    """Return the phases as a table, with remarks on space groups under it."""
    phases = assessment.phases if phases is None else phases
    groups = phase_groups(assessment, phases)
    headings = [
        ("", ""),
        ("formula", ""),
        ("space group", ""),
        ("above", "eV/atom"),
        ("formation", "eV/atom"),
        ("H", "eV/atom"),
        ("V", "Å³/atom"),
        ("gen", ""),
        ("origin", ""),
        ("found", ""),
        *([("known as", "")] if known is not None else []),
        ("", ""),
    ]
    rows, remarks = [], []
    for phase in phases:
        point, entry, name = assessment.point(phase), phase.entry, short_name(assessment, phase)
        tie = ["tie"] if point.above <= TIE and not point.vertex else []
        rows.append(
            [
                name,
                entry.formula,
                groups[entry.name].name,
                "stable" if point.vertex else f"{point.above:.4f}",
                f"{round(point.formation, 4) + 0.0:.4f}",  # no -0.0000
                f"{point.entry.enthalpy_per_atom:.4f}",
                f"{entry.volume_per_atom:.3f}",
                "" if entry.generation is None else str(entry.generation),
                entry.origin,
                str(phase.found),
                *([str(known.get(entry.name, "new"))] if known is not None else []),
                " ".join([*tie, *entry.flags]),
            ]
        )
        remarks += [f"{name}: {remark}" for remark in groups[entry.name].remarks()]
    single = len(assessment.hull.names) == 1  # then the enthalpy of formation is the distance to the hull
    spare = ("formation", *_SPARE) if single else _SPARE
    table = fitted(headings, rows, spare)
    return "\n".join([table, *(["", *map(wrapped, remarks)] if remarks else [])])


def report(assessment: Assessment, known: Mapping[str, Known] | None = None, most: int | None = None) -> str:
    """Return an answer as text: what the hull is of, what counts as the same phase, and the first ``most`` phases."""
    phases = assessment.phases[:most]
    left = len(assessment.phases) - len(phases)
    within = assessment.question.within
    lines = [
        wrapped(headline(assessment)),
        wrapped(counts(assessment)),
        wrapped(rules(assessment)),
        "",
        phase_table(assessment, known, phases),
    ]
    if left:
        lines.append(f"and {left} more" + (f" within {within:g} eV/atom" if within < float("inf") else ""))
    return "\n".join(lines)


def headline(assessment: Assessment) -> str:
    """Return one line that says what the hull is of."""
    pressure = assessment.pressure_gpa
    at = "at unknown pressure" if pressure is None else f"at {pressure:g} GPa"
    levels = ", ".join(level or "level of theory not stated" for level in assessment.levels)
    entries = counted(len(assessment.hull.points), "entry")
    return f"hull of {', '.join(assessment.hull.names)} {at}: {entries}, {levels}"


def counts(assessment: Assessment) -> str:
    """Return one line that counts stable phases, ties and outliers."""
    stable = len(assessment.hull.vertices)
    ties = len(stable_phases(assessment)) - stable
    outliers = assessment.outliers
    said = f"{stable} stable" + (f", {counted(ties, 'tie')} within {TIE:g} eV/atom of the hull" if ties else "")
    if outliers:
        names = list(dict.fromkeys(f"EA{one.entry.id}" for one in outliers))
        said += f"; {counted(len(names), 'outlier')}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    return said


def rules(assessment: Assessment) -> str:
    """Return one line that says what counts as the same phase and how space groups are found."""
    question = assessment.question
    return f"{question.tolerances.describe(question.method)}; space groups within {question.symprec:g} Å"


def document(assessment: Assessment, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an answer as plain values, with the rows of its phases."""
    hull, question, outliers = assessment.hull, assessment.question, assessment.outliers
    return {
        "units": UNITS,
        "components": list(hull.names),
        "pressure_gpa": assessment.pressure_gpa,
        "levels": list(assessment.levels),
        "references": dict(zip(hull.names, hull.references, strict=True)),
        "same_phase": question.tolerances.describe(question.method),
        "symprec": question.symprec,
        "within": question.within if question.within < float("inf") else None,
        "entries": len(hull.points),
        "stable": len(hull.vertices),
        "ties": len(stable_phases(assessment)) - len(hull.vertices),
        "outliers": None if outliers is None else [str(one) for one in outliers],
        "phases": list(rows),
        "warnings": list(assessment.warnings),
    }
