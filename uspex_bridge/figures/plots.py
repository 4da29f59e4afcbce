"""The figures of a pool of structures by name, as ``uspex-bridge plot`` names them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import nearest
from uspex_bridge.figures import coverage, diagram, hull, style, ternary, volume
from uspex_bridge.figures import solid as solid_figure
from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.reading.model import TIE, Pool


def _ternary(drawn: diagram.Diagram, *, solid: bool = False, **options: Any) -> Figure:
    return _solid(drawn, 3, **options) if solid else ternary.draw(drawn, **options)


def _solid(drawn: diagram.Diagram, count: int = 4, **options: Any) -> Figure:
    solid_figure.need(drawn, count)
    return solid_figure.draw(drawn, **options)


#: Figure -> what draws it from a diagram.
PLOTS: dict[str, Callable[..., Figure]] = {
    "hull": hull.draw,
    "ternary": _ternary,
    "quaternary": _solid,
    "volume": lambda drawn, spreads=6.0, **options: volume.draw(volume.gather(drawn, spreads), **options),
    "coverage": lambda drawn, **options: coverage.draw(coverage.gather(drawn), **options),
}


def plot(
    pool: Pool,
    kind: str,
    ax: Axes | None = None,
    *,
    pressure_gpa: float | None = None,
    components: tuple[str, ...] | None = None,
    mix_levels: bool = False,
    **options: Any,
) -> Figure:
    """Draw one of ``PLOTS``.

    Args:
        pool: the structures.
        kind: name of the figure.
        ax: axes that the figure takes the place of; None makes a figure.
        pressure_gpa: GPa; None takes the one that all sources have.
        components: formulas to span the hull between; None chooses.
        mix_levels: one hull for several levels of theory.
        options: of the figure's ``draw``.

    Raises:
        ConfigError: there is no such figure, or it cannot show these components.
        InputError: there is no hull to be built.
    """
    if kind not in PLOTS:
        raise ConfigError(f"there is no figure '{kind}'{nearest(kind, PLOTS)}; there are {', '.join(PLOTS)}")
    question = Question(pressure_gpa=pressure_gpa, components=components, within=TIE, mix_levels=mix_levels)
    drawn = diagram.make_diagram({"": assess(pool, question)})
    with nullcontext() if ax is None else style.into(ax):
        figure = PLOTS[kind](drawn, **options)
    return figure
