"""Tests that keep holes of a potential and broken geometries out of a search.

Each raises :class:`~uspex_bridge.base.errors.Rejected`, a short code and the number that was too large or too small.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import minkowski_reduce

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import CalculationError, Rejected
from uspex_bridge.relaxation.contacts import contacts
from uspex_bridge.relaxation.offered import GUARDS, load_offered
from uspex_bridge.relaxation.protocol import Guards

Moment = Literal["start", "result"]

#: A layer of so many Å without an atom is vacuum: no crystal has one, and no model reaches across it.
VACUUM = 9.0


def closest_pair(atoms: Atoms, below: float) -> tuple[float, str] | None:
    """Return the smallest d / (r_i + r_j) under ``below`` with a text naming the pair, or None."""
    close = contacts(atoms, below)
    if len(close.relative) == 0:
        return None
    k = int(close.relative.argmin())
    i, j, ratio = int(close.first[k]), int(close.second[k]), float(close.relative[k])
    pair = f"{atoms.symbols[i]}{i + 1}-{atoms.symbols[j]}{j + 1}"
    return ratio, f"{pair} {close.distance[k]:.3f} Å apart, {ratio:.2f} of the sum of covalent radii"


def cell_heights(cell: Array) -> Array:
    """Return the distances between opposite faces of a cell (3, 3), Å."""
    volume = abs(np.linalg.det(cell))
    areas = np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    return np.asarray(volume / np.maximum(areas, 1e-12))


def reduced(atoms: Atoms) -> Atoms:
    """Return the same crystal in its shortest lattice vectors: what is judged of a cell must not hang on its choice."""
    try:
        cell, _ = minkowski_reduce(atoms.cell.array)
    except (RuntimeError, OverflowError):  # a cell so skewed that the reduction does not end
        return atoms
    return Atoms(atoms.numbers, positions=atoms.positions, cell=cell, pbc=True)


def widest_gap(atoms: Atoms) -> tuple[float, str]:
    """Return the widest layer of a reduced cell that holds no atom's centre, Å, and the axis across it."""
    heights = cell_heights(atoms.cell.array)
    gaps = []
    for axis in range(3):
        along = np.sort(atoms.cell.scaled_positions(atoms.positions)[:, axis] % 1.0)
        gaps.append(float(np.diff([*along, along[0] + 1.0]).max() * heights[axis]))
    axis = int(np.argmax(gaps))
    return gaps[axis], "abc"[axis]


def check_start(atoms: Atoms, guards: Guards, *, cell_moves: bool = True, pressure_gpa: float = 0.0) -> bool:
    """Test a starting structure; return True where overlapping atoms must be pushed apart first.

    Raises:
        Rejected: too many atoms, a flat or dilute cell, a vacuum in a cell that moves or under pressure, or an overlap
            where the protocol refuses overlaps.
    """
    n = len(atoms)
    if n > guards.max_atoms:
        raise Rejected("too-large", f"{n} atoms, the protocol allows {guards.max_atoms} (max_atoms)")
    short = reduced(atoms)
    height = float(cell_heights(short.cell.array).min())
    if height < guards.min_height:
        raise Rejected(
            "flat", f"the cell is flat: {height:.2f} Å between faces, the limit is {guards.min_height} (min_height)"
        )
    gap, axis = widest_gap(short)
    per_atom = atoms.get_volume() / n
    if per_atom > guards.max_volume and (cell_moves or gap <= VACUUM):
        raise Rejected("dilute", f"{per_atom:.0f} Å³ per atom, the limit is {guards.max_volume:.0f} (max_volume)")
    if gap > VACUUM and cell_moves:
        raise Rejected(
            "vacuum",
            f"a vacuum of {gap:.1f} Å along {axis}: clusters, slabs and molecules in boxes are relaxed at a fixed cell "
            "only (ISIF = 2), because a variable cell would close it",
        )
    if gap > VACUUM and pressure_gpa != 0.0:
        raise Rejected(
            "vacuum",
            f"a vacuum of {gap:.1f} Å along {axis} at {pressure_gpa:g} GPa: H = E + PV would hold the vacuum's PV; "
            "clusters, slabs and molecules in boxes are relaxed without pressure",
        )
    close = closest_pair(atoms, guards.overlap_ratio)
    if close is None:
        return False
    if guards.overlap == "reject":
        raise Rejected("overlap", f"atoms overlap: {close[1]}, the limit is {guards.overlap_ratio} (overlap_ratio)")
    return True


