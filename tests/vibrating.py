"""Potentials whose free energy is known, and what the vibrations' tests ask of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.emt import EMT

from uspex_bridge.base.data import Structure
from uspex_bridge.vibrations.modes import HBAR


def structure_of(atoms: Atoms) -> Structure:
    """Return ASE atoms as the bridge's structure."""
    return Structure(tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions(wrap=False))


def emt(structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    """Evaluate effective-medium theory."""
    answers = []
    for one in structures:
        atoms = one.copy()
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        answers.append({"energy": energy, "forces": forces, "stress": stress})
    return answers


def springs(phi: np.ndarray, sites: np.ndarray) -> Callable[[Sequence[Atoms]], list[dict[str, Any]]]:
    """Return a harmonic crystal of force constants (3N, 3N), eV/Å², around sites (N, 3), Å."""

    def evaluate(structures: Sequence[Atoms]) -> list[dict[str, Any]]:
        moves = [(atoms.positions - sites).ravel() for atoms in structures]
        return [
            {"energy": 0.5 * u @ phi @ u, "forces": -(phi @ u).reshape(-1, 3), "stress": np.zeros(6)} for u in moves
        ]

    return evaluate


def quartic(k: float, q: float) -> Callable[[Sequence[Atoms]], list[dict[str, Any]]]:
    """Return two atoms half a body diagonal apart, bound along each axis by k x²/2 + q x⁴ of their distance."""

    def evaluate(structures: Sequence[Atoms]) -> list[dict[str, Any]]:
        answers = []
        for atoms in structures:
            gap = atoms.positions[1] - atoms.positions[0]
            x = gap - 0.5 * atoms.cell.array.sum(axis=0)
            pull = k * x + 4.0 * q * x**3
            energy = (0.5 * k * x**2 + q * x**4).sum()
            answers.append({"energy": energy, "forces": np.array([pull, -pull]), "stress": np.zeros(6)})
        return answers

    return evaluate


def oscillator(potential: Callable[[np.ndarray], np.ndarray], mass: float, temperature: float) -> float:
    """Return the exact free energy, eV, of a mass, amu, in a potential of one dimension, diagonalised on a grid."""
    x = np.linspace(-2.0, 2.0, 801)
    step = x[1] - x[0]
    kinetic = HBAR**2 / (2.0 * mass * step**2)
    hamiltonian = np.diag(2.0 * kinetic + potential(x)) - kinetic * (np.eye(801, k=1) + np.eye(801, k=-1))
    levels = np.linalg.eigvalsh(hamiltonian)
    thermal = units.kB * temperature
    return float(levels[0] - thermal * np.log(np.exp(-(levels - levels[0]) / thermal).sum()))


def gaussian_bound(k: float, q: float, mass: float, temperature: float) -> float:
    """Return the self-consistent harmonic free energy, eV, of k x²/2 + q x⁴: the least over all Gaussians."""
    thermal = units.kB * temperature
    energy = np.linspace(0.01, 0.6, 200_001)
    variance = 0.5 * HBAR**2 / (mass * energy * np.tanh(0.5 * energy / thermal))
    free = thermal * np.log(2.0 * np.sinh(0.5 * energy / thermal))
    held = 0.5 * mass * (energy / HBAR) ** 2 * variance
    return float((free + 0.5 * k * variance + 3.0 * q * variance**2 - held).min())
