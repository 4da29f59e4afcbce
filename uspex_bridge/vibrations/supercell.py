"""A crystal and the supercell in which its vibrations are sampled, with the symmetry that both share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry.minkowski_reduction import minkowski_reduce
from ase.spacegroup.symmetrize import prep_symmetry, refine_symmetry, symmetrize_rank1, symmetrize_rank2
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from uspex_bridge.base.atoms import to_atoms
from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import ConfigError, InputError

Repeats = tuple[int, int, int]
#: Largest number of cells along one lattice vector that is tried for ``min_image``.
MOST_REPEATS = 12
#: Å, tolerance of the symmetry of a structure that has been made exact.
EXACT = 1e-4


@dataclass(frozen=True, eq=False)
class Supercell:
    """Repeated unit cells; atom k of the unit cell has the places k Nc to (k + 1) Nc - 1.

    Attributes:
        unit: the crystal's cell of n atoms.
        masses: of its atoms, (n,), amu.
        repeats: number of cells along each lattice vector; their product is Nc.
    """

    unit: Structure
    masses: Array
    repeats: Repeats = (1, 1, 1)

    @classmethod
    def of_arrays(cls, file: Mapping[str, Array]) -> Supercell:
        """Return the supercell that :attr:`arrays` in a file describe."""
        unit = Structure(tuple(map(str, file["symbols"])), file["cell"], file["scaled"])
        a, b, c = map(int, file["repeats"])
        return cls(unit, file["masses"], (a, b, c))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps of it."""
        return {
            "cell": self.unit.cell,
            "scaled": self.unit.scaled,
            "symbols": np.array(self.unit.symbols),
            "masses": self.masses,
            "repeats": np.array(self.repeats),
        }

    def __len__(self) -> int:
        return len(self.unit) * self.cells

    @property
    def cells(self) -> int:
        """Number of unit cells Nc."""
        return int(np.prod(self.repeats))

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Lattice vectors of the cells in units of the unit cell's, (Nc, 3)."""
        return np.array(list(itertools.product(*map(range, self.repeats))), dtype=np.int64)

    @cached_property
    def cell(self) -> Array:
        """Lattice vectors of the supercell as rows, (3, 3), Å."""
        return np.asarray(self.unit.cell * np.array(self.repeats)[:, None])

    @cached_property
    def sites(self) -> Array:
        """Cartesian sites of all atoms, (N, 3), Å."""
        return np.asarray((self.unit.scaled[:, None] + self.offsets[None]).reshape(-1, 3) @ self.unit.cell)

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Element of every atom."""
        return tuple(symbol for symbol in self.unit.symbols for _ in range(self.cells))

    @property
    def all_masses(self) -> Array:
        """Mass of every atom, (N,), amu."""
        return self.tile(self.masses)

    def at(self, cell: Array, scaled: Array) -> Supercell:
        """Return the same supercell of a cell (3, 3) with atoms at fractional coordinates (n, 3)."""
        return replace(self, unit=replace(self.unit, cell=cell, scaled=scaled))

    def tile(self, values: Array) -> Array:
        """Repeat what the unit cell's atoms have, (n, ...), for all cells, (N, ...)."""
        return np.repeat(values, self.cells, axis=0)

    def fold(self, values: Array) -> Array:
        """Average what all atoms have, (N, ...), over the cells, (n, ...)."""
        return np.asarray(values.reshape(len(self.unit), self.cells, *values.shape[1:]).mean(axis=1))

    def atoms(self, displacements: Array | None = None) -> Atoms:
        """Return ASE atoms, displaced by (N, 3) Å."""
        places = self.sites if displacements is None else self.sites + displacements
        return Atoms(list(self.symbols), positions=places, cell=self.cell, pbc=True)

    @cached_property
    def shortest_contact(self) -> Array:
        """Distance from each atom to the nearest one, images included, (N,), Å."""
        atoms = to_atoms(replace(self.unit, free=None))
        vectors = atoms.get_all_distances(mic=True)
        np.fill_diagonal(vectors, np.linalg.norm(minkowski_reduce(self.unit.cell)[0], axis=1).min())
        return self.tile(vectors.min(axis=1))


