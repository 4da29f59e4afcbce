"""Energies of structures pressed together and of atoms brought together: a sound potential only rises."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uspex_bridge.base.words import short_names
from uspex_bridge.figures import style
from uspex_bridge.learn.judge.probes import ProbeCurve, Probed

#: Energies further from the first one are cut off, eV/atom: what matters is whether the curve falls.
_TOP = 30.0


@style.styled
def draw(probed: Sequence[Probed], width: float = style.PAGE) -> Figure:
    """Draw one row per model: compressed structures, then dimers; where a curve falls it is marked.

    Args:
        probed: models.
        width: mm.
    """
    short = short_names(one.name for one in probed)
    figure = style.new_figure(width, 0.36 * len(probed))
    axes = figure.subplots(len(probed), 2, squeeze=False)
    for (left, right), one in zip(axes, probed, strict=True):
        for panel, curves, label in (
            (left, one.compression, "V / V$_0$"),
            (right, one.dimers, "distance / sum of covalent radii"),
        ):
            for k, curve in enumerate(curves):
                _line(panel, curve, style.PALETTE[k % len(style.PALETTE)])
            panel.invert_xaxis()
            panel.set_yscale("symlog", linthresh=1.0)
            low, high = panel.get_ylim()
            panel.set(xlabel=label, ylim=(max(low, -_TOP), min(high, _TOP)))
            panel.grid(color=style.GRID, lw=0.5)
            panel.legend(fontsize=5.5, loc="upper left", ncols=2)
        left.set_ylabel(f"{short[one.name]}\nE − E(first) (eV/atom)")
    return figure


def _line(panel: Axes, curve: ProbeCurve, colour: str) -> None:
    energy = [value - curve.energy[0] for value in curve.energy]
    panel.plot(curve.x, energy, color=colour, label=curve.name)
    if curve.breaks is not None:
        height = max(energy[curve.x.index(curve.breaks)], -_TOP)
        panel.plot(curve.breaks, height, "x", clip_on=False, color=style.ALARM, ms=6, mew=1.5, zorder=5)
