"""Configurations drawn from a Gaussian, what a model says of them, and the averages of the self-consistent theory.

Estimates are taken over antithetic pairs, u and -u, and against the harmonic force constants of the Gaussian, whose own
averages are known: only what is anharmonic has a statistical error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import CalculationError, Rejected
from uspex_bridge.base.units import ev_a3_to_gpa
from uspex_bridge.vibrations.modes import Density, Modes
from uspex_bridge.vibrations.supercell import Supercell, Symmetry

#: Structures in; for each its results (energy in eV, forces (N, 3) in eV/Å, stress (6,) in eV/Å³ with ASE's sign) or
#: the error that it alone caused, as :meth:`uspex_bridge.models.backends.Backend.evaluate_many`.
Evaluate = Callable[[Sequence[Atoms]], Sequence[dict[str, Any] | CalculationError]]


@dataclass(frozen=True, eq=False)
class Value:
    """An average and its standard error, scalars or arrays of one shape."""

    mean: Any
    error: Any


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Configurations of one population.

    Attributes:
        cell, scaled: unit cell (3, 3), Å, and fractional coordinates (n, 3) of the centroids they were drawn around.
        phi: force constants (3N, 3N), eV/Å², of the Gaussian they were drawn from.
        displacements: from the centroids, (M, N, 3), Å; configurations M/2 to M are the first half's opposites.
        energies: of the supercell, (M,), eV.
        forces: (M, N, 3), eV/Å.
        stresses: (M, 6), eV/Å³, ASE's sign.
        failed: number of configurations that gave no result; their opposites are left out too.
    """

    cell: Array
    scaled: Array
    phi: Array
    displacements: Array
    energies: Array
    forces: Array
    stresses: Array
    failed: int = 0

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def anharmonic(self) -> Array:
        """V - V_harmonic of each configuration, (M,), eV of the supercell; the latter of its own Gaussian."""
        u = self.displacements.reshape(len(self), -1)
        return np.asarray(self.energies - 0.5 * ((u @ self.phi) * u).sum(axis=1))

    def joined(self, other: Ensemble) -> Ensemble:
        """Return the configurations of two ensembles that were drawn from the same Gaussian."""

        def pairs(one: Array, two: Array) -> Array:
            (a, b), (c, d) = np.split(one, 2), np.split(two, 2)
            return np.concatenate([a, c, b, d])

        return Ensemble(
            self.cell,
            self.scaled,
            self.phi,
            pairs(self.displacements, other.displacements),
            pairs(self.energies, other.energies),
            pairs(self.forces, other.forces),
            pairs(self.stresses, other.stresses),
            self.failed + other.failed,
        )


