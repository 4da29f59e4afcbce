"""Ternary maps: the lowest structure at each composition by enthalpy of formation or by distance to the hull."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, Mark, need_components
from uspex_bridge.figures.hull import label, summary

Colour = Literal["formation", "above", "both"]
_HEIGHT = 3**0.5 / 2


def to_plane(fractions: Sequence[float]) -> tuple[float, float]:
    """Return the place of a composition in an equilateral triangle of side 1: corners left, right, top."""
    return fractions[1] + fractions[2] / 2, fractions[2] * _HEIGHT


@style.styled
def draw(
    diagram: Diagram,
    *,
    colour: Colour = "both",
    far: float = 0.05,
    labels: int = style.MOST_LABELS,
    width: float | None = None,
) -> Figure:
    """Draw the map, or both side by side, with tie lines and the stable phases named.

    Args:
        diagram: of three components.
        colour: by what.
        far: where the scale of distances ends, eV/atom; what is farther has one colour.
        labels: name at most so many phases.
        width: mm; by default a column for one map, a page for both.

    Raises:
        ConfigError: there are not three components.
    """
    shown = drawn(diagram)
    kinds = ("formation", "above") if colour == "both" else (colour,)
    figure = style.new_figure(width or (style.PAGE if len(kinds) > 1 else style.COLUMN), 0.92 / len(kinds))
    panels = [figure.add_subplot(1, len(kinds), k + 1) for k in range(len(kinds))]
    for axes, kind, letter in zip(panels, kinds, "ab", strict=False):
        triangle(axes, diagram.components)
        points = _points(axes, diagram, shown, kind, far)
        bar = figure.colorbar(points, ax=axes, orientation="horizontal", shrink=0.62, pad=0.02, aspect=32, extend="max")
        bar.ax.tick_params(labelsize=6)
        bar.outline.set_linewidth(0.5)
        bar.set_label("enthalpy of formation (eV/atom)" if kind == "formation" else "enthalpy above hull (eV/atom)")
        lines = [pair for pairs in diagram.edges.values() for pair in pairs]
        for pair in lines:
            xs, ys = zip(*(to_plane(mark.fractions) for mark in pair), strict=True)
            axes.plot(xs, ys, color=style.INK, lw=0.45, alpha=0.75, zorder=3)
        head = f"({letter})  {diagram.where()}" if len(kinds) > 1 else diagram.where()
        axes.set_title(head, loc="left")
    _legend(panels[0], diagram)
    for axes in panels:
        _labels(axes, diagram, shown, labels)
    style.note(figure, diagram.note)
    return figure


def drawn(diagram: Diagram) -> list[Mark]:
    """Return the marks that the map shows: the lowest at each composition of each series.

    Raises:
        ConfigError: there are not three components.
    """
    need_components(diagram, 3, "a ternary map")
    return diagram.lowest()


def triangle(axes: Axes, components: Sequence[str]) -> None:
    """Draw the triangle with lines every 20 % and its corners named."""
    corners = [to_plane(f) for f in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for k in (0.2, 0.4, 0.6, 0.8):
        for ends in (
            ((k, 1 - k, 0), (k, 0, 1 - k)),
            ((1 - k, k, 0), (0, k, 1 - k)),
            ((1 - k, 0, k), (0, 1 - k, k)),
        ):
            xs, ys = zip(*(to_plane(end) for end in ends), strict=True)
            axes.plot(xs, ys, color=style.GRID, lw=0.5, zorder=0)
    xs, ys = zip(*corners, corners[0], strict=True)
    axes.plot(xs, ys, color=style.INK, lw=0.7, zorder=1)
    for (x, y), name, (dx, dy) in zip(corners, components, ((-0.03, -0.02), (0.03, -0.02), (0, 0.03)), strict=True):
        place: Any = {"ha": "center", "va": "bottom"} if dx == 0 else {"ha": "right" if dx < 0 else "left", "va": "top"}
        axes.text(x + dx, y + dy, style.subscripts(name), fontsize=8.5, fontweight="bold", **place)
    axes.set_aspect("equal")
    axes.set_xlim(-0.12, 1.12)
    axes.set_ylim(-0.09, _HEIGHT + 0.1)
    axes.set_axis_off()


def _points(axes: Axes, diagram: Diagram, shown: Sequence[Mark], kind: str, far: float) -> Any:
    """Draw the marks and return what a colour bar needs."""
    values = np.array([mark.formation if kind == "formation" else mark.above for mark in shown])
    if kind == "formation":
        top = max(0.1, -float(values.min()))
        norm = Normalize(float(values.min()), top)
        colours = style.formation_colours()
    else:
        norm, colours = Normalize(0.0, far), style.distance_colours()
    points = None
    for k, series in enumerate(diagram.series):
        mine = [i for i, mark in enumerate(shown) if mark.series == series]
        places = np.array([to_plane(shown[i].fractions) for i in mine]).reshape(-1, 2)
        vertices = [shown[i].vertex for i in mine]
        points = axes.scatter(
            places[:, 0],
            places[:, 1],
            c=values[mine],
            cmap=colours,
            norm=norm,
            marker=style.MARKERS[k % len(style.MARKERS)],
            s=[26 if v else 11 for v in vertices],
            edgecolors=[style.INK if v else "white" for v in vertices],
            linewidths=[0.8 if v else 0.2 for v in vertices],
            rasterized=len(mine) > style.RASTER,
            zorder=4,
        )
    return points


def _legend(axes: Axes, diagram: Diagram) -> None:
    if len(diagram.series) < 2:
        return
    for k, series in enumerate(diagram.series):
        axes.scatter([], [], marker=style.MARKERS[k % len(style.MARKERS)], s=14, color="#777777", label=series)
    axes.legend(loc="upper right", bbox_to_anchor=(1.05, 1.05))


def _labels(axes: Axes, diagram: Diagram, shown: Sequence[Mark], most: int) -> None:
    """Name the stable phases inside the triangle and on its sides; the corners have their names already."""
    named = [(mark, group) for mark, group in diagram.labelled if max(mark.fractions) < 1 - 1e-9][:most]
    pairs = [pair for lines in diagram.edges.values() for pair in lines]
    style.place_labels(
        axes,
        [to_plane(mark.fractions) for mark, _ in named],
        [label(mark, group) for mark, group in named],
        avoid=[to_plane(mark.fractions) for mark in shown[-500:]],
        lines=[(to_plane(a.fractions), to_plane(b.fractions)) for a, b in pairs],
        size=6.0,
    )


def document(diagram: Diagram) -> dict[str, Any]:
    """Return the drawn numbers as plain values.

    Raises:
        ConfigError: there are not three components.
    """
    return summary(diagram, drawn(diagram))
