"""A structure as crystallographers print it: space group, conventional lattice, Wyckoff sites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spglib

from uspex_bridge.base.data import Structure

#: Highest space group number of each system.
_SYSTEMS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)


@dataclass(frozen=True)
class Site:
    """One Wyckoff site of the conventional cell, e.g. Ni 8a at (0, 0, 0)."""

    element: str
    wyckoff: str
    position: tuple[float, float, float]


@dataclass(frozen=True)
class Crystal:
    """A structure in the standard setting of its space group.

    Attributes:
        symbol, number: of the space group; system: crystal system.
        lattice: a, b, c (Å), alpha, beta, gamma (degrees) of the conventional cell.
        atoms: in the conventional cell.
        sites: one per orbit.
    """

    symbol: str
    number: int
    system: str
    lattice: tuple[float, ...]
    atoms: int
    sites: tuple[Site, ...]


def describe(structure: Structure, symprec: float = 0.1) -> Crystal | None:
    """Return the standardised crystal, None where spglib finds no symmetry; ``symprec`` is its tolerance in Å."""
    from ase.data import atomic_numbers, chemical_symbols
    from ase.geometry import cell_to_cellpar

    numbers = [atomic_numbers[symbol] for symbol in structure.symbols]
    try:
        given = (structure.cell.tolist(), structure.scaled.tolist(), numbers)
        found = spglib.get_symmetry_dataset(given, symprec=symprec)
        if found is None:
            return None
        standard = (found.std_lattice.tolist(), found.std_positions.tolist(), found.std_types.tolist())
        again = spglib.get_symmetry_dataset(standard, symprec=1e-3)  # the standard cell is symmetric to the digit
    except spglib.SpglibError:
        return None
    if again is None or again.number != found.number:
        return None
    orbits = np.asarray(again.crystallographic_orbits)
    sites = []
    for orbit in dict.fromkeys(orbits.tolist()):
        x, y, z = (float(value) for value in np.asarray(found.std_positions)[orbit] % 1.0 % 1.0)
        letter = f"{int((orbits == orbit).sum())}{again.wyckoffs[orbit]}"
        sites.append(Site(chemical_symbols[found.std_types[orbit]], letter, (x, y, z)))
    sites.sort(key=lambda site: (structure.symbols.index(site.element), site.wyckoff[-1]))
    system = next(name for last, name in _SYSTEMS if found.number <= last)
    lattice = tuple(float(value) for value in cell_to_cellpar(found.std_lattice))
    return Crystal(str(found.international), int(found.number), system, lattice, len(orbits), tuple(sites))
