"""Enthalpies of phases relative to one of them, against pressure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from uspex_bridge.figures import style
from uspex_bridge.results.pressure import Difference, EnthalpyCurve, Transition

_DASHES = ("-", "--", ":", "-.")


@style.styled
def draw(
    found: Sequence[Difference],
    changes: Sequence[Transition],
    *,
    reference: str,
    width: float = style.COLUMN,
) -> Figure:
    """Draw a line per phase, colours by phase, dashes by level of theory; transitions as marks on top.

    Args:
        found: from :func:`uspex_bridge.results.pressure.differences`.
        changes: from :func:`uspex_bridge.results.pressure.transitions`.
        reference: the phase that is zero.
        width: mm.
    """
    figure = style.new_figure(width, 0.75)
    axes = figure.add_subplot()
    phases = list(dict.fromkeys(one.phase for one in found))
    levels = list(dict.fromkeys(one.level for one in found))
    ends = []
    for one in found:
        k, dashes = phases.index(one.phase), _DASHES[levels.index(one.level) % len(_DASHES)]
        colour = style.PALETTE[k % len(style.PALETTE)]
        meV = [1000 * value for value in one.differences]
        mark = style.MARKERS[k % len(style.MARKERS)]
        axes.plot(one.pressures, meV, ls=dashes, marker=mark, ms=2.6, color=colour, lw=1.0, clip_on=False, zorder=3)
        if one.level == levels[0] and meV:
            ends.append((one.pressures[-1], meV[-1], one.phase, colour))
    axes.set_xlabel("pressure (GPa)")
    axes.set_ylabel(f"$H$ − $H$({reference}) (meV/atom)")
    axes.margins(x=0.0)
    _names(axes, ends)
    for change in changes if len(levels) == 1 else ():
        axes.axvline(change.pressure_gpa, color=style.PALE, lw=0.6, ls=":", zorder=0)
        axes.axvspan(*change.bracket, color=style.ALARM if change.doubt else style.GRID, alpha=0.25, lw=0, zorder=0)
        axes.annotate(
            f"{change.pressure_gpa:.1f} GPa" + (" (not reliable)" if change.doubt else ""),
            (change.pressure_gpa, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(-1, 0),
            textcoords="offset points",
            ha="right",
            va="top",
            rotation=90,
            fontsize=5.5,
            color="#666666",
        )
    if len(levels) > 1:
        for k, level in enumerate(levels):
            axes.plot([], [], color=style.INK, ls=_DASHES[k % len(_DASHES)], label=level or "level not stated")
        axes.legend(loc="best")
    return figure


def _names(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each phase's name beside the end of its line, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
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


def document(
    found: Sequence[Difference], changes: Sequence[Transition], all_curves: Sequence[EnthalpyCurve], reference: str
) -> dict[str, Any]:
    """Return the drawn numbers as plain values."""
    rows = {
        (c.phase, c.level, round(float(p), 3)): e
        for c in all_curves
        for p, e in zip(c.pressures, c.entries, strict=True)
    }
    return {
        "units": {
            "pressure_gpa": "GPa",
            "difference": "eV/atom",
            "enthalpy_per_atom": "eV/atom",
            "volume_per_atom": "Å³/atom",
        },
        "levels": list(dict.fromkeys(one.level for one in found)),
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
            for one in found
            for p, value in zip(one.pressures, one.differences, strict=True)
        ],
    }
