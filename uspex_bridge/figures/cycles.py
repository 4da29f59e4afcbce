"""What the cycles of labelling and training have brought: disagreement, labels and errors against the cycle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from uspex_bridge.figures import style
from uspex_bridge.learn.cycle.history import Cycle

#: Quantity -> its label and the factor to its unit.
_SHOWN = {"energy": ("E (meV/atom)", 1000.0), "forces": ("F (meV/Å)", 1000.0), "pv": ("PV (meV/atom)", 1000.0)}


@style.styled
def draw(cycles: Sequence[Cycle], width: float = style.PAGE) -> Figure:
    """Draw a loop: structures flagged and labels added, then the errors of each model on what is held out.

    Dashed are the errors of the models in use on the labels that came next, which they had never seen.
    """
    figure = style.new_figure(width, 0.3)
    columns = 1 + len(_SHOWN)
    counts = figure.add_subplot(1, columns, 1)
    _counts(counts, cycles)
    figure.legend(*counts.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    names = list(dict.fromkeys(name for cycle in cycles for name in cycle.models))
    for k, (quantity, (label, factor)) in enumerate(_SHOWN.items(), 2):
        axes = figure.add_subplot(1, columns, k)
        for name, colour, marker in zip(names, style.PALETTE, style.MARKERS, strict=False):
            with_it = [cycle for cycle in cycles if name in cycle.models]
            held = [(c.number, factor * c.models[name].held_out[quantity]) for c in with_it]
            axes.plot(*zip(*held, strict=True), color=colour, marker=marker, ms=3.5, label=name)
            newest = [(c.number, c.models[name].newest.get(f"old {quantity}")) for c in with_it]
            predicted = [(n, factor * value) for n, value in newest if value is not None]
            if predicted:
                axes.plot(*zip(*predicted, strict=True), color=colour, marker=marker, ms=3.5, mfc="none", ls="--")
        _finish(axes, f"MAE of {label}")
        axes.set_ylim(bottom=0)
        if k == 2:
            axes.plot([], [], color=style.INK, label="held out")
            axes.plot([], [], color=style.INK, ls="--", label="predicted")
            figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=len(names) + 2)
    return figure


def _counts(axes: Axes, cycles: Sequence[Cycle]) -> None:
    lines: list[tuple[str, dict[str, Any], list[tuple[int, int | None]]]] = [
        ("over the threshold", {"color": style.PALETTE[1], "marker": "o"}, [(c.number, c.flagged) for c in cycles]),
        ("labels added", {"color": style.INK, "marker": "s", "ls": ":"}, [(c.number, c.labels) for c in cycles]),
    ]
    for label, look, values in lines:
        known = [(number, value) for number, value in values if value is not None]
        if known:
            axes.plot(*zip(*known, strict=True), ms=3.5, label=label, **look)
    _finish(axes, "structures")
    axes.set_ylim(bottom=0)


def _finish(axes: Axes, label: str) -> None:
    axes.set(xlabel="cycle", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=style.GRID, lw=0.5)
