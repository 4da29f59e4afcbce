"""Structures as ASE atoms, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from uspex_bridge.base.data import Structure

if TYPE_CHECKING:
    from ase import Atoms


def to_atoms(structure: Structure) -> Atoms:
    """Return ASE atoms of a structure, selective dynamics as constraints."""
    from ase import Atoms
    from ase.constraints import FixAtoms, FixScaled

    atoms = Atoms(list(structure.symbols), scaled_positions=structure.scaled, cell=structure.cell, pbc=True)
    if structure.free is not None:
        fixed = ~structure.free
        whole = np.flatnonzero(fixed.all(axis=1))
        partly = np.flatnonzero(fixed.any(axis=1) & ~fixed.all(axis=1))
        atoms.set_constraint([FixAtoms(whole), *(FixScaled(int(i), mask=fixed[i]) for i in partly)])
    return atoms


def to_structure(atoms: Atoms, name: str = "") -> Structure:
    """Return the structure of ASE atoms with a cell in three dimensions, constraints left out."""
    return Structure(
        tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions(wrap=False), name
    )
