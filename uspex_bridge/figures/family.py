"""The family tree of a structure: the oldest ancestors on top, the structure itself at the bottom."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uspex_bridge.base.words import counted
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import standing
from uspex_bridge.figures.labels import distances, place_labels
from uspex_bridge.results.hulls.stability import Assessment
from uspex_bridge.results.reading.family import Family
from uspex_bridge.results.reading.model import Entry

#: mm that a member with a label takes up across, and a generation downwards.
_ACROSS, _DOWN = 25.0, 13.0
#: A line runs through a member that is nearer to it than this; how far it is bent then, in places.
_CLOSE, _BEND = 0.2, 0.9
#: The highest figure, mm.
_HIGHEST = 230.0


@style.styled
def draw(
    family: Family, height: Mapping[int, float], answer: Assessment | None = None, *, width: float | None = None
) -> Figure:
    """Draw the tree; the heavy line follows the better parent of each.

    Args:
        family: from :func:`uspex_bridge.results.reading.family.ancestors`.
        height: of each ID, its distance to the hull, eV/atom.
        answer: where these come from: its pressure and level of theory stand over the figure.
        width: mm; by default what the widest generation needs, from a column to a page.
    """
    rows = _rows(family)
    places = _places(family, rows)
    widest = max(len(row) for row in rows)
    width = width or min(style.PAGE, max(style.COLUMN, widest * _ACROSS))
    high = min(_HIGHEST, max(45.0, 16.0 + len(rows) * _DOWN))
    figure = style.new_figure(width, high / width)
    axes = figure.add_subplot()
    _edges(axes, family, places)
    for number, entry in family.members.items():
        colour, marker = style.operator_look(entry.origin)
        x, y = places[number]
        own = number == family.child.id
        axes.plot(x, y, marker, color=colour, ms=8 if own else 6, mec=style.INK, mew=1.0 if own else 0.4, zorder=3)
    _axes(axes, family, rows, places)
    where = () if answer is None else standing(answer.pressure_gpa, answer.levels)
    style.note(figure, "" if answer is None else answer.extrapolated)
    style.head(figure, *where, counted(len(family.members), "structure"))
    crowded = widest * _ACROSS > width + 1
    named = list(family.main if crowded else family.members)
    place_labels(
        axes,
        [places[number] for number in named],
        [_label(family.members[number], height.get(number)) for number in named],
        avoid=places.values(),
        lines=[
            pair
            for number, parents in family.parents.items()
            for parent in parents
            for pair in pairwise(_course(places, parent, number))
        ],
        towards=0.0,
        gap=3.0,
    )
    return figure


def _rows(family: Family) -> list[list[int]]:
    """Return the members generation by generation, the oldest first; by descent where generations are unknown."""
    if any(entry.generation is None for entry in family.members.values()):
        depth = _depths(family)
        return [[n for n in family.members if depth[n] == d] for d in sorted(set(depth.values()), reverse=True)]
    numbers = sorted({entry.generation for entry in family.members.values() if entry.generation is not None})
    return [[n for n, entry in family.members.items() if entry.generation == g] for g in numbers]


def _depths(family: Family) -> dict[int, int]:
    """Return how many steps each member is away from the child, along the longest way."""
    depth = {family.child.id: 0}
    waiting = [family.child.id]
    while waiting:
        number = waiting.pop()
        for parent in family.parents[number]:
            if depth.get(parent, -1) < depth[number] + 1 <= len(family.members):
                depth[parent] = depth[number] + 1
                waiting.append(parent)
    return depth


def _places(family: Family, rows: list[list[int]]) -> dict[int, tuple[float, float]]:
    """Order each row so that lines cross little: by the mean place of the children, then of the parents, repeatedly."""
    children: dict[int, list[int]] = {number: [] for number in family.members}
    for number, parents in family.parents.items():
        for parent in parents:
            children[parent].append(number)
    across = {number: float(k) - (len(row) - 1) / 2 for row in rows for k, number in enumerate(row)}
    for sweep in range(12):
        relatives: Mapping[int, Any] = children if sweep % 2 == 0 else family.parents
        for row in reversed(rows) if sweep % 2 == 0 else rows:
            wanted = {n: _mean([across[other] for other in relatives[n]], across[n]) for n in row}
            row.sort(key=lambda n: (wanted[n], n))
            for k, number in enumerate(row):
                across[number] = float(k) - (len(row) - 1) / 2
    return {number: (across[number], -float(k)) for k, row in enumerate(rows) for number in row}


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _edges(axes: Axes, family: Family, places: Mapping[int, tuple[float, float]]) -> None:
    main = set(zip(family.main, family.main[1:], strict=False))
    for number, parents in family.parents.items():
        for parent in parents:
            xs, ys = zip(*_course(places, parent, number), strict=True)
            heavy = (number, parent) in main
            colour = style.INK if heavy else style.PALE
            axes.plot(xs, ys, color=colour, lw=1.3 if heavy else 0.6, zorder=2 if heavy else 1)


def _course(places: Mapping[int, tuple[float, float]], start: int, end: int) -> list[tuple[float, float]]:
    """Return the line between two members: straight, or bent where it would run through a third one."""
    a, b = np.array(places[start]), np.array(places[end])
    others = np.array([place for number, place in places.items() if number not in (start, end)]).reshape(-1, 2)
    if not len(others) or distances(others, a, b).min() > _CLOSE:
        return [places[start], places[end]]
    bend = (a + b) / 2 + _BEND * np.array([a[1] - b[1], b[0] - a[0]]) / np.hypot(*(b - a))
    t = np.linspace(0.0, 1.0, 13)[:, None]
    return [(float(x), float(y)) for x, y in (1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b]


def _label(entry: Entry, above: float | None) -> str:
    """Return what stands beside a member: its ID and formula, below its distance to the hull, or what is doubtful."""
    text = f"EA{entry.id} {style.formula_text(entry.composition)}"
    if above is None:
        return "\n".join([text, *entry.marks])
    return f"{text}\n{above:+.3f}" if above else f"{text}\non the hull"


def _axes(axes: Axes, family: Family, rows: list[list[int]], places: Mapping[int, tuple[float, float]]) -> None:
    widest = max(abs(x) for x, _ in places.values())
    axes.set_xlim(-widest - 0.7, widest + 0.9)
    axes.set_ylim(-len(rows) + 0.45, 0.5)
    axes.set_xticks([])
    numbers = [family.members[row[0]].generation for row in rows]
    axes.set_yticks([-k for k in range(len(rows))], ["" if n is None else str(n) for n in numbers])
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("generation")
    for side in axes.spines.values():
        side.set_visible(False)
    for operator in dict.fromkeys(entry.origin for entry in reversed(family.members.values())):
        colour, marker = style.operator_look(operator)
        axes.plot([], [], marker, color=colour, mec=style.INK, mew=0.4, ms=5, label=operator or "unknown")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=0.8)
    below = "distances to the hull in eV/atom; the heavy line follows the better parent"
    axes.set_xlabel(below, fontsize=style.REMARK, color=style.SOFT)


def document(family: Family, height: Mapping[int, float]) -> dict[str, Any]:
    """Return the drawn numbers as plain values."""
    return {
        "structure": family.child.name,
        "main_line": list(family.main),
        "copies": {str(copy): original for copy, original in family.kept.items()},
        "points": [
            {
                "id": number,
                "generation": entry.generation,
                "origin": entry.origin,
                "formula": entry.formula,
                "parents": list(family.parents[number]),
                "enthalpy_per_atom": entry.enthalpy_per_atom if entry.valid else None,
                "above_hull": None if number not in height else round(height[number], 6),
                "main_line": number in family.main,
            }
            for number, entry in family.members.items()
        ],
    }
