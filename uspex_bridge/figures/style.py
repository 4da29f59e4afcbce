"""How the figures look: one style for print, readable in a column, in colours that colour-blind readers tell apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from html import escape
from math import gcd
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.files import replacing
from uspex_bridge.results.model import Composition, formula_of

#: Widths of a journal's column and page, mm.
COLUMN, PAGE = 85.0, 175.0
#: At most so many phases are named in a figure.
MOST_LABELS = 15
#: More points than this are drawn as pixels inside a vector file.
RASTER = 2000
#: Endings that matplotlib writes for us.
FORMATS = (".png", ".svg", ".pdf")

INK, PALE, GRID = "#222222", "#b8bdc4", "#e4e6ea"
#: Colour of everything farther above the hull than the scale goes.
FAR = "#8fb3d9"
ALARM = "#d62728"
_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.0,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.borderaxespad": 0.3,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.0,
    "mathtext.default": "regular",
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
    "svg.hashsalt": "uspex_bridge",  # the same numbers give the same file
}
#: Okabe and Ito's colours, without yellow (too pale on white).
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "D", "s", "^", "v", "P", "X")
#: Part of an operator's name, lower case -> its colour and marker, in both lines of USPEX.
_OPERATORS = {
    "heredity": ("#0072b2", "o"),
    "soft": ("#d55e00", "s"),
    "transmut": ("#cc79a7", "^"),
    "permut": ("#009e73", "v"),
    "lat": ("#e69f00", "D"),
    "randtop": ("#56b4e9", "p"),
    "random": ("#7a7f87", "o"),
    "seed": ("#000000", "*"),
    "keptbest": (PALE, "o"),
    "convexhull": (PALE, "o"),
}
#: Pixels that labels stay away from points: a marker's radius.
_CLEAR = 6
#: Behind labels, so that they can be read over points.
_BACK = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5}
_OTHER_OPERATOR = ("#8c564b", "X")

P = ParamSpec("P")
T = TypeVar("T")


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function that draws or saves under this style, whatever the user's matplotlibrc says."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_RC)
            return function(*args, **kwargs)

    return inner


#: What the next figure is drawn into, where it is not one of its own.
_target: ContextVar[SubFigure | None] = ContextVar("target", default=None)


@contextmanager
def into(axes: Axes) -> Iterator[None]:
    """Let figures be drawn in the place of these axes, which are taken away."""
    place = axes.get_subplotspec()
    if place is None:
        raise ConfigError("a figure is drawn into axes of subplots or a mosaic; these were placed by hand")
    target = axes.figure.add_subfigure(place)
    axes.remove()
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def new_figure(width: float, ratio: float) -> Figure:
    """Return an empty figure, ``width`` mm wide and ``ratio`` times as high, or the part of one set by :func:`into`."""
    if (target := _target.get()) is not None:
        return cast("Figure", target)  # drawn into in the same way
    figure = Figure(figsize=(width / 25.4, ratio * width / 25.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def note(figure: Figure, text: str) -> None:
    """Write under a figure what nobody may overlook; nothing for an empty text."""
    if text:
        figure.supxlabel(text, fontsize=6, color=ALARM)


@styled
def save(figure: Figure, path: Path, dpi: int = 300, *, outlines: bool = False) -> None:
    """Write a figure in the format of the file's ending; ``outlines`` turns an SVG's text into shapes.

    Raises:
        ConfigError: the ending is none of ours.
        OutputError: the file cannot be written; the one that was there stays.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: figures are written as {', '.join(FORMATS)}, some as .html")
    if outlines:
        matplotlib.rcParams["svg.fonttype"] = "path"
    metadata = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None} if path.suffix == ".pdf" else {}
    with replacing(path) as draft:
        figure.savefig(draft, dpi=dpi, metadata=metadata)


def distance_colours() -> Colormap:
    """Return the scale of distances to the hull: dark on it, light at the end, and one blue beyond."""
    base = matplotlib.colormaps["YlOrRd_r"]
    steps = [base(0.05 + 0.8 * k / 255) for k in range(256)]
    return LinearSegmentedColormap.from_list("distance", steps).with_extremes(over=FAR)


def formation_colours() -> Colormap:
    """Return the scale of enthalpies of formation; all that is beyond it has a pale colour."""
    return matplotlib.colormaps["viridis"].with_extremes(over="#f2efc4")


def operator_look(operator: str) -> tuple[str, str]:
    """Return colour and marker of an operator."""
    name = operator.lower()
    return next((look for part, look in _OPERATORS.items() if part in name), _OTHER_OPERATOR)


