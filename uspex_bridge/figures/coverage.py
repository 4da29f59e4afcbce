"""Which compositions a search has visited, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.words import counted
from uspex_bridge.figures import style
from uspex_bridge.figures.diagram import Diagram, are_elements, standing
from uspex_bridge.figures.ternary import to_plane, triangle

#: More structures than this at one composition share a colour and a size.
_MOST = 100


@dataclass(frozen=True)
class CompositionCounts:
    """Structures per composition.

    Attributes:
        components: the corners.
        counts: mixing ratio in lowest terms -> structures that have it.
        possible: all mixing ratios in cells of up to ``largest`` blocks.
        largest: of the cells that occur, blocks (atoms where the components are elements).
        standing: pressure and level of theory.
    """

    components: tuple[str, ...]
    counts: dict[tuple[int, ...], int]
    possible: tuple[tuple[int, ...], ...]
    largest: int
    standing: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Part of the possible compositions that has been visited."""
        return len(self.counts) / len(self.possible)


def gather(diagram: Diagram) -> CompositionCounts:
    """Count structures by composition.

    Raises:
        ConfigError: there is only one component, or there are more than three.
    """
    number = len(diagram.components)
    if number not in (2, 3):
        listed = ", ".join(diagram.components)
        advice = "there is nothing to map" if number == 1 else "choose two or three of them with --components"
        raise ConfigError(
            f"a map of compositions shows two or three components and here are {number} ({listed}); {advice}"
        )
    blocks = [_whole(mark.fractions, mark.entry.natoms) for mark in diagram.marks]
    counts = Counter(_lowest(amounts) for amounts in blocks)
    largest = max(sum(amounts) for amounts in blocks)
    possible = tuple(_possible(number, largest))
    return CompositionCounts(
        diagram.components, dict(counts), possible, largest, standing(diagram.pressure_gpa, diagram.levels)
    )


def _whole(fractions: Sequence[float], natoms: int) -> tuple[int, ...]:
    """Return amounts of components in whole numbers: the fewest blocks, at most ``natoms``, that give the fractions."""
    for blocks in range(natoms, 0, -1):
        amounts = [x * blocks for x in fractions]
        if all(abs(amount - round(amount)) < 1e-5 for amount in amounts):
            return tuple(round(amount) for amount in amounts)
    return tuple(round(1e6 * x) for x in fractions)


def _lowest(amounts: Sequence[int]) -> tuple[int, ...]:
    divisor = gcd(*amounts)
    return tuple(amount // divisor for amount in amounts)


def _possible(number: int, largest: int) -> list[tuple[int, ...]]:
    """Return all mixing ratios in lowest terms with a sum of at most ``largest``."""
    ranges = np.indices((largest + 1,) * number).reshape(number, -1).T
    chosen = ranges[(ranges.sum(axis=1) <= largest) & (np.gcd.reduce(ranges, axis=1) == 1)]
    return [tuple(int(n) for n in row) for row in chosen]


@style.styled
def draw(coverage: CompositionCounts, *, width: float = style.COLUMN) -> Figure:
    """Draw the map: a triangle with one dot per composition, or bars along the axis of a binary system.

    Args:
        coverage: from :func:`gather`.
        width: mm.
    """
    return _triangle(coverage, width) if len(coverage.components) == 3 else _bars(coverage, width)


def _said(coverage: CompositionCounts) -> tuple[str, ...]:
    unit = "atoms" if are_elements(coverage.components) else "blocks"
    return (
        *coverage.standing,
        counted(sum(coverage.counts.values()), "structure"),
        (
            f"{len(coverage.counts)} of {len(coverage.possible)} compositions ({100 * coverage.share:.0f} %) "
            f"of up to {coverage.largest} {unit}"
        ),
    )


def _triangle(coverage: CompositionCounts, width: float) -> Figure:
    figure = style.new_figure(width, 0.98)
    axes = figure.add_subplot()
    triangle(axes, coverage.components)
    missed = [_fractions(amounts) for amounts in coverage.possible if amounts not in coverage.counts]
    grey = np.array([to_plane(fractions) for fractions in missed]).reshape(-1, 2)
    axes.scatter(
        grey[:, 0], grey[:, 1], s=0.8, color=style.PALE, linewidths=0, zorder=2, rasterized=len(grey) > style.RASTER
    )
    points = sorted(coverage.counts.items(), key=lambda item: item[1])
    places = np.array([to_plane(_fractions(amounts)) for amounts, _ in points])
    numbers = np.array([number for _, number in points])
    beyond = numbers.max() > _MOST
    drawn = axes.scatter(
        places[:, 0],
        places[:, 1],
        c=numbers,
        cmap=colormaps["viridis_r"],
        norm=LogNorm(1, min(max(10, numbers.max()), _MOST)),
        s=(5 + 7 * np.sqrt(numbers.clip(max=_MOST))) * min(1.0, 400 / len(points)) ** 0.5,
        edgecolors="white",
        linewidths=0.2,
        zorder=3,
        rasterized=len(points) > style.RASTER,
    )
    words = "structures per composition"
    bar = style.colour_bar(
        figure,
        drawn,
        axes,
        words,
        orientation="horizontal",
        shrink=0.62,
        aspect=32,
        extend="max" if beyond else "neither",
    )
    bar.ax.xaxis.set_major_formatter("{x:g}")
    key = Line2D([], [], marker="o", ls="", mfc=style.PALE, mew=0, ms=1.2, label="not visited")
    axes.legend(handles=[key], loc="upper left", bbox_to_anchor=(0.0, 1.0))
    style.head(figure, *_said(coverage))
    return figure


def _fractions(amounts: Sequence[int]) -> list[float]:
    return [amount / sum(amounts) for amount in amounts]


def _bars(coverage: CompositionCounts, width: float) -> Figure:
    figure = style.new_figure(width, 0.62)
    axes = figure.add_subplot()
    places = [_fractions(amounts)[1] for amounts in coverage.counts]
    axes.bar(places, list(coverage.counts.values()), width=0.008, color=style.PALETTE[0])
    missed = [_fractions(amounts)[1] for amounts in coverage.possible if amounts not in coverage.counts]
    axes.plot(missed, [0.0] * len(missed), "|", ms=3, mew=0.5, color=style.SOFT, clip_on=False, label="not visited")
    _name_axis(axes, coverage)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    style.head(figure, *_said(coverage))
    return figure


def _name_axis(axes: Axes, coverage: CompositionCounts) -> None:
    first, second = (style.subscripts(name) for name in coverage.components)
    axes.set_xlabel(f"fraction of {second} in {first}–{second}")
    axes.set_ylabel("structures")
    axes.set_xlim(-0.03, 1.03)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def document(coverage: CompositionCounts) -> dict[str, Any]:
    """Return the drawn numbers as plain values."""
    return {
        "components": list(coverage.components),
        "visited": len(coverage.counts),
        "possible": len(coverage.possible),
        "largest_cell": coverage.largest,
        "points": [
            {**dict(zip(coverage.components, amounts, strict=True)), "structures": number}
            for amounts, number in sorted(coverage.counts.items(), key=lambda item: -item[1])
        ],
    }
