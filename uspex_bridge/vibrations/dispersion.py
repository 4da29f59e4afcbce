"""Phonons between the wave vectors that a supercell holds: Fourier interpolation of its force constants.

A block Φ(i, j) of the supercell stands for the sum over all images of j. It is given to the nearest image, or in equal
parts to those that are equally near, as is usual (Parlinski, Li and Kawazoe, Phys. Rev. Lett. 78, 4063 (1997)).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import spglib
from ase.geometry.minkowski_reduction import minkowski_reduce
from numpy.typing import NDArray

from uspex_bridge.base.data import Array
from uspex_bridge.vibrations.modes import energies_of, free_energies
from uspex_bridge.vibrations.supercell import Supercell, Symmetry

#: Å, images whose distances differ by less are equally near.
_SAME = 1e-4
#: eV, the three acoustic modes at Γ lie below this and are left out.
_ZERO = 1e-5


@dataclass(frozen=True, eq=False)
class Mesh:
    """Wave vectors in units of the reciprocal lattice vectors, (Q, 3), and their weights, (Q,), which add up to 1."""

    points: Array
    weights: Array

    @classmethod
    def of(cls, lattice: Supercell, symmetry: Symmetry, length: float) -> Mesh:
        """Return the irreducible points of a Γ-centred mesh with about ``length`` Å times |b| points along each b."""
        numbers = np.linalg.norm(np.linalg.inv(lattice.unit.cell), axis=0)
        return cls.regular([max(1, round(length * number)) for number in numbers], symmetry)

    @classmethod
    def regular(cls, numbers: tuple[int, int, int] | list[int], symmetry: Symmetry) -> Mesh:
        """Return the irreducible points of a Γ-centred mesh of so many points along each reciprocal lattice vector."""
        found = spglib.get_stabilized_reciprocal_mesh(numbers, symmetry.rotations, qpoints=[0.0, 0.0, 0.0])
        if found is None:
            raise AssertionError("spglib refuses the mesh")
        first, count = np.unique(found[0], return_counts=True)
        return cls(found[1][first] / np.array(numbers), count / count.sum())


class Dispersion:
    """Phonon energies at any wave vector from force constants (3N, 3N), eV/Å², of a supercell."""

    def __init__(self, phi: Array, lattice: Supercell) -> None:
        self.lattice = lattice
        self._vectors, self._blocks = _spread(phi, lattice)

    def energies(self, points: Array) -> Array:
        """Return ħω at wave vectors (Q, 3), ascending, (Q, 3n), eV; negative for an imaginary frequency."""
        n = 3 * len(self.lattice.unit)
        roots = np.repeat(np.sqrt(self.lattice.masses), 3)
        weighted = (self._blocks / np.outer(roots, roots)).reshape(len(self._vectors), -1)
        phases = np.exp(2j * np.pi * points @ self._vectors.T)
        dynamical = (phases @ weighted).reshape(-1, n, n)
        values = np.linalg.eigvalsh(0.5 * (dynamical + dynamical.conj().swapaxes(1, 2)))
        return energies_of(np.asarray(values))

    def on(self, mesh: Mesh) -> MeshEnergies:
        """Return the energies on a mesh."""
        return MeshEnergies(self.energies(mesh.points), mesh.weights)

    def fill(self, larger: Supercell) -> Array:
        """Return the force constants (3N', 3N') of a larger supercell of the same crystal."""
        n, cells = len(larger.unit), larger.cells
        repeats = np.array(larger.repeats)
        blocks = np.zeros((n, cells, 3, n, cells, 3))
        for vector, block in zip(self._vectors, self._blocks, strict=True):
            for c, offset in enumerate(larger.offsets):
                target = np.ravel_multi_index(tuple((offset + vector) % repeats), larger.repeats)
                blocks[:, c, :, :, target, :] += block.reshape(n, 3, n, 3)
        phi = blocks.reshape(3 * n * cells, 3 * n * cells)
        return np.asarray(0.5 * (phi + phi.T))


@dataclass(frozen=True, eq=False)
class MeshEnergies:
    """Phonon energies on a mesh, (Q, 3n), eV, and the weights of its points, (Q,)."""

    energies: Array
    weights: Array

    @cached_property
    def _real(self) -> NDArray[np.bool_]:
        return np.abs(self.energies) > _ZERO

    @property
    def lowest(self) -> float:
        """The lowest energy, eV, that of the acoustic modes at Γ (zero) included."""
        return float(np.where(self._real, self.energies, 0.0).min())

    @property
    def imaginary(self) -> float:
        """The share of modes with an imaginary frequency."""
        return float(((self.energies < -_ZERO).mean(axis=1) * self.weights).sum())

    def free_energy(self, temperature: float) -> float:
        """Return the harmonic free energy per unit cell, eV; imaginary modes are left out."""
        kept = self.energies > _ZERO
        each = np.where(kept, free_energies(np.where(kept, self.energies, 1.0), temperature), 0.0)
        return float((each.sum(axis=1) * self.weights).sum())

    @property
    def zero_point(self) -> float:
        """Zero-point energy per unit cell, eV."""
        return self.free_energy(0.0)


def _spread(phi: Array, lattice: Supercell) -> tuple[NDArray[np.int64], Array]:
    """Give each block of the supercell to its nearest images.

    Returns:
        lattice vectors T of the crystal, (K, 3), and the blocks between the atoms of a cell and those of the cell at T,
        (K, 3n, 3n), eV/Å².
    """
    n, cells = len(lattice.unit), lattice.cells
    compact = phi.reshape(n, cells, 3, n, cells, 3)[:, 0].transpose(
        0, 2, 3, 1, 4
    )  # (n, n, Nc, 3, 3), from the cell at 0
    reduced, operation = minkowski_reduce(lattice.cell)
    around = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    gaps = lattice.sites.reshape(n, cells, 3)[None] - lattice.unit.scaled[:, None, None] @ lattice.unit.cell
    nearest = -np.rint(gaps @ np.linalg.inv(reduced)).astype(np.int64)
    shifts = nearest[..., None, :] + around
    distances = np.linalg.norm(gaps[..., None, :] + shifts @ reduced, axis=-1)
    near = distances < distances.min(axis=-1, keepdims=True) + _SAME
    i, j, c, k = np.nonzero(near)
    vectors = lattice.offsets[c] + (shifts[i, j, c, k] @ operation) * np.array(lattice.repeats)
    parts = compact[i, j, c] / near.sum(axis=-1)[i, j, c][:, None, None]
    unique, place = np.unique(vectors, axis=0, return_inverse=True)
    blocks = np.zeros((len(unique), n, n, 3, 3))
    np.add.at(blocks, (place.ravel(), i, j), parts)
    return unique, blocks.transpose(0, 1, 3, 2, 4).reshape(len(unique), 3 * n, 3 * n)
