"""Composition spaces in three dimensions: a quaternary system as a tetrahedron, a ternary hull as a surface."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, radians, sin
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, Mark, is_tie, need_components, summary
from uspex_bridge.figures.hull import default_top
from uspex_bridge.figures.marks import draw_marks, draw_ties, legend, name_phases
from uspex_bridge.figures.ternary import to_plane

Point = tuple[float, float, float]
View = tuple[float, float]
#: Azimuth and elevation from which one looks by default, degrees.
VIEWS: dict[int, View] = {3: (-72.0, 32.0), 4: (-78.0, 16.0)}
#: Height of the whole axis of enthalpies, in sides of the triangle.
_RISE = 0.85
_SURFACE = "#8fb4d9"


def to_space(fractions: Sequence[float], height: float = 0.0) -> Point:
    """Return the place of a composition of three or four components; sides are 1, ``height`` is added upwards.

    Three components lie in the plane z = 0 as in :func:`to_plane`, the centre at the origin; the fourth is the apex.
    """
    share = fractions[3] if len(fractions) == 4 else 0.0
    x, y = to_plane(fractions)
    centre = (1 - share) / 2, (1 - share) * 3**0.5 / 6
    return x - centre[0], y - centre[1], share * (2 / 3) ** 0.5 + height


def to_screen(point: Point, view: View) -> tuple[float, float]:
    """Return where a point is seen from azimuth and elevation (degrees), without perspective."""
    azimuth, elevation = map(radians, view)
    x, y, z = point
    away = cos(azimuth) * x + sin(azimuth) * y
    return cos(azimuth) * y - sin(azimuth) * x, cos(elevation) * z - sin(elevation) * away


def need(diagram: Diagram, count: int) -> None:
    """Refuse another number of components than the figure has.

    Raises:
        ConfigError: there are not ``count``, 3 or 4.
    """
    need_components(diagram, count, "a tetrahedron" if count == 4 else "a ternary map")


def drawn(diagram: Diagram, top: float | None = None) -> list[Mark]:
    """Return the marks that the figure shows: the lowest at each composition of each series.

    Of three components those up to ``top`` eV/atom of formation, by default as in a binary hull.

    Raises:
        ConfigError: there are neither three nor four components.
    """
    if len(diagram.components) != 3:
        need(diagram, 4)
        return diagram.lowest()
    limit = default_top(diagram) if top is None else top
    return [mark for mark in diagram.lowest() if mark.formation <= limit]


def rise(marks: Sequence[Mark]) -> float:
    """Return how high 1 eV/atom of formation is drawn, in sides of the triangle; nothing in a tetrahedron."""
    if not marks or len(marks[0].fractions) == 4:
        return 0.0
    heights = [0.0, *(mark.formation for mark in marks)]
    return _RISE / max(max(heights) - min(heights), 2e-3)


@style.styled
def draw(
    diagram: Diagram,
    *,
    far: float = 0.05,
    top: float | None = None,
    labels: int = style.MOST_LABELS,
    view: View | None = None,
    width: float = style.COLUMN,
) -> Figure:
    """Draw four components as a tetrahedron, or three as a triangle with enthalpy of formation upwards.

    Args:
        diagram: of three or four components.
        far: where the scale of distances ends, eV/atom; what is farther has one colour.
        top: highest enthalpy of formation shown, eV/atom, of three components.
        labels: name at most so many phases.
        view: azimuth and elevation, degrees.
        width: mm.

    Raises:
        ConfigError: there are neither three nor four components.
    """
    shown = drawn(diagram, top)
    number, upwards = len(diagram.components), rise(shown)
    seen = view or VIEWS[number]

    def place(mark: Mark) -> tuple[float, float]:
        return to_screen(to_space(mark.fractions, upwards * mark.formation), seen)

    figure = style.new_figure(width, 0.84 if number == 3 else 1.05)
    axes = figure.add_subplot()
    _frame(axes, diagram.components, seen)
    if number == 3:
        _surface(axes, diagram, upwards, seen)
        _height_axis(axes, shown, upwards, seen)
    draw_ties(axes, diagram, place, lw=0.5, alpha=0.8, zorder=1.5)
    points = draw_marks(axes, diagram, shown, place, norm=Normalize(0.0, far), size=9)
    style.colour_bar(
        figure,
        points,
        axes,
        "enthalpy above hull (eV/atom)",
        orientation="horizontal",
        shrink=0.62,
        aspect=32,
        extend="max",
    )
    legend(axes, diagram, shown)
    style.note(figure, diagram.note)
    said = [f"lowest of each of {len({mark.entry.reduced for mark in diagram.marks})} compositions"]
    if hidden := len(diagram.lowest()) - len(shown):
        said.append(f"{hidden} above the axis")
    style.head(figure, *diagram.head(), *said)
    inside = {id(mark) for mark in shown}
    named = [pair for pair in diagram.labelled if max(pair[0].fractions) < 1 - 1e-9 and id(pair[0]) in inside]
    left = name_phases(axes, diagram, shown, named[:labels], place, -90.0 if number == 3 else 90.0)
    if unnamed := left + len(named[labels:]):
        style.head(figure, *diagram.head(), *said, f"{unnamed} on the hull not named")
    return figure


def _frame(axes: Axes, components: Sequence[str], view: View) -> None:
    """Draw the edges of the triangle or tetrahedron and name its corners, away from its middle."""
    corners = np.array([to_screen(to_space(row), view) for row in np.eye(len(components)).tolist()])
    for k, one in enumerate(corners):
        for other in corners[k + 1 :]:
            axes.plot(*zip(one, other, strict=True), color="#9aa0a8", lw=0.7, zorder=1)
    for (x, y), name in zip(corners, components, strict=True):
        dx, dy = 0.05 * np.sign(np.array([x, y]) - corners.mean(axis=0))
        sides: dict[str, Any] = {"ha": "left" if dx > 0 else "right", "va": "bottom" if dy > 0 else "top"}
        axes.text(x + dx, y + dy, style.subscripts(name), fontsize=8.5, fontweight="bold", **sides)
    axes.set_aspect("equal")
    axes.margins(0.16, 0.12)
    axes.set_axis_off()


def _surface(axes: Axes, diagram: Diagram, upwards: float, view: View) -> None:
    """Draw the facets of the hulls, and a line from each stable phase up to its composition."""
    for facet in diagram.facets():
        places = [to_screen(to_space(mark.fractions, upwards * mark.formation), view) for mark in facet]
        axes.fill(*zip(*places, strict=True), color=_SURFACE, alpha=0.22, lw=0, zorder=0.5)
    for mark, _ in diagram.labelled:
        ends = [to_screen(to_space(mark.fractions, height), view) for height in (0.0, upwards * mark.formation)]
        axes.plot(*zip(*ends, strict=True), color=style.SOFT, lw=0.4, ls=":", zorder=1 if is_tie(mark) else 1.2)


def _height_axis(axes: Axes, shown: Sequence[Mark], upwards: float, view: View) -> None:
    """Draw the scale of enthalpies through the corner that is farthest to the left."""
    corner = min(np.eye(3).tolist(), key=lambda row: to_screen(to_space(row), view)[0])
    heights = [0.0, *(mark.formation for mark in shown)]
    ticks = MaxNLocator(5).tick_values(min(heights), max(heights))
    ticks = [tick for tick in ticks if min(heights) <= tick <= max(heights)]
    ends = [to_screen(to_space(corner, upwards * height), view) for height in (min(heights), max(heights))]
    x = ends[0][0] - 0.2
    axes.plot([x, x], [y for _, y in ends], color=style.INK, lw=0.6)
    digits = max(len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in ticks)
    for tick in ticks:
        y = to_screen(to_space(corner, upwards * tick), view)[1]
        axes.plot([x, x - 0.015], [y, y], color=style.INK, lw=0.6)
        axes.text(x - 0.03, y, f"{tick:.{digits}f}", ha="right", va="center", fontsize=6)
    middle = sum(y for _, y in ends) / 2
    words = "enthalpy of formation (eV/atom)"
    axes.text(x - 0.03 - 0.028 * (digits + 3), middle, words, rotation=90, ha="right", va="center", fontsize=6.5)


def parse_view(text: str | None) -> View | None:
    """Read ``AZIMUTH,ELEVATION``, degrees.

    Raises:
        ConfigError: it is none.
    """
    if text is None:
        return None
    try:
        azimuth, elevation = (float(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--view {text}: give azimuth and elevation in degrees, such as -60,25") from None
    return azimuth, elevation


def document(diagram: Diagram, top: float | None = None) -> dict[str, Any]:
    """Return the drawn numbers as plain values.

    Raises:
        ConfigError: there are neither three nor four components.
    """
    return summary(diagram, drawn(diagram, top))
