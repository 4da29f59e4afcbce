"""The figures of a composition space as pages to look around in: what a point is shows when the mouse is over it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import Colormap, to_hex

from uspex_bridge.base.files import write_whole
from uspex_bridge.figures import crystals, style
from uspex_bridge.figures import hull as hull_figure
from uspex_bridge.figures import solid as solid_figure
from uspex_bridge.figures import ternary as ternary_figure
from uspex_bridge.figures.diagram import Diagram, Mark
from uspex_bridge.figures.marks import gathered, remarks
from uspex_bridge.figures.volume import Quantity, Volumes, height
from uspex_bridge.results.phases.crystal import describe

#: So many structures stand in a page, those nearest the hull.
_CLICKED = 300
#: What a click on a point does.
_CLICK = """
document.querySelector(".plotly-graph-div").on("plotly_click", event => {
  const name = event.points[0].customdata;
  if (name in crystals) openCrystal(...crystals[name]);
});"""
_AXIS = {
    "tickvals": [0.2, 0.4, 0.6, 0.8],
    "ticks": "outside",
    "ticklen": 8,
    "tickcolor": style.GRID,
    "tickfont": {"size": 10, "color": "#8a8f96"},
}
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "cross", "x")
_SOLID_SYMBOLS = ("circle", "diamond", "square", "cross", "x")


def save(figure: Any, diagram: Diagram, path: Path, *, online: bool = False) -> None:
    """Write a page; with ``online`` it is small and loads plotly.js from the network, else it needs nothing.

    A click on a point shows its structure, of the ``_CLICKED`` points that lie nearest the hull.

    Raises:
        OutputError: it cannot be written.
    """
    text = figure.to_html(
        include_plotlyjs="cdn" if online else True,
        config={"displaylogo": False},
        default_height="96vh",
        post_script=f"{crystals.viewer()}\nconst crystals = {crystals.as_script(_clicked(diagram))};\n{_CLICK}",
    )
    text = text.replace("<head>", '<head><meta name="viewport" content="width=device-width, initial-scale=1"/>', 1)
    write_whole(path, text)


def hull(diagram: Diagram, *, far: float = 0.05, top: float | None = None) -> Any:
    """Return the binary hull as a plotly figure; see :func:`uspex_bridge.figures.hull.draw`.

    Raises:
        ConfigError: there are not two components.
    """
    shown = hull_figure.drawn(diagram, top)
    figure = go.Figure()
    for pairs in diagram.edges.values():
        corners = sorted({id(m): m for pair in pairs for m in pair}.values(), key=lambda mark: mark.fractions[1])
        places = [(mark.fractions[1], mark.formation) for mark in corners]
        xs, ys = zip(*places, strict=True) if places else ((), ())
        figure.add_scatter(x=xs, y=ys, mode="lines", line={"color": style.INK}, hoverinfo="skip", showlegend=False)
    for k, series in enumerate(diagram.series):
        marks = [mark for mark in shown if mark.series == series]
        figure.add_scattergl(
            x=[mark.fractions[1] for mark in marks],
            y=[mark.formation for mark in marks],
            **_points(diagram, marks, k, far),
        )
    corners_named = [(mark, group) for mark, group in diagram.labelled if mark.vertex]  # ties: on hover, names collide
    for mark, group in corners_named[: style.MOST_LABELS]:
        figure.add_annotation(
            x=mark.fractions[1], y=mark.formation, text=_name(mark, group), yshift=-14, showarrow=False
        )
    first, second = diagram.components
    figure.update_layout(_layout(diagram), showlegend=len(diagram.series) > 1)
    figure.update_xaxes(title=f"fraction of {second} in {first}–{second}", range=[-0.03, 1.03])
    figure.update_yaxes(title="enthalpy of formation (eV/atom)")
    return figure


def ternary(diagram: Diagram, *, far: float = 0.05) -> Any:
    """Return the ternary map as a plotly figure with buttons for its two colours.

    Raises:
        ConfigError: there are not three components.
    """
    shown = ternary_figure.drawn(diagram)
    left, right, upper = diagram.components
    figure = go.Figure()
    ends: list[list[float | None]] = [[], [], []]
    for pairs in diagram.edges.values():
        for one, other in pairs:
            for k in range(3):
                ends[k] += [one.fractions[k], other.fractions[k], None]
    b, c, a = ends
    figure.add_scatterternary(
        a=a, b=b, c=c, mode="lines", line={"color": style.INK, "width": 1}, hoverinfo="skip", showlegend=False
    )
    values: tuple[list[list[float]], list[list[float]]] = ([], [])
    for k, series in enumerate(diagram.series):
        marks = [mark for mark in shown if mark.series == series]
        figure.add_scatterternary(
            a=[mark.fractions[2] for mark in marks],
            b=[mark.fractions[0] for mark in marks],
            c=[mark.fractions[1] for mark in marks],
            **_points(diagram, marks, k, far),
            cliponaxis=False,
        )
        values[0].append([mark.above for mark in marks])
        values[1].append([mark.formation for mark in marks])
    inner = [(mark, group) for mark, group in diagram.labelled if max(mark.fractions) < 1 - 1e-9]
    named = gathered(inner[: style.MOST_LABELS])  # phases of one composition share a label
    figure.add_scatterternary(
        a=[marks[0][0].fractions[2] for marks in named],
        b=[marks[0][0].fractions[0] for marks in named],
        c=[marks[0][0].fractions[1] for marks in named],
        mode="text",
        text=["<br>".join(f"\u2002{_name(mark, group)}" for mark, group in marks) for marks in named],  # off the marker
        textposition="top right",  # numbers of the axis stand beside and below
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )
    low = min((mark.formation for mark in shown), default=0.0)
    scales = (_distance_scale(far), _scale(style.formation_colours(), low, max(0.1, -low), "formation"))
    traces = list(range(1, 1 + len(diagram.series)))
    buttons = [
        {"label": label, "method": "restyle", "args": [_restyle(scale, colours), traces]}
        for label, scale, colours in zip(("distance to the hull", "formation"), scales, values, strict=True)
    ]
    menu = {
        "buttons": buttons,
        "type": "buttons",
        "direction": "right",
        "x": 1,
        "y": 1.06,
        "xanchor": "right",
        "yanchor": "bottom",
    }
    figure.update_layout(
        _layout(diagram),
        updatemenus=[menu],
        showlegend=len(diagram.series) > 1,
        ternary={
            "sum": 1,
            **{axis: _AXIS | {"title": name} for axis, name in (("aaxis", upper), ("baxis", left), ("caxis", right))},
        },
    )
    return figure


def solid(diagram: Diagram, *, far: float = 0.05, top: float | None = None) -> Any:
    """Return a tetrahedron, or a ternary hull with enthalpy of formation upwards; see :mod:`.solid`.

    Raises:
        ConfigError: there are neither three nor four components.
    """
    shown = solid_figure.drawn(diagram, top)
    upwards, ternary = solid_figure.rise(shown), len(diagram.components) == 3

    def columns(marks: Iterable[Mark]) -> dict[str, tuple[float, ...]]:
        places = [solid_figure.to_space(mark.fractions, upwards * mark.formation) for mark in marks]
        return dict(zip("xyz", zip(*places, strict=True), strict=True)) if places else {}

    corners = [solid_figure.to_space(row) for row in np.eye(len(diagram.components)).tolist()]
    frame = [end for pair in combinations(corners, 2) for end in (*pair, (None,) * 3)]
    figure = go.Figure()
    quiet: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False}
    x, y, z = zip(*frame, strict=True)
    figure.add_scatter3d(x=x, y=y, z=z, mode="lines", line={"color": "#9aa0a8", "width": 2}, **quiet)
    for pairs in diagram.edges.values():
        for pair in pairs:
            figure.add_scatter3d(**columns(pair), mode="lines", line={"color": style.INK, "width": 2}, **quiet)
    for facet in diagram.facets() if ternary else ():
        figure.add_mesh3d(**columns(facet), i=[0], j=[1], k=[2], color="#8fb4d9", opacity=0.3, **quiet)
    for k, series in enumerate(diagram.series):
        marks = [mark for mark in shown if mark.series == series]
        points = _points(diagram, marks, k, far)
        points["marker"] |= {
            "symbol": _SOLID_SYMBOLS[k % len(_SOLID_SYMBOLS)],
            "size": [6 if mark.vertex else 4 for mark in marks],
            "line": {"width": 1, "color": style.INK},  # one width for all in three dimensions
        }
        figure.add_scatter3d(**columns(marks), **points)
    named = gathered([pair for pair in diagram.labelled if pair[0].formation <= max(m.formation for m in shown)])
    texts = ["<br>".join(_name(*pair) for pair in marks) for marks in named[: style.MOST_LABELS]]
    firsts = [marks[0][0] for marks in named[: style.MOST_LABELS]]
    figure.add_scatter3d(**columns(firsts), mode="text", text=texts, textposition="bottom center", **quiet)
    hidden = {"visible": False}
    figure.update_layout(
        _layout(diagram),
        scene={"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data"},
        showlegend=len(diagram.series) > 1,
    )
    return figure


def volume(volumes: Volumes, *, quantity: Quantity = "formation", far: float = 0.05) -> Any:
    """Return enthalpy against volume as a plotly figure; see :func:`uspex_bridge.figures.volume.draw`."""
    figure = go.Figure()
    diagram = volumes.diagram
    for k, series in enumerate(diagram.series):
        marks = [mark for mark in volumes.marks if mark.series == series]
        figure.add_scattergl(
            x=[mark.entry.volume_per_atom for mark in marks],
            y=[height(mark, quantity) for mark in marks],
            **_points(diagram, marks, k, far),
        )
    by_name = {mark.entry.name: mark for mark in volumes.marks}
    outliers = [(by_name[outlier.entry.name], outlier) for outlier in volumes.outliers or ()]
    if outliers:
        figure.add_scattergl(
            x=[mark.entry.volume_per_atom for mark, _ in outliers],
            y=[height(mark, quantity) for mark, _ in outliers],
            mode="markers",
            name="outliers",
            marker={"symbol": "circle-open", "size": 14, "color": style.ALARM},
            text=[f"{_hover(diagram, mark)}<br>{outlier.kind}" for mark, outlier in outliers],
            customdata=[mark.entry.name for mark, _ in outliers],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_layout(_layout(diagram), showlegend=len(diagram.series) > 1 or bool(outliers))
    figure.update_xaxes(title="volume (Å³/atom)")
    figure.update_yaxes(title=f"{'enthalpy' if quantity == 'enthalpy' else 'enthalpy of formation'} (eV/atom)")
    return figure


def _clicked(diagram: Diagram) -> dict[str, Any]:
    """Return title and crystal of the structures that a click shows, by name."""
    entries = [mark.entry for mark in diagram.marks[-_CLICKED:]]
    shown = {}
    for entry, structure in diagram.pool.structures(entries):
        crystal = describe(structure)
        title = f"{entry.name}  {entry.formula}" + (f"  {crystal.symbol} ({crystal.number})" if crystal else "")
        shown[entry.name] = (title, crystals.viewed(crystal.cell if crystal else structure))
    return shown


def _scale(colours: Colormap, low: float, high: float, title: str) -> dict[str, Any]:
    """Return a colour scale whose last colour is that of everything beyond it."""
    steps = [[0.999 * k / 20, to_hex(colours(k / 20))] for k in range(21)]
    beyond = to_hex(colours(2.0))
    bar = {"title": {"text": f"{title}<br>(eV/atom)"}, "thickness": 14}
    return {"cmin": low, "cmax": high, "colorscale": [*steps, [1.0, beyond]], "colorbar": bar}


def _distance_scale(far: float) -> dict[str, Any]:
    return _scale(style.distance_colours(), 0.0, far, "enthalpy above hull")


def _restyle(scale: dict[str, Any], colours: list[list[float]]) -> dict[str, Any]:
    """Return what a button changes: one value each for all series, the colours by series."""
    return {
        "marker.color": colours,
        "marker.cmin": scale["cmin"],
        "marker.cmax": scale["cmax"],
        "marker.colorscale": [scale["colorscale"]] * len(colours),
        "marker.colorbar.title.text": scale["colorbar"]["title"]["text"],
    }


def _points(diagram: Diagram, marks: Sequence[Mark], number: int, far: float) -> dict[str, Any]:
    """Return look and texts of the points of a series; a click finds their structures by ``customdata``."""
    return {
        "mode": "markers",
        "name": diagram.series[number],
        "marker": _marker(marks, number, far),
        "text": [_hover(diagram, mark) for mark in marks],
        "customdata": [mark.entry.name for mark in marks],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _marker(marks: Sequence[Mark], number: int, far: float) -> dict[str, Any]:
    return _distance_scale(far) | {
        "symbol": _SYMBOLS[number % len(_SYMBOLS)],
        "size": [11 if mark.vertex else 7 for mark in marks],
        "color": [mark.above for mark in marks],
        "showscale": number == 0,
        "opacity": 1,
        "line": {"width": [1.2 if mark.vertex else 0.3 for mark in marks], "color": style.INK},
    }


def _hover(diagram: Diagram, mark: Mark) -> str:
    """Return what stands beside a point under the mouse: its numbers and what it decomposes into."""
    entry = mark.entry
    made = "" if entry.generation is None else f"<br>generation {entry.generation}, {escape(entry.origin)}"
    group = f"<br>space group {entry.symbol or entry.space_group}" if entry.symbol or entry.space_group else ""
    return (
        f"<b>{escape(entry.name)}  {entry.formula}</b><br>{mark.above:.4f} eV/atom above the hull<br>"
        f"formation {mark.formation:.4f} eV/atom<br>H {entry.enthalpy_per_atom:.4f} eV/atom<br>"
        f"V {entry.volume_per_atom:.3f} Å³/atom{group}{_decomposition(diagram, mark)}{made}"
        + (f"<br>{', '.join(entry.marks)}" if entry.marks else "")
    )


def _decomposition(diagram: Diagram, mark: Mark) -> str:
    """Return the phases that a structure above the hull decomposes into, with their shares of the atoms."""
    if mark.vertex:
        return ""
    parts = (f"{share:.2f} {style.reduced(one.entry.composition)}" for one, share in diagram.products(mark))
    return f"<br>decomposes into {' + '.join(parts)} (atom fractions)"


def _name(mark: Mark, group: str) -> str:
    said = remarks(mark)
    formula = re.sub(r"(\d+)", r"<sub>\1</sub>", style.reduced(mark.entry.composition))
    symbol = "" if group == "?" else f" {style.group_html(group)}"
    return f"{formula}{symbol}{f' ({said})' if said else ''}"


def _layout(diagram: Diagram) -> dict[str, Any]:
    below = "; ".join(filter(None, (*diagram.head(), diagram.note)))
    return {
        "template": "plotly_white",
        "title": f"{'–'.join(diagram.components)}<br><sup>{below}</sup>",
        "font": {"family": "sans-serif", "size": 14},
        "hovermode": "closest",
    }