def draw(
    lattice: Supercell, density: Density, number: int, rng: np.random.Generator, evaluate: Evaluate, max_failed: float
) -> Ensemble:
    """Draw ``number`` configurations (an even number), in antithetic pairs, and evaluate them in one call.

    Raises:
        Rejected: more than the share ``max_failed`` of them has no finite result.
    """
    half = density.displace(rng.standard_normal((number // 2, len(density.deviations))))
    displacements = np.concatenate([half, -half])
    answers = evaluate([lattice.atoms(u) for u in displacements])
    sound = np.array([_sound(answer) for answer in answers])
    if (failed := int((~sound).sum())) > max_failed * number:
        reason = next((str(a) for a in answers if isinstance(a, CalculationError)), "the model gave NaN or infinity")
        raise Rejected("configurations", f"{failed} of {number} configurations failed ({reason}; max_failed)")
    pairs = np.flatnonzero(sound[: number // 2] & sound[number // 2 :])
    kept = np.concatenate([pairs, pairs + number // 2])
    results: list[Any] = [answers[k] for k in kept]
    return Ensemble(
        lattice.unit.cell,
        lattice.unit.scaled,
        density.phi,
        displacements[kept],
        np.array([r["energy"] for r in results]),
        np.array([r["forces"] for r in results]),
        np.array([r["stress"] for r in results]),
        failed,
    )


def evaluated(evaluate: Evaluate, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    """Evaluate structures none of which may fail.

    Raises:
        CalculationError: one does.
    """
    results: list[dict[str, Any]] = []
    for answer in evaluate(structures):
        if isinstance(answer, CalculationError):
            raise answer
        if not _sound(answer):
            raise CalculationError("the model gave NaN or infinity at rest or near it")
        results.append(answer)
    return results


def _sound(answer: dict[str, Any] | CalculationError) -> bool:
    if isinstance(answer, CalculationError):
        return False
    return bool(all(np.isfinite(answer[key]).all() for key in ("energy", "forces", "stress")))


class Averages:
    """Averages over an ensemble at the Gaussian that it was drawn from.

    Args:
        ensemble: its configurations.
        density: that Gaussian.
        lattice: the supercell at the ensemble's cell and centroids.
        symmetry: the operations to obey.
    """

    def __init__(self, ensemble: Ensemble, density: Density, lattice: Supercell, symmetry: Symmetry) -> None:
        self.ensemble, self.density, self.lattice, self.symmetry = ensemble, density, lattice, symmetry
        u = ensemble.displacements.reshape(len(ensemble), -1)
        self._harmonic = u @ density.phi
        self._rest = ensemble.forces + self._harmonic.reshape(ensemble.forces.shape)

    @cached_property
    def anharmonic(self) -> Value:
        """<V - V_harmonic> of the supercell, eV."""
        return paired(self.ensemble.anharmonic)

    def free_energy(self, before: Ensemble | None = None) -> Value:
        """Return the free energy per unit cell on the wave vectors of the supercell, eV.

        Energies of pairs are skewed: a few low ones have little scatter too, and would seem precise. The scatter of an
        earlier population from a similar Gaussian, where there is one, guards against that.
        """
        cells, pairs, found = self.lattice.cells, len(self.ensemble) // 2, self.anharmonic
        mean = (self.density.free_energy + found.mean) / cells
        if before is None:
            return Value(mean, found.error / cells)
        halves = [np.split(e.anharmonic, 2) for e in (self.ensemble, before)]
        sums = [0.5 * (a + b) for a, b in halves]
        freedom = sum(len(s) - 1 for s in sums)
        variance = sum(((s - s.mean()) ** 2).sum() for s in sums) / max(freedom - 2, 1e-9)
        return Value(mean, float(np.sqrt(variance / pairs)) / cells)

    @cached_property
    def stress(self) -> Value:
        """Stress (6,), eV/Å³, ASE's sign, of atoms that move about the centroids."""
        return paired(self._stresses)

    @cached_property
    def pressure_error(self) -> float:
        """Standard error of the pressure, GPa."""
        return ev_a3_to_gpa(paired(self._stresses[:, :3].mean(axis=1)).error)

    def stress_along(self, strains: Array) -> Value:
        """Return the stress along strains (D, 3, 3), (D,), eV/Å³."""
        full = np.array([voigt_6_to_full_3x3_stress(one) for one in self._stresses])
        return paired(np.tensordot(full, strains, axes=([1, 2], [1, 2])))

    @cached_property
    def _stresses(self) -> Array:
        volume = self.lattice.unit.volume * self.lattice.cells
        virial = np.einsum("mia,mib->mab", self._rest, self.ensemble.displacements)
        harmonic = np.trace(
            (self.density.phi @ self.density.covariance).reshape(len(self.lattice), 3, len(self.lattice), 3),
            axis1=0,
            axis2=2,
        )
        virial = 0.5 * (virial + virial.swapaxes(1, 2)) - 0.5 * (harmonic + harmonic.T)
        full = self.ensemble.stresses + full_3x3_to_voigt_6_stress(virial) / volume
        cell = self.lattice.unit.cell
        return self._without_known(np.array([self.symmetry.stress(one, cell) for one in full]))

    def _without_known(self, values: Array) -> Array:
        """Take out of even values (M, ...) what follows the harmonic energy of the configurations, whose mean is known.

        Thermal pressure rises with it: most of the scatter of a stress is that of the energy (a control variate).
        """
        half = len(values) // 2
        if half < 4:
            return values
        energy = 0.5 * np.einsum("ij,ij->i", self._harmonic, self.ensemble.displacements.reshape(len(values), -1))
        excess = energy - self.density.potential.sum()
        pairs, known = 0.5 * (values[:half] + values[half:]), excess[:half] - excess[:half].mean()
        slope = known @ pairs / max(float(known @ known), 1e-300)
        left = values - excess[:, None] * slope
        mean = left.mean(axis=0)
        return np.asarray(mean + (left - mean) * np.sqrt((half - 1) / (half - 2)))  # the slope is fitted too

    @cached_property
    def forces(self) -> Value:
        """Mean forces on the centroids of the unit cell, (n, 3), eV/Å."""
        folded = np.array([self.symmetry.forces(self.lattice.fold(f), self.lattice.unit.cell) for f in self._rest])
        return paired(folded)

    @property
    def largest_force(self) -> Value:
        """The largest mean force on a centroid and its error, eV/Å."""
        sizes = np.linalg.norm(self.forces.mean, axis=1)
        worst = int(sizes.argmax())
        return Value(float(sizes[worst]), float(np.linalg.norm(self.forces.error[worst])))


def paired(values: Array) -> Value:
    """Return mean and standard error of values (M, ...) of antithetic pairs, the second half opposite to the first.

    Few pairs underestimate their own scatter as often as not: the error is the standard deviation of Student's t.
    """
    half = len(values) // 2
    pairs = 0.5 * (values[:half] + values[half:])
    if half > 3:
        error = pairs.std(axis=0, ddof=1) * np.sqrt((half - 1) / (half * (half - 3)))
    else:
        error = np.full(pairs.shape[1:], np.inf)
    mean = pairs.mean(axis=0)
    return Value(float(mean), float(error)) if values.ndim == 1 else Value(mean, error)


@dataclass(frozen=True, eq=False)
class Reweighted:
    """Configurations of several populations as a sample of one Gaussian.

    Attributes:
        displacements: from the centroids of that Gaussian, (M, N, 3), Å.
        forces: (M, N, 3), eV/Å.
        weights: (M,), adding up to 1.
        size: effective number of configurations, 1 / sum of squared weights (Kong, J. Am. Stat. Assoc. 89, 278 (1994)).
    """

    displacements: Array
    forces: Array
    weights: Array
    size: float


def reweighted(ensembles: Sequence[Ensemble], density: Density, lattice: Supercell) -> Reweighted:
    """Weight the configurations of earlier populations as a sample of ``density`` around the sites of ``lattice``.

    The weight of a configuration is its density over the mixture of the densities that all were drawn from (Veach and
    Guibas, SIGGRAPH 1995), which stays bounded. Displacements are compared in the present cell: strain between
    populations is the one approximation, and only force constants and steps of the centroids are taken from here.
    """
    counts = np.array([len(e) for e in ensembles])
    places = [lattice.tile((e.scaled - lattice.unit.scaled) @ lattice.unit.cell) for e in ensembles]
    moved = np.concatenate([e.displacements + place for e, place in zip(ensembles, places, strict=True)])
    own = [
        Density(Modes.of(e.phi, lattice.all_masses), density.temperature).log(moved - place)
        for e, place in zip(ensembles, places, strict=True)
    ]
    mixture = np.logaddexp.reduce(np.array(own) + np.log(counts / counts.sum())[:, None], axis=0)
    logs = density.log(moved) - mixture
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    forces = np.concatenate([e.forces for e in ensembles])
    return Reweighted(moved, forces, weights, float(1.0 / (weights**2).sum()))
