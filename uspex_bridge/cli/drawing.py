"""Options that the figures share, and writing them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import write_whole
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE, Finite, settings

if TYPE_CHECKING:
    from uspex_bridge.figures.diagram import Diagram
    from uspex_bridge.results.hulls.stability import Assessment
    from uspex_bridge.results.reading.folder import Results
    from uspex_bridge.results.reading.model import Entry, Pool


def out(name: str) -> Callable[..., Any]:
    """Return the options of what is written, with the name of the picture by default."""
    return settings(
        click.option(
            "-o",
            "--out",
            "outs",
            multiple=True,
            type=click.Path(path_type=Path),
            help=f"Figure: .png, .svg, .pdf, for some figures .html; repeatable.  [default: {name}.png]",
        ),
        click.option(
            "--width", type=Finite(min=30), help="Width of the figure, mm.  [default: 85 or 175, a column or page]"
        ),
        click.option(
            "--dpi", type=click.IntRange(min=50), default=300, show_default=True, help="Resolution of pixels, 1/inch."
        ),
        FORCE,
        click.option(
            "--csv",
            "csv_file",
            type=click.Path(path_type=Path),
            help="CSV file for the drawn numbers.  [default: none]",
        ),
        click.option("--json", "as_json", is_flag=True, help="JSON of the drawn numbers on standard output."),
    )


FAR = click.option(
    "--far",
    type=Finite(min=0, min_open=True),
    default=0.05,
    show_default=True,
    help="Upper end of the colour scale of distances to the hull, eV/atom.",
)
LABELS = click.option(
    "--labels",
    type=click.IntRange(min=0),
    default=15,
    show_default=True,
    help="Largest number of stable phases that are named.",
)
ONLINE = click.option("--online", is_flag=True, help="Small .html that loads plotly.js from the network.")
VIEW = click.option(
    "--view",
    metavar="AZIMUTH,ELEVATION",
    help="Direction from which a figure in three dimensions is seen, degrees.  [default: -72,32 or -78,16]",
)
PER_LEVEL = click.option("--per-level", is_flag=True, help="One hull for each level of theory, in one figure.")
SOURCES = settings(q.PLACES, q.REFERENCES, q.HULL, q.SYMPREC, q.RECORD)


def answers_to(places: Iterable[str], options: Mapping[str, Any]) -> tuple[Pool, dict[str, Assessment]]:
    """Open places and build their hull, or one per level of theory; duplicates matter only on the hull itself."""
    from uspex_bridge.base.symmetry import SYMPREC
    from uspex_bridge.results.hulls.stability import Question, assess, assess_per_level
    from uspex_bridge.results.reading.model import TIE

    pool = q.open_pool(places, options)
    question = Question(
        pressure_gpa=options.get("pressure"),
        components=q.components_of(options),
        within=TIE,
        symprec=options.get("symprec") or SYMPREC,
        mix_levels=options.get("mix_levels", False),
        with_holes=options.get("with_holes", False),
    )
    found = assess_per_level(pool, question) if options.get("per_level") else {"": assess(pool, question)}
    for answer in found.values():
        q.warn(answer.warnings)
    return pool, found


def diagram_of(places: Iterable[str], options: Mapping[str, Any]) -> Diagram:
    """Open places and put their hulls on one diagram; what could not be read is told."""
    from uspex_bridge.figures.diagram import make_diagram

    pool, answers = answers_to(places, options)
    diagram = make_diagram(answers)
    q.tell_notes(pool.notes)
    return diagram


def search_of(place: str, options: Mapping[str, Any]) -> tuple[Results, Assessment]:
    """Open one search (of several results folders, the last) with references, and build its hull.

    Raises:
        ConfigError: the place holds no search.
    """
    pool, answers = answers_to([place], options)
    search = last_search(pool, place)
    q.tell_notes(pool.notes)
    return search, answers[""]


def last_search(pool: Pool, place: str) -> Results:
    """Return the last search in a pool.

    Raises:
        ConfigError: there is none.
    """
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.results.reading.folder import Results

    searches = [source for source in pool.sources.values() if isinstance(source, Results)]
    if not searches:
        raise ConfigError(f"{place}: not a search of USPEX; it has neither generations nor parents")
    return searches[-1]


def best_of(results: Results, answer: Assessment) -> Entry:
    """Return the search's stable structure of lowest enthalpy of formation, else its structure nearest the hull.

    Raises:
        InputError: it has no structure with an enthalpy.
    """
    from uspex_bridge.base.errors import InputError

    mine = [point for point in answer.hull.points if point.entry.run == results.label]
    if not mine:
        raise InputError(f"{results.path}: it has no structure with an enthalpy")
    return min(mine, key=lambda point: (not point.vertex, point.formation if point.vertex else point.above)).entry


def tell_unnamed(diagram: Diagram, labels: int) -> None:
    """Say how many stable phases have no name in the figure."""
    left = len(diagram.labelled) - labels
    if left > 0:
        click.echo(f"note: {left} of {len(diagram.labelled)} stable phases are not named (--labels)", err=True)


def keep_outs(name: str, options: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the pictures to write; what takes long asks before it begins, since none is overwritten unasked.

    Raises:
        ConfigError: a file is there already.
    """
    outs: tuple[Path, ...] = options["outs"] or (Path(f"{name}.png"),)
    q.keep(*outs, options["csv_file"], force=options["force"])
    return outs


def finish(
    name: str,
    options: Mapping[str, Any],
    document: Mapping[str, Any],
    draw: Callable[[dict[str, Any]], Any],
    page: Callable[[], tuple[Any, Diagram]] | None = None,
) -> None:
    """Write the pictures and numbers that were asked for.

    Args:
        name: of the figure; the picture's by default.
        options: see :func:`out`.
        document: the drawn numbers; the CSV holds its ``points``.
        draw: makes the figure, given the width where one was asked for.
        page: makes the interactive form, where there is one, and says of what.

    Raises:
        ConfigError: an ending is none that this figure can be written as, or a file is there already.
        OutputError: a file cannot be written.
    """
    from uspex_bridge.base.errors import ConfigError
    from uspex_bridge.base.tables import as_csv
    from uspex_bridge.figures import style

    width = {"width": options["width"]} if options["width"] else {}
    figure = None
    for path in keep_outs(name, options):
        if path.suffix.lower() == ".html":
            if page is None:
                raise ConfigError(f"{path}: this figure has no interactive form; take {', '.join(style.FORMATS)}")
            from uspex_bridge.figures import interactive

            interactive.save(*page(), path, online=options.get("online", False))
        else:
            figure = figure or draw(width)
            style.save(figure, path, options["dpi"])
        click.echo(str(path), err=options["as_json"])
    if options["csv_file"] is not None:
        write_whole(options["csv_file"], as_csv(document["points"]))
    if options["as_json"]:
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
