"""Models against labels: energies, forces, virials and PV (arXiv:2606.30870, Figs. 1 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@style.styled
def draw(models: Sequence[Judged], width: float = style.PAGE) -> Figure:
    """Draw one row of panels per model, coloured by pressure.

    Energies are relative to one energy per element, fitted to the labels, so that differences between structures fill
    the panel and not those between elements.

    Args:
        models: judged on labels.
        width: mm.
    """
    figure = style.new_figure(width, 0.29 * len(models))
    axes = figure.subplots(len(models), len(_PANELS), squeeze=False)
    for line, model in zip(axes, models, strict=True):
        zero = _zero(model)
        for panel, (quantity, (title, unit, take)) in zip(line, _PANELS.items(), strict=True):
            shift = zero if quantity == "energy" else np.zeros(len(model.cases))
            _panel(panel, model, take, shift)
            error = getattr(model.total, quantity)
            said = f"MAE {_milli(error.mae)}, RMSE {_milli(error.rmse)} m{unit}"
            panel.set_title(said, loc="left", fontsize=6)
            panel.set_xlabel(f"{title} of the labels ({unit})")
            panel.set_ylabel(model.short if quantity == "energy" else "")
    _legend(figure)
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
    figure = style.new_figure(width, 1.15 * down / across)
    axes = figure.subplots(down, across, squeeze=False)
    for panel in axes.flat[len(models) :]:
        panel.set_axis_off()
    title, unit, take = _PANELS["pv"]
    for panel, model in zip(axes.flat, models, strict=False):
        _panel(panel, model, take, np.zeros(len(model.cases)))
        error = model.total.pv
        panel.set_title(f"{model.short}\nMAE {error.mae:.3g}, max {error.largest:.3g} {unit}", loc="left", fontsize=6)
        panel.set_xlabel(f"{title} of the labels ({unit})")
    axes.flat[0].set_ylabel(f"{title} of the model ({unit})")
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """Say above the panels which marker is which pressure."""
    found: dict[str, Any] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(list(found.values()), [f"{label} GPa" for label in found], loc="outside upper left", ncols=len(found))


def _panel(panel: Axes, model: Judged, take: Callable[[Values], Any], shift: Any) -> None:
    shown = {label.removesuffix(" GPa"): places for label, places in model.lines.items()}
    if rest := sorted(set(range(len(model.cases))).difference(*shown.values())):
        shown["higher, not in a line,"] = rest
    for k, (label, chosen) in enumerate(shown.items()):
        labels = np.concatenate([np.ravel(take(model.cases[i].reference)) - shift[i] for i in chosen])
        answers = np.concatenate([np.ravel(take(model.answers[i])) - shift[i] for i in chosen])
        panel.scatter(
            labels,
            answers,
            s=5,
            lw=0,
            alpha=0.6,
            color=style.PALETTE[k % len(style.PALETTE)],
            marker=style.MARKERS[k % len(style.MARKERS)],
            label=label,
            rasterized=len(labels) > style.RASTER,
        )
    low, high = np.min([panel.get_xlim(), panel.get_ylim()]), np.max([panel.get_xlim(), panel.get_ylim()])
    panel.plot([low, high], [low, high], color=style.INK, lw=0.5, zorder=0)
    panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")


def _milli(value: float) -> str:
    """Return a thousand times a number, to three digits where it has no more before the point."""
    return f"{1000 * value:.3g}" if value < 1 else f"{1000 * value:.0f}"


def _zero(model: Judged) -> Any:
    """Return what the energies of its elements give each structure, eV/atom."""
    return np.array([np.mean([model.atoms.get(symbol, 0.0) for symbol in case.symbols]) for case in model.cases])
