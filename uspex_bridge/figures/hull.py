"""The convex hull of a binary system: enthalpy of formation against composition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, Mark, are_elements, need_components, summary
from uspex_bridge.figures.marks import draw_marks, draw_ties, legend, name_phases

#: A hull that is shallower than this does not set the window, eV/atom.
_SHALLOW = 0.01


def drawn(diagram: Diagram, top: float | None = None) -> list[Mark]:
    """Return the marks that the figure shows: up to ``top`` eV/atom of formation, by default see :func:`default_top`.

    Raises:
        ConfigError: there are not two components.
    """
    need_components(diagram, 2, "a binary hull")
    limit = default_top(diagram) if top is None else top
    return [mark for mark in diagram.marks if mark.formation <= limit]


def default_top(diagram: Diagram) -> float:
    """Return where the figure ends: as high above zero as the hull is deep.

    Where there is no compound, or one of less than 0.01 eV/atom, half of the structures that are mixed lie inside, or
    all up to 0.02 eV/atom.
    """
    depth = -min((mark.formation for mark in diagram.marks), default=0.0)
    if depth >= _SHALLOW:
        return depth
    mixed = [mark.formation for mark in diagram.marks if max(mark.fractions) < 1 - 1e-9]
    return max(0.02, float(np.median(mixed)) if mixed else 0.0)


@style.styled
def draw(
    diagram: Diagram,
    *,
    far: float = 0.05,
    top: float | None = None,
    labels: int = style.MOST_LABELS,
    width: float = style.COLUMN,
) -> Figure:
    """Draw the hull: every structure by its distance to it, each level of theory with its own markers and line.

    Args:
        diagram: of two components.
        far: where the scale of distances ends, eV/atom; what is farther has one colour.
        top: highest enthalpy of formation shown, eV/atom; how many lie above is said in the figure.
        labels: name at most so many phases.
        width: mm.

    Raises:
        ConfigError: there are not two components.
    """
    shown = drawn(diagram, top)
    figure = style.new_figure(width, 0.9)
    axes = figure.add_subplot()
    points = draw_marks(axes, diagram, shown, _place, norm=Normalize(0.0, far))
    draw_ties(axes, diagram, _place, lw=0.9, zorder=3)
    inside = {id(mark) for mark in shown}
    named = [(mark, group) for mark, group in diagram.labelled if id(mark) in inside][:labels]
    _axes(axes, diagram, shown, len(named))
    style.colour_bar(figure, points, axes, "enthalpy above hull (eV/atom)", extend="max")
    legend(axes, diagram, shown)
    style.note(figure, diagram.note)
    hidden = len(diagram.marks) - len(shown)
    higher = f"{hidden} above the axis" if hidden else ""
    style.head(figure, *diagram.head(), higher)
    if unnamed := name_phases(axes, diagram, shown, named, _place, -90.0) + len(diagram.labelled) - len(named):
        style.head(figure, *diagram.head(), higher, f"{unnamed} on the hull not named")
    return figure


def _axes(axes: Axes, diagram: Diagram, shown: Sequence[Mark], named: int) -> None:
    """Name the axes and set their limits, with room for labels below the hull."""
    names = diagram.components
    a, b = names if are_elements(names) else (f"({style.subscripts(name)})" for name in names)
    axes.set_xlabel(rf"$\mathit{{x}}$ in {a}$_{{1{{-}}\mathit{{x}}}}${b}$_{{\mathit{{x}}}}$")
    axes.set_ylabel("enthalpy of formation (eV/atom)")
    low = min((mark.formation for mark in shown), default=0.0)
    high = max((mark.formation for mark in shown), default=0.0)
    span = max(high - low, 2e-3)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(low - min(0.14 + 0.016 * named, 0.4) * span, high + 0.06 * span)
    axes.axhline(0.0, color=style.GRID, lw=0.6, zorder=0)


def _place(mark: Mark) -> tuple[float, float]:
    return mark.fractions[1], mark.formation


def document(diagram: Diagram, top: float | None = None) -> dict[str, Any]:
    """Return the drawn numbers as plain values.

    Raises:
        ConfigError: there are not two components.
    """
    shown = drawn(diagram, top)
    return summary(diagram, shown)
