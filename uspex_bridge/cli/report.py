"""``uspex-bridge report``: a search on one page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli import drawing as d
from uspex_bridge.cli import questions as q

if TYPE_CHECKING:
    from uspex_bridge.figures.page import Picture
    from uspex_bridge.results.converged import Convergence
    from uspex_bridge.results.folder import Results
    from uspex_bridge.results.model import Pool
    from uspex_bridge.results.stability import Assessment, Question


@click.command(context_settings=q.CONTEXT)
@click.argument("place")
@click.option(
    "--html", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page."
)
@q.REFERENCES
@click.option("--known", "known_files", multiple=True, type=click.Path(), help="Structures to recognise phases by.")
@q.within(0.05)
@click.option(
    "--generations",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Without change so many in a row: it has converged.",
)
@q.SYMPREC
@q.HULL
@q.DUPLICATES
@q.RECORD
def command(place: str, html: Path, generations: int, **options: Any) -> None:
    """Write a page about the search at PLACE: phases with their crystals, figures, convergence, failures, settings.

    The page is one file that needs no network. Of several results folders it is about the last.

    Example: uspex-bridge report results1 --html report.html --known mp.json
    """
    from uspex_bridge import __version__
    from uspex_bridge.cli.hull import known_phases
    from uspex_bridge.figures.page import Page, page
    from uspex_bridge.results.outcomes import read_outcomes
    from uspex_bridge.results.stability import assess

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
    q.write_text(html, page(report))
    q.warn(answer.warnings)
    q.tell_notes(pool.notes)
    click.echo(f"{html}: {counted(len(answer.phases), 'phase')} within {question.within:g} eV/atom of the hull")


def _history(results: Results, pool: Pool, question: Question, needed: int) -> Convergence | str:
    """Return the search's convergence, or in a sentence why nothing is known of it."""
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.results.converged import history

    references = [source for label, source in pool.sources.items() if label != results.label]
    try:
        return history(results, references, question, needed)
    except InputError as error:
        return f"Nothing can be said: {error}"


def _pictures(results: Results, answer: Assessment) -> list[Picture]:
    """Draw every figure that the search allows; of the others it is said why they are not there."""
    from uspex_bridge.figures import coverage, family, hull, progress, ternary, volume
    from uspex_bridge.figures.diagram import make_diagram
    from uspex_bridge.results.family import ancestors
    from uspex_bridge.results.operators import progress as follow

    diagram = make_diagram({"": answer})
    heights = {p.entry.id: p.above for p in answer.hull.points if p.entry.run == results.label}
    space = "Structures by distance to the hull; phases on it are named, near-ties ringed."
    kinds: dict[int, tuple[str, str, Callable[[], Any]]] = {
        2: ("Convex hull", space, lambda: hull.draw(diagram)),
        3: (
            "Ternary maps",
            "The lowest structure at each composition, by enthalpy of formation (a) and by distance to the hull (b); "
            "lines join stable phases that coexist.",
            lambda: ternary.draw(diagram),
        ),
    }
    makers = [kinds[len(answer.hull.names)]] if len(answer.hull.names) in kinds else []
    makers += [
        (
            "Enthalpy against volume",
            "All structures. Those that stand out from a robust fit by composition are ringed in red.",
            lambda: volume.draw(volume.gather(diagram)),
        ),
        (
            "Composition coverage",
            "Structures per composition; small grey dots are compositions that have none.",
            lambda: coverage.draw(coverage.gather(diagram)),
        ),
        (
            "Progress",
            "Distance to the final hull by generation and operator; lines follow the lowest structure at each stable "
            "composition.",
            lambda: progress.draw(follow(results, answer.hull), answer),
        ),
        (
            "Family tree",
            "Where the stable phase of lowest enthalpy of formation comes from.",
            lambda: family.draw(ancestors(results, d.best_of(results, answer), heights), heights, answer),
        ),
    ]
    return [_picture(*maker) for maker in makers]


def _picture(name: str, caption: str, make: Callable[[], Any]) -> Picture:
    from uspex_bridge.base.errors import ConfigError, InputError
    from uspex_bridge.figures.page import Picture

    try:
        figure = make()
    except (ConfigError, InputError) as error:
        return Picture(name, str(error), None)
    return Picture(name, caption, figure, wide=figure.get_figwidth() > 5)
