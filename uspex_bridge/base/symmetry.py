"""Space groups through spglib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import spglib
from ase.data import atomic_numbers, chemical_symbols

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import ConfigError

#: Tolerance that suits structures relaxed with noise or written with few digits, Å.
SYMPREC = 0.1


@dataclass(frozen=True)
class SpaceGroup:
    """A space group as spglib finds it.

    Attributes:
        number, symbol: of the International Tables.
        operations: of its point group: the more, the more symmetric.
        atoms: in a primitive cell.
    """

    number: int
    symbol: str
    operations: int = field(compare=False)
    atoms: int = field(compare=False)

    def __str__(self) -> str:
        return f"{self.symbol} ({self.number})"


def find_group(structure: Structure, symprec: float = SYMPREC) -> SpaceGroup | None:
    """Return the space group within ``symprec`` Å, None where spglib finds none.

    Raises:
        ConfigError: ``symprec`` is no positive number.
    """
    check_symprec(symprec)
    numbers = [atomic_numbers[symbol] for symbol in structure.symbols]
    try:
        given = (structure.cell.tolist(), structure.scaled.tolist(), numbers)
        found = spglib.get_symmetry_dataset(given, symprec=symprec)
    except spglib.SpglibError:
        return None
    if found is None:
        return None
    atoms = len(set(found.mapping_to_primitive.tolist()))
    return SpaceGroup(int(found.number), str(found.international), _operations(int(found.hall_number)), atoms)


def check_symprec(symprec: float) -> None:
    """Refuse a tolerance that spglib cannot work with: it brings the process down.

    Raises:
        ConfigError: it is no positive number.
    """
    if not 0 < symprec < math.inf:
        raise ConfigError(f"symprec = {symprec:g} is not a positive number, Å")


@lru_cache
def _operations(hall_number: int) -> int:
    """Return the order of the point group of a setting of a space group."""
    found = spglib.get_symmetry_from_database(hall_number)
    return 0 if found is None else len({rotation.tobytes() for rotation in found["rotations"]})


def space_group(symbols: Sequence[str], cell: Array, scaled: Array, symprec: float = SYMPREC) -> str:
    """Return international symbol and number, e.g. ``Pm-3m (221)``, or ``?`` where spglib finds none."""
    return str(find_group(Structure(tuple(symbols), cell, scaled), symprec) or "?")


def primitive(structure: Structure, symprec: float = 0.01) -> Structure:
    """Return the primitive cell of a structure, itself where spglib finds no symmetry; no atom moves by more."""
    numbers = [atomic_numbers[symbol] for symbol in structure.symbols]
    try:
        found = spglib.standardize_cell(
            (structure.cell.tolist(), structure.scaled.tolist(), numbers),
            to_primitive=True,
            no_idealize=True,
            symprec=symprec,
        )
    except spglib.SpglibError:
        return structure
    if found is None:
        return structure
    cell, scaled, kinds = found
    symbols = tuple(chemical_symbols[k] for k in kinds)
    return Structure(symbols, np.array(cell), np.array(scaled), structure.comment)


def is_symmetric(symbols: Sequence[str], cell: Array, scaled: Array, symprec: float = 1e-4) -> bool:
    """Return whether there is any symmetry but the lattice's translations, to ``symprec`` Å."""
    try:
        spglib_cell = (cell.tolist(), scaled.tolist(), [atomic_numbers[s] for s in symbols])
        found = spglib.get_symmetry(spglib_cell, symprec=symprec)
    except spglib.SpglibError:
        return False
    return found is not None and len(found["rotations"]) > 1
