"""Structures from a user's files: POSCARs (many in one file, as USPEX gathers them) and all that ASE reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.vasp.structure import parse_poscars, read_potcar_symbols

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


def _read_with_ase(path: Path) -> list[Structure]:
    import ase.io
    from ase.constraints import FixAtoms

    try:
        images = ase.io.read(path, index=":")
    except Exception as error:
        raise InputError(f"{path}: ASE cannot read it: {type(error).__name__}: {error}") from error
    structures = []
    for k, atoms in enumerate(images, 1):
        if len(atoms) == 0 or atoms.cell.rank < 3:
            raise InputError(f"{path}: structure {k} has no atoms or no cell in three dimensions")
        free = None
        fixed = [i for c in atoms.constraints if isinstance(c, FixAtoms) for i in c.get_indices()]
        if fixed:
            free = np.ones((len(atoms), 3), dtype=bool)
            free[fixed] = False
        symbols = tuple(atoms.get_chemical_symbols())
        name = str(atoms.info.get("name", f"{path.stem}-{k}" if len(images) > 1 else path.stem))
        structures.append(Structure(symbols, atoms.cell.array, atoms.get_scaled_positions(wrap=False), name, free))
    return structures
