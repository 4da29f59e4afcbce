"""A structure as crystallographers print it: space group, conventional lattice, Wyckoff sites."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

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
        operations: of the space group in this setting, ``x, y, z`` and so on.
        cell: the conventional cell.
    """

    symbol: str
    number: int
    system: str
    lattice: tuple[float, ...]
    atoms: int
    sites: tuple[Site, ...]
    operations: tuple[str, ...] = field(repr=False)
    cell: Structure = field(repr=False)

    def row(self) -> dict[str, Any]:
        """Return it as plain values, without operations and cell."""
        shown = {name: getattr(self, name) for name in ("symbol", "number", "system", "lattice", "atoms")}
        return shown | {"sites": [asdict(site) for site in self.sites]}

    def cif(self, block: str) -> str:
        """Return it as a CIF with one data block."""
        names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
        atoms: Counter[str] = Counter()
        for site in self.sites:
            atoms[site.element] += int(site.wyckoff[:-1])
        lines = [
            f"data_{block}",
            f"_chemical_formula_sum '{' '.join(f'{symbol}{n}' for symbol, n in atoms.items())}'",
            f"_symmetry_space_group_name_H-M '{self.symbol}'",
            f"_symmetry_Int_Tables_number {self.number}",
            *(f"_cell_{name} {value:.6f}" for name, value in zip(names, self.lattice, strict=True)),
            *("loop_", "_symmetry_equiv_pos_site_id", "_symmetry_equiv_pos_as_xyz"),
            *(f"{k} '{operation}'" for k, operation in enumerate(self.operations, 1)),
            *("loop_", "_atom_site_type_symbol", "_atom_site_label", "_atom_site_symmetry_multiplicity"),
            *("_atom_site_Wyckoff_symbol", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"),
            "_atom_site_occupancy",
        ]
        for k, site in enumerate(self.sites, 1):
            place = " ".join(f"{x:.8f}" for x in site.position)
            element, letter = site.element, site.wyckoff[-1]
            lines.append(f"{element} {element}{k} {site.wyckoff[:-1]} {letter} {place} 1")
        return "\n".join(lines) + "\n"


def describe(structure: Structure, symprec: float = 0.1) -> Crystal | None:
    """Return the standardised crystal, None where spglib finds no symmetry; ``symprec`` is its tolerance in Å."""
    from ase.data import atomic_numbers, chemical_symbols
    from ase.geometry import cell_to_cellpar
    from pymatgen.core.operations import SymmOp

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
    operations = tuple(
        SymmOp.from_rotation_and_translation(rotation, translation).as_xyz_str()
        for rotation, translation in zip(again.rotations, again.translations, strict=True)
    )
    symbol, number = str(found.international), int(found.number)
    symbols = tuple(chemical_symbols[number] for number in found.std_types)
    cell = Structure(symbols, np.asarray(found.std_lattice), np.asarray(found.std_positions))
    return Crystal(symbol, number, system, lattice, len(orbits), tuple(sites), operations, cell)
