"""Phonons, their free energies and the quasi-harmonic volume."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from vibrating import emt, springs, structure_of

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import CalculationError, ConfigError, InputError
from uspex_bridge.base.units import gpa_to_ev_a3
from uspex_bridge.vibrations.constants import Crystal
from uspex_bridge.vibrations.dispersion import Dispersion, Mesh
from uspex_bridge.vibrations.harmonic import harmonic
from uspex_bridge.vibrations.modes import HBAR, THZ_PER_EV, Density, Modes, free_energies, masses_of
from uspex_bridge.vibrations.qha import at_volumes, quasi_harmonic
from uspex_bridge.vibrations.supercell import Supercell, choose_repeats

GOLD = structure_of(bulk("Au", a=4.06))


def alloy() -> Structure:
    """Cu3Au in a tetragonally distorted cell: two elements, few operations."""
    atoms = bulk("Cu", cubic=True, a=3.75)
    atoms.symbols[0] = "Au"
    atoms.set_cell(np.diag([1.0, 1.0, 1.03]) @ atoms.cell.array, scale_atoms=True)
    return structure_of(atoms)


def test_an_oscillator_has_its_textbook_free_energy():
    """kT ln(2 sinh(ħω/2kT)); the zero-point energy at 0 K; kT ln(ħω/kT) where it is classical."""
    energies = np.array([0.004, 0.03, 0.2])
    for temperature in (10.0, 300.0, 3000.0):
        thermal = units.kB * temperature
        exact = thermal * np.log(2.0 * np.sinh(0.5 * energies / thermal))
        assert free_energies(energies, temperature) == pytest.approx(exact, abs=1e-10)
    assert free_energies(energies, 0.0) == pytest.approx(0.5 * energies)
    thermal = units.kB * 1e6
    assert free_energies(energies, 1e6) == pytest.approx(thermal * np.log(energies / thermal), rel=1e-4)


def test_the_frequency_of_a_known_molecule():
    """H2 with 5.751 mdyn/Å vibrates at 4401 cm⁻¹."""
    constant = 575.1 * units.J / units.m**2
    energy = HBAR * np.sqrt(constant / (0.5 * 1.00783))
    assert energy / units.invcm == pytest.approx(4401, rel=2e-3)
    assert energy * THZ_PER_EV == pytest.approx(4401 * units.invcm / (units._hplanck * units.J) * 1e-12, rel=2e-3)


def test_the_gaussian_has_the_energy_that_equipartition_asks():
    density = Density(Modes(np.array([0.01, 0.02, 0.03]), np.eye(6)[:, :3], np.array([10.0, 20.0])), 5000.0)
    assert density.potential == pytest.approx(0.5 * units.kB * 5000.0, rel=2e-3)


def test_force_constants_are_found_again():
    """Those of one harmonic crystal, from a handful of displacements, with all modes."""
    crystal = Crystal.prepare(GOLD, (2, 2, 2))
    phi = harmonic(GOLD, emt, repeats=(2, 2, 2)).phi
    again = harmonic(GOLD, springs(phi, crystal.lattice.sites), repeats=(2, 2, 2))
    assert again.phi == pytest.approx(phi, abs=1e-6)
    assert again.r2 == pytest.approx(1.0, abs=1e-9)
    assert again.evaluations <= 5


def test_phonons_between_agree_with_those_of_a_larger_supercell():
    """At the wave vectors of 2x2x2, which both hold, exactly; the nearest-neighbour EMT has reach enough."""
    crystal = Crystal.prepare(GOLD, (4, 4, 4))
    phi = harmonic(GOLD, emt, repeats=(4, 4, 4)).phi
    held = Modes.of(phi, crystal.lattice.all_masses).energies
    points = Mesh.regular([4, 4, 4], crystal.symmetry)
    on_mesh = Dispersion(phi, crystal.lattice).on(points)
    thermal = free_energies(held, 300.0).sum() / 64
    assert on_mesh.free_energy(300.0) == pytest.approx(thermal, abs=1e-6)
    larger = Supercell(crystal.lattice.unit, crystal.lattice.masses, (6, 6, 6))
    filled = Dispersion(Dispersion(phi, crystal.lattice).fill(larger), larger)
    here = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.0]])
    assert filled.energies(here) == pytest.approx(Dispersion(phi, crystal.lattice).energies(here), abs=1e-5)


@pytest.mark.parametrize("make", [alloy, lambda: structure_of(bulk("Ni", "hcp", a=2.5, c=4.1))])
def test_the_free_energy_is_the_crystals_and_not_the_cells(make):
    """Rotated, left-handed, doubled, another order of atoms: the same F per atom."""
    one = make()
    n = len(one)
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    first = harmonic(one, emt, repeats=(2, 2, 2), mesh=30.0)
    others = {
        "rotated": (Structure(one.symbols, one.cell @ turn, one.scaled), (2, 2, 2)),
        "left-handed": (Structure(one.symbols, one.cell[[1, 0, 2]], one.scaled[:, [1, 0, 2]]), (2, 2, 2)),
        "reversed": (Structure(one.symbols[::-1], one.cell, one.scaled[::-1]), (2, 2, 2)),
        "doubled": (
            Structure(
                one.symbols * 2,
                one.cell * np.array([1, 1, 2])[:, None],
                np.concatenate([one.scaled, one.scaled + np.array([0, 0, 1])]) / [1, 1, 2],
            ),
            (2, 2, 1),
        ),
    }
    for name, (other, repeats) in others.items():
        found = harmonic(other, emt, repeats=repeats, mesh=30.0)
        per_atom = found.free_energy(300.0) / len(other)
        assert per_atom == pytest.approx(first.free_energy(300.0) / n, abs=1e-4), name
        assert found.imaginary == first.imaginary, name


def test_only_the_mesh_makes_supercells_comparable():
    """8 and 64 atoms of gold within 2 meV/atom with it; on their own wave vectors alone 5 meV/atom apart and more."""
    gold = structure_of(bulk("Au", a=4.0))
    with_mesh, without = [], []
    for n in (2, 4):
        found = harmonic(gold, emt, repeats=(n, n, n))
        with_mesh.append(found.phonons.free_energy(300.0))
        energies = Modes.of(found.phi, found.lattice.all_masses).energies
        without.append(free_energies(energies, 300.0).sum() / n**3)
    assert with_mesh[0] == pytest.approx(with_mesh[1], abs=2e-3)
    assert abs(without[0] - without[1]) > 5e-3


def test_an_unstable_crystal_is_known_by_its_imaginary_modes():
    """EMT's bcc copper is no minimum; its fcc copper is one."""
    bcc = harmonic(structure_of(bulk("Cu", "bcc", a=2.85)), emt, repeats=(3, 3, 3))
    assert bcc.imaginary
    assert bcc.lowest_held_thz < -0.5
    assert bcc.lowest_thz <= bcc.lowest_held_thz
    fcc = harmonic(structure_of(bulk("Cu", a=3.6)), emt, repeats=(3, 3, 3))
    assert not fcc.imaginary
    assert fcc.lowest_thz == 0.0


