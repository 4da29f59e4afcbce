"""Structures from a user's files: POSCARs (many in one file, as USPEX gathers them) and all that ASE reads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.vasp.structure import parse_poscars, read_potcar_symbols

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure as PymatgenStructure

#: Names that USPEX and VASP give to POSCARs; ASE would read only the first of several.
POSCAR_NAME = re.compile(r"POSCAR|CONTCAR|\.vasp$|\.poscar$|geom\.(in|out)$", re.IGNORECASE)


def read_structures(path: Path) -> list[Structure]:
    """Read every structure of a file; of a POSCAR or CONTCAR the POTCAR beside it may name the elements.

    Raises:
        InputError: the file is missing, is no structure, or has no periodic cell.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, not a file' if path.is_dir() else 'there is no such file'}")
    if POSCAR_NAME.search(path.name):
        potcar = path.with_name("POTCAR")
        symbols = read_potcar_symbols(potcar) if path.name in ("POSCAR", "CONTCAR") and potcar.is_file() else None
        return parse_poscars(path.read_text(encoding="utf-8", errors="replace"), str(path), symbols)
    return _read_with_ase(path)


def from_ase(atoms: Atoms, name: str) -> Structure:
    """Return the structure of ASE atoms, fixed atoms as selective dynamics; ``name`` is for those that have none.

    Raises:
        InputError: there are no atoms, or no cell in three dimensions.
    """
    from ase.constraints import FixAtoms

    if len(atoms) == 0 or atoms.cell.rank < 3:
        raise InputError(f"{name}: no atoms or no cell in three dimensions")
    free = None
    fixed = [i for c in atoms.constraints if isinstance(c, FixAtoms) for i in c.get_indices()]
    if fixed:
        free = np.ones((len(atoms), 3), dtype=bool)
        free[fixed] = False
    return replace(to_structure(atoms, str(atoms.info.get("name", name))), free=free)


def from_pymatgen(structure: PymatgenStructure, name: str) -> Structure:
    """Return the structure of a pymatgen Structure.

    Raises:
        InputError: a site is disordered.
    """
    for site in structure:
        if not site.is_ordered:
            raise InputError(f"{name}: the site at {site.frac_coords.round(4).tolist()} is disordered: {site.species}")
    symbols = tuple(site.specie.symbol for site in structure)
    return Structure(symbols, np.array(structure.lattice.matrix), np.array(structure.frac_coords), name)


def _read_with_ase(path: Path) -> list[Structure]:
    import ase.io

    try:
        images = ase.io.read(path, index=":")
    except Exception as error:
        raise InputError(f"{path}: ASE cannot read it: {type(error).__name__}: {error}") from error
    several = len(images) > 1
    structures = []
    for k, atoms in enumerate(images, 1):
        try:
            structures.append(from_ase(atoms, f"{path.stem}-{k}" if several else path.stem))
        except InputError as error:
            raise InputError(f"{path}: structure {k} has {str(error).partition(': ')[2]}") from None
    return structures
