"""Harmonic phonons of a crystal at rest, from one batch of evaluations, and their free energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.units import pv_energy
from uspex_bridge.vibrations.constants import Crystal, Fit
from uspex_bridge.vibrations.dispersion import Dispersion, Mesh, MeshEnergies
from uspex_bridge.vibrations.ensemble import Evaluate, evaluated
from uspex_bridge.vibrations.modes import THZ_PER_EV, Modes
from uspex_bridge.vibrations.supercell import Repeats, Supercell

#: Å, root mean square displacement of the atoms for harmonic force constants.
DISPLACEMENT = 0.01
#: Equations per force constant, half of them independent, which the anharmonic part of the forces averages out over.
_OVERDETERMINED = 4
#: THz, an imaginary frequency above this is noise of forces that are not quite zero.
IMAGINARY = -0.2


@dataclass(frozen=True, eq=False)
class Harmonic:
    """Harmonic phonons of a crystal and the energy it has at rest.

    Attributes:
        lattice: the supercell, its symmetry made exact.
        phi: force constants (3N, 3N), eV/Å².
        energy: of the unit cell at rest, eV.
        stress: at rest, (6,), eV/Å³, ASE's sign.
        r2: how much of the forces harmonic force constants explain; much below 1 the crystal is not harmonic at all.
        phonons: energies on the mesh.
        evaluations: number of structures evaluated.
    """

    lattice: Supercell
    phi: Array
    energy: float
    stress: Array
    r2: float
    phonons: MeshEnergies
    evaluations: int

    @cached_property
    def dispersion(self) -> Dispersion:
        """Phonons at any wave vector."""
        return Dispersion(self.phi, self.lattice)

    @property
    def lowest_thz(self) -> float:
        """The lowest frequency on the mesh, THz; negative for an imaginary one."""
        return self.phonons.lowest * THZ_PER_EV

    @cached_property
    def lowest_held_thz(self) -> float:
        """The lowest frequency on the supercell's own wave vectors, where nothing is interpolated, THz."""
        return float(Modes.of(self.phi, self.lattice.all_masses).energies[0]) * THZ_PER_EV

    @property
    def imaginary(self) -> bool:
        """Whether the supercell holds an imaginary mode: the crystal is no minimum, its free energy meaningless."""
        return self.lowest_held_thz < IMAGINARY

    @property
    def imaginary_between(self) -> bool:
        """Whether modes are imaginary between the supercell's wave vectors alone: a larger supercell must decide."""
        return not self.imaginary and self.lowest_thz < IMAGINARY

    @property
    def zero_point(self) -> float:
        """Zero-point energy of the unit cell, eV."""
        return self.phonons.zero_point

    def summary(self) -> dict[str, Any]:
        """Return what a record keeps beside the temperature, plain values, energies in eV per unit cell."""
        return {
            "supercell": list(self.lattice.repeats),
            "evaluations": self.evaluations,
            "e0": self.energy,
            "zero_point": self.zero_point,
            "volume": self.lattice.unit.volume,
            "lowest_harmonic_thz": self.lowest_held_thz,
            "lowest_thz": self.lowest_thz,
            "r2": self.r2,
        }

    def free_energy(self, temperature: float) -> float:
        """Return F = E + F_vib of the unit cell at its volume, eV."""
        return self.energy + self.phonons.free_energy(temperature)

    def gibbs(self, temperature: float, pressure_gpa: float) -> float:
        """Return F + PV of the unit cell at its volume, eV."""
        return self.free_energy(temperature) + pv_energy(pressure_gpa, self.lattice.unit.volume)


def harmonic(
    structure: Structure,
    evaluate: Evaluate,
    *,
    repeats: Repeats | None = None,
    min_image: float = 6.0,
    mesh: float = 60.0,
    isotopes: Mapping[str, float] | None = None,
    symprec: float = 0.01,
    seed: int = 0,
) -> Harmonic:
    """Work out the harmonic phonons of a structure that is relaxed at 0 K.

    Args:
        structure: the crystal.
        evaluate: the model.
        repeats: supercell, None for the smallest with images ``min_image`` Å apart.
        min_image: Å.
        mesh: length that the number of points along each reciprocal vector is taken from, Å.
        isotopes: masses in amu in place of the elements' means.
        symprec: tolerance of the symmetry, Å.
        seed: of the displacements.

    Raises:
        ConfigError, InputError, ModelError: see :meth:`Crystal.prepare`.
        CalculationError: the model failed.
    """
    crystal = Crystal.prepare(structure, repeats, min_image, isotopes, symprec)
    lattice = crystal.lattice
    fit, (rest,), count = force_constants(crystal, evaluate, seed, [lattice.unit])
    phonons = Dispersion(fit.phi, lattice).on(Mesh.of(lattice, crystal.symmetry, mesh))
    return Harmonic(lattice, fit.phi, float(rest["energy"]), rest["stress"], fit.r2, phonons, count)


def force_constants(
    crystal: Crystal, evaluate: Evaluate, seed: int, cells: list[Structure]
) -> tuple[Fit, list[dict[str, Any]], int]:
    """Fit harmonic force constants to small displacements, both ways, in one batch with other unit cells.

    Returns:
        the fit, the results of ``cells``, and the number of evaluations.

    Raises:
        CalculationError: the model failed on one of them.
    """
    lattice = crystal.lattice
    moves = _displacements(crystal, seed)
    others = [Supercell(cell, lattice.masses).atoms() for cell in cells]
    results = evaluated(evaluate, [*(lattice.atoms(u) for u in moves), *others])
    fit = crystal.regression.fit(moves, np.array([r["forces"] for r in results[: len(moves)]]))
    return fit, results[len(moves) :], len(results)


def _displacements(crystal: Crystal, seed: int) -> Array:
    """Return orthogonal displacements that determine all force constants well, then their opposites, (M, N, 3), Å."""
    lattice, regression = crystal.lattice, crystal.regression
    size = 3 * len(lattice)
    directions = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0].T
    directions = directions.reshape(size, -1, 3) - directions.reshape(size, -1, 3).mean(axis=1, keepdims=True)
    number = min(max(2, -(-_OVERDETERMINED * regression.size // size)), size)
    while True:
        half = directions[:number] * DISPLACEMENT * np.sqrt(len(lattice))
        moves = np.concatenate([half, -half])
        if number == size or regression.determined(moves):
            return moves
        number += 1
