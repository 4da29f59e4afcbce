"""How structures look in the figures of a composition space: markers, colours, and the legend that explains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.lines import Line2D

from uspex_bridge.base.data import Array
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, Mark, is_tie, levels_text
from uspex_bridge.figures.labels import place_labels
from uspex_bridge.results.reading.model import TIE

Place = Callable[[Mark], tuple[float, float]]
#: Dashes of the hulls of several levels of theory.
DASHES = ("-", "--", ":", "-.")


def marker_of(diagram: Diagram, series: str) -> str:
    """Return the marker of a series."""
    return style.MARKERS[diagram.series.index(series) % len(style.MARKERS)] if series in diagram.series else "o"


def draw_marks(
    axes: Axes,
    diagram: Diagram,
    marks: Sequence[Mark],
    place: Place,
    *,
    values: Callable[[Mark], float] = lambda mark: mark.above,
    norm: Normalize,
    colours: Colormap | None = None,
    size: float = 9.0,
) -> ScalarMappable:
    """Draw structures coloured by a value, each series with its own markers; corners of a hull are large and black.

    Marks whose enthalpies are in doubt are crossed. Returns what a scale of colours is made of.
    """
    colours = colours or style.distance_colours()
    for series in diagram.series:
        for vertex in (False, True):
            mine = [mark for mark in marks if mark.series == series and mark.vertex == vertex]
            x, y = _columns(mine, place)
            axes.scatter(
                x,
                y,
                c=[values(mark) for mark in mine],
                cmap=colours,
                norm=norm,
                marker=marker_of(diagram, series),
                s=2.4 * size if vertex else size,
                edgecolors=style.INK if vertex else "white",
                linewidths=0.8 if vertex else 0.25,
                rasterized=len(mine) > style.RASTER,
                zorder=5 if vertex else 2,
                clip_on=not vertex,
            )
    x, y = _columns([mark for mark in marks if is_tie(mark)], place)
    axes.scatter(x, y, s=2.4 * size, facecolors="none", edgecolors=style.INK, linewidths=0.6, zorder=4)
    style.doubtful(axes, [place(mark) for mark in marks if mark.entry.marks])
    return ScalarMappable(norm, colours)


def _columns(marks: Sequence[Mark], place: Place) -> Array:
    """Return the places of marks as rows of x and y (2, N)."""
    return np.array([place(mark) for mark in marks], dtype=float).reshape(-1, 2).T


def legend(axes: Axes, diagram: Diagram, shown: Sequence[Mark], extra: Iterable[Line2D] = (), **where: Any) -> None:
    """Explain every marker that occurs, above the axes unless told otherwise."""
    dark = style.distance_colours()(0.0)
    made: list[Line2D] = []
    several = len(diagram.edges) > 1
    for k, series in enumerate(diagram.series):
        dashes = DASHES[list(diagram.edges).index(series) % len(DASHES)] if several and series in diagram.edges else ""
        name = levels_text([series]) if len(diagram.series) > 1 else "structure"
        made.append(_handle(marker_of(diagram, series), style.PALE if not k else "#8a8f96", name, ls=dashes))
    if any(mark.vertex for mark in shown):
        made.append(_handle("o", dark, "on the hull", ms=4.6, mec=style.INK, mew=0.8))
    if any(is_tie(mark) for mark in shown):
        made.append(_handle("o", "none", f"within {1000 * TIE:g} meV/atom", ms=4.6, mec=style.INK, mew=0.6))
    made += extra
    if flags := [flag for mark in shown for flag in mark.entry.marks]:
        made.append(style.doubt_handle(flags))
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3 if len(made) <= 3 else 2}
    axes.legend(handles=made, columnspacing=1.0, handlelength=1.2 if not several else 2.2, **(place | where))


def _handle(marker: str, colour: Any, label: str, ls: str = "", ms: float = 3.4, **look: Any) -> Line2D:
    return Line2D(
        [], [], marker=marker, color=style.INK, mfc=colour, ls=ls, lw=0.9, ms=ms, label=label, **({"mew": 0} | look)
    )


def draw_ties(axes: Axes, diagram: Diagram, place: Place, **look: Any) -> None:
    """Draw the tie lines, each hull with its own dashes."""
    for k, pairs in enumerate(diagram.edges.values()):
        for pair in pairs:
            x, y = zip(*map(place, pair), strict=True)
            axes.plot(x, y, **({"color": style.INK, "ls": DASHES[k % len(DASHES)]} | look))


def name_phases(
    axes: Axes,
    diagram: Diagram,
    shown: Sequence[Mark],
    named: Sequence[tuple[Mark, str]],
    place: Place,
    towards: float | Callable[[Mark], float],
) -> int:
    """Name phases, those of one composition together; return how many labels found no free place.

    Args:
        axes: where.
        diagram: its tie lines are kept free.
        shown: marks that labels should not cover.
        named: phases with their space groups.
        place: of a mark, data coordinates.
        towards: direction of a label that is best, degrees.
    """
    together = gathered(named)
    firsts = [marks[0][0] for marks in together]
    return place_labels(
        axes,
        [place(mark) for mark in firsts],
        [label(marks) for marks in together],
        avoid=[place(mark) for mark in shown[-1000:]],
        lines=[(place(a), place(b)) for pairs in diagram.edges.values() for a, b in pairs],
        towards=[towards(mark) if callable(towards) else towards for mark in firsts],
        colours=[style.SOFT if is_tie(mark) else style.INK for mark in firsts],
    )


def gathered(named: Sequence[tuple[Mark, str]]) -> list[list[tuple[Mark, str]]]:
    """Return phases by composition and hull: those of one place share a label, the lowest first."""
    groups: dict[Any, list[tuple[Mark, str]]] = {}
    for mark, group in sorted(named, key=lambda pair: pair[0].above):
        groups.setdefault((mark.hull, mark.entry.reduced), []).append((mark, group))
    order = {id(mark): k for k, (mark, _) in enumerate(named)}
    return sorted(groups.values(), key=lambda marks: min(order[id(mark)] for mark, _ in marks))


def label(marks: Sequence[tuple[Mark, str]]) -> str:
    """Return the label of phases of one composition: formula, space groups, which are ties, what puts them in doubt."""
    groups: dict[str, list[str]] = {}
    for mark, group in marks:
        said = remarks(mark)
        groups.setdefault(f"({said})" if said else "", []).append(style.group_text(group))
    words = [" ".join(filter(None, (", ".join(filter(None, names)), said))) for said, names in groups.items()]
    return f"{style.formula_text(marks[0][0].entry.composition)} {', '.join(filter(None, words))}".strip()


def remarks(mark: Mark) -> str:
    """Return what a label says of a phase in brackets: that it is a tie, what puts it in doubt."""
    return ", ".join([*(["tie"] if is_tie(mark) else []), *mark.entry.marks])
