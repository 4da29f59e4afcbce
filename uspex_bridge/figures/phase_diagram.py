"""Phase diagrams in pressure and temperature: the phase of lowest G of each composition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from uspex_bridge.base.data import Array
from uspex_bridge.figures import style
from uspex_bridge.results.reading.model import Composition
from uspex_bridge.results.thermal.free_energy_tables import names_of, theory_of
from uspex_bridge.results.thermal.phase_diagram import PhaseDiagram

#: Points of the grid along each axis.
_FINE = 300
#: Shares of the picture, of its width and of its height, that a phase needs for its name to stand in it.
_ROOM, _WIDE, _HIGH = 0.04, 0.25, 0.08


def save_all(diagram: PhaseDiagram, out: Path) -> Iterator[Path]:
    """Draw the diagram of each composition into a folder and yield their paths; none where there is one temperature.

    Raises:
        OutputError: one cannot be written.
    """
    if len(diagram.temperatures) < 2:
        return
    for composition in diagram.compositions:
        path = out / f"phase-diagram-{style.reduced(composition)}.png"
        style.save(draw(diagram, composition), path)
        yield path


@style.styled
def draw(diagram: PhaseDiagram, composition: Composition, *, width: float = style.COLUMN) -> Figure:
    """Draw which phase of a composition has the lowest G at which pressure and temperature.

    G is interpolated linearly between the computed points, which are marked: hollow where the composition is above the
    hull there. Between points at which the same phases are not known nothing is drawn.

    Args:
        diagram: free energies at several pressures and temperatures.
        composition: of the phases.
        width: mm.
    """
    phases = diagram.phases(composition)
    pressures, temperatures = np.array(diagram.pressures), np.array(diagram.temperatures)
    fine = np.linspace(pressures[0], pressures[-1], _FINE), np.linspace(temperatures[0], temperatures[-1], _FINE)
    grid = np.stack(np.meshgrid(*fine, indexing="ij"), axis=-1)
    surfaces = {name: diagram.surface(name)[0] for name in phases}
    values = np.array([RegularGridInterpolator((pressures, temperatures), g)(grid) for g in surfaces.values()])
    lowest = np.where(np.isfinite(values), values, np.inf).argmin(axis=0)
    hidden = _open(np.array(list(surfaces.values())))
    rows, columns = (
        np.clip(np.searchsorted(points, axis, side="right") - 1, 0, len(points) - 2)
        for points, axis in zip((pressures, temperatures), fine, strict=True)
    )
    shown = np.ma.masked_array(lowest, mask=hidden[np.ix_(rows, columns)])
    seen = [k for k in range(len(phases)) if (shown == k).any()]
    figure = style.new_figure(width, 0.8)
    axes = figure.subplots()
    colours = [style.PALETTE[seen.index(k) % len(style.PALETTE)] if k in seen else "white" for k in range(len(phases))]
    norm = BoundaryNorm(np.arange(len(phases) + 1) - 0.5, len(phases))
    axes.pcolormesh(*fine, shown.T, cmap=ListedColormap(colours), norm=norm, alpha=0.35, shading="nearest", lw=0)
    called = names_of(*diagram.answers)
    names = [f"{called(phase.entry)} {style.group_text(phase.group)}" for phase in phases.values()]
    left = [k for k in seen if not _name(axes, fine, shown == k, names[k])]
    if left:
        axes.legend(handles=[Patch(color=colours[k], alpha=0.35, lw=0, label=names[k]) for k in left])
    for answer in diagram.answers:
        for temperature in diagram.temperatures:
            name, on_hull = diagram.lowest(composition, answer, temperature)
            if name:
                face = style.INK if on_hull else "white"
                axes.plot(
                    answer.pressure_gpa, temperature, "o", ms=2.8, mfc=face, mec=style.INK, mew=0.6, clip_on=False
                )
    axes.set_xlabel("pressure (GPa)")
    axes.set_ylabel("temperature (K)")
    axes.set_xlim(pressures[0], pressures[-1])
    axes.set_ylim(temperatures[0], temperatures[-1])
    style.head(figure, style.formula_text(composition), theory_of(diagram.answers[0]))
    if shown.mask.any():
        style.note(figure, "white: a phase that is lowest beside it has no free energy there")
    return figure


def _open(values: Array) -> NDArray[np.bool_]:
    """Tell between which points (pressures - 1, temperatures - 1) nothing is known, from G (phases, points, points).

    There a phase that is lowest at one of the four corners has no G at another.
    """
    known = np.isfinite(values)
    lowest = np.where(known, values, np.inf).argmin(axis=0)
    corners = [(slice(i, i + values.shape[1] - 1), slice(j, j + values.shape[2] - 1)) for i in (0, 1) for j in (0, 1)]
    everywhere = np.all([known[:, a, b] for a, b in corners], axis=0)
    sure = [np.take_along_axis(everywhere, lowest[a, b][None], axis=0)[0] for a, b in corners]
    return np.asarray(~np.all(sure, axis=0))


def _name(axes: Axes, fine: tuple[Array, Array], where: Array, name: str) -> bool:
    """Write a phase's name into its region, where there is room."""
    points = np.argwhere(np.ma.filled(where, False))
    wide, high = np.ptp(points, axis=0) / _FINE
    if len(points) < _ROOM * _FINE**2 or wide < _WIDE or high < _HIGH:
        return False
    middle = points[np.linalg.norm(points - points.mean(axis=0), axis=1).argmin()]
    axes.text(fine[0][middle[0]], fine[1][middle[1]], name, ha="center", va="center", fontsize=style.FORMULA)
    return True
