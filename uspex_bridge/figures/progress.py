"""The best structures over the generations by the operator that made them, and what each operator achieved."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from uspex_bridge.base.formulas import formula_of
from uspex_bridge.figures import style
from uspex_bridge.figures.labels import place_labels
from uspex_bridge.results.operators import Progress

#: Lines that begin at or below this were found at once and have no name in the figure, eV/atom.
_BOTTOM = 1e-3


@style.styled
def draw(progress: Progress, *, top: float | None = None, width: float = style.COLUMN) -> Figure:
    """Draw distances to the final hull by generation, and a table of operators below.

    A line per stable composition follows its lowest structure so far; a mark on it is a new lowest one. With one
    composition there is one line: the best enthalpy, from the final one. Pale marks are all other structures.

    Args:
        progress: from :func:`uspex_bridge.results.operators.progress`.
        top: upper end of the axis, eV/atom; by default where 95 % of the structures are.
        width: mm.
    """
    rows = len(progress.operators)
    figure = style.new_figure(width, 0.68 + 0.045 * (rows + 2))
    upper, lower = figure.subplots(2, 1, height_ratios=[0.62, 0.045 * (rows + 2)])
    _scatter(upper, progress)
    limit = top if top is not None else _top(progress)
    upper.set_yscale("symlog", linthresh=0.01, linscale=0.6)
    upper.set_ylim(-0.0012, limit)
    upper.set_yticks([t for t in (0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0) if t <= limit])
    upper.yaxis.set_major_formatter("{x:g}")
    upper.yaxis.set_minor_locator(NullLocator())
    first, last = progress.generations
    upper.set_xlim(first - 0.5, last + 0.5)
    upper.xaxis.set_major_locator(MaxNLocator(integer=True))
    upper.set_xlabel("generation")
    upper.set_ylabel("enthalpy above final hull (eV/atom)")
    _lines(upper, progress)
    hidden = sum(point.above > limit for point in progress.points)
    if hidden:
        text = f"{hidden} of {len(progress.points)} structures lie higher"
        upper.set_title(text, loc="right", fontsize=6, color="#666666")
    _table(lower, progress)
    return figure


def _top(progress: Progress) -> float:
    heights = sorted(point.above for point in progress.points)
    return max(0.05, 1.3 * heights[int(0.95 * (len(heights) - 1))]) if heights else 0.05


def _scatter(axes: Axes, progress: Progress) -> None:
    for operator in progress.operators:
        colour, marker = style.operator_look(operator.operator)
        points = [p for p in progress.points if (p.entry.origin or "unknown") == operator.operator]
        axes.scatter(
            [float(p.entry.generation or 0) for p in points],
            [p.above for p in points],
            s=7,
            color=colour,
            marker=marker,
            alpha=0.35,
            linewidths=0,
            rasterized=len(progress.points) > style.RASTER,
            zorder=2,
        )


def _lines(axes: Axes, progress: Progress) -> None:
    last = progress.generations[1]
    starts, names = [], []
    for composition, records in progress.records.items():
        xs = [float(record.entry.generation or 0) for record in records]
        ys = [record.above for record in records]
        axes.step([*xs, last], [*ys, ys[-1]], where="post", color="#9aa0a8", lw=0.7, zorder=1)
        for x, y, record in zip(xs, ys, records, strict=True):
            colour, marker = style.operator_look(record.entry.origin)
            axes.scatter(x, y, s=22, color=colour, marker=marker, edgecolors=style.INK, linewidths=0.6, zorder=3)
        if len(progress.records) > 1 and ys[0] > _BOTTOM:
            starts.append((xs[0], ys[0]))
            names.append(style.formula_text(composition))
    if len(names) <= style.MOST_LABELS:
        place_labels(axes, starts, names, size=style.FORMULA, towards=0.0)


def _table(axes: Axes, progress: Progress) -> None:
    """Write the operators' numbers as a table that shares its colours with the plot."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    rows = len(progress.operators)
    axes.set_ylim(-rows - 0.2, 1.2)
    heads = ("made by", "made", "failed", "better than\nparents", f"< {progress.within:g} eV\nfrom hull", "stable")
    across = (0.03, 0.40, 0.53, 0.70, 0.88, 1.0)
    for x, head in zip(across, heads, strict=True):
        axes.text(x, 0.45, head, ha="left" if x < 0.1 else "right", va="center", fontsize=6, linespacing=1.0)
    for k, success in enumerate(progress.operators):
        y = -k - 0.6
        colour, marker = style.operator_look(success.operator)
        axes.plot(0.012, y, marker, color=colour, mec=style.INK, mew=0.4, ms=4, clip_on=False)
        cells = (
            success.operator,
            str(success.made),
            str(success.failed),
            _share(success.better, success.with_parents),
            _share(success.near, success.made),
            str(success.stable),
        )
        for x, cell in zip(across, cells, strict=True):
            axes.text(x, y, cell, ha="left" if x < 0.1 else "right", va="center", fontsize=6)


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.0f} %)" if whole else "–"


def document(progress: Progress) -> dict[str, Any]:
    """Return the drawn numbers as plain values."""
    return {
        "generations": list(progress.generations),
        "within": progress.within,
        "operators": [asdict(success) for success in progress.operators],
        "records": {
            formula_of(composition): [
                {
                    "id": record.entry.id,
                    "generation": record.entry.generation,
                    "origin": record.entry.origin,
                    "enthalpy_per_atom": record.entry.enthalpy_per_atom,
                    "above_hull": round(record.above, 6),
                }
                for record in records
            ]
            for composition, records in progress.records.items()
        },
        "points": [
            {
                "id": point.entry.id,
                "generation": point.entry.generation,
                "origin": point.entry.origin,
                "formula": point.entry.formula,
                "above_hull": round(point.above, 6),
            }
            for point in progress.points
        ],
    }
