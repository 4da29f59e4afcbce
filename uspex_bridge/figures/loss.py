"""The loss curve of a training: error of each quantity against steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from uspex_bridge.figures import style
from uspex_bridge.learn.training.loss import SHOWN
from uspex_bridge.learn.training.watch import FOLLOWED, CurvePoint

#: Split -> how its line looks.
_LOOKS: dict[str, dict[str, Any]] = {
    "train": {"label": "training", "color": style.PALETTE[5], "lw": 0.8},
    "valid": {"label": "validation", "color": style.PALETTE[0], "lw": 1.2},
}


@style.styled
def draw(points: Sequence[CurvePoint], unit: str, measure: str, width: float = style.PAGE) -> Figure:
    """Draw the errors of a training.

    Args:
        points: of the curve.
        unit: of the steps: ``steps`` or ``epochs``.
        measure: kind of error, ``RMSE`` or ``MAE``.
        width: mm.
    """
    shown = [name for name in FOLLOWED if any(point.error(name) is not None for point in points)]
    figure = style.new_figure(width, 0.34)
    for k, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), k + 1)
        label, factor = SHOWN[name]
        for split, look in _LOOKS.items():
            pairs = [(p.step, factor * v) for p in points if (v := p.values.get(f"{name}_{split}")) is not None]
            if pairs:
                steps, errors = zip(*pairs, strict=True)
                axes.plot(steps, errors, marker="." if len(pairs) < 40 else "", ms=3, **look)
        axes.set(yscale="log", xlabel=unit, ylabel=f"{measure} of {name} ({label})")
        axes.grid(color=style.GRID, lw=0.5)
        if k == 0:
            axes.legend()
    return figure
