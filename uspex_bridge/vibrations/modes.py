"""Normal modes of a set of force constants, their thermodynamics, and the Gaussian that they spread the atoms over.

A mode of energy E = ħω has the free energy E/2 + kT ln(1 - exp(-E/kT)) and, in mass-weighted coordinates, the variance
ħ² coth(E/2kT) / 2E. Masses are atomic mass units, energies eV, lengths Å, temperatures K.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import units
from ase.data import atomic_masses, atomic_numbers

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError

#: ħ in Å (eV amu)^1/2: a mode of force constant k (eV/Å²) and mass m (amu) has the energy HBAR (k/m)^1/2.
HBAR = units._hbar * units.J * units.s
#: Frequency in THz of a mode of 1 eV.
THZ_PER_EV = 1e-12 / (2.0 * np.pi * units._hbar * units.J)


def masses_of(symbols: Sequence[str], isotopes: Mapping[str, float] | None = None) -> Array:
    """Return the mass of each atom, amu: the element's mean, or what ``isotopes`` gives for it (``{"H": 2.014}``).

    Raises:
        ConfigError: ``isotopes`` names what is no element, or a mass is not positive.
    """
    isotopes = isotopes or {}
    for symbol, mass in isotopes.items():
        if symbol not in atomic_numbers or not mass > 0.0:
            raise ConfigError(f"isotopes: {symbol} = {mass}: give an element and its mass in amu")
    return np.array([isotopes.get(s, atomic_masses[atomic_numbers[s]]) for s in symbols], dtype=float)


def energies_of(eigenvalues: Array) -> Array:
    """Return ħω in eV of eigenvalues of mass-weighted force constants, eV/(Å² amu); imaginary modes are negative."""
    return np.asarray(HBAR * np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)))


def free_energies(energies: Array, temperature: float) -> Array:
    """Return the free energy in eV of each mode of positive energy, eV, zero point included."""
    thermal = units.kB * temperature
    if thermal == 0.0:
        return np.asarray(0.5 * energies)
    return np.asarray(0.5 * energies + thermal * np.log1p(-np.exp(-energies / thermal)))


def variances(energies: Array, temperature: float) -> Array:
    """Return the variance of each mode of positive energy in its mass-weighted coordinate, Å² amu."""
    thermal = units.kB * temperature
    spread = 1.0 if thermal == 0.0 else 1.0 / np.tanh(0.5 * energies / thermal)
    return np.asarray(0.5 * HBAR**2 * spread / energies)


@dataclass(frozen=True, eq=False)
class Modes:
    """Normal modes of N atoms, the three translations left out exactly.

    Attributes:
        energies: ħω, ascending, (3N - 3,), eV; negative for an imaginary frequency.
        vectors: mass-weighted, orthonormal, (3N, 3N - 3).
        masses: of each atom, (N,), amu.
    """

    energies: Array
    vectors: Array
    masses: Array

    @classmethod
    def of(cls, phi: Array, masses: Array) -> Modes:
        """Return the modes of force constants (3N, 3N), eV/Å²."""
        basis = internal(masses)
        roots = np.repeat(np.sqrt(masses), 3)
        values, vectors = np.linalg.eigh(basis.T @ (phi / np.outer(roots, roots)) @ basis)
        return cls(energies_of(values), basis @ vectors, masses)

    @cached_property
    def roots(self) -> Array:
        """Square root of the mass of each Cartesian coordinate, (3N,)."""
        return np.repeat(np.sqrt(self.masses), 3)

    @property
    def stiffness(self) -> Array:
        """Eigenvalues of the mass-weighted force constants, eV/(Å² amu), (3N - 3,)."""
        return np.asarray(np.sign(self.energies) * (self.energies / HBAR) ** 2)

    def constants(self, stiffness: Array | None = None) -> Array:
        """Return the force constants (3N, 3N) of these vectors with other eigenvalues (those of the modes if None)."""
        values = self.stiffness if stiffness is None else stiffness
        return np.outer(self.roots, self.roots) * ((self.vectors * values) @ self.vectors.T)

    def floored(self, least: float) -> Modes:
        """Return the modes with no energy below ``least``, eV."""
        return Modes(np.maximum(self.energies, least), self.vectors, self.masses)


def internal(masses: Array) -> Array:
    """Return an orthonormal basis (3N, 3N - 3) of the mass-weighted displacements that leave the centre of mass."""
    roots = np.sqrt(masses)
    complement = np.linalg.svd(roots[:, None])[0][:, 1:]
    return np.asarray(np.kron(complement, np.eye(3)))


class Density:
    """The Gaussian of displacements in thermal equilibrium under harmonic force constants, quantum or classical.

    Args:
        modes: all of positive energy.
        temperature: K.
    """

    def __init__(self, modes: Modes, temperature: float) -> None:
        self.modes = modes
        self.temperature = temperature
        self.deviations = np.sqrt(variances(modes.energies, temperature))
        self._out = modes.vectors * self.deviations / modes.roots[:, None]
        self._in = (modes.vectors / self.deviations) * modes.roots[:, None]

    @cached_property
    def phi(self) -> Array:
        """Its force constants, (3N, 3N), eV/Å²."""
        return self.modes.constants()

    @cached_property
    def free_energy(self) -> float:
        """Harmonic free energy of these modes, eV."""
        return float(free_energies(self.modes.energies, self.temperature).sum())

    @cached_property
    def potential(self) -> Array:
        """Mean potential energy of each mode, (3N - 3,), eV."""
        return np.asarray(0.5 * self.modes.stiffness * self.deviations**2)

    @cached_property
    def covariance(self) -> Array:
        """Covariance of the displacements, (3N, 3N), Å²."""
        return self._out @ self._out.T

    @property
    def amplitudes(self) -> Array:
        """Root mean square displacement of each atom, (N,), Å."""
        return np.asarray(np.sqrt(np.diag(self.covariance).reshape(-1, 3).sum(axis=1)))

    def displace(self, normal: Array) -> Array:
        """Turn standard normal numbers (M, 3N - 3) into displacements (M, N, 3), Å."""
        return np.asarray((normal @ self._out.T).reshape(len(normal), -1, 3))

    def log(self, displacements: Array) -> Array:
        """Return the logarithm of the density at displacements (M, N, 3), but for a constant that all share, (M,)."""
        standard = displacements.reshape(len(displacements), -1) @ self._in
        return np.asarray(-0.5 * (standard**2).sum(axis=1) - np.log(self.deviations).sum())
