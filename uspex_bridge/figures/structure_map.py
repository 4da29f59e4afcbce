"""The map of a set of structures in the plane of their principal components."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.words import counted
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import levels_text
from uspex_bridge.learn.choose.structure_map import DATASETS, VIEWERS, Colour, StructureMap, write_dataset

if TYPE_CHECKING:
    from uspex_bridge.learn.choose.soap import Space
    from uspex_bridge.results.reading.model import Pool

#: Distances to the hull beyond this have one colour, as in the paper's figures, eV/atom.
_FAR = 0.2
#: Up to so many pressures have colours and markers of their own; up to so many levels of theory are named.
_FEW = 6


def write_map(drawn: StructureMap, pool: Pool, path: Path, colour: Colour, selected: Collection[str] = ()) -> None:
    """Write the map as a figure, as a chemiscope dataset or as a page with chemiscope in it, by the file's ending.

    Raises:
        ConfigError: the ending says nothing, there is nothing to colour by, or chemiscope is missing.
        OutputError: the file cannot be written.
    """
    ending = path.suffix.lower()
    if ending in style.FORMATS:
        style.save(draw(drawn, colour, selected), path)
    elif ending in (*DATASETS, *VIEWERS):
        write_dataset(drawn, pool, path, colour, selected)
    else:
        known = ", ".join((*style.FORMATS, *DATASETS, *VIEWERS))
        raise ConfigError(f"{path}: unknown format; known endings: {known}")


@style.styled
def draw(drawn: StructureMap, colour: Colour, selected: Collection[str] = ()) -> Figure:
    """Draw the map; composition has a panel for each element, chosen structures are ringed.

    Raises:
        ConfigError: no structure has what it is to be coloured by.
    """
    values = drawn.values(colour)
    if not any(np.isfinite(row).any() for row in values.values()):
        raise ConfigError(f"no structure has a known {colour} to colour the map by; choose another --colour")
    number = len(values)
    figure = style.new_figure(*((style.COLUMN, 0.86) if number == 1 else (style.PAGE, 1.06 / number)))
    chosen = np.array([entry.name in selected for entry in drawn.entries])
    panels = figure.subplots(1, number, sharex=True, sharey=True, squeeze=False)[0]
    for axes, (label, row) in zip(panels, values.items(), strict=True):
        _panel(axes, drawn.coordinates, row, label, colour)
        if chosen.any():
            x, y = drawn.coordinates[chosen, :2].T
            axes.scatter(
                x, y, s=22, facecolors="none", edgecolors=style.INK, linewidths=0.7, label=f"chosen ({chosen.sum()})"
            )
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=0.8)
    name_axes(panels, drawn.space)
    levels = list(dict.fromkeys(entry.level for entry in drawn.entries))
    said = levels_text(levels) if len(levels) <= _FEW else f"{len(levels)} levels of theory"
    style.head(figure, said, counted(len(drawn.entries), "structure"))
    return figure


def _panel(axes: Axes, coordinates: Array, values: Array, label: str, colour: Colour) -> None:
    """Draw structures coloured by ``values`` (N,), the most telling ones on top, unknown ones pale."""
    x, y = coordinates[:, :2].T
    known = np.isfinite(values)
    look: dict[str, Any] = {"linewidths": 0, "rasterized": len(values) > style.RASTER}
    if not known.all():
        axes.scatter(x[~known], y[~known], s=5, color=style.PALE, label="unknown", **look)
    few = np.unique(values[known])
    if colour == "pressure" and len(few) <= _FEW:
        for k, value in enumerate(few):
            here = values == value
            hue, marker = style.PALETTE[k % len(style.PALETTE)], style.MARKERS[k % len(style.MARKERS)]
            axes.scatter(x[here], y[here], s=6, color=hue, marker=marker, alpha=0.7, label=f"{value:g} GPa", **look)
        return
    order = np.flatnonzero(known)
    telling = colour in ("distance", "energy")
    order = order[np.argsort(-values[order] if telling else values[order])]
    colours, low, high = _scale(colour, values[known])
    points = axes.scatter(x[order], y[order], c=values[order], s=6, cmap=colours, norm=Normalize(low, high), **look)
    extend = "max" if values[known].max() > high else "neither"
    style.colour_bar(cast("Figure", axes.figure), points, axes, label, extend=extend)


def _scale(colour: Colour, values: Array) -> tuple[Colormap, float, float]:
    """Return colours and where they begin and end, so that single high values do not take up the scale."""
    if colour == "distance":
        return style.distance_colours(), 0.0, _FAR
    if colour == "energy":
        low = float(values.min())
        return style.formation_colours(), low, max(float(np.quantile(values, 0.9)), low + 1e-3)
    if colour == "composition":
        return colormaps["viridis"], 0.0, 1.0
    return colormaps["viridis"], float(values.min()), float(values.max())


def name_axes(panels: Sequence[Axes], space: Space) -> None:
    """Name the axes of a row of panels with the part of the variance that they explain."""
    for axes in panels:
        axes.set_xlabel(f"PC1 ({100 * space.explained[0]:.0f} % of variance)")
    panels[0].set_ylabel(f"PC2 ({100 * space.explained[1]:.0f} % of variance)")