@dataclass(frozen=True, eq=False)
class Symmetry:
    """Operations of a crystal that its supercell keeps, with the unit cell's lattice translations.

    Attributes:
        rotations: in the unit cell's fractional coordinates, (S, 3, 3).
        translations: fractional, (S, 3).
        maps: which atom an operation takes each atom of the unit cell to, (S, n).
    """

    rotations: NDArray[np.int64]
    translations: Array
    maps: NDArray[np.int64]

    @classmethod
    def of(cls, lattice: Supercell) -> Symmetry:
        """Find the operations of a crystal whose symmetry is exact (see :func:`symmetrised`)."""
        rotations, translations, maps = prep_symmetry(to_atoms(lattice.unit), symprec=EXACT)
        repeats = np.array(lattice.repeats)
        in_supercell = rotations * repeats[None, None, :] / repeats[None, :, None]
        kept = np.abs(in_supercell - np.rint(in_supercell)).max(axis=(1, 2)) < 1e-9
        return cls(rotations[kept].astype(np.int64), translations[kept], np.array(maps)[kept])

    def forces(self, values: Array, cell: Array) -> Array:
        """Return the part of vectors on the unit cell's atoms, (n, 3), that all operations leave as it is."""
        centred = values - values.mean(axis=0)
        inverse = np.linalg.inv(cell).T
        return np.asarray(
            symmetrize_rank1(cell, inverse.T, centred, self.rotations, self.translations, self.maps.tolist())
        )

    def stress(self, values: Array, cell: Array) -> Array:
        """Return the part of a stress (6,) that all operations leave as it is."""
        full = voigt_6_to_full_3x3_stress(values)
        return np.asarray(full_3x3_to_voigt_6_stress(symmetrize_rank2(cell, np.linalg.inv(cell), full, self.rotations)))

    def in_supercell(self, lattice: Supercell) -> dict[str, Array]:
        """Return all operations in the supercell's fractional coordinates, its inner translations included."""
        repeats = np.array(lattice.repeats)
        rotations = np.rint(self.rotations * repeats[None, None, :] / repeats[None, :, None]).astype(np.intc)
        moves = (self.translations[:, None] + lattice.offsets[None]) / repeats
        return {
            "rotations": np.repeat(rotations, lattice.cells, axis=0),
            "translations": moves.reshape(-1, 3) % 1.0,
        }


def symmetrised(structure: Structure, symprec: float) -> Structure:
    """Return the structure with the symmetry it has within ``symprec`` Å made exact.

    Raises:
        InputError: spglib finds no symmetry at all, which happens where atoms coincide.
    """
    atoms = to_atoms(replace(structure, free=None))
    try:
        refine_symmetry(atoms, symprec=symprec)
    except Exception as error:  # noqa: BLE001 (spglib raises and returns None in several ways)
        raise InputError(f"spglib finds no symmetry within {symprec:g} Å: {error}") from None
    return replace(structure, cell=atoms.cell.array, scaled=atoms.get_scaled_positions(wrap=False))


def choose_repeats(structure: Structure, min_image: float, asked: Repeats | None = None) -> Repeats:
    """Return the smallest supercell whose images are at least ``min_image`` Å apart and that keeps the point group.

    One atom has no vibrations: the smallest supercell has two at least.

    Args:
        structure: its symmetry exact.
        min_image: Å.
        asked: the supercell that is wanted instead, doubled along each vector where it is one atom.

    Raises:
        ConfigError: it would need more than 12 cells along a lattice vector.
    """
    if asked is not None:
        return (2, 2, 2) if np.prod(asked) * len(structure) == 1 else asked
    rotations = prep_symmetry(to_atoms(replace(structure, free=None)), symprec=EXACT)[0]
    most = [
        min(MOST_REPEATS, int(np.ceil(min_image / length)) + 2) for length in np.linalg.norm(structure.cell, axis=1)
    ]
    for repeats in sorted(itertools.product(*(range(1, m + 1) for m in most)), key=lambda r: (np.prod(r), r)):
        scale = np.array(repeats)
        turned = rotations * scale[None, None, :] / scale[None, :, None]
        if np.abs(turned - np.rint(turned)).max() > 1e-9:
            continue
        shortest = np.linalg.norm(minkowski_reduce(structure.cell * scale[:, None])[0], axis=1).min()
        if shortest >= min_image - 1e-6 and np.prod(repeats) * len(structure) > 1:
            return (int(repeats[0]), int(repeats[1]), int(repeats[2]))
    raise ConfigError(f"min_image = {min_image:g} Å needs more than {MOST_REPEATS} cells along a lattice vector")
