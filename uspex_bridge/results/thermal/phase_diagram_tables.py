"""Phase diagrams as text for the terminal and as plain values."""

from __future__ import annotations

from typing import Any

from uspex_bridge.base.formulas import formula_of
from uspex_bridge.base.tables import layout, wrapped
from uspex_bridge.results.reading.model import Composition
from uspex_bridge.results.thermal import free_energy_tables as tables
from uspex_bridge.results.thermal.phase_diagram import Crossing, PhaseDiagram


def report(diagram: PhaseDiagram) -> str:
    """Return the free energies at every pressure, then the phases of lowest G, as text of 80 columns."""
    called = tables.names_of(*diagram.answers)
    parts = [tables.report(answer) for answer in diagram.answers]
    for composition in diagram.compositions:
        phases = diagram.phases(composition)
        short = {name: called(phase.entry) for name, phase in phases.items()}
        lines = [f"{formula_of(composition)}: phase of lowest G, in brackets where it is above the hull", ""]
        lines.append(_grid(diagram, composition, short))
        groups = [f"{short[name]} {phase.group.partition(' ')[0]}" for name, phase in phases.items()]
        lines += ["", wrapped(", ".join(groups))]
        for temperature in diagram.temperatures:
            found = diagram.with_pressure(composition, temperature)
            lines += [wrapped(f"at {temperature:g} K: {_said(one, short, 'GPa', 1)}") for one in found]
        for pressure in diagram.pressures:
            found = diagram.with_temperature(composition, pressure)
            lines += [wrapped(f"at {pressure:g} GPa: {_said(one, short, 'K', 0)}") for one in found]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _grid(diagram: PhaseDiagram, composition: Composition, short: dict[str, str]) -> str:
    """Return the names of the lowest phases, a row for each temperature, a column for each pressure."""
    headings = [("", ""), *((f"{pressure:g} GPa", "") for pressure in diagram.pressures)]
    rows = []
    for temperature in (None, *diagram.temperatures):
        cells = []
        for answer in diagram.answers:
            name, on_hull = diagram.lowest(composition, answer, temperature)
            cells.append("-" if not name else short[name] if on_hull else f"({short[name]})")
        rows.append(["at rest" if temperature is None else f"{temperature:g} K", *cells])
    return layout(headings, rows)


def _said(found: Crossing, short: dict[str, str], unit: str, digits: int) -> str:
    low, high = found.between
    error = f" ± {found.error:.{digits}f}" if found.error else ""
    at = f"{found.at:.{digits}f}{error} {unit}"
    return f"{short[found.before]} to {short[found.after]} at {at} (computed at {low:g} and {high:g})"


def document(diagram: PhaseDiagram) -> dict[str, Any]:
    """Return the diagram as plain values."""

    def plain(found: Crossing, axis: str, fixed: dict[str, float], formula: str) -> dict[str, Any]:
        return {
            "formula": formula,
            **fixed,
            "from": found.before,
            "to": found.after,
            axis: round(found.at, 3),
            "error": round(found.error, 3),
            "between": list(found.between),
        }

    changes = []
    for composition in diagram.compositions:
        formula = formula_of(composition)
        for t in diagram.temperatures:
            found = diagram.with_pressure(composition, t)
            changes += [plain(one, "pressure_gpa", {"temperature": t}, formula) for one in found]
        for p in diagram.pressures:
            found = diagram.with_temperature(composition, p)
            changes += [plain(one, "temperature", {"pressure_gpa": p}, formula) for one in found]
    return {
        "units": {"pressure_gpa": "GPa", "temperature": "K", "error": "of the value that changes, in its unit"},
        "pressures": [tables.document(answer) for answer in diagram.answers],
        "transitions": changes,
    }
