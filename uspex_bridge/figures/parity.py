"""Models against labels: energies, forces, virials and PV (arXiv:2606.30870, Figs. 1 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uspex_bridge.figures import style
from uspex_bridge.learn.judge.accuracy import Judged
from uspex_bridge.learn.judge.cases import Values

#: Quantity -> title, unit and how it is taken from values.
_PANELS: dict[str, tuple[str, str, Callable[[Values], Any]]] = {
    "energy": ("energy", "eV/atom", lambda values: values.energy),
    "forces": ("forces", "eV/Å", lambda values: values.forces),
    "virial": ("virial", "eV/atom", lambda values: values.virial),
    "pv": ("PV", "eV/atom", lambda values: values.pv),
}
#: Part of the labels' range that panels extend beyond it.
_MARGIN = 0.15
#: What stands over the figures where a model leaves the range of the labels.
_CUT = "values beyond a panel are drawn on its frame"


@style.styled
def draw(models: Sequence[Judged], width: float = style.PAGE) -> Figure:
    """Draw one row of panels per model, coloured by pressure.

    Energies are relative to one energy per element, fitted to the labels, so that differences between structures fill
    the panel and not those between elements. The panels of a quantity have one range, that of the labels with a margin.

    Args:
        models: judged on labels.
        width: mm.
    """
    figure = style.new_figure(width, 0.06 + 0.25 * len(models))
    axes = figure.subplots(len(models), len(_PANELS), squeeze=False, sharex="col", sharey="col")
    cut = False
    for column, (quantity, (title, unit, take)) in zip(axes.T, _PANELS.items(), strict=True):
        cut |= _column(column, models, take, energies=quantity == "energy")
        for panel, model in zip(column, models, strict=True):
            error = getattr(model.total, quantity)
            said = f"MAE {_milli(error.mae)}, RMSE {_milli(error.rmse)} m{unit}"
            panel.set_title(said, loc="left", fontsize=6)
            panel.set_ylabel(model.short if quantity == "energy" else "")
        column[-1].set_xlabel(f"{title} of the labels ({unit})")
    _legend(figure, axes[0, 0], cut)
    return figure


@style.styled
def draw_pv(models: Sequence[Judged], width: float = style.PAGE) -> Figure:
    """Draw PV of each model against the labels', as Fig. 1 of the paper: a panel per model, coloured by pressure.

    Args:
        models: judged on labels.
        width: mm.
    """
    across = min(4, len(models))
    down = -(-len(models) // across)
    figure = style.new_figure(width, 0.08 + 1.2 * down / across)
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for panel in axes.flat[len(models) :]:
        panel.set_axis_off()
    title, unit, take = _PANELS["pv"]
    cut = _column(axes.flat[: len(models)], models, take)
    for panel, model in zip(axes.flat, models, strict=False):
        error = model.total.pv
        panel.set_title(f"{model.short}\nMAE {error.mae:.3g}, max {error.largest:.3g} {unit}", loc="left", fontsize=6)
    for panel in axes.flat[max(len(models) - across, 0) : len(models)]:
        panel.set_xlabel(f"{title} of the labels ({unit})")
        panel.tick_params(labelbottom=True)
    for panel in axes[:, 0]:
        panel.set_ylabel(f"{title} of the model ({unit})")
    _legend(figure, axes[0, 0], cut)
    return figure


def _legend(figure: Figure, panel: Axes, cut: bool) -> None:
    """Say above the panels which marker is which pressure, and whether values were drawn on a frame."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=len(labels),
        title=_CUT if cut else None,
        title_fontsize=style.REMARK,
        alignment="left",
    )


def _column(
    panels: Iterable[Axes], models: Sequence[Judged], take: Callable[[Values], Any], *, energies: bool = False
) -> bool:
    """Draw one quantity of each model in the same range; return whether a value lies beyond it."""
    labels = np.concatenate(
        [
            np.ravel(take(case.reference)) - (zero if energies else 0.0)
            for model in models
            for case, zero in zip(model.cases, _zero(model), strict=True)
        ]
    )
    margin = _MARGIN * max(float(np.ptp(labels)), 1e-3)
    span = float(labels.min()) - margin, float(labels.max()) + margin
    beyond = [
        _panel(panel, model, take, _zero(model) if energies else np.zeros(len(model.cases)), span)
        for panel, model in zip(panels, models, strict=True)
    ]
    return any(beyond)


def _panel(panel: Axes, model: Judged, take: Callable[[Values], Any], shift: Any, span: tuple[float, float]) -> bool:
    """Draw a model's values against the labels'; return whether one lies beyond the range."""
    shown = dict(model.lines)
    if rest := sorted(set(range(len(model.cases))).difference(*shown.values())):
        shown["higher"] = rest
    beyond = False
    for k, (label, chosen) in enumerate(shown.items()):
        labels = np.concatenate([np.ravel(take(model.cases[i].reference)) - shift[i] for i in chosen])
        answers = np.concatenate([np.ravel(take(model.answers[i])) - shift[i] for i in chosen])
        beyond |= bool(np.any((answers < span[0]) | (answers > span[1])))
        panel.scatter(
            labels,
            np.clip(answers, *span),
            s=5,
            lw=0,
            alpha=0.6,
            color=style.PALETTE[k % len(style.PALETTE)],
            marker=style.MARKERS[k % len(style.MARKERS)],
            label=label,
            rasterized=len(labels) > style.RASTER,
            clip_on=False,
            zorder=2,
        )
    panel.plot(span, span, color=style.INK, lw=0.5, zorder=0)
    panel.set(xlim=span, ylim=span, aspect="equal")
    return beyond


def _milli(value: float) -> str:
    """Return a thousand times a number, to three digits where it has no more before the point."""
    return f"{1000 * value:.3g}" if value < 1 else f"{1000 * value:.0f}"


def _zero(model: Judged) -> Any:
    """Return what the energies of its elements give each structure, eV/atom."""
    return np.array([np.mean([model.atoms.get(symbol, 0.0) for symbol in case.symbols]) for case in model.cases])
