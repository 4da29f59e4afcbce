"""Space groups through spglib."""

from __future__ import annotations

from collections.abc import Sequence

import spglib
from ase.data import atomic_numbers

from uspex_bridge.base.data import Array, Structure


def space_group(symbols: Sequence[str], cell: Array, scaled: Array, symprec: float = 0.1) -> str:
    """Return international symbol and number, e.g. ``Pm-3m (221)``, or ``?`` where spglib finds none.

    ``symprec`` is spglib's distance tolerance in Å; 0.1 suits structures relaxed with noise or written with few digits.
    """
    try:
        spglib_cell = (cell.tolist(), scaled.tolist(), [atomic_numbers[s] for s in symbols])
        dataset = spglib.get_symmetry_dataset(spglib_cell, symprec=symprec)
    except spglib.SpglibError:
        return "?"
    return f"{dataset.international} ({dataset.number})" if dataset is not None else "?"


def group_number(structure: Structure, symprec: float) -> tuple[int, int]:
    """Return the number of the space group within ``symprec`` Å and the atoms of a primitive cell; 0, 0 for none."""
    numbers = [atomic_numbers[symbol] for symbol in structure.symbols]
    try:
        found = spglib.get_symmetry_dataset(
            (structure.cell.tolist(), structure.scaled.tolist(), numbers), symprec=symprec
        )
    except spglib.SpglibError:
        return 0, 0
    return (0, 0) if found is None else (int(found.number), len(set(found.mapping_to_primitive.tolist())))


def is_symmetric(symbols: Sequence[str], cell: Array, scaled: Array, symprec: float = 1e-4) -> bool:
    """Return whether there is any symmetry but the lattice's translations, to ``symprec`` Å."""
    try:
        spglib_cell = (cell.tolist(), scaled.tolist(), [atomic_numbers[s] for s in symbols])
        found = spglib.get_symmetry(spglib_cell, symprec=symprec)
    except spglib.SpglibError:
        return False
    return found is not None and len(found["rotations"]) > 1
