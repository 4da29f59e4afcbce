"""How a search went: every structure by its number, the operators' share of each generation, what each achieved."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from uspex_bridge.base.formulas import formula_of
from uspex_bridge.base.words import counted
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import standing
from uspex_bridge.figures.labels import place_labels
from uspex_bridge.results.hulls.operators import Progress
from uspex_bridge.results.hulls.stability import Assessment

#: Lines that begin at or below this were found at once and have no name in the figure, eV/atom.
_BOTTOM = 1e-3
#: Colours and dashes of the lines, none of them an operator's.
_COLOURS = ("#222222", "#7b1e3a", "#3d3a8c", "#14645c", "#6b4a12")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1, 1.2)))


@style.styled
def draw(
    progress: Progress,
    answer: Assessment | None = None,
    *,
    top: float | None = None,
    width: float = style.COLUMN,
) -> Figure:
    """Draw distances to the final hull by structure number, operators by generation, and a table of operators.

    A line per stable composition follows its lowest structure so far; a mark on it is a new lowest one. With one
    composition there is one line: the best enthalpy, from the final one. Pale marks are all other structures.

    Args:
        progress: from :func:`uspex_bridge.results.hulls.operators.progress`.
        answer: what it was made from: its pressure and level of theory stand over the figure.
        top: upper end of the axis, eV/atom; by default where 95 % of the structures are.
        width: mm.
    """
    rows = len(progress.operators)
    heights = [0.62, 0.17, 0.045 * (rows + 2)]
    figure = style.new_figure(width, sum(heights) + 0.16)
    upper, middle, lower = figure.subplots(3, 1, height_ratios=heights)
    limit = top if top is not None else _top(progress)
    _axes(upper, progress, limit)
    _scatter(upper, progress)
    _shares(middle, progress)
    _table(lower, progress)
    total = len(progress.points)
    hidden = sum(point.above > limit for point in progress.points)
    where = () if answer is None else standing(answer.pressure_gpa, answer.levels)
    style.note(figure, "" if answer is None else answer.extrapolated)
    style.head(figure, *where, f"{counted(total, 'structure')} made", f"{hidden} above the axis" if hidden else "")
    _lines(upper, progress)
    return figure


def _top(progress: Progress) -> float:
    heights = sorted(point.above for point in progress.points)
    return max(0.05, 1.3 * heights[int(0.95 * (len(heights) - 1))]) if heights else 0.05


def _axes(axes: Axes, progress: Progress, limit: float) -> None:
    """Set both axes; fine lines divide the generations, which the upper edge names."""
    axes.set_yscale("symlog", linthresh=0.01, linscale=0.6)
    axes.set_ylim(-0.0012, limit)
    axes.set_yticks([t for t in (0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0) if t <= limit])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("structure number")
    one = len({point.entry.reduced for point in progress.points}) == 1
    axes.set_ylabel(f"enthalpy above {'the lowest' if one else 'final hull'} (eV/atom)")
    numbers = [point.entry.id for point in progress.points]
    axes.set_xlim(min(numbers, default=1) - 0.5, max(numbers, default=1) + 0.5)
    starts: dict[int, int] = {}
    for point in progress.points:
        starts.setdefault(point.entry.generation or 0, point.entry.id)
    for number in list(starts.values())[1:]:
        axes.axvline(number - 0.5, color=style.GRID, lw=0.5, zorder=0)
    every = -(-len(starts) // 12)
    named = [(start, generation) for generation, start in starts.items() if (generation - 1) % every == 0]
    edge = axes.secondary_xaxis("top")
    edge.set_xticks([start for start, _ in named], [str(generation) for _, generation in named])
    edge.tick_params(length=0)
    edge.set_xlabel("generation")


def _scatter(axes: Axes, progress: Progress) -> None:
    for operator in progress.operators:
        colour, marker = style.operator_look(operator.operator)
        points = [p for p in progress.points if (p.entry.origin or "unknown") == operator.operator]
        axes.scatter(
            [p.entry.id for p in points],
            [p.above for p in points],
            s=7,
            color=colour,
            marker=marker,
            alpha=0.4,
            linewidths=0,
            rasterized=len(progress.points) > style.RASTER,
            zorder=2,
        )


def _lines(axes: Axes, progress: Progress) -> None:
    """Draw a line per stable composition in a colour and dashes of its own, with its name where it begins."""
    end = axes.get_xlim()[1]
    starts, names, colours, segments = [], [], [], []
    for k, (composition, records) in enumerate(progress.records.items()):
        ink, dashes = _COLOURS[k % len(_COLOURS)], _DASHES[k % len(_DASHES)]
        xs = [float(record.entry.id) for record in records]
        ys = [record.above for record in records]
        axes.step([*xs, end], [*ys, ys[-1]], where="post", color=ink, ls=dashes, lw=0.9, zorder=3)
        segments += [((x, y), (after, y)) for (x, after), y in zip(pairwise([*xs, end]), ys, strict=True)]
        for x, y, record in zip(xs, ys, records, strict=True):
            colour, marker = style.operator_look(record.entry.origin)
            axes.scatter(
                x, y, s=20, color=colour, marker=marker, edgecolors=ink, linewidths=0.8, zorder=4, clip_on=False
            )
        if len(progress.records) > 1 and ys[0] > _BOTTOM:
            starts.append((xs[0], ys[0]))
            names.append(style.formula_text(composition))
            colours.append(ink)
    if len(names) <= style.MOST_LABELS:
        place_labels(axes, starts, names, towards=45.0, colours=colours, lines=segments)


def _shares(axes: Axes, progress: Progress) -> None:
    """Draw which part of each generation each operator made."""
    first, last = progress.generations
    generations = np.arange(first, last + 1)
    operators = [one.operator for one in progress.operators]
    made = np.zeros((len(operators), len(generations)))
    for point in progress.points:
        made[operators.index(point.entry.origin or "unknown"), (point.entry.generation or first) - first] += 1
    shares = 100 * made / np.maximum(made.sum(axis=0), 1)
    bottom = np.zeros(len(generations))
    for operator, share in zip(operators, shares, strict=True):
        axes.bar(generations, share, 0.9, bottom=bottom, color=style.operator_look(operator)[0], lw=0)
        bottom += share
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("generation")
    axes.set_ylabel("made by (%)")


def _table(axes: Axes, progress: Progress) -> None:
    """Write the operators' numbers as a table that shares its colours with the plot."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    rows = len(progress.operators)
    axes.set_ylim(-rows - 0.2, 1.2)
    heads = ("made by", "made", "failed", "better than\nparents", f"< {progress.within:g} eV\nfrom hull", "stable")
    across = (0.03, 0.36, 0.47, 0.68, 0.88, 1.0)
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
