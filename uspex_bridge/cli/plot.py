"""``uspex-bridge plot``: figures of a search, good enough to print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.cli import drawing as d
from uspex_bridge.cli import questions as q
from uspex_bridge.cli.options import Finite
from uspex_bridge.cli.plot_pressure import pressure

if TYPE_CHECKING:
    from uspex_bridge.figures.diagram import Diagram

#: Outliers that are listed before the rest is only counted.
_TOLD = 10


@click.group(context_settings=q.CONTEXT)
def command() -> None:
    """Draw figures of results: each command makes one, as PNG, SVG or PDF, some also as an interactive page.

    Example: uspex-bridge plot hull results1 -o hull.pdf -o hull.html
    """


command.add_command(pressure)


@command.command(context_settings=q.CONTEXT)
@d.SOURCES
@d.PER_LEVEL
@d.FAR
@click.option(
    "--top", type=Finite(), help="Highest enthalpy of formation, eV/atom.  [default: as high as the hull is deep]"
)
@d.LABELS
@d.ONLINE
@d.out("hull")
def hull(places: tuple[str, ...], far: float, top: float | None, labels: int, **options: Any) -> None:
    """Draw the convex hull of a binary system: enthalpy of formation against composition.

    Phases on the hull are named, near-ties ringed; the colour is the distance to the hull, the marker tells search
    from references or, with --per-level, levels of theory. --components selects two of three elements.

    Example: uspex-bridge plot hull results1 --components Ca,Ni -o hull.pdf
    """
    diagram = d.diagram_of(places, options)
    from uspex_bridge.figures import hull as figure

    document = figure.document(diagram, top)
    d.tell_unnamed(diagram, labels)

    def page() -> Any:
        from uspex_bridge.figures import interactive

        return interactive.hull(diagram, far=far, top=top), diagram

    d.finish(
        "hull", options, document, lambda size: figure.draw(diagram, far=far, top=top, labels=labels, **size), page
    )


@command.command(context_settings=q.CONTEXT)
@d.SOURCES
@d.PER_LEVEL
@click.option(
    "--colour",
    type=click.Choice(["formation", "above", "both"]),
    help="Colour by enthalpy of formation, by distance to the hull, or a map of each.  [default: both]",
)
@click.option("--3d", "solid", is_flag=True, help="Hull as a surface, with enthalpy of formation upwards.")
@d.VIEW
@d.FAR
@d.LABELS
@d.ONLINE
@d.out("ternary")
def ternary(
    places: tuple[str, ...],
    colour: Any,
    solid: bool,
    view: str | None,
    far: float,
    labels: int,
    **options: Any,
) -> None:
    """Draw the map of a ternary system: the lowest structure at each composition, tie lines, stable phases named.

    With --3d it is coloured by distance to the hull and ends as high above zero as the hull is deep.

    Example: uspex-bridge plot ternary results1 --colour above -o map.svg
    """
    if solid and colour not in (None, "above"):
        raise click.UsageError(f"--3d colours by distance to the hull; it does not go with --colour {colour}.")
    if view and not solid:
        raise click.UsageError("--view goes with --3d.")
    diagram = d.diagram_of(places, options)
    if solid:
        _solid("ternary", diagram, 3, options, far=far, labels=labels, view=view)
        return
    from uspex_bridge.figures import ternary as figure

    document = figure.document(diagram)
    d.tell_unnamed(diagram, labels)

    def page() -> Any:
        from uspex_bridge.figures import interactive

        return interactive.ternary(diagram, far=far), diagram

    def draw(size: dict[str, Any]) -> Any:
        return figure.draw(diagram, colour=colour or "both", far=far, labels=labels, **size)

    d.finish("ternary", options, document, draw, page)


@command.command(context_settings=q.CONTEXT)
@d.SOURCES
@d.PER_LEVEL
@d.VIEW
@d.FAR
@d.LABELS
@d.ONLINE
@d.out("quaternary")
def quaternary(places: tuple[str, ...], view: str | None, far: float, labels: int, **options: Any) -> None:
    """Draw a quaternary system as a tetrahedron: the lowest structure at each composition, stable phases named.

    Example: uspex-bridge plot quaternary results1 -o tetrahedron.html
    """
    _solid("quaternary", d.diagram_of(places, options), 4, options, far=far, labels=labels, view=view)


def _solid(
    name: str, diagram: Diagram, count: int, options: dict[str, Any], *, far: float, labels: int, view: str | None
) -> None:
    """Draw a figure in three dimensions, of so many components."""
    from uspex_bridge.figures import solid

    solid.need(diagram, count)
    seen, document = solid.parse_view(view), solid.document(diagram)
    d.tell_unnamed(diagram, labels)

    def page() -> Any:
        from uspex_bridge.figures import interactive

        return interactive.solid(diagram, far=far), diagram

    d.finish(name, options, document, lambda size: solid.draw(diagram, far=far, labels=labels, view=seen, **size), page)


@command.command(context_settings=q.CONTEXT)
@d.SOURCES
@d.PER_LEVEL
@click.option(
    "--quantity",
    type=click.Choice(["formation", "enthalpy"]),
    default="formation",
    show_default=True,
    help="Enthalpy on the vertical axis, per atom: of formation, or as computed.",
)
@click.option(
    "--spreads",
    type=Finite(min=1),
    default=6.0,
    show_default=True,
    help="Threshold of outliers, in robust standard deviations.",
)
@d.FAR
@d.ONLINE
@d.out("volume")
def volume(places: tuple[str, ...], quantity: Any, spreads: float, far: float, **options: Any) -> None:
    """Draw enthalpy against volume of all structures; outliers are ringed and listed.

    Volumes and enthalpies far from a robust fit by composition are a sign of extrapolation by the model.

    Example: uspex-bridge plot volume results1 -o volume.png
    """
    diagram = d.diagram_of(places, options)
    from uspex_bridge.figures import volume as figure

    volumes = figure.gather(diagram, spreads)
    if volumes.outliers is None:
        click.echo("note: too few different structures to identify outliers", err=True)
    found = volumes.outliers or ()
    q.warn(f"outlier: {outlier}" for outlier in found[:_TOLD])
    if len(found) > _TOLD:
        click.echo(f"warning: and {len(found) - _TOLD} more outliers (--json has all)", err=True)

    def page() -> Any:
        from uspex_bridge.figures import interactive

        return interactive.volume(volumes, quantity=quantity, far=far), diagram

    def draw(size: dict[str, Any]) -> Any:
        return figure.draw(volumes, quantity=quantity, far=far, **size)

    d.finish("volume", options, figure.document(volumes), draw, page)


@command.command(context_settings=q.CONTEXT)
@d.SOURCES
@d.out("coverage")
def coverage(places: tuple[str, ...], **options: Any) -> None:
    """Draw the number of structures at each composition of two or three components.

    Small grey dots are compositions without a structure, up to the largest cell of the search.

    Example: uspex-bridge plot coverage results1 -o coverage.png
    """
    diagram = d.diagram_of(places, options)
    from uspex_bridge.figures import coverage as figure

    counted = figure.gather(diagram)
    d.finish("coverage", options, figure.document(counted), lambda size: figure.draw(counted, **size))


@command.command(context_settings=q.CONTEXT)
@click.argument("place")
@click.argument("structure", required=False)
@q.REFERENCES
@q.HULL
@q.RECORD
@d.out("family")
def family(place: str, structure: str | None, **options: Any) -> None:
    """Draw the family tree of STRUCTURE (7 or EA7) of the search at PLACE, back to random structures and seeds.

    By default it is the stable phase with the lowest enthalpy of formation, or, in a search at one composition, the
    lowest one.

    Example: uspex-bridge plot family results1 EA137 -o family.svg
    """
    from uspex_bridge.results.reading.family import ancestors

    results, answer = d.search_of(place, options)
    height = {p.entry.id: p.above for p in answer.hull.points if p.entry.run == results.label}
    found = ancestors(results, results.find(structure) if structure else d.best_of(results, answer), height)
    from uspex_bridge.figures import family as figure

    d.finish("family", options, figure.document(found, height), lambda size: figure.draw(found, height, answer, **size))


@command.command(context_settings=q.CONTEXT)
@click.argument("place")
@q.within(0.05)
@click.option(
    "--top", type=Finite(), help="Upper end of the axis, eV/atom.  [default: where 95 % of the structures are]"
)
@q.REFERENCES
@q.HULL
@q.RECORD
@d.out("progress")
def progress(place: str, within: float, top: float | None, **options: Any) -> None:
    """Draw the progress of the search at PLACE, by generation and operator.

    A line per stable composition follows its lowest structure; the table below gives the success of each operator.

    Example: uspex-bridge plot progress results1 -o progress.pdf
    """
    from uspex_bridge.results.hulls.operators import progress as follow

    results, answer = d.search_of(place, options)
    found = follow(results, answer.hull, within)
    from uspex_bridge.figures import progress as figure

    d.finish("progress", options, figure.document(found), lambda size: figure.draw(found, answer, top=top, **size))
