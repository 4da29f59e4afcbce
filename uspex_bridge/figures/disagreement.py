"""How two models disagree: parity of energies, forces and PV, and the differences with their thresholds."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uspex_bridge.base.data import Array
from uspex_bridge.figures import style
from uspex_bridge.learn.choose.screen import UNFIT, Screening

#: Force components that are drawn at most.
_MOST_FORCES = 20_000
#: Shortest axis of two models' values, eV/atom or eV/Å; rounding errors are not worth a picture.
_SHORTEST = 0.01


@style.styled
def draw(screening: Screening, width: float = style.PAGE) -> Figure:
    """Draw the first two models against each other above, and how the largest differences are spread below.

    Structures that no code would compute (too short, too dense ...) are left out above, where they would hide the rest.
    """
    figure = style.new_figure(width, 0.62)
    above, below = figure.subplots(2, 3)
    verdicts, limits, models = screening.verdicts, screening.limits, screening.models
    sound = [verdict for verdict in verdicts if UNFIT.isdisjoint(verdict.flags)]
    over = np.array([bool(verdict.reasons) for verdict in sound], dtype=bool)
    energies = np.array([verdict.energies[:2] for verdict in sound]).reshape(-1, 2)
    pressures = np.array([verdict.pv[:2] for verdict in sound]).reshape(-1, 2)
    forces = screening.forces
    if len(forces) > _MOST_FORCES:
        forces = forces[np.random.default_rng(0).choice(len(forces), _MOST_FORCES, replace=False)]
    for axes, pairs, marked, quantity in (
        (above[0], energies, over, "E (eV/atom)"),
        (above[1], forces, np.zeros(len(forces), dtype=bool), "F component (eV/Å)"),
        (above[2], pressures, over, "PV (eV/atom)"),
    ):
        _parity(axes, pairs, marked, quantity, models)
    for axes, values, limit, quantity in (
        (below[0], [verdict.delta_energy for verdict in verdicts], limits.energy, "|ΔE| (eV/atom)"),
        (below[1], [verdict.delta_force for verdict in verdicts], limits.force, "largest |ΔF| (eV/Å)"),
        (below[2], [verdict.delta_pv for verdict in verdicts], limits.pv, "|ΔPV| (eV/atom)"),
    ):
        _histogram(axes, np.array(values), limit, quantity)
    below[0].set_ylabel("structures")
    keys = [
        Line2D([], [], marker="o", ls="", mew=0, ms=3.4, color=colour, label=name)
        for colour, name in zip(
            style.PALETTE, ("structure, or force component", "structure over a threshold"), strict=False
        )
    ]
    keys.append(Line2D([], [], color=style.ALARM, label="threshold"))
    figure.legend(handles=keys, loc="outside upper left", ncols=3)
    left = len(verdicts) - len(sound)
    unfit = f"{left} too short, too dense or otherwise unfit left out above" if left else ""
    style.note(figure, unfit)
    return figure


def _parity(axes: Axes, pairs: Array, marked: Array, quantity: str, models: tuple[str, ...]) -> None:
    """Draw one model's values against the other's; extremes that would hide the rest lie on the frame."""
    known = np.isfinite(pairs).all(axis=1)
    pairs, marked = pairs[known], marked[known]
    if len(pairs):
        low, high = _span(pairs.ravel())
        pairs = np.clip(pairs, low, high)
        axes.plot([low, high], [low, high], color=style.PALE, zorder=1)
        for part, colour in ((np.logical_not(marked), style.PALETTE[0]), (marked, style.PALETTE[1])):
            x, y = pairs[part].T
            axes.scatter(
                x, y, s=5, color=colour, alpha=0.6, linewidths=0, rasterized=len(pairs) > style.RASTER, zorder=2
            )
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
    axes.set_aspect("equal", adjustable="box")
    axes.locator_params(nbins=4)
    axes.set_xlabel(f"{models[0]}: {quantity}")
    axes.set_ylabel(f"{models[1]}: {quantity}")


def _span(values: Array) -> tuple[float, float]:
    """Return the range to draw: all, but nothing further out than once the middle 98 % away."""
    first, last = np.quantile(values, [0.01, 0.99])
    reach = max(last - first, _SHORTEST)
    low, high = max(values.min(), first - reach), min(values.max(), last + reach)
    margin = max(0.04 * (high - low), 0.5 * (_SHORTEST - (high - low)))
    return float(low - margin), float(high + margin)


def _histogram(axes: Axes, values: Array, limit: float | None, quantity: str) -> None:
    """Draw how many structures have a difference of each size, on a logarithmic scale, with the threshold."""
    finite = np.maximum(values[np.isfinite(values)], 1e-4)
    if len(finite):
        low = np.floor(np.log10(finite.min()))
        high = max(np.ceil(np.log10(finite.max()) + 1e-9), low + 1.0)  # whole decades: ticks in between run together
        axes.hist(finite, bins=np.logspace(low, high, int(10 * (high - low)) + 1).tolist(), color=style.PALETTE[0])
        axes.set_xscale("log")
    if limit:
        axes.axvline(limit, color=style.ALARM)
        count = int((finite > limit).sum())
        axes.set_title(f"{count} of {len(values)} over {limit:g}", color=style.ALARM)
    axes.set_xlabel(quantity)
