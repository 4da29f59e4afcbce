"""The report of a search: one page that needs no network, with numbers, figures and the crystals of its phases."""

from __future__ import annotations

import base64
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from uspex_bridge.base.data import Structure
from uspex_bridge.base.templates import render
from uspex_bridge.figures import crystals, style
from uspex_bridge.figures.diagram import in_order
from uspex_bridge.results.hulls.converged import Convergence
from uspex_bridge.results.hulls.export import cif_text, file_stem
from uspex_bridge.results.hulls.groups import PhaseGroups, phase_groups
from uspex_bridge.results.hulls.stability import Assessment, stable_phases
from uspex_bridge.results.hulls.tables import short_name
from uspex_bridge.results.phases.crystal import Crystal, describe
from uspex_bridge.results.phases.definition import Phase
from uspex_bridge.results.phases.matching import Known
from uspex_bridge.results.reading.folder import Results
from uspex_bridge.results.reading.model import TIE
from uspex_bridge.results.reading.outcomes import Outcomes
from uspex_bridge.results.reading.settings import LINES

#: More Wyckoff sites than this are folded away on the screen.
_SITES = 6


@dataclass(frozen=True)
class Picture:
    """A figure of the report, or why there is none.

    Attributes:
        name: what it is, for those who cannot see it.
        caption: what one sees.
        figure: None where it cannot be drawn; then the caption says why.
        wide: whether it takes up the page.
    """

    name: str
    caption: str
    figure: Figure | None
    wide: bool = False


@dataclass(frozen=True)
class Page:
    """Everything on the page.

    Attributes:
        results: the search.
        answer: what is stable.
        known: phases that were recognised; None where nothing was given to recognise them by.
        history: its convergence, or the reason why nothing can be said.
        outcomes: of the bridge's record, None where there is none.
        pictures: in order.
        made: who made the page and when, one line.
    """

    results: Results
    answer: Assessment
    known: Mapping[str, Known] | None
    history: Convergence | str
    outcomes: Outcomes | None
    pictures: Sequence[Picture]
    made: str

    @cached_property
    def crystals(self) -> dict[str, Crystal | None]:
        """The phases that can be read as crystals by name, None where no symmetry was found."""
        symprec = self.answer.question.symprec
        return {name: describe(structure, symprec) for name, structure in self.answer.structures.items()}


def page(report: Page) -> str:
    """Return the page as HTML that is well-formed XML too."""
    names, pressure = "–".join(in_order(report.answer)), report.answer.pressure_gpa
    title = f"{names} at {'unknown pressure' if pressure is None else f'{pressure:g} GPa'}"
    parts = [
        f"<header><h1>{_formula(title)}</h1><p class='soft'>{escape(_subtitle(report))}</p></header>",
        f"<ul class='facts'>{''.join(_facts(report))}</ul>",
        *(f"<p class='warning'>{escape(line)}</p>" for line in report.answer.warnings),
        "<h2 id='figures'>Figures</h2><div class='figures'>",
        *(_picture(picture) for picture in report.pictures),
        "</div><h2 id='phases'>Stable and near-stable phases</h2>",
        _phases(report),
        "<h2 id='convergence'>Convergence</h2>",
        _convergence(report.history),
        "<h2 id='failures'>Failures</h2>",
        _failures(report),
        "<h2 id='settings'>Settings and thresholds</h2>",
        _settings(report),
        *_notes(report.results.notes),
    ]
    shown = crystals.as_script(_viewed(report))
    values = {"title": escape(title), "body": "\n".join(parts), "crystals": shown, "viewer": crystals.viewer()}
    return render("report/page.html", values)


def _viewed(report: Page) -> dict[str, Any]:
    """Return the crystals of the phases for the viewer, by name; the conventional cell where there is one."""
    return {
        name: crystals.viewed(report.answer.structures[name] if crystal is None else crystal.cell)
        for name, crystal in report.crystals.items()
    }


def _subtitle(report: Page) -> str:
    results = report.results
    return f"{results.label}: USPEX, {LINES[results.line]}, {results.state}. {report.made}"


