"""Enthalpy against volume of every structure: with a sound model the lower edge is smooth and nothing lies apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from uspex_bridge.base.words import counted
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, Mark
from uspex_bridge.results.outliers import Outlier, find_outliers

Quantity = Literal["enthalpy", "formation"]


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
    volumes: Volumes, *, quantity: Quantity = "enthalpy", far: float = 0.05, width: float = style.COLUMN
) -> Figure:
    """Draw the scatter, coloured by distance to the hull, with outliers ringed and named.

    Args:
        volumes: from :func:`gather`.
        quantity: enthalpy per atom, or enthalpy of formation.
        far: where the scale of distances ends, eV/atom.
        width: mm.
    """
    diagram, marks = volumes.diagram, volumes.marks
    figure = style.new_figure(width, 0.82)
    axes = figure.add_subplot()
    points: Any = None
    for k, series in enumerate(diagram.series):
        mine = [mark for mark in marks if mark.series == series]
        points = axes.scatter(
            [mark.entry.volume_per_atom for mark in mine],
            [height(mark, quantity) for mark in mine],
            c=[mark.above for mark in mine],
            cmap=style.distance_colours(),
            norm=Normalize(0.0, far),
            marker=style.MARKERS[k % len(style.MARKERS)],
            s=8,
            linewidths=0.2,
            edgecolors="white",
            rasterized=len(mine) > style.RASTER,
            label=series if len(diagram.series) > 1 else None,
            zorder=2,
        )
    bar = figure.colorbar(points, ax=axes, extend="max", pad=0.02, aspect=28)
    bar.set_label("enthalpy above hull (eV/atom)")
    bar.outline.set_linewidth(0.5)
    axes.set_xlabel("volume (Å$^3$/atom)")
    word = "enthalpy" if quantity == "enthalpy" else "enthalpy of formation"
    axes.set_ylabel(f"{word}{f' at {diagram.where()}' if diagram.where() else ''} (eV/atom)")
    axes.margins(0.06)
    if len(diagram.series) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    _rings(axes, volumes, quantity)
    style.note(figure, diagram.note)
    return figure


def height(mark: Mark, quantity: Quantity) -> float:
    """Return what is drawn upwards, eV/atom."""
    return mark.entry.enthalpy_per_atom if quantity == "enthalpy" else mark.formation


def _rings(axes: Any, volumes: Volumes, quantity: Quantity) -> None:
    """Ring the outliers and name the worst; say how many there are, or that there are too few structures to tell."""
    if volumes.outliers is None:
        said = "too few structures to tell outliers"
    elif not volumes.outliers:
        said = "no outliers"
    else:
        names = {outlier.entry.name for outlier in volumes.outliers}
        said = f"{counted(len(names), 'outlier')}"
    axes.set_title(f"{counted(len(volumes.marks), 'structure')}, {said}", loc="right", fontsize=6, color="#666666")
    by_name = {mark.entry.name: mark for mark in volumes.marks}
    marks = [by_name[name] for name in dict.fromkeys(o.entry.name for o in volumes.outliers or ())]
    places = [(mark.entry.volume_per_atom, height(mark, quantity)) for mark in marks]
    if not places:
        return
    axes.scatter(*np.array(places).T, s=34, facecolors="none", edgecolors=style.ALARM, linewidths=0.7, zorder=4)
    texts = [f"EA{mark.entry.id} {style.formula_text(mark.entry.composition)}" for mark in marks[:8]]
    style.place_labels(axes, places[:8], texts, avoid=places, size=6.0, colours=[style.ALARM] * len(texts))


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
