"""The map of a set of structures in the plane of their principal components."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.figures import style
from uspex_bridge.learn.choose.structure_map import DATASETS, VIEWERS, Colour, StructureMap, write_dataset

if TYPE_CHECKING:
    from uspex_bridge.learn.choose.soap import Space
    from uspex_bridge.results.model import Pool

#: Distances to the hull beyond this have one colour, as in the paper's figures, eV/atom.
_FAR = 0.2


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
        raise ConfigError(f"{path}: which format is that? Known endings: {known}")


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
    figure = style.new_figure(*((style.COLUMN, 0.8) if number == 1 else (style.PAGE, 1.0 / number)))
    chosen = np.array([entry.name in selected for entry in drawn.entries])
    panels = figure.subplots(1, number, sharex=True, sharey=True, squeeze=False)[0]
    for axes, (label, row) in zip(panels, values.items(), strict=True):
        _panel(axes, drawn.coordinates, row, label, distances=colour == "distance")
        if chosen.any():
            x, y = drawn.coordinates[chosen, :2].T
            axes.scatter(
                x, y, s=22, facecolors="none", edgecolors=style.INK, linewidths=0.7, label=f"{chosen.sum()} chosen"
            )
            axes.legend(loc="best")
    name_axes(panels, drawn.space)
    return figure


def _panel(axes: Axes, coordinates: Array, values: Array, label: str, *, distances: bool) -> None:
    """Draw structures coloured by ``values`` (N,), the most telling ones on top, unknown ones pale."""
    x, y = coordinates[:, :2].T
    known = np.isfinite(values)
    raster = len(values) > style.RASTER
    axes.scatter(x[~known], y[~known], s=5, color=style.PALE, linewidths=0, rasterized=raster)
    order = np.flatnonzero(known)
    order = order[np.argsort(-values[order] if distances else values[order])]
    points = axes.scatter(
        x[order],
        y[order],
        c=values[order],
        s=6,
        cmap=style.distance_colours() if distances else "viridis",
        vmin=0.0 if distances else None,
        vmax=_FAR if distances else None,
        linewidths=0,
        rasterized=raster,
    )
    bar = axes.figure.colorbar(points, ax=axes, extend="max" if distances else "neither", pad=0.02, aspect=28)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)


def name_axes(panels: Sequence[Axes], space: Space) -> None:
    """Name the axes of a row of panels with the part of the variance that they explain."""
    for axes in panels:
        axes.set_xlabel(f"PC1 ({100 * space.explained[0]:.0f} % of variance)")
    panels[0].set_ylabel(f"PC2 ({100 * space.explained[1]:.0f} % of variance)")
