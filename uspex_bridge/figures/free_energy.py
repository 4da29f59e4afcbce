"""Free energies against temperature, the hull at each, and phonons at rest and at a temperature."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from ase.dft.kpoints import parse_path_string
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uspex_bridge.base.data import Array
from uspex_bridge.base.words import counted
from uspex_bridge.figures import style
from uspex_bridge.results.thermal.free_energy import FreeEnergies, ThermalPhase
from uspex_bridge.results.thermal.free_energy_tables import names_of, theory_of
from uspex_bridge.vibrations.dispersion import Dispersion, Mesh
from uspex_bridge.vibrations.modes import THZ_PER_EV
from uspex_bridge.vibrations.supercell import Supercell, Symmetry

#: Phases whose lines are drawn, nearest a hull first, and phases whose phonons are.
_MOST_LINES, _MOST_PHONONS = 12, 12
#: Points along the band path, and length of the mesh of the density of states, Å.
_POINTS, _LENGTH = 400, 60.0
#: Part of the path that two ticks must be apart for both to have a name.
_APART = 0.04


def save_all(answer: FreeEnergies, out: Path) -> Iterator[Path]:
    """Draw all figures of an answer into its folder and yield their paths.

    Raises:
        OutputError: one cannot be written.
    """
    if answer.hulls:
        path = out / "free-energy.png"
        style.save(draw(answer), path)
        yield path
    chosen = [phase for phase in _nearest(answer) if _files(phase, answer, out)][:_MOST_PHONONS]
    called = names_of(answer)
    for phase in chosen:
        name = called(phase.entry).replace(":", "-").replace("/", "-")
        path = out / f"phonons-{name}-{phase.formula}.png"
        style.save(draw_phonons(phase, _files(phase, answer, out), theory_of(answer)), path)
        yield path


def _nearest(answer: FreeEnergies) -> list[ThermalPhase]:
    """Return the phases that come nearest to a hull at any temperature, those without a free energy last."""

    def nearest(phase: ThermalPhase) -> float:
        found = [answer.above(phase.entry.name, t) for t in answer.temperatures]
        return min((value for value in found if not math.isnan(value)), default=math.inf)

    return sorted(answer.phases, key=nearest)


@style.styled
def draw(answer: FreeEnergies, *, width: float = style.PAGE) -> Figure:
    """Draw distances to the hull against temperature; of two components also the hulls.

    Args:
        answer: free energies.
        width: mm.
    """
    hulls = [hull for hull in answer.hulls.values() if len(hull.names) == 2]
    figure = style.new_figure(width, 0.46)
    left, *right = figure.subplots(1, 2 if hulls else 1, squeeze=False)[0]
    called = names_of(answer)
    for k, phase in enumerate(_nearest(answer)[:_MOST_LINES]):
        name = phase.entry.name
        above = [1000 * answer.above(name, t) for t in answer.temperatures]
        if all(map(math.isnan, above)):
            continue
        errors = [1000 * (phase.error(answer.method, t) or 0.0) for t in answer.temperatures]
        left.errorbar(
            answer.temperatures,
            above,
            yerr=errors if any(errors) else None,
            color=style.PALETTE[k % len(style.PALETTE)],
            marker=style.MARKERS[k % len(style.MARKERS)],
            ls="-" if k < len(style.PALETTE) else "--",
            ms=3,
            lw=0.9,
            capsize=1.5,
            label=f"{called(phase.entry)} {style.subscripts(phase.formula)} {style.group_text(phase.group)}",
        )
    if len(answer.temperatures) == 1:
        left.set_xticks(answer.temperatures)
    left.set_xlabel("temperature (K)")
    left.set_ylabel("above the hull of $G$ (meV/atom)")
    left.set_ylim(bottom=min(-0.5, left.get_ylim()[0]))
    if left.has_data():
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside lower center", ncols=6 if right else 4, fontsize=5.5
        )
    if right:
        _hulls(right[0], answer)
    style.head(figure, f"{answer.pressure_gpa:g} GPa", theory_of(answer), _left_out(answer))
    return figure


def _left_out(answer: FreeEnergies) -> str:
    """Say how many phases are in no hull of free energies for what they are."""
    unstable = sum(phase.unstable for phase in answer.phases) if answer.method == "harmonic" else 0
    said = [f"{counted(unstable, 'phase')} with imaginary modes"] if unstable else []
    widest = max(answer.hulls.values(), key=lambda hull: len(hull.outside), default=None)
    if widest is not None and widest.outside:
        said.append(f"{counted(len(widest.outside), 'phase')} not made of {', '.join(widest.names)}")
    return f"left out: {' and '.join(said)}" if said else ""


def _hulls(axes: Axes, answer: FreeEnergies) -> None:
    hulls = {f"{t:g} K": hull for t, hull in answer.hulls.items()}
    if answer.at_rest is not None and len(answer.at_rest.names) == 2:
        hulls = {"at rest": answer.at_rest, **hulls}
    for k, (label, hull) in enumerate(hulls.items()):
        colour = style.PALETTE[k % len(style.PALETTE)]
        points = [(p.amounts[1] / sum(p.amounts), 1000 * p.formation) for p in hull.points]
        corners = sorted((p.amounts[1] / sum(p.amounts), 1000 * p.formation) for p in hull.vertices)
        axes.plot(*np.array(points).T, ls="", marker=".", ms=3, color=colour, alpha=0.5)
        axes.plot(*np.array(corners).T, marker=style.MARKERS[k % len(style.MARKERS)], ms=3, color=colour, label=label)
        axes.set_xlabel(f"$x$ in {hull.names[0]}$_{{1-x}}${hull.names[1]}$_x$")
    axes.set_ylabel("$G$ of formation (meV/atom)")
    heights = [1000 * p.formation for hull in hulls.values() for p in hull.points]
    axes.set_ylim(1.3 * min(heights) - 2.0, min(max(*heights, 5.0), 50.0) + 2.0)
    axes.legend()


def _files(phase: ThermalPhase, answer: FreeEnergies, out: Path) -> dict[str, Path]:
    """Return the files of a phase's phonons: at rest, and by scha at the highest temperature."""
    found = {}
    for (method, temperature), line in phase.lines.items():
        path = out / "phonons" / f"{line['key']}.npz"
        if path.is_file():
            label = "at rest" if method == "harmonic" else f"{temperature:g} K"
            if method == "scha" and phase.softest(temperature) is None:
                label += ", auxiliary"
            if method == "harmonic" or temperature == max(answer.temperatures):
                found[label] = path
    return found


