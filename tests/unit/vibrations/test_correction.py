"""Corrections to a second potential against what is known exactly."""

import numpy as np
import pytest
from ase.build import bulk
from vibrating import emt, springs, structure_of

from uspex_bridge.base.errors import Rejected
from uspex_bridge.vibrations.constants import Crystal
from uspex_bridge.vibrations.correction import correct
from uspex_bridge.vibrations.harmonic import harmonic
from uspex_bridge.vibrations.modes import Density, Modes

NICKEL = structure_of(bulk("Ni", a=3.5))
CRYSTAL = Crystal.prepare(NICKEL, (2, 2, 2))
PHI = harmonic(NICKEL, emt, repeats=(2, 2, 2)).phi


def density(share: float, temperature: float) -> Density:
    return Density(Modes.of(share * PHI, CRYSTAL.lattice.all_masses), temperature)


def differences(share: float, temperature: float, number: int = 400) -> np.ndarray:
    """V of scaled springs less that of the springs, at configurations of the latter."""
    first = density(1.0, temperature)
    half = first.displace(np.random.default_rng(0).standard_normal((number // 2, len(first.deviations))))
    atoms = [CRYSTAL.lattice.atoms(u) for u in np.concatenate([half, -half])]
    energies = [
        np.array([answer["energy"] for answer in springs(one * PHI, CRYSTAL.lattice.sites)(atoms)])
        for one in (1.0, share)
    ]
    return np.asarray(energies[1] - energies[0])


def test_a_constant_is_found_exactly():
    found = correct(np.full(20, -1.6), density(1.0, 300.0), 8, 8, pairs=True)
    assert found.mean == pytest.approx(-0.2)
    assert found.error < 1e-12
    assert found.second_order < 1e-12
    assert found.ess == pytest.approx(20)


@pytest.mark.parametrize("temperature", [30.0, 300.0, 2000.0])
def test_stiffer_springs_lie_below_the_first_order_by_the_second(temperature):
    """The bound holds for quantum nuclei too; the second order says by how much, to a third where kT is below ħω."""
    found = correct(differences(1.06, temperature), density(1.0, temperature), 8, 8, pairs=True)
    exact = (density(1.06, temperature).free_energy - density(1.0, temperature).free_energy) / 8
    assert found.mean > exact - 3.0 * found.error
    gap = found.mean - exact
    assert found.second_order == pytest.approx(gap, abs=4.0 * found.error + 0.35 * gap)
    assert found.error < 0.2 * found.mean


def test_another_crystal_is_refused():
    """Energies that scatter by many kT, as a model gives that has no such crystal; few configurations too."""
    scatter = np.random.default_rng(0).normal(0.0, 4.0, 20)
    with pytest.raises(Rejected, match="does not see the same crystal") as refusal:
        correct(scatter, density(1.0, 300.0), 8, 8, pairs=False)
    assert refusal.value.code == "second-model"
    with pytest.raises(Rejected, match="too few"):
        correct(np.zeros(6), density(1.0, 300.0), 8, 8, pairs=True)
