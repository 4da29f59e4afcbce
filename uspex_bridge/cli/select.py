"""``uspex-bridge select``: a compact set of structures to compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import write_whole
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE, Finite
from uspex_bridge.cli.soap_options import SOAP, progress, soap_of

if TYPE_CHECKING:
    from uspex_bridge.learn.choose.selection import Selected

#: Files of the folder.
_WRITTEN = ("selected.extxyz", "selected.csv", "selected.json", "coverage.png")


@click.command(context_settings=q.CONTEXT)
@q.PLACES
@click.option(
    "-n", "--budget", type=click.IntRange(min=1), default=100, show_default=True, help="Largest number of structures."
)
@click.option(
    "--near-share",
    "near",
    type=Finite(0, 1),
    default=0.5,
    show_default=True,
    help="Fraction of the budget for structures near the hull; the rest is selected by distance.",
)
@q.within(0.05)
@click.option(
    "--compositions",
    type=click.IntRange(min=1),
    help="Largest number of compositions near the hull, the lowest first.  [default: all]",
)
@click.option(
    "--each",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Largest number of structures of one composition near the hull.",
)
@click.option(
    "--method",
    "rest",
    type=click.Choice(["farthest", "clusters", "random"]),
    default="farthest",
    show_default=True,
    help="Selection of the rest: farthest points, one of each cluster (as in DIRECT), or random.",
)
@click.option("--with-outliers", is_flag=True, help="Outliers in volume or enthalpy included.")
@q.HOLES
@click.option("--max-atoms", type=click.IntRange(min=1), help="Largest number of atoms in a cell.  [default: no limit]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random numbers.")
@click.option(
    "--have",
    type=click.Path(path_type=Path),
    help="Existing structures: a dataset's folder, or a file.  [default: none]",
)
@click.option(
    "--holdout",
    type=click.Path(path_type=Path),
    help="Excluded phases: structures, or a .txt file with one name per line.  [default: none]",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("selected"), show_default=True, help="Folder."
)
@q.REFERENCES
@q.LEVELS
@q.DUPLICATES
@SOAP
@FORCE
@q.JSON
def command(places: tuple[str, ...], out: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Select a few representative structures of PLACES, with the reason for each.

    \b
    uspex-bridge select screened/label.extxyz --reference results1 -n 60 --have dataset
    uspex-bridge select results1 --compositions 300 --each 3 --near-share 1 -n 900

    First the lowest structures of each composition within --within of the hull are selected, then those farthest in
    SOAP space from all selected structures and from --have. Duplicates, outliers and structures in holes of the model
    are left out. References define the hull and are not selected. The folder --out gets selected.extxyz, selected.csv,
    selected.json and coverage.png.
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from uspex_bridge.learn.choose.select import Quota
    from uspex_bridge.learn.choose.selection import Exclusions, select_pool

    q.keep(*(out / name for name in _WRITTEN), force=force)
    pool = q.open_pool(places, options)
    asked = {key: options[key] for key in ("budget", "near", "within", "compositions", "each", "seed")}
    left_out = ("have", "holdout", "max_atoms", "with_outliers", "with_holes")
    with progress("describing", len(pool.entries)) as step:
        found = select_pool(
            pool,
            Quota(**asked, method=options["rest"]),
            Exclusions(**{key: options[key] for key in left_out}),
            references=options["references"],
            question=q.ask(options),
            soap=lambda elements: soap_of(options, elements),
            scaling=options["scaling"],
            progress=step,
        )
    summary = found.to_dict()
    _write(found, summary, out)
    if as_json:
        click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        click.echo(report(found, summary))
        click.echo(f"{out}/: {', '.join(_WRITTEN)}")
    q.warn(found.drawn.notes)
    q.tell_notes(pool.notes)


def _write(found: Selected, summary: dict[str, Any], out: Path) -> None:
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.figures import selection, style
    from uspex_bridge.learn.choose.candidates import write_frames

    write_frames(out / "selected.extxyz", found.frames())
    write_whole(out / "selected.csv", as_csv(summary["chosen"]))
    write_whole(out / "selected.json", json.dumps(summary, indent=1, ensure_ascii=False))
    drawn = found.drawn
    style.save(selection.draw(drawn.space, drawn.coordinates, found.have, found.groups()), out / "coverage.png")


def report(found: Selected, summary: dict[str, Any]) -> str:
    """Return the selection as text."""
    from uspex_bridge.base.tables import layout

    rows = [
        [
            row["name"],
            row["formula"],
            "" if row["above_hull"] is None else f"{row['above_hull']:.4f}",
            row["reason"],
            row["flags"] or "",
        ]
        for row in summary["chosen"]
    ]
    left = ", ".join(f"{count} {why}" for why, count in summary["left_out"].items() if count)
    before, after = (summary["coverage"][key] for key in ("before", "after"))
    return "\n".join(
        [
            layout([("", ""), ("formula", ""), ("above", "eV/atom"), ("taken because", ""), ("", "")], rows),
            "",
            f"{len(rows)} taken, {summary['near_hull']} of them near the hull; {summary['not_taken']} more candidates",
            *([f"left out before: {left}"] if left else []),
            f"bins of the map reached: {before['occupied']} of {before['of']} before, {after['occupied']} after",
        ]
    )