@style.styled
def draw_phonons(
    phase: ThermalPhase, files: dict[str, Path], level: str = "", *, width: float = style.COLUMN
) -> Figure:
    """Draw dispersion and density of states; imaginary frequencies are negative.

    Args:
        phase: what they are of.
        files: by what made them; the first sets the path.
        level: model that they are of.
        width: mm.
    """
    figure = style.new_figure(width, 0.75)
    bands, states = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    drawn = [(label, *read_phonons(file)) for label, file in files.items()]
    points, places, ticks, names = _path(drawn[0][2])
    for k, (label, phi, lattice) in enumerate(drawn):
        dispersion, colour = Dispersion(phi, lattice), style.PALETTE[k]
        lines = bands.plot(places, THZ_PER_EV * dispersion.energies(points), color=colour, lw=0.7)
        lines[0].set_label(label)
        values, density = _density(dispersion, lattice)
        states.plot(density, values, color=colour, lw=0.8)
        states.fill_betweenx(values, 0.0, density, color=colour, alpha=0.15, lw=0)
    for tick in ticks:
        bands.axvline(tick, color=style.GRID, lw=0.5, zorder=0)
    bands.set_xticks(ticks, names)
    bands.set_xlim(0.0, ticks[-1])
    for axes in (bands, states):
        axes.axhline(0.0, color=style.PALE, lw=0.6, zorder=0)
    bands.set_ylabel("frequency (THz)")
    states.set_xlabel("states (1/THz)")
    states.set_xlim(left=0.0)
    if len(files) > 1:
        bands.legend(loc="upper right")
    title = f"{style.subscripts(phase.formula)} {style.group_text(phase.group)}"
    pressure = phase.entry.pressure_gpa
    style.head(figure, title, "" if pressure is None else f"{pressure:g} GPa", level)
    return figure


def _path(lattice: Supercell) -> tuple[Array, Array, list[float], list[str]]:
    """Return wave vectors along a band path and where they lie, NaN between its parts, then its ticks and their names.

    Two points between which the path jumps share a tick, as in ``X|M``.
    """
    path = Supercell(lattice.unit, lattice.masses).atoms().cell.bandpath(npoints=0)
    reciprocal, here = np.linalg.inv(lattice.unit.cell).T, 0.0
    parts = parse_path_string(path.path)
    ends = [path.special_points[name] for part in parts for name in part]
    whole = sum(np.linalg.norm((b - a) @ reciprocal) for a, b in pairwise(ends))
    points: list[Array] = []
    places: list[float] = []
    ticks: list[float] = []
    names: list[str] = []
    for part in parts:
        if names:
            names[-1] += f"|{_symbol(part[0])}"
            points.append(ends[0])
            places.append(np.nan)
        else:
            ticks, names = [here], [_symbol(part[0])]
        for start, end in pairwise(part):
            first, last = path.special_points[start], path.special_points[end]
            length = float(np.linalg.norm((last - first) @ reciprocal))
            share = np.linspace(0.0, 1.0, max(2, round(_POINTS * length / whole)))
            points += list(first + share[:, None] * (last - first))
            places += list(here + share * length)
            here += length
            ticks.append(here)
            names.append(_symbol(end))
    for k in range(1, len(names)):
        if ticks[k] - ticks[k - 1] < _APART * here:
            names[k] = ""  # it would stand on the one before
    return np.array(points), np.array(places), ticks, names


def _symbol(name: str) -> str:
    return "Γ" if name == "G" else style.subscripts(name)


def _density(dispersion: Dispersion, lattice: Supercell) -> tuple[Array, Array]:
    """Return frequencies, THz, and the density of states per cell, 1/THz, on a mesh, broadened a little."""
    on = dispersion.on(Mesh.of(lattice, Symmetry.of(lattice), _LENGTH))
    values = THZ_PER_EV * on.energies
    spread = 0.01 * float(values.max() - values.min()) + 1e-3
    grid = np.linspace(values.min() - 4 * spread, values.max() + 4 * spread, 400)
    density = np.zeros_like(grid)
    for row, weight in zip(values, on.weights, strict=True):
        density += weight * np.exp(-0.5 * ((grid[:, None] - row) / spread) ** 2).sum(axis=1)
    return grid, np.asarray(density / (spread * np.sqrt(2.0 * np.pi)))


def read_phonons(path: Path) -> tuple[Array, Supercell]:
    """Read force constants (3N, 3N), eV/Å², and their supercell from a file of ``free-energy``.

    They are the curvature of the free energy where that is known, else the auxiliary ones.
    """
    with np.load(path, allow_pickle=False) as file:
        return file["hessian" if "hessian" in file else "phi"], Supercell.of_arrays(file)