def _facts(report: Page) -> Iterable[str]:
    entries, generations = report.results.entries, report.results.generations
    stable = len(report.answer.hull.vertices)
    ties = len(stable_phases(report.answer)) - stable
    outliers = report.answer.outliers
    span = f"{generations[0]} to {generations[-1]}" if generations else "unknown"
    settled = report.history.converged if isinstance(report.history, Convergence) else None
    facts = {
        "structures": str(len(entries)),
        "without an enthalpy": str(sum(not entry.valid for entry in entries)),
        "generations": span,
        "compositions": str(len({entry.reduced for entry in entries if entry.valid})),
        "stable phases": str(stable),
        f"ties within {TIE:g} eV/atom": str(ties),
        f"more within {report.answer.question.within:g} eV/atom": str(len(report.answer.phases) - stable - ties),
        "outliers": "too few structures" if outliers is None else str(len({one.entry.name for one in outliers})),
        "converged": "unknown" if settled is None else "yes" if settled else "no",
    }
    return [f"<li><b>{escape(value)}</b>{escape(name)}</li>" for name, value in facts.items()]


_HEADINGS = (
    ("structure", "atoms in the cell"),
    ("phase", ""),
    ("ID", ""),
    ("space group", "system"),
    ("above hull", "eV/atom"),
    ("formation", "eV/atom"),
    ("H", "eV/atom"),
    ("volume", "Å³/atom"),
    ("lattice", "Å, °"),
    ("Wyckoff sites", "conventional cell"),
    ("known as", ""),
    ("found", "times"),
    ("made by", "generation"),
)


