"""Second derivatives of the free energy: whether a crystal is stable at a temperature, and its phonons there.

Auxiliary phonons of the self-consistent approximation are positive by construction. The curvature of the free energy
against the centroids is Φ + Φ₃ Λ Φ₃ with the average third-order force constants Φ₃; the fourth order is left out
(Bianco, Errea, Paulatto, Calandra and Mauri, Phys. Rev. B 96, 014111 (2017)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import units

from uspex_bridge.base.data import Array
from uspex_bridge.vibrations.constants import Regression, symfc_atoms
from uspex_bridge.vibrations.ensemble import Ensemble
from uspex_bridge.vibrations.harmonic import IMAGINARY
from uspex_bridge.vibrations.modes import HBAR, THZ_PER_EV, Density, Modes
from uspex_bridge.vibrations.supercell import Supercell, Symmetry

#: Equations per third-order force constant below which none are fitted, and atoms above which it takes too much memory.
_ENOUGH, _MOST_ATOMS = 4, 100
#: Fits until the constant part of the forces is settled, where symmetry leaves one; relative change that ends them.
_FITS, _SETTLED = 30, 1e-3


@dataclass(frozen=True, eq=False)
class Hessian:
    """Curvature of the free energy of a supercell.

    Attributes:
        phi: (3N, 3N), eV/Å².
        lowest_thz: its lowest frequency on the supercell's wave vectors; negative for an imaginary one.
        error_thz: its standard error, half the difference of both halves of the sample.
    """

    phi: Array
    lowest_thz: float
    error_thz: float

    def summary(self) -> dict[str, Any]:
        """Return what a record keeps, plain values."""
        return {
            "hessian_thz": self.lowest_thz,
            "hessian_error_thz": self.error_thz,
            "unstable": self.lowest_thz < IMAGINARY,
        }


def hessian(lattice: Supercell, density: Density, ensemble: Ensemble) -> Hessian | None:
    """Return the curvature of the free energy, None where the configurations are too few for the third order.

    The two factors of the third-order term are fitted to different halves, so that noise does not soften the crystal.

    Args:
        lattice: supercell at the centroids.
        density: the Gaussian at self-consistency.
        ensemble: configurations drawn from it.
    """
    if len(lattice) > _MOST_ATOMS:
        return None
    symmetry = Symmetry.of(lattice)
    third, second = _ThirdOrder(lattice, density, symmetry), Regression(lattice, symmetry)
    u, even, odd = _halves(ensemble)
    if len(u) // 2 * 3 * len(lattice) < _ENOUGH * max(third.size, second.size):
        return None

    def constants(pairs: slice) -> Array:
        """Fit Φ to some of the pairs."""
        moves, forces = u[pairs], odd[pairs]
        return second.fit(np.concatenate([moves, -moves]), np.concatenate([forces, -forces]), prior=density.phi).phi

    phi, parts = constants(slice(None)), [slice(k, None, 2) for k in (0, 1)]
    if third.size == 0:
        found, each = phi, [constants(part) for part in parts]
    else:
        response = _response(density)
        one, other = (third.projected(u[part], even[part]) for part in parts)
        both = np.einsum("amn,mn,bmn->ab", one, response, other, optimize=True)
        found = phi + 0.5 * (both + both.T)
        each = [
            constants(part) + np.einsum("amn,mn,bmn->ab", half, response, half, optimize=True)
            for part, half in zip(parts, (one, other), strict=True)
        ]
    first, second_half = (_lowest(part, lattice) for part in each)
    return Hessian(found, _lowest(found, lattice), 0.5 * abs(first - second_half))


def _lowest(phi: Array, lattice: Supercell) -> float:
    return float(Modes.of(phi, lattice.all_masses).energies[0]) * THZ_PER_EV


def _halves(ensemble: Ensemble) -> tuple[Array, Array, Array]:
    """Return displacements of the first of each antithetic pair, the even and the odd part of its forces."""
    one, opposite = np.split(ensemble.forces, 2)
    return np.split(ensemble.displacements, 2)[0], 0.5 * (one + opposite), 0.5 * (one - opposite)


class _ThirdOrder:
    """Third-order force constants that the symmetry leaves, and their projection on modes."""

    def __init__(self, lattice: Supercell, density: Density, symmetry: Symmetry) -> None:
        from symfc.basis_sets import FCBasisSetO3

        self.atoms, self.density = len(lattice), density
        try:
            self._basis: Any = FCBasisSetO3(
                symfc_atoms(lattice), spacegroup_operations=symmetry.in_supercell(lattice)
            ).run()
            self.size = int(self._basis.blocked_basis_set.shape[1])
        except AssertionError:  # symfc's way to say that symmetry leaves none
            self.size = 0
        probe = np.random.default_rng(0).standard_normal((len(lattice.unit), 3))
        self._polar = bool(np.abs(symmetry.forces(probe, lattice.unit.cell)).max() > 1e-8)

    def projected(self, displacements: Array, even: Array) -> Array:
        """Fit to even forces (M, N, 3) and return Φ₃ with its last two indices along modes, (3N, 3N - 3, 3N - 3)."""
        from symfc.solvers import FCSolverO3

        size, constant = 3 * self.atoms, np.zeros(even.shape[1:])
        flat = displacements.reshape(len(even), -1)
        covariance = flat.T @ flat / len(even)
        for _ in range(_FITS):
            found = FCSolverO3(self._basis).solve(displacements, even - constant).full_fc
            assert found is not None
            full = found.transpose(0, 3, 1, 4, 2, 5).reshape(size, size, size)
            before = constant
            if self._polar:
                constant = even.mean(axis=0) + 0.5 * np.tensordot(full, covariance, 2).reshape(-1, 3)
            if np.abs(constant - before).max() <= _SETTLED * np.abs(constant).max():
                break
        vectors = self.density.modes.vectors / self.density.modes.roots[:, None]
        return np.asarray(np.einsum("abc,bm,cn->amn", full, vectors, vectors, optimize=True))


def _response(density: Density) -> Array:
    """Return the static Λ of pairs of modes, (3N - 3, 3N - 3), Å⁴ amu²/eV."""
    energies, thermal = density.modes.energies, units.kB * density.temperature
    occupied = np.zeros_like(energies) if thermal == 0.0 else 1.0 / np.expm1(energies / thermal)
    gaps = energies[:, None] - energies
    same = np.abs(gaps) < 1e-6 * energies.max()
    slope = np.zeros_like(energies) if thermal == 0.0 else -occupied * (occupied + 1.0) / thermal
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = np.where(same, 0.5 * (slope[:, None] + slope), (occupied[:, None] - occupied) / gaps)
    sums = (1.0 + occupied[:, None] + occupied) / (energies[:, None] + energies)
    scale = HBAR**2 / (2.0 * energies)
    return np.asarray(-np.outer(scale, scale) * (sums - differences))
