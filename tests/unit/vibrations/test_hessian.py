"""The curvature of the free energy against closed solutions and an independent code."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from vibrating import emt, springs, structure_of

from uspex_bridge.vibrations.constants import Crystal
from uspex_bridge.vibrations.ensemble import draw
from uspex_bridge.vibrations.harmonic import harmonic
from uspex_bridge.vibrations.hessian import hessian
from uspex_bridge.vibrations.modes import Density, Modes
from uspex_bridge.vibrations.scha import scha
from uspex_bridge.vibrations.settings import Settings


def test_a_harmonic_crystal_has_its_own_phonons():
    nickel = structure_of(bulk("Ni", a=3.5))
    crystal = Crystal.prepare(nickel, (2, 2, 2))
    phi = harmonic(nickel, emt, repeats=(2, 2, 2)).phi
    density = Density(Modes.of(phi, crystal.lattice.all_masses), 300.0)
    evaluate = springs(phi, crystal.lattice.sites)
    drawn = draw(crystal.lattice, density, 24, np.random.default_rng(0), evaluate, 0.1)
    found = hessian(crystal.lattice, density, drawn)
    assert found.phi == pytest.approx(phi, abs=1e-6)
    assert found.error_thz < 1e-6


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_a_cubic_term_softens_by_what_the_classical_limit_says(constant):
    """V = k r²/2 + g z (x² + y²)/2 of a distance: k - kT g²/k² along each axis, with a constant force or without."""
    k, g, temperature = 4.0, 3.0, 3000.0
    atoms = Atoms("HHe", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.45]], cell=np.diag([5.0, 5.0, 6.0]), pbc=True)
    masses = {"H": 400.0, "He": 400.0}  # heavy: classical
    crystal = Crystal.prepare(structure_of(atoms), (1, 1, 1), isotopes=masses)
    sites = crystal.lattice.sites

    def evaluate(structures):
        answers = []
        for one in structures:
            x, y, z = (one.positions[1] - one.positions[0]) - (sites[1] - sites[0])
            pull = np.array([k * x + g * z * x, k * y + g * z * y, k * z + 0.5 * g * (x**2 + y**2) + constant])
            energy = 0.5 * k * (x**2 + y**2 + z**2) + 0.5 * g * z * (x**2 + y**2) + constant * z
            answers.append({"energy": energy, "forces": np.array([pull, -pull]), "stress": np.zeros(6)})
        return answers

    block = k * np.eye(3)
    phi = np.block([[block, -block], [-block, block]])
    density = Density(Modes.of(phi, crystal.lattice.all_masses), temperature)
    drawn = draw(crystal.lattice, density, 60, np.random.default_rng(0), evaluate, 0.1)
    found = hessian(crystal.lattice, density, drawn)
    softened = k - units.kB * temperature * g**2 / k**2
    assert found.phi[2, 2] == pytest.approx(softened, rel=0.02)
    assert found.phi[0, 0] == pytest.approx(k - units.kB * temperature * g**2 / k**2, rel=0.02)
    assert found.phi[2, 5] == pytest.approx(-found.phi[2, 2], abs=1e-8)


def test_gold_has_the_phonons_of_an_independent_code():
    """python-sscha 1.6.2 at 300 K and 16 Å³, meV: 6.6, 9.8, 10.2, 15.0, 15.1, 16.3, 16.4."""
    gold = structure_of(bulk("Au", a=4.0))
    settings = Settings(300.0, cell="fixed", repeats=(3, 3, 3), g_error=1e-3, configs=60)
    found = scha(gold, emt, settings)
    masses = found.lattice.all_masses
    density = Density(Modes.of(found.phi, masses), 300.0)
    curved = hessian(found.lattice, density, found.ensemble)
    energies = np.unique(np.round(1000.0 * Modes.of(curved.phi, masses).energies, 3).round(2))
    known = np.array([6.6, 9.8, 10.2, 15.0, 15.1, 16.3, 16.4])
    assert np.abs(energies[:, None] - known).min(axis=1).max() < 0.2
    assert np.abs(energies[:, None] - known).min(axis=0).max() < 0.2


def test_too_few_configurations_tell_nothing():
    alloy = bulk("Cu", cubic=True, a=3.75)
    alloy.symbols[0] = "Au"
    alloy.positions += np.random.default_rng(0).normal(0, 0.05, (4, 3))
    crystal = Crystal.prepare(structure_of(alloy), (1, 1, 1))
    phi = harmonic(structure_of(alloy), emt, repeats=(1, 1, 1)).phi
    modes = Modes.of(phi, crystal.lattice.all_masses).floored(0.005)
    density = Density(modes, 300.0)
    drawn = draw(crystal.lattice, density, 12, np.random.default_rng(0), emt, 0.1)
    assert hessian(crystal.lattice, density, drawn) is None
