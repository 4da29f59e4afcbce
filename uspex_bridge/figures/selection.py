"""What a selection adds to what is there: the map of structures before and after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from uspex_bridge.base.data import Array
from uspex_bridge.figures import style
from uspex_bridge.figures.structure_map import name_axes
from uspex_bridge.learn.choose.soap import Space, coverage


@style.styled
def draw(
    space: Space, candidates: Array, have: Array, chosen: Mapping[str, Array], width: float = style.PAGE
) -> Figure:
    """Draw candidates, what is there and what was chosen in the plane of the first two components.

    Args:
        space: names the axes.
        candidates: (N, K); have: (M, K) coordinates.
        have: see ``candidates``.
        chosen: kind of reason -> (n, K) coordinates.
        width: mm.
    """
    figure = style.new_figure(width, 0.5)
    everything = np.vstack([candidates, have, *chosen.values()])
    titles = ("before", "after")
    for axes, title, shown in zip(figure.subplots(1, 2, sharex=True, sharey=True), titles, ({}, chosen), strict=True):
        raster = len(everything) > style.RASTER
        axes.scatter(*candidates[:, :2].T, s=5, color=style.PALE, linewidths=0, label="candidates", rasterized=raster)
        if len(have):
            axes.scatter(*have[:, :2].T, s=7, color=style.INK, linewidths=0, label="there already", rasterized=raster)
        for (label, places), colour, marker in zip(shown.items(), style.PALETTE, style.MARKERS, strict=False):
            if len(places):
                axes.scatter(
                    *places[:, :2].T, s=14, color=colour, marker=marker, linewidths=0, label=f"{label} ({len(places)})"
                )
        count = len(have) + sum(map(len, shown.values()))
        points = np.vstack([have, *shown.values(), everything])
        axes.set_title(f"{title}: {coverage(points, np.arange(count))}" if count else f"{title}: nothing")
        axes.legend(loc="best")
    name_axes(figure.axes, space)
    return figure