def check_geometry(atoms: Atoms, guards: Guards, start_volume: float) -> None:
    """Test a geometry on the way, before a model is asked about it.

    ``start_volume`` is the starting cell's determinant, Å³, with its sign.

    Raises:
        Rejected: not finite, collapsed, exploded.
    """
    cell = atoms.cell.array
    if not (np.isfinite(cell).all() and np.isfinite(atoms.positions).all()):
        raise Rejected("not-finite", "the geometry is no longer finite")
    growth = float(np.linalg.det(cell)) / start_volume
    volume = growth * abs(start_volume)
    n = len(atoms)
    spheres = float((4.0 / 3.0 * np.pi * covalent_radii[atoms.numbers] ** 3).sum())
    if volume < guards.min_packing * spheres:
        limit = guards.min_packing * spheres / n
        raise Rejected(
            "collapse", f"the cell collapsed to {volume / n:.2f} Å³ per atom, the limit is {limit:.2f} (min_packing)"
        )
    for setting, most in (
        ("max_growth", guards.max_growth * max(abs(start_volume), spheres)),
        ("max_volume", guards.max_volume * n),
    ):
        if volume > most and growth > 1.0 + 1e-9:
            raise Rejected(
                "explosion",
                f"the cell grew to {volume / n:.0f} Å³ per atom ({growth:.1f} x), the limit is {most / n:.0f} "
                f"({setting})",
            )
    if close := closest_pair(atoms, guards.collapse_ratio):
        raise Rejected(
            "collapse", f"atoms collapsed: {close[1]}, the limit is {guards.collapse_ratio} (collapse_ratio)"
        )


def check_values(
    atoms: Atoms, energy: float, forces: Array, stress: Array, guards: Guards, energy_zero: str = "model"
) -> None:
    """Test what a model says of a geometry: energy (eV), forces (N, 3), stress (6,).

    Raises:
        Rejected: not finite, forces beyond belief, an energy no compound of these elements can have.
    """
    if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(stress).all()):
        raise Rejected("not-finite", "the model gave NaN or infinity, twice", lasting=False)
    largest = float(np.abs(forces).max(initial=0.0))
    if largest > guards.max_force:
        raise Rejected("force", f"a force of {largest:.3g} eV/Å, the limit is {guards.max_force:g} (max_force)")
    per_atom = energy / len(atoms)
    low, high = guards.energy_window
    if not low <= per_atom <= high:
        raise Rejected("energy", f"E = {per_atom:.4g} eV/atom lies outside {low:g} to {high:g} (energy_window)")
    if energy_zero == "mp-pbe":
        elements = elemental_energies()
        floor = sum(elements.get(s, low) for s in atoms.symbols) / len(atoms) - guards.hole_depth
        if per_atom < floor:
            raise Rejected(
                "hole",
                f"E = {per_atom:.3f} eV/atom, no compound of these elements lies below {floor:.2f} (hole_depth)",
            )


def check_result(atoms: Atoms, guards: Guards, pressure_gpa: float = 0.0) -> list[str]:
    """Test a relaxed structure, in which the model finds a pressure; return flags.

    Raises:
        Rejected: atoms too close, a pressure beyond belief, or a cell too elongated where the protocol refuses that.
    """
    if abs(pressure_gpa) > guards.max_pressure:
        raise Rejected(
            "pressure",
            f"the model finds {pressure_gpa:.3g} GPa in the result, the limit is {guards.max_pressure:g} "
            "(max_pressure)",
        )
    if close := closest_pair(atoms, guards.final_ratio):
        raise Rejected(
            "distance",
            f"the relaxed structure has atoms too close: {close[1]}, the limit is {guards.final_ratio} (final_ratio)",
        )
    lengths = reduced(atoms).cell.lengths()
    ratio = float(lengths.max() / lengths.min())
    if guards.axis == "off" or ratio <= guards.axis_ratio:
        return []
    if guards.axis == "reject":
        raise Rejected(
            "elongated", f"one lattice vector is {ratio:.1f} x another, the limit is {guards.axis_ratio} (axis_ratio)"
        )
    return ["elongated"]


def check_further(atoms: Atoms, guards: Guards, moment: Moment, pressure_gpa: float) -> None:
    """Ask the guards of other packages about a start, or about a result whose calculator holds what the model says.

    A guard is called with a copy of the atoms, the moment and the target pressure, GPa; it returns why it refuses the
    structure, or nothing.

    Raises:
        Rejected: a guard refuses it; the code is the guard's name.
        ConfigError: a guard cannot be imported.
        CalculationError: a guard raised.
    """
    for name in guards.further:
        guard = load_offered(GUARDS, name)
        try:
            copy = atoms.copy()
            copy.calc = atoms.calc
            why = guard(copy, moment, pressure_gpa)
        except Exception as error:  # another package's code may raise anything; none of it may end a search
            raise CalculationError(f"guard '{name}' failed: {type(error).__name__}: {error}") from error
        if why:
            raise Rejected(name, str(why))


@cache
def elemental_energies() -> dict[str, float]:
    """Energies of the elements on the Materials Project's PBE scale, eV/atom (elements.json says how made)."""
    path = Path(__file__).with_name("elements.json")
    table: dict[str, float] = json.loads(path.read_text())["energy_per_atom"]
    return {symbol: float(table[symbol]) for symbol in table if symbol in atomic_numbers}
