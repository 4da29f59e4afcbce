"""Free energies of a search as a table for the terminal and as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from uspex_bridge.base.formulas import formula_of
from uspex_bridge.base.tables import layout, wrapped
from uspex_bridge.base.words import counted, short_names
from uspex_bridge.results.hulls.hull import Hull
from uspex_bridge.results.reading.model import Entry
from uspex_bridge.results.thermal.following import Followed
from uspex_bridge.results.thermal.free_energy import FreeEnergies, ThermalPhase

#: Temperatures that stand side by side in the table.
_SIDE_BY_SIDE = 4


def report(answer: FreeEnergies) -> str:
    """Return the answer as text of 80 columns: distances to the hulls, what changed, and what has no free energy."""
    called = names_of(answer)
    method = "scha" if answer.method == "corrected" else answer.method
    where = f"{counted(len(answer.phases), 'phase')} at {answer.pressure_gpa:g} GPa, {theory_of(answer)}"
    lines = [wrapped(f"{where}: distance to the hull of G = F + PV, meV/atom"), ""]
    steps = range(0, len(answer.temperatures), _SIDE_BY_SIDE)
    tables = [_table(answer, answer.temperatures[k : k + _SIDE_BY_SIDE], called) for k in steps]
    lines.append("\n\n".join(tables))
    lines.append("")
    lines += [wrapped(said) for said in _changes(answer, called)]
    unstable = [called(phase.entry) for phase in answer.phases if phase.unstable]
    if unstable:
        said = "no harmonic free energy (imaginary modes): " + ", ".join(unstable)
        lines.append(wrapped(said + ("" if method == "scha" else "; --method scha may find them stable")))
    lines += [wrapped(said) for said in _soft(answer, called)]
    lines += [wrapped(_followed(one, called)) for one in answer.followed]
    if answer.left:
        left = counted(len(answer.left), "phase")
        lines.append(f"{left} too far from every harmonic hull, or unstable, for {method} (--promote)")
    flagged = _flagged(answer, called)
    lines += [wrapped(said) for said in flagged]
    lines += [wrapped(f"failed: {called(one.before)}: {one.reason}") for one in answer.failed]
    return "\n".join(lines)


def names_of(*answers: FreeEnergies) -> Callable[[Entry], str]:
    """Return what gives an entry's short name: ``EA12``, with the end of its run's name where there are several."""
    runs = {phase.entry.run for answer in answers for phase in answer.phases}
    names = short_names(runs | {one.before.run for answer in answers for one in answer.failed})
    return lambda entry: f"EA{entry.id}" if len(names) == 1 else f"{names[entry.run]}:EA{entry.id}"


def _soft(answer: FreeEnergies, called: Callable[[Entry], str]) -> list[str]:
    """Return what ``scha`` says of the stability of phases that are unstable at rest or at a temperature."""
    said = []
    for temperature in answer.temperatures:
        for phase in answer.phases:
            found = phase.softest(temperature)
            name = called(phase.entry)
            if found is None and phase.unstable and not math.isnan(phase.g("scha", temperature)):
                said.append(f"stability unknown at {temperature:g} K: {name}, too few configurations (--g-error)")
            if found is None or not (found[2] or phase.unstable):
                continue
            lowest, error, imaginary = found
            word = ("perhaps " if abs(lowest) < 2.0 * error else "") + ("unstable" if imaginary else "stable")
            said.append(f"{word} at {temperature:g} K: {name}, lowest frequency {lowest:.2f} ± {error:.2f} THz")
    return said


def theory_of(answer: FreeEnergies) -> str:
    """Return the levels of theory and the method, and what ``scha`` was corrected to."""
    levels = ", ".join(dict.fromkeys(phase.entry.level for phase in answer.phases))
    if answer.method != "corrected":
        return f"{levels}, {answer.method}"
    lines = [line for phase in answer.phases for line in phase.lines.values() if "first_level" in line]
    return f"{levels}, scha corrected to {', '.join(dict.fromkeys(line['level'] for line in lines)) or 'nothing'}"


def _followed(one: Followed, called: Callable[[Entry], str]) -> str:
    if one.after is None:
        return f"followed {called(one.before)}: {one.reason}"
    below = f"{called(one.after)} {formula_of(one.after.reduced)} {one.after.symbol.partition(' ')[0]}"
    return f"followed {called(one.before)}: to {below}, {1000 * one.gain:.1f} meV/atom lower at rest"


def _table(answer: FreeEnergies, temperatures: tuple[float, ...], called: Callable[[Entry], str]) -> str:
    headings = [("", ""), ("formula", ""), ("space group", ""), ("at rest", "")]
    headings += [(f"{temperature:g} K", "") for temperature in temperatures]
    headings += [("lowest", "THz"), ("", "")]
    rows = []
    for phase in answer.phases:
        entry = phase.entry
        cells = [_distance(answer.above(entry.name, None))]
        cells += [_with_error(answer, phase, temperature) for temperature in temperatures]
        lowest = "" if math.isnan(phase.lowest_thz) else f"{phase.lowest_thz:.2f}"
        symbol = phase.group.partition(" ")[0]
        mark = "unstable" if phase.unstable else ""
        rows.append([called(entry), phase.formula, symbol, *cells, lowest, mark])
    return layout(headings, rows)


def _distance(above: float) -> str:
    if math.isnan(above):
        return "-"
    return "stable" if above == 0.0 else f"{1000 * above:.1f}"


def _with_error(answer: FreeEnergies, phase: ThermalPhase, temperature: float) -> str:
    text = _distance(answer.above(phase.entry.name, temperature))
    error = phase.error(answer.method, temperature)
    return text if error is None or text == "-" else f"{text}±{1000 * error:.1f}"


def _changes(answer: FreeEnergies, called: Callable[[Entry], str]) -> list[str]:
    def named(entries: Iterable[Entry]) -> str:
        return ", ".join(f"{called(entry)} {formula_of(entry.reduced)}" for entry in entries)

    said, before = [], {entry.name: entry for entry in answer.stable(None)}
    for temperature in answer.temperatures:
        if (hull := answer.hull(temperature)) is None:
            continue
        now = {entry.name: entry for entry in answer.stable(temperature)}
        came = [entry for name, entry in now.items() if name not in before]
        went = [entry for name, entry in before.items() if name not in now and not _outside(entry, hull)]
        text = f"stable at {temperature:g} K: {named(now.values())}"
        if came or went:
            text += f" (new against rest: {named(came) or 'none'}; no longer: {named(went) or 'none'})"
        said.append(text)
    return _without_hull(answer) + said


def _outside(entry: Entry, hull: Hull) -> bool:
    """Tell whether an entry has elements that a hull leaves out."""
    elements = {symbol for component in hull.components for symbol, _ in component}
    return not {symbol for symbol, _ in entry.composition} <= elements


def _without_hull(answer: FreeEnergies) -> list[str]:
    """Return why there are hulls of some components alone, or none at all, each reason once."""
    where: dict[tuple[str, str], list[str]] = {}
    for at in (None, *answer.temperatures):
        if (why := answer.problems.get(at)) is not None or answer.hull(at) is None:
            hull = answer.hull(at)
            what = "no hull" if hull is None else f"hull of {', '.join(hull.names)} alone"
            where.setdefault((what, why or "nothing to build it from"), []).append(
                "rest" if at is None else f"{at:g} K"
            )
    return [f"{what} at {', '.join(places)}: {why}" for (what, why), places in where.items()]


def _flagged(answer: FreeEnergies, called: Callable[[Entry], str]) -> list[str]:
    """Return what puts single free energies in doubt, and why others are missing."""
    said: dict[tuple[str, str], list[str]] = {}
    for phase in answer.phases:
        for (method, temperature), line in phase.lines.items():
            who = f"{called(phase.entry)} ({method}"
            if line["status"] in ("rejected", "failed") and line.get("code") != "unstable":
                said[f"failed: {who})", line["reason"]] = []
            elif line.get("flags"):
                why = "" if method == "harmonic" else f"; {line['reason']}"
                said.setdefault((who, f"{' '.join(line['flags'])}{why}"), []).append(f"{temperature:g}")
    return [f"{who}, {', '.join(at)} K): {what}" if at else f"{who}: {what}" for (who, what), at in said.items()]


def document(answer: FreeEnergies) -> dict[str, Any]:
    """Return the answer as plain values."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 6) + 0.0

    return {
        "units": {
            "g": "eV/atom",
            "gain": "eV/atom",
            "second_order": "eV/atom",
            "g_error": "eV/atom",
            "enthalpy_per_atom": "eV/atom",
            "above_hull": "eV/atom",
            "temperature": "K",
            "pressure_gpa": "GPa",
            "volume": "Å³ per cell",
            "lowest_thz": "THz",
            "hessian_thz": "THz",
            "hessian_error_thz": "THz",
        },
        "method": answer.method,
        "pressure_gpa": answer.pressure_gpa,
        "temperatures": list(answer.temperatures),
        "stable": {
            "rest": [entry.name for entry in answer.stable(None)],
            **{f"{t:g}": [entry.name for entry in answer.stable(t)] for t in answer.hulls},
        },
        "problems": {"rest" if at is None else f"{at:g}": why for at, why in answer.problems.items()},
        "phases": [
            {
                "name": phase.entry.name,
                "formula": phase.entry.formula,
                "space_group": phase.group,
                "level": phase.entry.level,
                "enthalpy_per_atom": number(phase.entry.enthalpy_per_atom),
                "above_hull_at_rest": number(answer.above(phase.entry.name, None)),
                "lowest_thz": number(phase.lowest_thz),
                "unstable": phase.unstable,
                "free_energies": [
                    {
                        "method": method,
                        "temperature": temperature,
                        "status": line["status"],
                        "reason": line["reason"],
                        "flags": line.get("flags", []),
                        "g": number(phase.g(method, temperature)),
                        "g_error": phase.error(method, temperature),
                        "volume": line.get("volume") if "g" in line else None,
                        "above_hull": number(answer.above(phase.entry.name, temperature))
                        if method == answer.method
                        else None,
                        "second_order": number(line["second_order"] / phase.entry.natoms)
                        if "second_order" in line
                        else None,
                        "supercell": line.get("supercell"),
                        "smaller": line.get("smaller"),
                        "hessian_thz": line.get("hessian_thz"),
                        "hessian_error_thz": line.get("hessian_error_thz"),
                        "unstable": line.get("unstable", line.get("code") == "unstable"),
                        "evaluations": line.get("evaluations"),
                    }
                    for (method, temperature), line in phase.lines.items()
                ],
            }
            for phase in answer.phases
        ],
        "not_promoted": list(answer.left),
        "followed": [
            {
                "from": one.before.name,
                "to": None if one.after is None else one.after.name,
                "gain": number(one.gain),
                "reason": one.reason,
            }
            for one in answer.followed
        ],
        "failed": {one.before.name: one.reason for one in answer.failed},
        "warnings": list(answer.warnings),
    }
