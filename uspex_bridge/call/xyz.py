"""input.xyz and output.xyz of abinitioCode 20: extended XYZ, every atom in USPEX's own order.

USPEX rebuilds molecules from that order, so atoms are neither sorted nor wrapped into the cell.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from uspex_bridge.base.atoms import extxyz, to_atoms
from uspex_bridge.base.data import Frame, Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.call.structures import from_ase

Periodic = tuple[bool, bool, bool]


def read_xyz(path: Path) -> tuple[Structure, Periodic]:
    """Read input.xyz: its structure, and along which cell vectors it is periodic.

    Raises:
        InputError: it cannot be read, holds several structures, or has no cell in three dimensions.
    """
    from ase.io import read

    try:
        images = read(path, index=":", format="extxyz")
    except KeyError as error:
        raise InputError(f"{path}: {error} is not an element") from None
    except Exception as error:  # ASE's reader raises whatever its parsers meet
        raise InputError(f"{path}: not extended XYZ: {error or type(error).__name__}") from error
    if len(images) != 1:
        raise InputError(f"{path}: it holds {len(images)} structures; one is relaxed at a time")
    (atoms,) = images
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise InputError(f"{path}: a coordinate or the cell is not finite")
    if abs(np.linalg.det(atoms.cell.array)) < 1e-6:
        raise InputError(f'{path}: no cell with a volume; its second line needs Lattice="..." of three vectors')
    if not set(atoms.numbers) - {0}:
        raise InputError(f"{path}: no atom of a known element")
    a, b, c = (bool(one) for one in atoms.pbc)
    atoms.pbc = True  # the caller keeps the cell of what lies in vacuum
    return from_ase(atoms, str(path)), (a, b, c)


def format_xyz(structure: Structure, frame: Frame, value: float, pressure_gpa: float, periodic: Periodic) -> str:
    """Write output.xyz: the frame with forces and stress.

    Args:
        structure: what input.xyz held; its order of atoms is kept.
        frame: the result.
        value: what ``energy=`` says, eV per cell.
        pressure_gpa: target pressure; ``enthalpy=`` holds E + PV at it whatever ``energy=`` says.
        periodic: what ``pbc=`` says.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = to_atoms(structure)
    atoms.set_cell(frame.cell)
    atoms.set_positions(frame.positions, apply_constraint=False)
    atoms.set_constraint()
    atoms.pbc = periodic
    atoms.calc = SinglePointCalculator(atoms, energy=value, forces=frame.forces, stress=frame.stress)
    atoms.info = {"enthalpy": frame.enthalpy(pressure_gpa), "pressure_gpa": pressure_gpa}
    return extxyz([atoms])