def test_heavy_isotopes_lower_the_zero_point():
    """By the root of the masses' ratio."""
    light = harmonic(alloy(), emt, repeats=(2, 2, 2))
    heavy = harmonic(alloy(), emt, repeats=(2, 2, 2), isotopes={"Cu": 4 * 63.546, "Au": 4 * 196.967})
    assert heavy.zero_point == pytest.approx(0.5 * light.zero_point, rel=1e-4)
    with pytest.raises(ConfigError, match="isotopes"):
        masses_of(["Cu"], {"Copper": 63.0})


def test_the_supercell_keeps_images_apart_and_the_point_group():
    assert choose_repeats(GOLD, 6.0) == (3, 3, 3)
    hexagonal = structure_of(bulk("Ni", "hcp", a=2.5, c=4.1))
    assert choose_repeats(hexagonal, 6.0) == (3, 3, 2)
    with pytest.raises(ConfigError, match="min_image"):
        choose_repeats(GOLD, 100.0)


def test_a_model_that_fails_at_rest_has_no_free_energy():
    with pytest.raises(CalculationError, match="NaN"):
        harmonic(
            GOLD,
            lambda all_: [{"energy": np.nan, "forces": np.zeros((len(a), 3)), "stress": np.zeros(6)} for a in all_],
        )


def test_the_quasi_harmonic_volume_is_where_the_pressure_is_met():
    """-dF/dV = P by finite differences; gold expands."""
    crystals = [harmonic(one, emt, repeats=(2, 2, 2)) for one in at_volumes(GOLD)]
    found = quasi_harmonic(crystals, [150.0, 300.0, 2000.0], 0.0)
    assert not found.imaginary
    growth = (found.volumes[1] - found.volumes[0]) / (150.0 * found.volumes[1])
    assert 3e-5 < growth < 12e-5
    assert np.isnan([found.volumes[2], found.gibbs[2]]).all()  # beyond the volumes: no minimum, no answer
    assert found.residuals[:2].max() < 1e-4
    squeezed = quasi_harmonic(crystals, [300.0], 5.0)
    change = (squeezed.gibbs[0] - found.gibbs[1]) / gpa_to_ev_a3(5.0)  # dG/dP = V
    assert change == pytest.approx(0.5 * (squeezed.volumes[0] + found.volumes[1]), rel=2e-3)
    with pytest.raises(InputError, match="four"):
        quasi_harmonic(crystals[:3], [300.0], 0.0)
