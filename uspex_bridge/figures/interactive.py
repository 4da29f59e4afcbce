"""The figures of a composition space as pages to look around in: what a point is shows when the mouse is over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from matplotlib.colors import Colormap, to_hex

from uspex_bridge.base.files import writing
from uspex_bridge.figures import hull as hull_figure
from uspex_bridge.figures import style
from uspex_bridge.figures import ternary as ternary_figure
from uspex_bridge.figures.diagram import Diagram, Mark, is_tie
from uspex_bridge.figures.volume import Quantity, Volumes, height

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "cross", "x")


def save(figure: Any, path: Path, *, online: bool = False) -> None:
    """Write a page; with ``online`` it is small and loads plotly.js from the network, else it needs nothing.

    Raises:
        OutputError: it cannot be written.
    """
    script = "cdn" if online else True
    text = figure.to_html(include_plotlyjs=script, config={"displaylogo": False}, default_height="96vh")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


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
            mode="markers",
            name=series,
            marker=_marker(marks, k, far),
            text=[_hover(diagram, mark) for mark in marks],
            hovertemplate="%{text}<extra></extra>",
        )
    for mark, group in diagram.labelled[: style.MOST_LABELS]:
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
            mode="markers",
            name=series,
            marker=_marker(marks, k, far) | {"size": [11 if mark.vertex else 7 for mark in marks]},
            text=[_hover(diagram, mark) for mark in marks],
            hovertemplate="%{text}<extra></extra>",
            cliponaxis=False,
        )
        values[0].append([mark.above for mark in marks])
        values[1].append([mark.formation for mark in marks])
    inner = [(mark, group) for mark, group in diagram.labelled if max(mark.fractions) < 1 - 1e-9]
    named = hull_figure.gathered(inner[: style.MOST_LABELS])  # phases of one composition share a label
    figure.add_scatterternary(
        a=[marks[0][0].fractions[2] for marks in named],
        b=[marks[0][0].fractions[0] for marks in named],
        c=[marks[0][0].fractions[1] for marks in named],
        mode="text",
        text=["<br>".join(f"\u2002{_name(mark, group)}" for mark, group in marks) for marks in named],  # off the marker
        textposition="middle right",
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
    menu = {"buttons": buttons, "type": "buttons", "direction": "right", "x": 0, "y": 1.1, "xanchor": "left"}
    figure.update_layout(
        _layout(diagram),
        updatemenus=[menu],
        showlegend=len(diagram.series) > 1,
        ternary={"sum": 1, "aaxis": {"title": upper}, "baxis": {"title": left}, "caxis": {"title": right}},
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
            mode="markers",
            name=series,
            marker=_marker(marks, k, far),
            text=[_hover(diagram, mark) for mark in marks],
            hovertemplate="%{text}<extra></extra>",
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
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_layout(_layout(diagram), showlegend=len(diagram.series) > 1 or bool(outliers))
    figure.update_xaxes(title="volume (Å³/atom)")
    figure.update_yaxes(title=f"{'enthalpy' if quantity == 'enthalpy' else 'enthalpy of formation'} (eV/atom)")
    return figure


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


def _marker(marks: Sequence[Mark], number: int, far: float) -> dict[str, Any]:
    return _distance_scale(far) | {
        "symbol": _SYMBOLS[number % len(_SYMBOLS)],
        "size": [11 if mark.vertex else 7 for mark in marks],
        "color": [mark.above for mark in marks],
        "showscale": number == 0,
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
    said = ", ".join([*(["tie"] if is_tie(mark) else []), *mark.entry.marks])
    formula = re.sub(r"(\d+)", r"<sub>\1</sub>", style.reduced(mark.entry.composition))
    symbol = "" if group == "?" else f" {style.group_html(group)}"
    return f"{formula}{symbol}{f' ({said})' if said else ''}"


def _layout(diagram: Diagram) -> dict[str, Any]:
    return {
        "template": "plotly_white",
        "title": f"{'–'.join(diagram.components)} {diagram.where()}" + (f"<br>{diagram.note}" if diagram.note else ""),
        "font": {"family": "sans-serif", "size": 14},
        "hovermode": "closest",
    }
