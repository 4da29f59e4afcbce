"""Enthalpies of phases relative to one of them, against pressure, and which of them is the lowest where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from uspex_bridge.base.words import counted
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import levels_text
from uspex_bridge.figures.marks import DASHES
from uspex_bridge.results.hulls.pressure import EnthalpyCurve, Span, Transition, differences, sequence

#: Points of a line between its lowest and its highest pressure.
_STEPS = 200
#: Colour of the pressures that a transition lies between.
_BRACKET = "#9aa0a8"


@style.styled
def draw(
    found: Sequence[EnthalpyCurve],
    changes: Sequence[Transition],
    *,
    reference: str,
    width: float = style.COLUMN,
) -> Figure:
    """Draw a line per phase, colours by phase, dashes by level of theory; below it the lowest phases as a bar.

    Lines integrate V dP between the marks, which are the computed pressures. What a transition lies between is shaded.

    Args:
        found: from :func:`uspex_bridge.results.hulls.pressure.curves`.
        changes: from :func:`uspex_bridge.results.hulls.pressure.transitions`.
        reference: the phase that is zero.
        width: mm.

    Raises:
        ConfigError: see :func:`uspex_bridge.results.hulls.pressure.differences`.
    """
    phases = list(dict.fromkeys(curve.phase for curve in found))
    levels = list(dict.fromkeys(curve.level for curve in found))
    spans = sequence(found, changes)
    heights = [0.7, 0.06 * len(levels)] if spans else [0.7]
    figure = style.new_figure(width, sum(heights) + 0.14)
    axes, *bars = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True, squeeze=False)[:, 0]
    colours = {phase: style.PALETTE[k % len(style.PALETTE)] for k, phase in enumerate(phases)}
    ends = []
    for line, points in zip(differences(found, reference, _STEPS), differences(found, reference), strict=True):
        dashes, colour = DASHES[levels.index(line.level) % len(DASHES)], colours[line.phase]
        axes.plot(line.pressures, [1000 * value for value in line.differences], ls=dashes, color=colour, zorder=3)
        meV = [1000 * value for value in points.differences]
        marker = style.MARKERS[phases.index(line.phase) % len(style.MARKERS)]
        axes.plot(points.pressures, meV, ls="", marker=marker, ms=2.8, color=colour, clip_on=False, zorder=3)
        if line.level == levels[0] and meV:
            ends.append((points.pressures[-1], meV[-1], line.phase, colour))
    axes.set_ylabel(rf"$\mathit{{H}}$ − $\mathit{{H}}$({reference}) (meV/atom)")
    axes.margins(x=0.0)
    _names(axes, ends)
    if bars:
        _bar(bars[0], spans, changes, levels, colours)
    (bars or [axes])[-1].set_xlabel("pressure (GPa)")
    if len(levels) == 1:
        _changes(axes, changes)
    _legend(axes, levels, changes)
    style.head(figure, levels_text(levels), counted(len(phases), "phase"))
    return figure


def _changes(axes: Axes, changes: Sequence[Transition]) -> None:
    """Shade what each transition lies between and write its pressure at the upper edge."""
    for change in changes:
        axes.axvline(change.pressure_gpa, color=style.SOFT, lw=0.6, ls=":", zorder=0)
        axes.axvspan(*change.bracket, color=style.ALARM if change.doubt else _BRACKET, alpha=0.25, lw=0, zorder=0)
        axes.annotate(
            f"{change.pressure_gpa:.1f} GPa",
            (change.pressure_gpa, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(-1, 0),
            textcoords="offset points",
            ha="right",
            va="top",
            rotation=90,
            fontsize=style.REMARK,
            color=style.SOFT,
        )


def _bar(
    axes: Axes, spans: Sequence[Span], changes: Sequence[Transition], levels: Sequence[str], colours: dict[str, str]
) -> None:
    """Draw the lowest phase against pressure, a row for each level of theory, with its name where there is room."""
    first, last = min(span.low for span in spans), max(span.high for span in spans)
    for span in spans:
        row = levels.index(span.level)
        axes.barh(row, span.high - span.low, 0.84, span.low, color=colours[span.phase], alpha=0.75, lw=0)
        if (span.high - span.low) > 0.023 * len(span.phase) * (last - first):
            middle = (span.low + span.high) / 2
            axes.text(middle, row, span.phase, ha="center", va="center", fontsize=style.REMARK, color="white")
    for change in changes:
        low, high = change.bracket
        row = levels.index(change.level)
        axes.barh(row, high - low, 0.84, low, fc="none", ec="white", hatch="//////", lw=0)
    names = [levels_text([level]) for level in levels] if len(levels) > 1 else ["lowest"]
    axes.set_yticks(range(len(levels)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(levels) - 0.5, -0.5)


def _legend(axes: Axes, levels: Sequence[str], changes: Sequence[Transition]) -> None:
    """Explain dashes and shades, above the axes."""
    made: list[Any] = []
    if len(levels) > 1:
        for k, level in enumerate(levels):
            name = levels_text([level])
            made += axes.plot([], [], color=style.INK, ls=DASHES[k % len(DASHES)], label=name)
    else:
        for doubtful, colour, name in ((False, _BRACKET, "transition lies here"), (True, style.ALARM, "not reliable")):
            if any(bool(change.doubt) is doubtful for change in changes):
                made.append(Patch(color=colour, alpha=0.25, lw=0, label=name))
    if made:
        axes.legend(handles=made, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _names(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each phase's name beside the end of its line, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    gap = 0.06 * (high - low)
    placed: list[float] = []
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        spot = max(y, placed[-1] + gap) if placed else y
        placed.append(spot)
        axes.annotate(
            name,
            (x, spot),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=6.5,
            annotation_clip=False,
        )


def document(found: Sequence[EnthalpyCurve], changes: Sequence[Transition], reference: str) -> dict[str, Any]:
    """Return the drawn numbers as plain values."""
    rows = {
        (c.phase, c.level, round(float(p), 3)): e for c in found for p, e in zip(c.pressures, c.entries, strict=True)
    }
    lines = differences(found, reference)
    return {
        "units": {
            "pressure_gpa": "GPa",
            "difference": "eV/atom",
            "enthalpy_per_atom": "eV/atom",
            "volume_per_atom": "Å³/atom",
        },
        "levels": list(dict.fromkeys(one.level for one in lines)),
        "reference": reference,
        "transitions": [
            {
                "level": c.level or None,
                "from": c.below,
                "to": c.above,
                "pressure_gpa": round(c.pressure_gpa, 3),
                "bracket_gpa": [round(p, 3) for p in c.bracket],
                "reliable": not c.doubt,
                "doubt": c.doubt or None,
            }
            for c in changes
        ],
        "lowest": [
            {"level": s.level or None, "phase": s.phase, "from_gpa": round(s.low, 3), "to_gpa": round(s.high, 3)}
            for s in sequence(found, changes)
        ],
        "points": [
            {
                "phase": one.phase,
                "level": one.level or None,
                "pressure_gpa": p,
                "difference": round(value, 6),
                "enthalpy_per_atom": rows[one.phase, one.level, round(p, 3)].enthalpy_per_atom,
                "volume_per_atom": rows[one.phase, one.level, round(p, 3)].volume_per_atom,
                "doubtful": " ".join(rows[one.phase, one.level, round(p, 3)].marks) or None,
            }
            for one in lines
            for p, value in zip(one.pressures, one.differences, strict=True)
        ],
    }
