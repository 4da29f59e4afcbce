"""Structures as ASE atoms, and back."""

from __future__ import annotations

import io
from collections.abc import Sequence
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


def right_handed(atoms: Atoms) -> Atoms:
    """Return the same crystal in a right-handed cell, results included: VASP refuses others, and some models fail."""
    from ase.calculators.singlepoint import SinglePointCalculator

    if np.linalg.det(atoms.cell.array) >= 0:
        return atoms
    turned: Atoms = atoms.copy()
    turned.set_cell(atoms.cell.array[[1, 0, 2]])
    turned.set_pbc(atoms.pbc[[1, 0, 2]])
    if atoms.calc is not None and getattr(atoms.calc, "results", None):
        turned.calc = SinglePointCalculator(turned, **atoms.calc.results)
    return turned


def to_structure(atoms: Atoms, name: str = "") -> Structure:
    """Return the structure of ASE atoms with a cell in three dimensions, constraints left out."""
    return Structure(
        tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions(wrap=False), name
    )


def extxyz(frames: Sequence[Atoms]) -> str:
    """Return frames as the text of an extxyz file."""
    from ase.io.extxyz import write_extxyz

    stream = io.StringIO()
    write_extxyz(stream, frames)
    return stream.getvalue()
