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
from textwrap import wrap
from typing import Any, ParamSpec, TypeVar, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.files import replacing
from uspex_bridge.base.formulas import formula_of
from uspex_bridge.results.reading.model import Composition

#: Widths of a journal's column and page, mm.
COLUMN, PAGE = 85.0, 175.0
#: At most so many phases are named in a figure.
MOST_LABELS = 15
#: More points than this are drawn as pixels inside a vector file.
RASTER = 2000
#: Endings that matplotlib writes for us.
FORMATS = (".png", ".svg", ".pdf")

INK, SOFT, PALE, GRID = "#222222", "#555555", "#b8bdc4", "#e4e6ea"
#: Size of text that holds formulas, pt: mathtext prints their subscripts at 0.7 of it, at least 5 pt.
FORMULA = 7.2
#: Size of remarks, pt.
REMARK = 6.0
#: Colour of everything farther above the hull than the scale goes.
FAR = "#6f9bcb"
#: Colour of enthalpies of formation above their scale.
BEYOND = "#c9a36a"
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


def head(figure: Figure, *parts: str) -> None:
    """Write over a figure what it is of: pressure, level of theory, counts; empty parts are left out."""
    text = "; ".join(part for part in parts if part)
    if text:
        figure.suptitle(_wrapped(figure, text), x=0.01, ha="left", fontsize=REMARK, color=SOFT, linespacing=1.25)


def note(figure: Figure, text: str) -> None:
    """Write under a figure what nobody may overlook; nothing for an empty text."""
    if text:
        figure.supxlabel(_wrapped(figure, text), fontsize=REMARK, color=ALARM, linespacing=1.25)


def _wrapped(figure: Figure, text: str) -> str:
    """Break a remark into lines that fit a figure; a letter is about half as wide as high."""
    letters = int(figure.bbox.width / figure.dpi * 72 / (0.53 * REMARK))
    return "\n".join(wrap(text, max(20, letters), break_long_words=False))


def colour_bar(figure: Figure, drawn: ScalarMappable, axes: Axes, label: str, **options: Any) -> Colorbar:
    """Add the scale of colours beside or below the axes."""
    bar = figure.colorbar(drawn, ax=axes, **({"pad": 0.02, "aspect": 28} | options))
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)
    return bar


def doubtful(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Put a cross over points whose enthalpies are in doubt."""
    if places:
        x, y = zip(*places, strict=True)
        axes.scatter(x, y, marker="x", s=22.0, color=ALARM, linewidths=0.8, zorder=6)


def doubt_handle(flags: Iterable[str]) -> Line2D:
    """Return what explains the cross in a legend."""
    label = f"in doubt: {', '.join(dict.fromkeys(flags))}"
    return Line2D([], [], marker="x", ls="", color=ALARM, ms=4, mew=0.8, label=label)


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
    return matplotlib.colormaps["viridis"].with_extremes(over=BEYOND)


def operator_look(operator: str) -> tuple[str, str]:
    """Return colour and marker of an operator."""
    name = operator.lower()
    return next((look for part, look in _OPERATORS.items() if part in name), _OTHER_OPERATOR)


def reduced(composition: Composition) -> str:
    """Return the reduced formula."""
    divisor = gcd(*(n for _, n in composition))
    return formula_of(tuple((symbol, n // divisor) for symbol, n in composition))


def formula_text(composition: Composition) -> str:
    """Return the reduced formula, digits as subscripts (mathtext)."""
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
