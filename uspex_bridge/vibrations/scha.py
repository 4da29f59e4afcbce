"""The stochastic self-consistent harmonic approximation (SCHA) with variable cell.

The free energy of a trial Gaussian around trial centroids is an upper bound of the true one (Gibbs and Bogoliubov); at
its minimum the force constants are <d²V/du²>, no mean force is left, and the stress is minus the pressure. The first of
them is the linear regression of forces on Gaussian displacements, so that a population of configurations is one batch
of evaluations and one fit. Theory: Errea, Calandra and Mauri, Phys. Rev. B 89, 064302 (2014); the stress: Monacelli et
al., Phys. Rev. B 98, 024106 (2018).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import CalculationError, ConfigError, Interrupted, Rejected
from uspex_bridge.base.units import pressure_of, pv_energy
from uspex_bridge.vibrations.constants import Crystal
from uspex_bridge.vibrations.dispersion import Dispersion, Mesh
from uspex_bridge.vibrations.elastic import stiffness, strained
from uspex_bridge.vibrations.ensemble import Averages, Evaluate, Value, draw, evaluated
from uspex_bridge.vibrations.estimates import GRUNEISEN, Estimates
from uspex_bridge.vibrations.harmonic import force_constants
from uspex_bridge.vibrations.modes import THZ_PER_EV, Modes
from uspex_bridge.vibrations.report import FreeEnergy
from uspex_bridge.vibrations.settings import FEWEST, Limits, Settings
from uspex_bridge.vibrations.state import Found, Population, State, load_state, save_state
from uspex_bridge.vibrations.steps import Change, bounded, move_centroids, strain_cell
from uspex_bridge.vibrations.supercell import Supercell

#: Why a converged calculation ended.
CONVERGED = "self-consistent, and the error bar is met"
#: Configurations x 3N per force constant: fewer than the first are refused, fewer than the second are no result.
_REFUSED, _ENOUGH = 4, 8
#: Configurations of the last Gaussian and of similar ones below which no error bar is believed.
_FEWEST_LAST = 20
#: Share of the way to the fitted force constants that a step goes; largest factor of a stiffness per population.
_SHARE, _TRUST = 0.6, 3.0
#: Steps at most with one set of configurations.
_STEPS = 10
#: Largest rms displacement over the nearest distance, in the first population and at any time; the bound is reached
#: in steps of a tenth, so that an rms above the third share of it is at the bound.
_FIRST_RMS, _LARGEST_RMS, _AT_BOUND = 0.2, 0.35, 0.9


def scha(
    structure: Structure,
    evaluate: Evaluate,
    settings: Settings,
    *,
    limits: Limits | None = None,
    isotopes: Mapping[str, float] | None = None,
    start: FreeEnergy | None = None,
    state: Path | None = None,
    halt: Callable[[], str | None] = lambda: None,
    observe: Callable[[Population], None] = lambda population: None,
) -> FreeEnergy:
    """Find the free energy, the centroids and the cell of a crystal at a temperature and a pressure.

    Args:
        structure: the crystal, relaxed at 0 K.
        evaluate: the model; it gets each population in one call.
        settings: what is asked.
        limits: guards.
        isotopes: masses in amu in place of the elements' means.
        start: result in a smaller supercell of the same cell, whose cell, centroids and force constants take the place
            of the harmonic start.
        state: file to go on from and to write after every population.
        halt: asked before every population; a reason ends the calculation with the last population's result.
        observe: called after every population.

    Returns:
        The result, converged or not; it always has an error bar.

    Raises:
        ConfigError: too few configurations for the force constants, or an impossible setting.
        ModelError: symfc is missing.
        InputError: no symmetry is found, or the state cannot be read.
        Rejected: too many configurations failed, or the crystal melts.
        CalculationError: the model failed at the structure itself.
        Interrupted: told to stop before the first population.
    """
    run = _Scha(structure, evaluate, settings, limits or Limits(), isotopes, state)
    return run.run(start, halt, observe)


class _Scha:
    """One calculation; where it stands is in a :class:`State`, which is all that a file needs to hold."""

    def __init__(
        self,
        structure: Structure,
        evaluate: Evaluate,
        settings: Settings,
        limits: Limits,
        isotopes: Mapping[str, float] | None,
        path: Path | None,
    ) -> None:
        self.evaluate, self.settings, self.limits, self.path = evaluate, settings, limits, path
        self.crystal = Crystal.prepare(structure, settings.repeats, settings.min_image, isotopes, settings.symprec)
        self.size = len(self.crystal.lattice)
        self.estimates = Estimates(self.crystal, settings)
        self.goal = self.estimates.goal
        constants = self.crystal.regression.size
        least = -(-_REFUSED * constants // (3 * self.size))
        self.configs = settings.configs or max(FEWEST, 2 * -(-least // 2))
        if self.configs < least:
            raise ConfigError(
                f"configs = {self.configs} cannot determine {constants} force constants of {self.size} atoms: "
                f"at least {least} are needed"
            )
        self.enough = _ENOUGH * constants / (3 * self.size)
        self.key = _key(self.crystal, settings, limits)

    def run(
        self, start: FreeEnergy | None, halt: Callable[[], str | None], observe: Callable[[Population], None]
    ) -> FreeEnergy:
        """Go on until the result is there or ``halt`` gives a reason."""
        state = load_state(self.path, self.key) if self.path else None
        while True:
            why = halt()
            if state is None or not state.history:
                if why:
                    raise Interrupted(f"{why} before the first population was done; there is no free energy")
                state = self._begin(start)
            elif reason := self._finished(state):
                return self._result(state, reason)
            elif why:
                return self._result(state, why)
            elif self._learns(state):
                self._learn(state)
            self._sample(state)
            if self.path:
                save_state(self.path, state, self.key)
            observe(state.history[-1])
            _check_amplitudes(state.history)

    def _begin(self, start: FreeEnergy | None) -> State:
        """Start from harmonic force constants, or from those of a smaller supercell."""
        lattice = self.crystal.lattice
        if start is None:
            others = strained(lattice.unit, self.estimates.strains)
            fit, results, count = force_constants(self.crystal, self.evaluate, self.settings.seed, others)
            phi = fit.phi
        else:
            lattice = lattice.at(start.structure.cell, start.structure.scaled)
            phi = start.dispersion.fill(lattice)
            others = strained(lattice.unit, self.estimates.strains)
            results = evaluated(self.evaluate, [Supercell(cell, lattice.masses).atoms() for cell in others])
            count = len(results)
        modes = Modes.of(phi, self.estimates.masses)
        density = bounded(modes, self.settings.temperature, lattice, _FIRST_RMS)
        return State(
            lattice.unit.cell,
            lattice.unit.scaled,
            density.phi,
            stiffness(results, self.estimates.strains),
            evaluations=count,
            lowest_harmonic_thz=float(modes.energies[0]) * THZ_PER_EV,
        )

    def _finished(self, state: State) -> str:
        """Return why the calculation is over, or nothing."""
        last = state.history[-1]
        if self._learns(state):
            return ""
        near = sum(map(len, self.estimates.usable(state)))
        if last.g_error * self.crystal.lattice.cells <= self.goal and near >= _FEWEST_LAST:
            return CONVERGED if last.self_consistent else "not self-consistent after all populations"
        return "the error bar is not met with all configurations" if last.configs >= self.settings.final_configs else ""

    def _learns(self, state: State) -> bool:
        """Tell whether the next step is one of force constants, centroids and cell."""
        return not state.history[-1].self_consistent and len(state.pool) + 1 < self.settings.populations

    # Sampling.

    def _sample(self, state: State) -> None:
        """Draw and evaluate configurations, and note what all of the present Gaussian say."""
        settings = self.settings
        number = self._configs(state)
        density, lattice = self.estimates.density(state.phi), self.estimates.lattice(state)
        new = draw(lattice, density, number, self.estimates.rng(state, 0), self.evaluate, self.limits.max_failed)
        state.current = new if state.current is None else state.current.joined(new)
        state.evaluations += number
        averages = Averages(state.current, density, lattice, self.crystal.symmetry)
        free, share = self.estimates.free_energy(state, averages)
        volume = lattice.unit.volume
        along = averages.stress_along(self.estimates.strains)
        g = free.mean + pv_energy(settings.pressure_gpa, volume)
        own = Found(g, free.error, tuple(along.mean), tuple(along.error))
        state.found = [*state.found[: len(state.pool)], own]
        g, g_error = self.estimates.combined(state)
        asked = self.estimates.ask(state, density, lattice)
        gain = Change.between(density, asked.phi).gain
        force, strain = averages.largest_force, self.estimates.strain(state)
        state.history.append(
            Population(
                number=len(state.history),
                configs=len(state.current),
                evaluations=state.evaluations,
                g=g,
                g_error=g_error,
                variance_share=share,
                pressure_gpa=pressure_of(averages.stress.mean),
                pressure_error=averages.pressure_error,
                force=force.mean,
                force_error=force.error,
                strain=float(np.linalg.norm(strain.mean)),
                strain_error=float(np.linalg.norm(strain.error)),
                gain=gain / lattice.cells,
                r2=asked.r2,
                ess=asked.size,
                volume=volume,
                lowest_thz=float(density.modes.energies[0]) * THZ_PER_EV,
                rms=float((density.amplitudes / lattice.shortest_contact).max()),
                self_consistent=gain <= self.goal
                and sum(map(len, self.estimates.usable(state))) >= self.enough
                and (not settings.ions or force.mean <= max(settings.centroid_force, 2.0 * force.error))
                and self._on_target(strain),
            )
        )

    def _on_target(self, strain: Value) -> bool:
        """Tell whether the cell is the one at the pressure, from the strain that it lacks."""
        volume = np.abs(np.trace(np.tensordot(strain.mean, self.estimates.strains, 1)))
        error = np.linalg.norm(strain.error * np.trace(self.estimates.strains, axis1=1, axis2=2))
        least = self.settings.volume_error
        shape = np.abs(strain.mean[1:]) <= np.maximum(2.0 * least, 2.0 * strain.error[1:])
        return bool(volume <= max(least, 2.0 * error) and shape.all())

    def _configs(self, state: State) -> int:
        """Return how many configurations to draw: a population, or what the error bar still needs."""
        if state.current is None:
            return self.configs
        have, cells = len(state.current), self.crystal.lattice.cells
        most = max(min(2 * have, self.settings.final_configs - have), 4)
        own, all_ = state.found[-1].g_error * cells, state.history[-1].g_error * cells
        if not np.isfinite(all_):
            return 2 * (most // 2)
        needed = have * own**2 * (self.goal**-2 - max(all_, self.goal) ** -2)
        least = max(4, _FEWEST_LAST - sum(map(len, self.estimates.usable(state))))
        return 2 * int(np.ceil(np.clip(needed, min(least, most), most) / 2))

    # Steps.

    def _learn(self, state: State) -> None:
        """Step to the force constants, centroids and cell that the configurations so far ask for.

        With the same configurations, weighted anew, it goes on stepping until it is self-consistent on them or they are
        too few for the Gaussian reached. The cell steps once.
        """
        assert state.current is not None
        settings, first, lattice = self.settings, self.estimates.density(state.phi), self.estimates.lattice(state)
        density, begun = first, 0.0
        for _ in range(_STEPS):
            asked = self.estimates.ask(state, density, lattice)
            if asked.size < self.limits.min_ess * begun:
                break
            begun = begun or asked.size
            change = Change.between(density, asked.phi)
            step = Change.between(first, change.step(_SHARE, _TRUST)).step(1.0, _TRUST)
            if settings.ions:
                lattice = move_centroids(lattice, density, asked.forces)
            density = bounded(Modes.of(step, self.estimates.masses), settings.temperature, lattice, _LARGEST_RMS)
            if change.gain < 0.05 * self.goal:
                break
        cell = strain_cell(state.cell, self.estimates.strains, self.estimates.strain(state))
        state.pool.append(state.current)
        state.current = None
        growth = np.linalg.det(cell) / np.linalg.det(lattice.unit.cell)
        state.cell, state.scaled, state.phi = cell, lattice.unit.scaled, density.phi * growth ** (-2.0 * GRUNEISEN)

    # The result.

    def _result(self, state: State, reason: str) -> FreeEnergy:
        assert state.current is not None
        settings, last, rest = self.settings, state.history[-1], self.crystal.lattice
        density, lattice = self.estimates.density(state.phi), self.estimates.lattice(state)
        averages = Averages(state.current, density, lattice, self.crystal.symmetry)
        answer = self.evaluate([Supercell(lattice.unit, lattice.masses).atoms()])[0]
        e0 = None if isinstance(answer, CalculationError) else float(answer["energy"])
        mesh = Mesh.of(lattice, self.crystal.symmetry, settings.mesh)
        dense = Dispersion(density.phi, lattice).on(mesh)
        held = density.free_energy / lattice.cells
        f = last.g - pv_energy(settings.pressure_gpa, lattice.unit.volume)
        correction = self.estimates.mesh_correction(state, mesh)
        moved = (lattice.unit.scaled - rest.unit.scaled) @ lattice.unit.cell
        jump = float(np.linalg.norm(moved - moved.mean(axis=0), axis=1).max())
        failed = sum(e.failed for e in (*state.pool, state.current))
        converged = reason == CONVERGED
        flags = {
            "scha-unconverged": not converged,
            "not-harmonic": last.r2 < self.limits.min_r2,
            "large-amplitude": last.rms > self.limits.max_rms,
            "cell-uncertain": last.strain_error > self.limits.max_strain_error,
            "transformed": jump > self.limits.max_jump,
            "configurations-failed": failed > 0,
            "imaginary-between": dense.imaginary > 0.0,
            "mesh-uncertain": correction.error > settings.g_error * len(lattice.unit),
        }
        return FreeEnergy(
            structure=lattice.unit,
            temperature=settings.temperature,
            target_gpa=settings.pressure_gpa,
            e0=e0,
            f_harmonic=held,
            mesh_correction=correction.mean,
            f=f + correction.mean,
            error=float(np.hypot(last.g_error, correction.error)),
            stress=averages.stress.mean,
            stress_error=averages.stress.error,
            pressure_gpa=last.pressure_gpa,
            pressure_error=last.pressure_error,
            forces=averages.forces.mean,
            lattice=lattice,
            phi=density.phi,
            ensemble=state.current,
            evaluations=state.evaluations + 1,
            failed=failed,
            lowest_harmonic_thz=state.lowest_harmonic_thz,
            lowest_thz=dense.lowest * THZ_PER_EV,
            jump=jump,
            converged=converged,
            reason=reason,
            flags=tuple(name for name, set_ in flags.items() if set_),
            history=tuple(state.history),
        )


def _check_amplitudes(history: list[Population]) -> None:
    """Refuse a crystal whose atoms stay as far from their sites as they are ever let.

    Raises:
        Rejected: so it is.
    """
    if len(history) >= 3 and all(entry.rms > _AT_BOUND * _LARGEST_RMS for entry in history[-3:]):
        raise Rejected(
            "melted",
            f"atoms move by {_LARGEST_RMS:g} of the distance to their neighbours: this model has no such crystal at "
            "this temperature and pressure",
        )


def _key(crystal: Crystal, settings: Settings, limits: Limits) -> str:
    """Return what a state must have in common with a calculation to be its own."""
    lattice = crystal.lattice
    digest = hashlib.sha256(json.dumps([asdict(settings), asdict(limits), lattice.symbols]).encode())
    for array in (lattice.unit.cell, lattice.unit.scaled, lattice.masses):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
