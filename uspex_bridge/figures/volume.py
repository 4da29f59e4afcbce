"""Enthalpy against volume of every structure: with a sound model the lower edge is smooth and nothing lies apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uspex_bridge.base.words import counted
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, Mark, is_tie
from uspex_bridge.figures.labels import place_labels
from uspex_bridge.figures.marks import draw_marks, legend
from uspex_bridge.results.hulls.outliers import Outlier, find_outliers

Quantity = Literal["formation", "enthalpy"]
#: Outliers that have a name in the figure.
_NAMED = 8


@dataclass(frozen=True, eq=False)
class Volumes:
    """What the figure shows.

    Attributes:
        diagram: all structures.
        marks: those with a volume, the farthest from the hull first.
        outliers: of them, by level of theory; None where there are too few to tell.
    """

    diagram: Diagram
    marks: tuple[Mark, ...]
    outliers: tuple[Outlier, ...] | None


def gather(diagram: Diagram, spreads: float = 6.0) -> Volumes:
    """Find what stands out; ``spreads`` as in :func:`find_outliers`."""
    marks = tuple(mark for mark in diagram.marks if mark.entry.volume == mark.entry.volume)
    found = find_outliers([mark.entry for mark in marks], spreads)
    return Volumes(diagram, marks, None if found is None else tuple(found))


@style.styled
def draw(
    volumes: Volumes, *, quantity: Quantity = "formation", far: float = 0.05, width: float = style.COLUMN
) -> Figure:
    """Draw the scatter, coloured by distance to the hull, with outliers ringed and named; the hull's phases never are.

    Args:
        volumes: from :func:`gather`.
        quantity: enthalpy of formation, or enthalpy, per atom.
        far: where the scale of distances ends, eV/atom.
        width: mm.
    """
    diagram = volumes.diagram
    figure = style.new_figure(width, 0.86)
    axes = figure.add_subplot()

    def place(mark: Mark) -> tuple[float, float]:
        return mark.entry.volume_per_atom, height(mark, quantity)

    points = draw_marks(axes, diagram, volumes.marks, place, norm=Normalize(0.0, far), size=8)
    style.colour_bar(figure, points, axes, "enthalpy above hull (eV/atom)", extend="max")
    axes.set_xlabel("volume (Å$^3$/atom)")
    axes.set_ylabel("enthalpy (eV/atom)" if quantity == "enthalpy" else "enthalpy of formation (eV/atom)")
    limit = _window(
        axes, [place(mark) for mark in volumes.marks], [place(mark) for mark in volumes.marks if mark.vertex]
    )
    hidden = sum(place(mark)[1] > limit for mark in volumes.marks)
    ringed, said = _ringed(volumes)
    rings = [Line2D([], [], marker="o", ls="", mfc="none", mec=style.ALARM, ms=5.5, mew=0.7, label="outlier")]
    legend(axes, diagram, volumes.marks, rings if ringed else ())
    style.note(figure, diagram.note)
    style.head(figure, *diagram.head(len(volumes.marks)), said, f"{hidden} above the axis" if hidden else "")
    ringed = [mark for mark in ringed if place(mark)[1] <= limit]
    places = [place(mark) for mark in ringed]
    if places:
        x, y = zip(*places, strict=True)
        axes.scatter(x, y, s=34, facecolors="none", edgecolors=style.ALARM, linewidths=0.7, zorder=4)
    texts = [f"EA{mark.entry.id} {style.formula_text(mark.entry.composition)}" for mark in ringed[:_NAMED]]
    shown = [place(mark) for mark in volumes.marks[-1000:] if place(mark)[1] <= limit]
    place_labels(axes, places[:_NAMED], texts, avoid=[*places, *shown], colours=[style.ALARM] * len(texts))
    return figure


def _window(axes: Axes, places: Sequence[tuple[float, float]], kept: Sequence[tuple[float, float]]) -> float:
    """Set the limits; return the upper one, eV/atom: a third above 95 % of the structures, and above all ``kept``."""
    if not places:
        return 0.0
    x, y = np.array(places).T
    low = float(y.min())
    high = low + 1.33 * max(float(np.quantile(y, 0.95)) - low, 0.02)
    high = min(high, low + 1.06 * max(float(y.max()) - low, 0.02))
    high = max([high, *(low + 1.06 * (height - low) for _, height in kept)])
    inside = x[y <= high]
    margin = 0.06 * max(float(np.ptp(inside)), 0.1)
    axes.set_xlim(float(inside.min()) - margin, float(inside.max()) + margin)
    axes.set_ylim(low - 0.06 * (high - low), high)
    return high


def height(mark: Mark, quantity: Quantity) -> float:
    """Return what is drawn upwards, eV/atom."""
    return mark.entry.enthalpy_per_atom if quantity == "enthalpy" else mark.formation


def _ringed(volumes: Volumes) -> tuple[list[Mark], str]:
    """Return the outliers off the hull, the worst first, and what the figure says about all of them."""
    if volumes.outliers is None:
        return [], "too few structures to identify outliers"
    if not volumes.outliers:
        return [], "no outliers"
    by_name = {mark.entry.name: mark for mark in volumes.marks}
    marks = [by_name[name] for name in dict.fromkeys(outlier.entry.name for outlier in volumes.outliers)]
    ringed = [mark for mark in marks if not mark.vertex and not is_tie(mark)]
    on_hull = len(marks) - len(ringed)
    return ringed, counted(len(marks), "outlier") + (f", {on_hull} of them on the hull" if on_hull else "")


def document(volumes: Volumes) -> dict[str, Any]:
    """Return the drawn numbers as plain values."""
    outliers = volumes.outliers
    flagged = {outlier.entry.name: outlier.kind for outlier in reversed(outliers or ())}
    components = volumes.diagram.components
    return {
        "pressure_gpa": volumes.diagram.pressure_gpa,
        "note": volumes.diagram.note or None,
        "outliers": None if outliers is None else [str(outlier) for outlier in outliers],
        "points": [mark.row(components) | {"outlier": flagged.get(mark.entry.name)} for mark in volumes.marks],
    }
