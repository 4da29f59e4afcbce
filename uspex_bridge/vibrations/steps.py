"""Steps of the self-consistent harmonic approximation: stiffness of the modes, centroids, cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.vibrations.ensemble import Value
from uspex_bridge.vibrations.modes import Density, Modes
from uspex_bridge.vibrations.supercell import Supercell

#: Å, the furthest that a centroid moves at once.
MOST_MOVE = 0.1
#: The largest strain at once.
MOST_STRAIN = 0.03


@dataclass(frozen=True, eq=False)
class Change:
    """Force constants relative to those of a Gaussian: Φ' = Φ^1/2 A Φ^1/2 in its mass-weighted modes.

    The eigenvalues of A are ratios of stiffness, free of units and of the choice of coordinates; steps between Φ and Φ'
    run along the shortest path on the manifold of positive matrices, Φ^1/2 A^w Φ^1/2, and keep the symmetry.

    Attributes:
        density: the Gaussian of Φ.
        ratios: eigenvalues of A, ascending, (3N - 3,); negative where Φ' has negative curvature.
        vectors: eigenvectors of A in the modes of Φ, (3N - 3, 3N - 3).
    """

    density: Density
    ratios: Array
    vectors: Array

    @classmethod
    def between(cls, density: Density, phi: Array) -> Change:
        """Compare force constants (3N, 3N), eV/Å², with those of a Gaussian."""
        modes = density.modes
        roots = np.sqrt(modes.stiffness)
        weighted = modes.vectors.T @ (phi / np.outer(modes.roots, modes.roots)) @ modes.vectors
        return cls(density, *np.linalg.eigh(weighted / np.outer(roots, roots)))

    def step(self, share: float, most: float) -> Array:
        """Return force constants ``share`` of the way, no ratio beyond ``most`` or below its inverse at the end of it.

        Negative curvature counts as softest: under a wider Gaussian it will be less.
        """
        modes = self.density.modes
        ratios = np.clip(self.ratios, 1.0 / most, most) ** share
        roots = np.sqrt(modes.stiffness)
        inner = np.outer(roots, roots) * ((self.vectors * ratios) @ self.vectors.T)
        return np.asarray(np.outer(modes.roots, modes.roots) * (modes.vectors @ inner @ modes.vectors.T))

    @cached_property
    def gain(self) -> float:
        """About how much the free energy of the supercell falls if Φ becomes Φ', eV.

        For each ratio λ it is kT (λ - 1 - ln λ) / 2, exact for a classical harmonic crystal, with the mean potential
        energy of the mode in place of kT / 2.
        """
        potential = (self.vectors**2).T @ self.density.potential
        ratios = np.clip(self.ratios, 1.0 / 3.0, 3.0)
        return float((potential * (ratios - 1.0 - np.log(ratios))).sum())

    @property
    def energy(self) -> float:
        """By about how much the mean potential energies of the modes differ, without their signs, eV."""
        potential = (self.vectors**2).T @ self.density.potential
        return float((potential * np.abs(np.clip(self.ratios, 1.0 / 3.0, 3.0) - 1.0)).sum())


def bounded(modes: Modes, temperature: float, lattice: Supercell, most: float) -> Density:
    """Return the Gaussian of modes, the soft and imaginary ones stiffened until no atom strays too far.

    Args:
        modes: any.
        temperature: K.
        lattice: the supercell.
        most: largest root mean square displacement over the distance to the nearest atom.
    """
    least = max(1e-3 * float(np.abs(modes.energies).max()), 1e-4)
    while True:
        density = Density(modes.floored(least), temperature)
        if float((density.amplitudes / lattice.shortest_contact).max()) <= most or least > 10.0:
            return density
        least *= 1.1


def move_centroids(lattice: Supercell, density: Density, forces: Array) -> Supercell:
    """Move the centroids by a Newton step along mean forces (n, 3), eV/Å, with the force constants as the Hessian."""
    modes = density.modes
    pushed = modes.vectors.T @ (lattice.tile(forces).ravel() / modes.roots)
    moves = lattice.fold(((modes.vectors / modes.stiffness) @ pushed / modes.roots).reshape(-1, 3))
    moves *= min(1.0, MOST_MOVE / max(float(np.linalg.norm(moves, axis=1).max()), 1e-12))
    return lattice.at(lattice.unit.cell, lattice.unit.scaled + moves @ np.linalg.inv(lattice.unit.cell))


def strain_cell(cell: Array, strains: Array, wanted: Value) -> Array:
    """Return a cell (3, 3) that goes along strains (D, 3, 3) as far as is wanted, less what is noise of that."""
    sizes = wanted.mean**3 / np.maximum(wanted.mean**2 + wanted.error**2, 1e-30)
    strain = np.tensordot(sizes, strains, 1)
    return np.asarray(cell @ (np.eye(3) + strain * min(1.0, MOST_STRAIN / max(float(np.abs(strain).max()), 1e-12))))
