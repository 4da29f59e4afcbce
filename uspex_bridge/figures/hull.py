"""The convex hull of a binary system: enthalpy of formation against composition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, Mark, is_tie, need_components


def drawn(diagram: Diagram, top: float | None = None) -> list[Mark]:
    """Return the marks that the figure shows: up to ``top`` eV/atom of formation, by default see :func:`default_top`.

    Raises:
        ConfigError: there are not two components.
    """
    need_components(diagram, 2, "a binary hull")
    limit = default_top(diagram) if top is None else top
    return [mark for mark in diagram.marks if mark.formation <= limit]


def default_top(diagram: Diagram) -> float:
    """Return where the figure ends: all that is not higher than the hull is deep, and at least 0.2 eV/atom."""
    depth = -min((mark.formation for mark in diagram.marks), default=0.0)
    return max(0.2, depth)


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
    figure = style.new_figure(width, 0.82)
    axes = figure.add_subplot()
    norm = Normalize(0.0, far)
    for k, series in enumerate(diagram.series):
        marks = [mark for mark in shown if mark.series == series and not mark.vertex]
        points = axes.scatter(
            [mark.fractions[1] for mark in marks],
            [mark.formation for mark in marks],
            c=[mark.above for mark in marks],
            cmap=style.distance_colours(),
            norm=norm,
            marker=style.MARKERS[k % len(style.MARKERS)],
            s=9,
            linewidths=0.25,
            edgecolors="white",
            rasterized=len(marks) > style.RASTER,
            zorder=2,
        )
    _lines(axes, diagram)
    _ties(axes, shown)
    _axes(axes, diagram, shown, top)
    bar = figure.colorbar(points, ax=axes, extend="max", pad=0.02, aspect=28)
    bar.set_label("enthalpy above hull (eV/atom)")
    bar.outline.set_linewidth(0.5)
    _legend(axes, diagram)
    _labels(axes, diagram, shown, labels)
    style.note(figure, diagram.note)
    return figure


def _lines(axes: Axes, diagram: Diagram) -> None:
    """Draw tie lines and corners; of several hulls each in its own dashes."""
    for k, (name, pairs) in enumerate(diagram.edges.items()):
        corners = {id(mark): mark for pair in pairs for mark in pair}
        marker = style.MARKERS[diagram.series.index(name) % len(style.MARKERS)] if name in diagram.series else "o"
        for pair in pairs:
            xs, ys = [mark.fractions[1] for mark in pair], [mark.formation for mark in pair]
            axes.plot(xs, ys, color=style.INK, lw=0.9, ls=("-", "--", ":", "-.")[k % 4], zorder=3)
        axes.scatter(
            [mark.fractions[1] for mark in corners.values()],
            [mark.formation for mark in corners.values()],
            marker=marker,
            s=20,
            color=style.INK,
            zorder=4,
            clip_on=False,
        )


def _ties(axes: Axes, shown: Sequence[Mark]) -> None:
    ties = [mark for mark in shown if is_tie(mark)]
    axes.scatter(
        [mark.fractions[1] for mark in ties],
        [mark.formation for mark in ties],
        s=22,
        facecolors="none",
        edgecolors=style.INK,
        linewidths=0.6,
        zorder=4,
        clip_on=False,
    )


def _axes(axes: Axes, diagram: Diagram, shown: Sequence[Mark], top: float | None) -> None:
    first, second = diagram.components
    bracket = (
        "({})" if any(c.isdigit() or sum(x.isupper() for x in n) > 1 for n in diagram.components for c in n) else "{}"
    )
    a, b = (bracket.format(style.subscripts(name)) for name in (first, second))
    at = f", {diagram.where()}" if diagram.where() else ""
    axes.set_xlabel(rf"$\mathit{{x}}$ in {a}$_{{1{{-}}\mathit{{x}}}}${b}$_{{\mathit{{x}}}}${at}")
    axes.set_ylabel("enthalpy of formation (eV/atom)")
    low = min((mark.formation for mark in shown), default=0.0)
    high = max((mark.formation for mark in shown), default=0.0)
    span = max(high - low, 0.05)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(low - 0.2 * span, high + 0.06 * span)
    axes.axhline(0.0, color=style.GRID, lw=0.6, zorder=0)
    hidden = len(diagram.marks) - len(shown)
    if hidden:
        axes.set_title(f"{hidden} of {len(diagram.marks)} structures lie higher", loc="right", fontsize=6, color="#666")


def _legend(axes: Axes, diagram: Diagram) -> None:
    """Name the series where there are several; else the one level of theory is not worth a legend."""
    if len(diagram.series) < 2:
        return
    for k, series in enumerate(diagram.series):
        axes.scatter([], [], marker=style.MARKERS[k % len(style.MARKERS)], s=14, color="#777777", label=series)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(2, len(diagram.series)), columnspacing=1.0)


def _labels(axes: Axes, diagram: Diagram, shown: Sequence[Mark], most: int) -> None:
    inside = {id(mark) for mark in shown}
    named = [(mark, group) for mark, group in diagram.labelled if id(mark) in inside][:most]
    style.place_labels(
        axes,
        [_place(mark) for mark, _ in named],
        [label(mark, group) for mark, group in named],
        avoid=[_place(mark) for mark in shown if mark.above < 0.1][-500:],
        lines=[(_place(a), _place(b)) for pairs in diagram.edges.values() for a, b in pairs],
        towards=-90.0,
        colours=["#666666" if is_tie(mark) else style.INK for mark, _ in named],
    )


def _place(mark: Mark) -> tuple[float, float]:
    return mark.fractions[1], mark.formation


def label(mark: Mark, group: str) -> str:
    """Return a phase's label: formula and space group, that it only ties with the hull, and what puts it in doubt."""
    said = ", ".join([*(["tie"] if is_tie(mark) else []), *mark.entry.marks])
    words = [style.formula_text(mark.entry.composition), style.group_text(group), f"({said})" if said else ""]
    return " ".join(word for word in words if word)


def document(diagram: Diagram, top: float | None = None) -> dict[str, Any]:
    """Return the drawn numbers as plain values.

    Raises:
        ConfigError: there are not two components.
    """
    shown = drawn(diagram, top)
    return summary(diagram, shown)


def summary(diagram: Diagram, shown: Sequence[Mark]) -> dict[str, Any]:
    """Return what any diagram says as plain values: corners, tie lines, phases on the hull, the marks shown."""
    return {
        "components": list(diagram.components),
        "pressure_gpa": diagram.pressure_gpa,
        "units": {"formation_enthalpy": "eV/atom", "above_hull": "eV/atom", "enthalpy_per_atom": "eV/atom"},
        "note": diagram.note or None,
        "series": list(diagram.series),
        "tie_lines": {k: [[a.entry.name, b.entry.name] for a, b in v] for k, v in diagram.edges.items()},
        "labelled": [
            {
                "name": mark.entry.name,
                "formula": mark.entry.formula,
                "space_group": group,
                "tie": is_tie(mark),
                "doubtful": " ".join(mark.entry.marks) or None,
            }
            for mark, group in diagram.labelled
        ],
        "structures": len(diagram.marks),
        "drawn": len(shown),
        "points": [mark.row(diagram.components) for mark in shown],
    }
