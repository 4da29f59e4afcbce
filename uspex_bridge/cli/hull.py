"""``uspex-bridge hull``: what is stable at this pressure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import write_whole
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE

if TYPE_CHECKING:
    from uspex_bridge.results.hulls.stability import Assessment
    from uspex_bridge.results.phases.matching import Known
    from uspex_bridge.results.reading.model import Pool


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@q.REFERENCES
@click.option(
    "--known",
    "known_files",
    multiple=True,
    type=click.Path(),
    help="Known structures for naming phases, as --reference, but not part of the hull.",
)
@q.within(0.1)
@click.option("-n", "most", type=click.IntRange(min=1), help="Largest number of phases.  [default: all]")
@q.HULL
@click.option("--per-level", is_flag=True, help="One hull for each level of theory.")
@q.DUPLICATES
@q.STABILITY
@q.SYMPREC
@q.RECORD
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="CSV file for the phases.  [default: none]")
@FORCE
@q.JSON
def command(places: tuple[str, ...], as_json: bool, csv_file: Path | None, per_level: bool, **options: Any) -> None:
    """Show the phases on and near the convex hull of PLACES.

    PLACES are results folders of USPEX (all lines), folders with several of them, folders of relax or rescore, or
    files of structures with energies. Enthalpies are H = E + PV, distances eV/atom.

    Example: uspex-bridge hull results1 --reference mp.json --within 0.05
    """
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.results.hulls.stability import assess, assess_per_level
    from uspex_bridge.results.hulls.tables import document, phase_rows, report

    q.keep(csv_file, force=options["force"])
    pool = q.open_pool(places, options)
    question = q.ask(options)
    answers = assess_per_level(pool, question) if per_level else {"": assess(pool, question)}
    known = {name: known_phases(answer, pool, options) for name, answer in answers.items()}
    most, rows = options["most"], {}
    if as_json or csv_file is not None:
        rows = {name: phase_rows(answer, known[name], answer.phases[:most]) for name, answer in answers.items()}
    if as_json:
        printed = [document(answer, rows[name]) for name, answer in answers.items()]
        click.echo(json.dumps({"hulls": printed} if per_level else printed[0], indent=1, ensure_ascii=False))
    for name, answer in answers.items():
        q.warn(answer.warnings)
        if not as_json:
            click.echo(report(answer, known[name], most))
    if csv_file is not None:
        write_whole(csv_file, as_csv([row for group in rows.values() for row in group]))
    q.tell_notes(pool.notes)


def known_phases(answer: Assessment, pool: Pool, options: dict[str, Any]) -> dict[str, Known] | None:
    """Look the phases up among references and known structures, None where there are none."""
    from uspex_bridge.results.phases.matching import recognise
    from uspex_bridge.results.reading.sources import Loose, read_reference

    files = [read_reference(Path(path)) for path in options["known_files"]]
    q.tell_notes(note for file in files for note in file.notes if "have no energy" not in note)
    asked = [pool.sources[name] for name in options["references"]]
    given = [source for source in asked if isinstance(source, Loose)]
    references = [*given, *files]
    if not references:
        return None
    phases = [p.entry.name for p in answer.phases][: options.get("most")]
    found = [(name, answer.structures[name]) for name in phases if name in answer.structures]
    return recognise(found, references, answer.question.tolerances)