def reduced(composition: Composition) -> str:
    """Return the reduced formula in the order given."""
    divisor = gcd(*(n for _, n in composition))
    return formula_of(tuple((symbol, n // divisor) for symbol, n in composition))


def formula_text(composition: Composition) -> str:
    """Return the reduced formula in the order given, digits as subscripts (mathtext)."""
    return subscripts(reduced(composition))


def subscripts(formula: str) -> str:
    """Return a formula with its digits as subscripts (mathtext)."""
    return re.sub(r"(\d+)", r"$_{\1}$", formula)


def group_text(symbol: str) -> str:
    """Return an international symbol such as ``P6_3/mmc (194)`` with letters in italics and bars (mathtext)."""
    word = symbol.split(" (")[0]
    if word in ("", "?"):
        return ""
    word = re.sub(r"([A-Za-z]+)", r"\\mathit{\1}", word)
    word = re.sub(r"_(\d)", r"_{\1}", re.sub(r"-(\d)", r"\\bar{\1}", word))
    return f"${word}$"


def group_html(symbol: str) -> str:
    """Return an international symbol such as ``P6_3/mmc (194)`` with letters in italics and bars (HTML), no number."""
    word = re.sub(r"([A-Za-z]+)", r"<i>\1</i>", escape(symbol.split(" (")[0]))
    return re.sub(r"_(\d)", r"<sub>\1</sub>", re.sub(r"-(\d)", "\\1\u0305", word))


def place_labels(
    axes: Axes,
    anchors: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    avoid: Iterable[tuple[float, float]] = (),
    lines: Iterable[Sequence[tuple[float, float]]] = (),
    towards: float = 90.0,
    size: float = 6.5,
    colours: Sequence[str] | None = None,
) -> None:
    """Write a label beside each anchor where it covers no other label and little else, with a line when it is far.

    Call it last, when limits and layout are final.

    Args:
        axes: where.
        anchors: points to be labelled, data coordinates.
        texts: their labels.
        avoid: further points that labels should not cover.
        lines: pairs of points between which there is a line not to be covered.
        towards: direction that is best, degrees from the x axis.
        size: of the font, pt.
        colours: of each label.
    """
    figure = cast(Figure, axes.figure)
    figure.get_figure(root=True).draw_without_rendering()
    scale = figure.dpi / 72
    spots = axes.transData.transform(np.array(anchors, dtype=float).reshape(-1, 2))
    ends = np.array(list(lines), dtype=float).reshape(-1, 2, 2)
    along = np.linspace(0, 1, 25)[:, None, None] * (ends[:, 1] - ends[:, 0]) + ends[:, 0]
    others = np.concatenate([np.array([*anchors, *avoid], dtype=float).reshape(-1, 2), along.reshape(-1, 2)])
    points = axes.transData.transform(others)
    frame = axes.get_window_extent()
    angles = [towards + sign * k * 30.0 for k in range(7) for sign in ((1, -1) if 0 < k < 6 else (1,))]
    taken: list[Array] = []
    for k in range(len(texts)):
        colour = INK if colours is None else colours[k]
        label = axes.text(0, 0, texts[k], fontsize=size, color=colour, va="center", ha="center", zorder=10, bbox=_BACK)
        extent = label.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2
        best, cost = spots[k], float("inf")
        for radius in (5, 8, 13, 19, 26, 34, 44):
            for turn, angle in enumerate(angles):
                direction = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
                spot = spots[k] + direction * (radius * scale + half)
                price = _price(spot, half, taken, points, frame) + 0.6 * radius + 0.3 * turn
                if price < cost:
                    best, cost = spot, price
        taken.append(np.array([best - half, best + half]))
        label.set_position(tuple(axes.transData.inverted().transform(best)))
        edge = np.clip(spots[k], best - half, best + half)
        if np.hypot(*(edge - spots[k])) > 7 * scale:
            line = axes.transData.inverted().transform(np.array([spots[k], edge]))
            axes.plot(line[:, 0], line[:, 1], color=colour, lw=0.4, zorder=9, scalex=False, scaley=False)


def _price(spot: Array, half: Array, taken: Sequence[Array], points: Array, frame: Any) -> float:
    """Return how bad it is to put a label there: labels covered, points covered, parts outside the frame."""
    low, high = spot - half, spot + half
    price = 0.0
    for other_low, other_high in taken:
        shared = np.minimum(high, other_high) - np.maximum(low, other_low)
        if shared.min() > -2:
            price += 150 + float(np.prod(np.maximum(shared, 0)))
    covered = np.all((points > low - _CLEAR) & (points < high + _CLEAR), axis=1).sum()
    outside = max(0.0, frame.x0 - low[0], high[0] - frame.x1, frame.y0 - low[1], high[1] - frame.y1)
    return price + 6 * float(covered) + 20 * float(outside)
