"""What the configurations of all populations say together: G, force constants and mean forces of a Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.base.units import gpa_to_ev_a3
from uspex_bridge.vibrations.constants import Crystal, explained
from uspex_bridge.vibrations.dispersion import Dispersion, Mesh
from uspex_bridge.vibrations.elastic import permitted_strains
from uspex_bridge.vibrations.ensemble import Averages, Ensemble, Value, paired, reweighted
from uspex_bridge.vibrations.modes import Density, Modes, free_energies
from uspex_bridge.vibrations.settings import Settings
from uspex_bridge.vibrations.state import State
from uspex_bridge.vibrations.steps import Change
from uspex_bridge.vibrations.supercell import Supercell
from uspex_bridge.vibrations.surrogate import Surrogate

#: Share of the error asked for that G of an earlier population may lie above the present one's to be averaged with it.
_SAME_G = 0.5
#: Configurations of an earlier population are used again where the cell has since been strained by less than the first,
#: and where the second, an ordinary Grüneisen parameter, lets force constants of the strained cell cost little of G.
_REUSED_STRAIN, GRUNEISEN = 0.02, 2.0
#: A surrogate helps where it leaves less than this share of the variance of configurations that it has not seen.
_USEFUL = 0.5
#: Largest factor between the stiffnesses of fitted force constants and the Gaussian's, for the mesh correction.
_SOFTEST = 3.0
#: Where force constants explain this share of the forces, they are precise without a surrogate.
_HARMONIC = 0.9
#: Equations per unknown from which on a surrogate is fitted to the configurations that it helps with.
_OVERDETERMINED = 5


@dataclass(frozen=True, eq=False)
class Asked:
    """What a set of configurations asks of a Gaussian.

    Attributes:
        phi: force constants (3N, 3N), eV/Å².
        forces: mean forces on the unit cell's atoms, (n, 3), eV/Å.
        size: effective number of configurations.
        r2: share of the forces that ``phi`` explains.
    """

    phi: Array
    forces: Array
    size: float
    r2: float


class Estimates:
    """Estimates from the configurations of a :class:`State`.

    Args:
        crystal: supercell, symmetry and force constants' basis.
        settings: what is asked.
    """

    def __init__(self, crystal: Crystal, settings: Settings) -> None:
        self.crystal, self.settings = crystal, settings
        self.masses = crystal.lattice.all_masses
        self.strains = permitted_strains(crystal.lattice, crystal.symmetry, settings.cell)
        self.goal = settings.g_error * len(crystal.lattice)  # eV of the supercell
        self._before: tuple[int, Surrogate] | None = None
        self._present: tuple[int, Surrogate] | None = None

    def lattice(self, state: State) -> Supercell:
        """Return the supercell at the present cell and centroids."""
        return self.crystal.lattice.at(state.cell, state.scaled)

    def density(self, phi: Array) -> Density:
        """Return the Gaussian of force constants (3N, 3N), eV/Å²."""
        return Density(Modes.of(phi, self.masses), self.settings.temperature)

    def rng(self, state: State, purpose: int) -> np.random.Generator:
        """Return random numbers that depend on the seed, the number of batches so far and the purpose alone."""
        return np.random.default_rng(np.random.SeedSequence([self.settings.seed, len(state.history), purpose]))

    def free_energy(self, state: State, averages: Averages) -> tuple[Value, float]:
        """Return F per unit cell and the share of its variance that the surrogate's help leaves."""
        lattice, usable = averages.lattice, self.usable(state)
        plain = averages.free_energy(usable[-2] if len(usable) > 1 else None)
        surrogate = self._surrogate(state) if plain.error * lattice.cells > self.goal else None
        if surrogate is None:
            return plain, 1.0
        density, moves = averages.density, averages.ensemble.displacements
        left = paired(averages.ensemble.anharmonic - surrogate.anharmonic(lattice, moves, density.phi))
        if left.error**2 > _USEFUL * averages.anharmonic.error**2:
            return plain, 1.0
        known = surrogate.average(lattice, density, max(left.error, 0.5 * self.goal) / 3.0, self.rng(state, 1))
        mean = (density.free_energy + left.mean + known.mean) / lattice.cells
        error = float(np.hypot(left.error, known.error)) / lattice.cells
        return Value(mean, error), (error / plain.error) ** 2

    def combined(self, state: State) -> tuple[float, float]:
        """Return G and its error, averaged over as many of the last populations as makes the error smallest.

        G is stationary in force constants, centroids and cell, so that an earlier population says the same but for the
        second order, which must be small.
        """
        last, whole = state.found[-1], self.lattice(state).unit.volume * self.crystal.lattice.cells
        best, g, weight, variance = (last.g, last.g_error), 0.0, 0, 0.0
        for ensemble, found in zip(reversed([*state.pool, state.current]), reversed(state.found), strict=True):
            assert ensemble is not None
            strain = self._strain_of(ensemble, state)
            excess = Change.between(self.density(ensemble.phi), state.phi).gain
            if excess + 0.5 * whole * strain @ state.stiffness @ strain > _SAME_G * self.goal:
                break
            number = len(ensemble)
            g, weight, variance = g + number * found.g, weight + number, variance + (number * found.g_error) ** 2
            if np.sqrt(variance) / weight < best[1]:
                best = g / weight, float(np.sqrt(variance)) / weight
        return best

    def strain(self, state: State) -> Value:
        """Return the strain along the permitted ones, (D,), that brings the cell to the pressure, and its error.

        The stress of an earlier population is carried over by elasticity. Half of that counts as an error, and so does
        the energy by which its modes differ from the present ones, as thermal pressure. No scatter counts as less than
        the median: of few configurations, those of little scatter are low ones (see :meth:`Averages.free_energy`).
        """
        volume = self.lattice(state).unit.volume * self.crystal.lattice.cells
        populations = [*state.pool, state.current]
        numbers = np.array([len(e) for e in populations if e is not None])[:, None]
        strains = np.array([self._strain_of(e, state) for e in populations])
        other = np.array([Change.between(self.density(e.phi), state.phi).energy for e in populations if e is not None])
        carried = strains @ state.stiffness
        stresses = np.array([found.stress for found in state.found]) - carried
        scatter = np.array([found.stress_error for found in state.found]) ** 2 * numbers
        variances = np.maximum(scatter, np.median(scatter, axis=0)) / numbers
        variances += (0.5 * carried) ** 2 + (other[:, None] / volume) ** 2
        weights = 1.0 / np.clip(variances, 1e-18, 1e6)
        stress = (weights * stresses).sum(axis=0) / weights.sum(axis=0)
        excess = stress + gpa_to_ev_a3(self.settings.pressure_gpa) * np.trace(self.strains, axis1=1, axis2=2)
        inverse = np.linalg.inv(state.stiffness)
        return Value(-inverse @ excess, np.sqrt(inverse**2 @ (1.0 / weights.sum(axis=0))))

    def _strain_of(self, ensemble: Ensemble | None, state: State) -> Array:
        """Return the strain of a population's cell against the present one along the permitted ones, (D,)."""
        assert ensemble is not None
        return np.asarray(np.tensordot(self.strains, np.linalg.solve(state.cell, ensemble.cell) - np.eye(3), 2))

    def mesh_correction(self, state: State, mesh: Mesh) -> Value:
        """Return harmonic F on a dense mesh minus that on the supercell's wave vectors, eV per unit cell.

        G is stationary in the force constants; this difference is not. It is that of the fitted ones, and halves of the
        last population tell its error.
        """
        lattice, density = self.lattice(state), self.density(state.phi)

        def between(asked: Array) -> float:
            phi = Change.between(density, asked).step(
                1.0, _SOFTEST
            )  # few configurations may ask for negative curvature
            held = free_energies(Modes.of(phi, self.masses).energies, self.settings.temperature).sum() / lattice.cells
            return Dispersion(phi, lattice).on(mesh).free_energy(self.settings.temperature) - float(held)

        sample = state.current
        assert sample is not None
        fitted = self.ask(state, density, lattice).phi
        half = len(sample) // 4
        order = np.arange(len(sample)).reshape(2, -1)
        halves = [order[:, :half].ravel(), order[:, half:].ravel()]
        one, two = (
            between(self.crystal.regression.fit(sample.displacements[k], sample.forces[k], prior=density.phi).phi)
            for k in halves
        )
        return Value(between(fitted), 0.5 * abs(one - two))

    def _surrogate(self, state: State) -> Surrogate | None:
        """Return the surrogate fitted to all earlier populations, which knows nothing of the present one."""
        if not state.pool:
            return None
        if self._before is None or self._before[0] != len(state.pool):
            surrogate = Surrogate.fitted(state.pool, self.lattice(state), self.crystal.regression)
            self._before = len(state.pool), surrogate
        return self._before[1]

    def _helper(self, ensembles: list[Ensemble], batch: int) -> Surrogate | None:
        """Return the surrogate fitted to all populations that are near, if they are enough; not for averages."""
        equations = 3 * len(self.crystal.lattice) * sum(map(len, ensembles)) // 2
        if equations < _OVERDETERMINED * (self.crystal.regression.size + Surrogate.functions(self.crystal.lattice)):
            return None
        if self._present is None or self._present[0] != batch:
            self._present = batch, Surrogate.fitted(ensembles, self.crystal.lattice, self.crystal.regression)
        return self._present[1]

    def usable(self, state: State) -> list[Ensemble]:
        """Return the populations that force constants of the present cell may be fitted to."""
        strains = [np.abs(np.linalg.solve(state.cell, e.cell) - np.eye(3)).max() for e in state.pool]
        # A strain x changes stiffnesses by 6γx, which costs the potential energy of the modes times (6γx)² / 2.
        cost = 0.5 * (6.0 * GRUNEISEN) ** 2 * float(self.density(state.phi).potential.sum())
        most = min(_REUSED_STRAIN, float(np.sqrt(0.5 * self.goal / cost)))
        near = [e for e, strain in zip(state.pool, strains, strict=True) if strain < most]
        return near if state.current is None else [*near, state.current]

    def ask(self, state: State, density: Density, lattice: Supercell) -> Asked:
        """Fit force constants and mean forces under a Gaussian to all configurations that are near, weighted anew."""
        usable = self.usable(state)
        sample = reweighted(usable, density, lattice)
        u, w, regression = sample.displacements, sample.weights, self.crystal.regression
        forces, mean, known = sample.forces, np.zeros((len(lattice), 3)), np.zeros_like(density.phi)
        phi = regression.fit(u, forces, w, density.phi).phi
        noisy = explained(phi, u, forces, w) < _HARMONIC
        if noisy and (helper := self._helper(usable, len(state.history))):
            known, mean = helper.known(lattice, density, regression, self.rng(state, 2))
            forces = forces - helper.forces(lattice, u)
            phi = known + regression.fit(u, forces, w, density.phi - known).phi
        rest = forces + (u.reshape(len(u), -1) @ (density.phi - known)).reshape(u.shape)
        folded = lattice.fold(np.tensordot(w, rest, 1) + mean)
        mean_forces = self.crystal.symmetry.forces(folded, lattice.unit.cell)
        return Asked(phi, mean_forces, sample.size, explained(phi, u, sample.forces, w))