def _phases(report: Page) -> str:
    headings = [pair for pair in _HEADINGS if report.known is not None or pair[0] != "known as"]
    groups = phase_groups(report.answer, report.answer.phases)
    columns = [name for name, _ in headings]
    rows = [_phase(report, phase, columns, groups[phase.entry.name]) for phase in report.answer.phases]
    rule = report.answer.question.tolerances.describe(report.answer.question.method)
    said = (
        f"The hull's phases are in bold; those within {TIE:g} eV/atom of it share it (tie). Space groups within "
        f"{report.answer.question.symprec:g} Å; {rule}. An ID downloads the phase's CIF."
    )
    if report.known is None:
        said += " Without known structures (--known, --reference) no phase is marked as new."
    head = "".join(
        f"<th scope='col'><button type='button'>{name}</button>{f'<small>{unit}</small>' if unit else ''}</th>"
        for name, unit in headings
    )
    return (
        f"<p class='soft'>{escape(said)}</p><div class='wide'><table class='cards' id='phase-table'>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _phase(report: Page, phase: Phase, columns: Sequence[str], groups: PhaseGroups) -> str:
    answer, entry, point = report.answer, phase.entry, report.answer.point(phase)
    structure = answer.structures.get(entry.name)
    crystal = report.crystals.get(entry.name)
    above = "stable" if point.vertex else f"{point.above:.4f}{' tie' if point.above <= TIE else ''}"
    known = report.known.get(entry.name, "new") if report.known is not None else ""
    group = f"{crystal.symbol} ({crystal.number})" if crystal else answer.space_group(phase)
    made = entry.origin + ("" if entry.generation is None else f", {entry.generation}")
    if entry.parents:
        made += " from " + ", ".join(f"EA{parent}" for parent in entry.parents)
    cells = {
        "structure": (_view(report, phase), "view", str(crystal.atoms if crystal else entry.natoms)),
        "phase": (_formula(style.reduced(entry.composition)), "formula plain", style.reduced(entry.composition)),
        "space group": (
            f"{style.group_html(group)} {group.partition(' ')[2]}".strip()
            + (f"<br/>{crystal.system}" if crystal else "")
            + "".join(f"<small>{escape(remark)}</small>" for remark in groups.remarks()),
            "plain",
            str(crystal.number) if crystal else group,
        ),
        "above hull": (above, "number", f"{point.above:.6f}"),
        "formation": (f"{round(point.formation, 4) + 0.0:.4f}", "number", None),
        "H": (f"{entry.enthalpy_per_atom:.4f}", "number", None),
        "volume": (f"{entry.volume_per_atom:.3f}", "number", None),
        "lattice": (_lattice(crystal), "plain", f"{crystal.lattice[0]:.4f}" if crystal else ""),
        "Wyckoff sites": (_sites(crystal), "sites", str(len(crystal.sites)) if crystal else ""),
        "known as": (escape(str(known)), "", None),
        "found": (str(phase.found), "number", None),
        "ID": (
            " ".join([_identity(report, phase, structure, crystal), *map(escape, entry.flags)]),
            "",
            str(entry.id),
        ),
        "made by": (escape(made), "", None),
    }
    written, units = [], dict(_HEADINGS)
    for name in columns:
        text, kind, value = cells[name]
        order = "" if value is None else f" data-value='{escape(value)}'"
        unit = f" data-unit=' ({units[name]})'" if units[name] else ""
        written.append(f"<td class='{kind}' data-label='{name}'{unit}{order}><div>{text}</div></td>")
    return f"<tr class='{'stable' if point.above <= TIE else 'near'}'>{''.join(written)}</tr>"


def _view(report: Page, phase: Phase) -> str:
    """Return a small picture of a phase that opens a large one."""
    name = phase.entry.name
    if name not in report.answer.structures:
        return ""
    title = f"{style.reduced(phase.entry.composition)}  {report.answer.space_group(phase)}"
    return (
        f"<button type='button' class='view' data-crystal='{escape(name)}' title='{escape(title)}'>"
        f"<canvas role='img' aria-label='structure of {escape(title)}'></canvas></button>"
    )


def _identity(report: Page, phase: Phase, structure: Structure | None, crystal: Crystal | None) -> str:
    """Return the ID of a phase as a link to its CIF, which the page holds."""
    name = escape(short_name(report.answer, phase))
    if structure is None:
        return name
    symprec = report.answer.question.symprec
    stem = file_stem(report.answer.pool, phase.entry, structure, symprec)
    data = base64.b64encode(cif_text(structure, stem, symprec, crystal).encode()).decode()
    return f"<a download='{escape(stem)}.cif' href='data:chemical/x-cif;base64,{data}'>{name}</a>"


def _lattice(crystal: Crystal | None) -> str:
    if crystal is None:
        return ""
    a, b, c, alpha, beta, gamma = crystal.lattice
    return f"{a:.3f} {b:.3f} {c:.3f}<br/>{alpha:.2f} {beta:.2f} {gamma:.2f}"


def _sites(crystal: Crystal | None) -> str:
    if crystal is None:
        return ""
    lines = [f"{site.element} {site.wyckoff} " + " ".join(f"{x:.4f}" for x in site.position) for site in crystal.sites]
    text = "<br/>".join(lines)
    return text if len(lines) <= _SITES else f"<details><summary>{len(lines)} sites</summary>{text}</details>"


def _formula(text: str) -> str:
    """Escape a text, with the numbers of formulas in it as subscripts."""
    return re.sub(r"(?<=[A-Za-z])(\d+)", r"<sub>\1</sub>", escape(text))


def _picture(picture: Picture) -> str:
    if picture.figure is None:
        return f"<p class='soft'>{escape(picture.name)}: {escape(picture.caption)}</p>"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.svg"
        style.save(picture.figure, path, outlines=True)
        data = base64.b64encode(path.read_bytes()).decode()
    return (
        f"<figure class='{'page' if picture.wide else 'column'}'><img alt='{escape(picture.name)}' "
        f"src='data:image/svg+xml;base64,{data}'/><figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _convergence(history: Convergence | str) -> str:
    if isinstance(history, str):
        return f"<p>{escape(history)}</p>"
    verdict = "Converged" if history.converged else "Not converged"
    left = "" if history.running is None else f" Generation {history.running} is not complete and was left out."
    rows = [
        (
            g.number,
            g.structures,
            g.failed,
            g.new,
            "" if g.lowered is None else f"{g.lowered:.4f}",
            g.stable,
            ", ".join(f"{origin} {g.origins.count(origin)}" for origin in dict.fromkeys(g.origins)),
        )
        for g in history.generations
    ]
    heads = (
        "generation",
        "structures",
        "failed",
        "new phases",
        "hull lowered by (eV/atom)",
        "stable",
        "new ones made by",
    )
    return (
        f"<p><b>{verdict}</b>: {history.settled} of {history.needed} generations in a row without a lower hull (by "
        f"more than {history.tie:g} eV/atom) or a new phase within {history.within:g} eV/atom of it.{left}</p>"
        f"{_table(heads, rows)}"
    )


def _failures(report: Page) -> str:
    failed = [entry for entry in report.results.entries if not entry.valid]
    said = f"{len(failed)} of {len(report.results.entries)} structures in the results have no enthalpy."
    outcomes = report.outcomes
    if outcomes is None:
        return f"<p>{said} Without a record of the bridge the reasons are unknown.</p>"
    ended = ", ".join(f"{name} {number}" for name, number in outcomes.status.items()) or "none"
    said += f" The bridge's record has {outcomes.calls} calls (a structure has one for each step): {ended}."
    if outcomes.flags:
        said += " Flags: " + ", ".join(f"{name} {number}" for name, number in outcomes.flags.items()) + "."
    rows = [(f.code, f.status, f.calls, ", ".join(f.formulas), f.example) for f in outcomes.failures]
    table = _table(("reason", "ended as", "calls", "commonest in", "first message"), rows) if rows else ""
    return f"<p>{escape(said)}</p>{table}"


def _settings(report: Page) -> str:
    question, outcomes = report.answer.question, report.outcomes
    pressure = report.answer.pressure_gpa
    facts = {
        "pressure": "unknown" if pressure is None else f"{pressure:g} GPa",
        "components of the hull": ", ".join(in_order(report.answer)),
        "enthalpies of the components": "; ".join(
            f"{name} {value:.4f} eV per formula"
            for name, value in zip(report.answer.hull.names, report.answer.hull.references, strict=True)
        ),
        "sources": ", ".join(report.answer.pool.sources),
        "levels of theory": "; ".join(level or "not stated" for level in report.answer.levels),
        "window": f"{question.within:g} eV/atom above the hull; ties within {TIE:g} eV/atom",
        "same phase": question.tolerances.describe(question.method).removeprefix("same phase: "),
        "space groups": f"spglib, {report.answer.question.symprec:g} Å",
    }
    if outcomes is not None:
        facts["protocol"] = ", ".join(outcomes.protocols)
        for k, model in enumerate(outcomes.models, 1):
            shown = {name: value for name, value in model.items() if value not in (None, "")}
            facts[f"model {k}"] = ", ".join(f"{name} {value}" for name, value in shown.items())
        if outcomes.students:
            facts["students"] = ", ".join(f"{name} {number}" for name, number in outcomes.students.items())
        if outcomes.accepted:
            facts["beyond their range"] = (
                f"{', '.join(outcomes.accepted)}: accepted by accept_range although the elements do not hold under "
                "compression to the search's pressure"
            )
        facts["time in the bridge"] = f"{outcomes.seconds / 3600:.2f} h of wall time in all calls together"
        facts["uspex_bridge in the search"] = ", ".join(outcomes.versions)
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in facts.items())}</dl>"


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes[:200])
    more = f"<li>and {len(notes) - 200} more</li>" if len(notes) > 200 else ""
    return [
        "<h2>Unreadable data</h2>",
        f"<details><summary>{len(notes)} notes</summary><ul>{listed}{more}</ul></details>",
    ]


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th scope='col'><button type='button'>{escape(name)}</button></th>" for name in headings)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: object) -> str:
    try:
        number = math.isfinite(float(str(value)))
    except ValueError:
        number = False
    return f"<td class='{'number' if number else 'text'}'>{escape(str(value))}</td>"
