"""``uspex-bridge report``: a search on one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.files import write_whole
from uspex_bridge.base.words import counted
from uspex_bridge.cli import drawing as d
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import FORCE

if TYPE_CHECKING:
    from uspex_bridge.figures.diagram import Diagram
    from uspex_bridge.figures.page import Picture
    from uspex_bridge.results.hulls.converged import Convergence
    from uspex_bridge.results.hulls.stability import Assessment, Question
    from uspex_bridge.results.reading.folder import Results
    from uspex_bridge.results.reading.model import Pool

#: Name of a figure, its caption, and what draws it.
Maker = tuple[str, str, Callable[[], Any]]
#: A phase so near the hull that is new keeps a search from being converged, as in the command converged, eV/atom.
_NEW = 0.05


@click.command(context_settings=q.CONTEXT)
@click.argument("place")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file of the page.",
)
@FORCE
@q.REFERENCES
@click.option("--known", "known_files", multiple=True, type=click.Path(), help="Known structures for naming phases.")
@q.within(0.1)
@click.option(
    "--generations",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Number of generations in a row without change that make a search converged.",
)
@q.STABILITY
@q.SYMPREC
@q.HULL
@q.DUPLICATES
@q.RECORD
def command(place: str, out: Path, force: bool, generations: int, **options: Any) -> None:
    """Write a report of the search at PLACE: figures, phases with their crystals, convergence, failures, settings.

    The page is one file that needs no network; it holds a CIF of each phase. Of several results folders the last
    one is used.

    Example: uspex-bridge report results1 -o report.html --known mp.json
    """
    from uspex_bridge import __version__
    from uspex_bridge.cli.hull import known_phases
    from uspex_bridge.figures.page import Page, page
    from uspex_bridge.results.hulls.stability import assess
    from uspex_bridge.results.reading.outcomes import read_outcomes

    q.keep(out, force=force)
    pool = q.open_pool([place], options)
    results = d.last_search(pool, place)
    question = q.ask(options)
    answer = assess(pool, question)
    report = Page(
        results=results,
        answer=answer,
        known=known_phases(answer, pool, options),
        history=_history(results, pool, question, generations),
        outcomes=read_outcomes(results.record) if results.record is not None else None,
        pictures=_pictures(results, answer),
        made=f"Made by uspex_bridge {__version__} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
    )
    write_whole(out, page(report))
    q.warn(answer.warnings)
    q.tell_notes(pool.notes)
    click.echo(f"{out}: {counted(len(answer.phases), 'phase')} within {question.within:g} eV/atom of the hull")


def _history(results: Results, pool: Pool, question: Question, needed: int) -> Convergence | str:
    """Return the search's convergence, or in a sentence why nothing is known of it."""
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.results.hulls.converged import history

    references = [source for label, source in pool.sources.items() if label != results.label]
    try:
        return history(results, references, replace(question, within=_NEW), needed)
    except InputError as error:
        return f"Not available: {error}"


def _pictures(results: Results, answer: Assessment) -> list[Picture]:
    """Draw every figure that the search allows; of the others it is said why they are not there."""
    from uspex_bridge.figures import coverage, family, progress, volume
    from uspex_bridge.figures.diagram import make_diagram
    from uspex_bridge.results.hulls.operators import progress as follow
    from uspex_bridge.results.reading.family import ancestors

    diagram = make_diagram({"": answer})
    heights = {p.entry.id: p.above for p in answer.hull.points if p.entry.run == results.label}
    makers: list[Maker] = [
        *_hulls(diagram),
        (
            "Enthalpy against volume",
            "Enthalpies of formation. Red rings: outliers from a robust fit by composition.",
            lambda: volume.draw(volume.gather(diagram)),
        ),
        (
            "Composition coverage",
            "Structures per composition; small grey dots are compositions that have none.",
            lambda: coverage.draw(coverage.gather(diagram)),
        ),
        (
            "Progress",
            "Distance to the final hull by structure number; lines follow the lowest structure at each stable "
            "composition. Below: share of each operator in each generation, and its success.",
            lambda: progress.draw(follow(results, answer.hull), answer),
        ),
        (
            "Family tree",
            "Ancestors of the stable phase with the lowest enthalpy of formation.",
            lambda: family.draw(ancestors(results, d.best_of(results, answer), heights), heights, answer),
        ),
    ]
    return [_picture(*maker) for maker in makers]


def _hulls(diagram: Diagram) -> list[Maker]:
    """Return what draws the hull: ternary maps of three components, then the hull of each pair of components."""
    from uspex_bridge.figures import hull, solid, ternary
    from uspex_bridge.figures.diagram import section

    made: list[Maker] = []
    if len(diagram.components) == 4:
        caption = "The lowest structure at each composition by distance to the hull; lines join phases that coexist."
        made.append((f"Tetrahedron {'–'.join(diagram.components)}", caption, partial(solid.draw, diagram)))
    for three in combinations(diagram.components, 3):
        caption = (
            "The lowest structure at each composition, by enthalpy of formation (a) and by distance to the hull (b); "
            "lines join stable phases that coexist."
        )
        made.append((f"Ternary maps {'–'.join(three)}", caption, partial(ternary.draw, section(diagram, three))))
    for two in combinations(diagram.components, 2):
        caption = "Structures by distance to the hull; phases on it are named, near-ties ringed."
        made.append((f"Convex hull {'–'.join(two)}", caption, partial(hull.draw, section(diagram, two))))
    return made


def _picture(name: str, caption: str, make: Callable[[], Any]) -> Picture:
    from uspex_bridge.base.errors import ConfigError, InputError
    from uspex_bridge.figures.page import Picture

    try:
        figure = make()
    except (ConfigError, InputError) as error:
        return Picture(name, str(error), None)
    return Picture(name, caption, figure, wide=figure.get_figwidth() > 5)
