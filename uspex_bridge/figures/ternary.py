"""Ternary maps: the lowest structure at each composition by enthalpy of formation or by distance to the hull."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, Mark, are_elements, need_components, summary
from uspex_bridge.figures.marks import draw_marks, draw_ties, legend, name_phases

Colour = Literal["formation", "above", "both"]
_HEIGHT = 3**0.5 / 2


def to_plane(fractions: Sequence[float]) -> tuple[float, float]:
    """Return the place of a composition in an equilateral triangle of side 1: corners left, right, top."""
    return fractions[1] + fractions[2] / 2, fractions[2] * _HEIGHT


def drawn(diagram: Diagram) -> list[Mark]:
    """Return the marks that the map shows: the lowest at each composition of each series.

    Raises:
        ConfigError: there are not three components.
    """
    need_components(diagram, 3, "a ternary map")
    return diagram.lowest()


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
    figure = style.new_figure(width or (style.PAGE if len(kinds) > 1 else style.COLUMN), 1.04 / len(kinds))
    panels = [figure.add_subplot(1, len(kinds), k + 1) for k in range(len(kinds))]
    for axes, kind, letter in zip(panels, kinds, "ab", strict=False):
        triangle(axes, diagram.components)
        points = _points(axes, diagram, shown, kind, far)
        words = "enthalpy of formation (eV/atom)" if kind == "formation" else "enthalpy above hull (eV/atom)"
        style.colour_bar(
            figure, points, axes, words, orientation="horizontal", shrink=0.62, pad=0.02, aspect=32, extend="max"
        ).ax.tick_params(labelsize=6)
        draw_ties(axes, diagram, _place, lw=0.5, alpha=0.8, zorder=1.5)
        if len(kinds) > 1:
            axes.text(0.0, 0.97, f"({letter})", transform=axes.transAxes, fontweight="bold", va="top")
    legend(panels[0], diagram, shown, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    style.note(figure, diagram.note)
    compositions = (
        f"lowest of each of {len(shown)} compositions" if len(diagram.series) == 1 else "lowest of each composition"
    )
    grid = f"grid in {'at.' if are_elements(diagram.components) else 'mol'} %"
    named = [(mark, group) for mark, group in diagram.labelled if max(mark.fractions) < 1 - 1e-9]
    style.head(figure, *diagram.head(), compositions, grid)
    left = max([name_phases(axes, diagram, shown, named[:labels], _place, _outwards) for axes in panels])
    if unnamed := left + len(named) - len(named[:labels]):
        style.head(figure, *diagram.head(), compositions, grid, f"{unnamed} on the hull not named")
    return figure


def triangle(axes: Axes, components: Sequence[str]) -> None:
    """Draw the triangle with numbered lines every 20 % and its corners named."""
    corners = [to_plane(f) for f in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for k in (0.2, 0.4, 0.6, 0.8):
        # Lines of equal share of the right, the upper and the left corner, numbered where they begin.
        for start, end, (dx, dy), place in (
            ((1 - k, k, 0), (0, k, 1 - k), (0.004, -0.018), {"ha": "center", "va": "top"}),
            ((0, 1 - k, k), (1 - k, 0, k), (0.016, 0.004), {"ha": "left", "va": "center"}),
            ((k, 0, 1 - k), (k, 1 - k, 0), (-0.014, 0.008), {"ha": "right", "va": "center"}),
        ):
            xs, ys = zip(to_plane(start), to_plane(end), strict=True)
            axes.plot(xs, ys, color=style.GRID, lw=0.5, zorder=0)
            axes.text(xs[0] + dx, ys[0] + dy, f"{100 * k:.0f}", fontsize=5.5, color="#8a8f96", **place)  # type: ignore[arg-type]
    xs, ys = zip(*corners, corners[0], strict=True)
    axes.plot(xs, ys, color=style.INK, lw=0.7, zorder=1)
    places: Any = (
        (-0.03, -0.02, {"ha": "right", "va": "top"}),
        (0.03, -0.02, {"ha": "left", "va": "top"}),
        (0.0, 0.035, {"ha": "center", "va": "bottom"}),
    )
    for (x, y), name, (dx, dy, place) in zip(corners, components, places, strict=True):
        axes.text(x + dx, y + dy, style.subscripts(name), fontsize=8.5, fontweight="bold", **place)
    axes.set_aspect("equal")
    axes.set_xlim(-0.16, 1.16)
    axes.set_ylim(-0.09, _HEIGHT + 0.1)
    axes.set_axis_off()


def _points(axes: Axes, diagram: Diagram, shown: Sequence[Mark], kind: str, far: float) -> ScalarMappable:
    """Draw the marks and return what a colour bar needs."""
    if kind == "above":
        return draw_marks(axes, diagram, shown, _place, norm=Normalize(0.0, far), size=11)
    low = min((mark.formation for mark in shown), default=0.0)
    norm, colours = Normalize(low, max(0.02, -low)), style.formation_colours()
    return draw_marks(
        axes, diagram, shown, _place, values=lambda mark: mark.formation, norm=norm, colours=colours, size=11
    )


def _place(mark: Mark) -> tuple[float, float]:
    return to_plane(mark.fractions)


def _outwards(mark: Mark) -> float:
    """Return the direction away from the triangle of a phase on one of its sides, else upwards, degrees."""
    sides = {0: 30.0, 1: 150.0, 2: -90.0}
    return next((angle for k, angle in sides.items() if mark.fractions[k] < 1e-9), 90.0)


def document(diagram: Diagram) -> dict[str, Any]:
    """Return the drawn numbers as plain values.

    Raises:
        ConfigError: there are not three components.
    """
    return summary(diagram, drawn(diagram))
