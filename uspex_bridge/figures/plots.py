"""The figures of a pool of structures by name, as ``uspex-bridge plot`` names them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import nearest
from uspex_bridge.figures import coverage, diagram, hull, solid, style, ternary, volume
from uspex_bridge.results.model import TIE, Pool
from uspex_bridge.results.stability import Question, assess

#: Figure -> what draws it from a diagram.
PLOTS: dict[str, Callable[..., Figure]] = {
    "hull": hull.draw,
    "ternary": lambda drawn, solid=False, **options: _ternary(drawn, solid, **options),
    "quaternary": lambda drawn, **options: _quaternary(drawn, **options),
    "volume": lambda drawn, spreads=6.0, **options: volume.draw(volume.gather(drawn, spreads), **options),
    "coverage": lambda drawn, **options: coverage.draw(coverage.gather(drawn), **options),
}


def _ternary(drawn: diagram.Diagram, in_space: bool, **options: Any) -> Figure:
    diagram.need_components(drawn, 3, "a ternary map")
    return solid.draw(drawn, **options) if in_space else ternary.draw(drawn, **options)


def _quaternary(drawn: diagram.Diagram, **options: Any) -> Figure:
    diagram.need_components(drawn, 4, "a tetrahedron")
    return solid.draw(drawn, **options)


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
