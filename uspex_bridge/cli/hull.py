"""``uspex-bridge hull``: what is stable at this pressure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import questions as q

if TYPE_CHECKING:
    from uspex_bridge.results.matching import Known
    from uspex_bridge.results.model import Pool
    from uspex_bridge.results.stability import Assessment


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@q.REFERENCES
@click.option(
    "--known",
    "known_files",
    multiple=True,
    type=click.Path(),
    help="Structures to recognise phases by, like --reference, but kept off the hull.",
)
@q.within(0.1)
@click.option("-n", "most", type=click.IntRange(min=1), help="Only the first N phases.")
@q.HULL
@click.option("--per-level", is_flag=True, help="One hull for each level of theory.")
@q.DUPLICATES
@q.RECORD
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Also write the phases into this file.")
@q.JSON
def command(places: tuple[str, ...], as_json: bool, csv_file: Path | None, per_level: bool, **options: Any) -> None:
    """Show the phases on and near the convex hull of PLACES.

    PLACES are results folders of USPEX (either line), folders with several of them, what relax or rescore left, or
    files of structures with energies. Enthalpies are H = E + PV, distances eV/atom.

    Example: uspex-bridge hull results1 --reference mp.json --within 0.05
    """
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.results.stability import assess, assess_per_level

    pool = q.open_pool(places, options)
    question = q.ask(options)
    answers = assess_per_level(pool, question) if per_level else {"": assess(pool, question)}
    known = {name: known_phases(answer, pool, options) for name, answer in answers.items()}
    rows = {name: _rows(answer, known[name], options["most"]) for name, answer in answers.items()}
    if as_json:
        printed = [_document(answer, rows[name]) for name, answer in answers.items()]
        click.echo(json.dumps(printed if per_level else printed[0], indent=1, ensure_ascii=False))
    for name, answer in answers.items():
        q.warn(answer.warnings)
        if not as_json:
            click.echo(report(answer, known[name], options["most"]))
    if csv_file is not None:
        q.write_text(csv_file, as_csv([row for group in rows.values() for row in group]))
    q.tell_notes(pool.notes)


def known_phases(answer: Assessment, pool: Pool, options: dict[str, Any]) -> dict[str, Known] | None:
    """Look the phases up among references and known structures, None where there are none."""
    from uspex_bridge.results.matching import recognise
    from uspex_bridge.results.sources import Loose, read_reference

    files = [read_reference(Path(path)) for path in options["known_files"]]
    asked = [pool.sources[name] for name in options["references"]]
    given = [source for source in asked if isinstance(source, Loose)]
    references = [*given, *files]
    if not references:
        return None
    phases = [p.entry.name for p in answer.phases][: options.get("most")]
    return recognise([(n, answer.structures[n]) for n in phases if n in answer.structures], references)


def _rows(answer: Assessment, known: dict[str, Known] | None, most: int | None) -> list[dict[str, Any]]:
    from uspex_bridge.results.tables import phase_rows

    return phase_rows(answer, known)[:most]


def report(answer: Assessment, known: dict[str, Known] | None = None, most: int | None = None) -> str:
    """Return the answer as text: what the hull is of, what counts as the same phase, and the phases."""
    from uspex_bridge.results.model import TIE
    from uspex_bridge.results.stability import stable_phases
    from uspex_bridge.results.tables import phase_table

    table = phase_table(answer, known).split("\n")
    shown = table if most is None else table[: most + 2]
    left = len(table) - len(shown)
    return "\n".join(
        [
            f"{headline(answer)}; {len(answer.hull.vertices)} stable, "
            f"{len(stable_phases(answer)) - len(answer.hull.vertices)} more within {TIE:g} eV/atom (ties)",
            answer.question.tolerances.describe(answer.question.method),
            "",
            *shown,
            *([f"and {left} more within {answer.question.within:g} eV/atom"] if left else []),
        ]
    )


def headline(answer: Assessment) -> str:
    """Return one line that says what the hull is of."""
    pressure = answer.pressure_gpa
    at = "at unknown pressure" if pressure is None else f"at {pressure:g} GPa"
    levels = ", ".join(level or "level of theory not stated" for level in answer.levels)
    return f"hull of {', '.join(answer.hull.names)} {at}: {counted(len(answer.hull.points), 'entry')}, {levels}"


def _document(answer: Assessment, rows: list[dict[str, Any]]) -> dict[str, Any]:
    hull = answer.hull
    return {
        "components": list(hull.names),
        "pressure_gpa": answer.pressure_gpa,
        "levels": list(answer.levels),
        "references": dict(zip(hull.names, hull.references, strict=True)),
        "same_phase": answer.question.tolerances.describe(answer.question.method),
        "within": answer.question.within,
        "entries": len(hull.points),
        "phases": rows,
        "warnings": list(answer.warnings),
    }
