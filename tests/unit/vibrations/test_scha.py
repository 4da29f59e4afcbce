"""The self-consistent harmonic approximation against what is known exactly, and its guards."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.cell import Cell
from vibrating import emt, gaussian_bound, oscillator, quartic, springs, structure_of

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import CalculationError, ConfigError, InputError, Interrupted, Rejected
from uspex_bridge.base.symmetry import space_group
from uspex_bridge.base.units import ev_a3_to_gpa
from uspex_bridge.vibrations.constants import Crystal
from uspex_bridge.vibrations.harmonic import harmonic
from uspex_bridge.vibrations.modes import HBAR, variances
from uspex_bridge.vibrations.scha import scha
from uspex_bridge.vibrations.settings import Settings

GOLD = structure_of(bulk("Au", a=4.0))
AT_10_GPA = Settings(300.0, 10.0, repeats=(2, 2, 2), g_error=2e-4, volume_error=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 300.0, 3000.0])
def test_a_harmonic_crystal_is_exact(temperature):
    """To 0.01 meV/atom with an error bar of nothing, since only what is anharmonic is sampled."""
    nickel = structure_of(bulk("Ni", a=3.5))
    crystal = Crystal.prepare(nickel, (2, 2, 2))
    phi = harmonic(nickel, emt, repeats=(2, 2, 2)).phi
    found = scha(nickel, springs(phi, crystal.lattice.sites), Settings(temperature, cell="fixed", repeats=(2, 2, 2)))
    values = np.linalg.eigvalsh(phi / crystal.lattice.all_masses[0])[3:]
    energies = np.sqrt(values * (units._hbar * units.J * units.s) ** 2)
    thermal = units.kB * temperature
    exact = 0.5 * energies.sum()
    if thermal:
        exact += thermal * np.log(1.0 - np.exp(-energies / thermal)).sum()
    assert found.f - found.mesh_correction == pytest.approx(exact / 8, abs=1e-5)
    assert found.error < 1e-6
    assert found.converged


@pytest.mark.parametrize(("k", "q"), [(5.0, 20.0), (0.0, 40.0), (-1.0, 60.0)])
def test_a_quartic_oscillator_has_the_gaussian_bound(k, q):
    """A proton at 300 K, purely quartic and in a double well too: the closed solution, and never below the exact F."""
    atoms = Atoms("HHe", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=np.eye(3) * 5.0, pbc=True)
    masses = {"H": 2.0, "He": 2.0}  # the reduced mass of their distance is 1
    settings = Settings(300.0, cell="fixed", repeats=(1, 1, 1), g_error=1e-3, configs=60, final_configs=120)
    found = scha(structure_of(atoms), quartic(k, q), settings, isotopes=masses)
    per_mode = (found.f - found.mesh_correction) / 3.0
    error = found.history[-1].g_error  # three standard errors, of three modes
    exact = oscillator(lambda x: 0.5 * k * x**2 + q * x**4, 1.0, 300.0)
    bound = gaussian_bound(k, q, 1.0, 300.0)
    assert bound > exact - 1e-6
    assert per_mode == pytest.approx(bound, abs=error + 3e-4)
    assert per_mode > exact - error
    assert found.lowest_harmonic_thz < 0 if k < 0 else found.lowest_harmonic_thz >= 0


def test_an_asymmetric_well_shifts_the_mean_position():
    """k r²/2 + c z³ of a distance: the closed solution of mean and width, on the side that is less steep."""
    k, c, temperature = 5.0, 4.0, 300.0
    atoms = Atoms("HHe", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.45]], cell=np.diag([5.0, 5.0, 6.0]), pbc=True)
    sites = atoms.positions.copy()

    def evaluate(structures):
        answers = []
        for one in structures:
            gap = (one.positions[1] - one.positions[0]) - (sites[1] - sites[0])
            pull = k * gap + np.array([0.0, 0.0, 3.0 * c * gap[2] ** 2])
            energy = 0.5 * k * gap @ gap + c * gap[2] ** 3
            answers.append({"energy": energy, "forces": np.array([pull, -pull]), "stress": np.zeros(6)})
        return answers

    settings = Settings(temperature, cell="fixed", repeats=(1, 1, 1), g_error=2e-4, configs=60, centroid_force=1e-3)
    found = scha(structure_of(atoms), evaluate, settings, isotopes={"H": 2.0, "He": 2.0})  # the reduced mass is 1
    shift = 0.0
    for _ in range(200):
        stiff = k + 6.0 * c * shift  # of the Gaussian
        variance = float(variances(HBAR * np.sqrt(np.array([stiff])), temperature)[0])
        shift = -3.0 * c * (variance + shift**2) / k
    moved = (found.structure.scaled[1] - found.structure.scaled[0]) @ found.structure.cell - (sites[1] - sites[0])
    assert shift < -0.01
    assert moved == pytest.approx([0.0, 0.0, shift], abs=0.1 * abs(shift))
    assert found.converged


def test_gold_at_300_k_and_10_gpa():
    """What an independent code finds (python-sscha 1.6: G 0.9612 eV, V 16.03 to 16.04 Å³), from two starts."""
    for start, seed in ((GOLD, 0), (replace(GOLD, cell=1.01 * GOLD.cell), 1)):
        found = scha(start, emt, replace(AT_10_GPA, seed=seed))
        assert found.converged, found.reason
        assert found.g - found.mesh_correction == pytest.approx(0.9612, abs=2e-4 + 2 * found.history[-1].g_error)
        assert found.structure.volume == pytest.approx(16.04, abs=0.03)
        assert found.error < 5e-4
        assert found.flags in ((), ("mesh-uncertain",))
        assert "Fm-3m" in found.space_group


@pytest.mark.parametrize("strain", [0.03, -0.03])
def test_a_strained_crystal_returns_to_its_symmetry(strain):
    """Gold strained along [111]: the angle from 58.69° or 61.33° to the 60° of fcc, G and V those of the fcc start."""
    axis = np.ones(3) / np.sqrt(3.0)
    turned = np.eye(3) + strain * (np.outer(axis, axis) - np.eye(3) / 3.0)
    start = replace(GOLD, cell=GOLD.cell @ turned)
    assert "R-3m" in space_group(start.symbols, start.cell, start.scaled, 0.05)
    found = scha(start, emt, AT_10_GPA)
    assert found.converged, found.reason
    assert found.space_group == "Fm-3m (225)"
    assert Cell(found.structure.cell).angles() == pytest.approx(60.0, abs=0.3)
    assert found.g - found.mesh_correction == pytest.approx(0.9612, abs=2e-4 + 2 * found.history[-1].g_error)
    assert found.structure.volume == pytest.approx(16.04, abs=0.05)


def test_the_pressure_is_minus_the_derivative_of_f():
    """Both of the supercell alone, which the stress belongs to."""
    settings = replace(AT_10_GPA, cell="fixed", pressure_gpa=0.0)
    volumes = (15.6, 16.0, 16.4)
    found = [scha(replace(GOLD, cell=GOLD.cell * (v / GOLD.volume) ** (1 / 3)), emt, settings) for v in volumes]
    free = [one.f - one.mesh_correction for one in found]
    slope = -ev_a3_to_gpa((free[2] - free[0]) / 0.8)
    error = 3.0 * float(np.hypot(ev_a3_to_gpa(np.hypot(found[0].error, found[2].error) / 0.8), found[1].pressure_error))
    assert error < 1.0
    assert found[1].pressure_gpa == pytest.approx(slope, abs=error)


def test_a_cell_that_is_rotated_or_left_handed_has_the_same_free_energy():
    atoms = bulk("Cu", cubic=True, a=3.75)
    atoms.symbols[0] = "Au"
    one = structure_of(atoms)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    settings = Settings(600.0, repeats=(1, 1, 1), g_error=1e-3)
    first = scha(one, emt, settings)
    others = (
        Structure(one.symbols, one.cell @ turn, one.scaled),
        Structure(one.symbols, one.cell[[1, 0, 2]], one.scaled[:, [1, 0, 2]]),
    )
    for other in others:
        found = scha(other, emt, settings)
        assert found.g == pytest.approx(first.g, abs=3.0 * float(np.hypot(found.error, first.error)))
        assert found.structure.volume == pytest.approx(first.structure.volume, rel=1.5e-2)


def test_stopped_after_every_population_it_goes_on_to_the_same_bits(tmp_path):
    settings = replace(AT_10_GPA, configs=12)
    whole = scha(GOLD, emt, settings)
    path = tmp_path / "state.npz"
    for count in range(1, 40):
        asked = iter([None] + ["told to stop"] * 100)
        found = scha(GOLD, emt, settings, state=path, halt=lambda asked=asked: next(asked))
        assert np.isfinite(found.error) or len(found.history) == 1
        if found.converged:
            break
        assert found.reason == "told to stop"
        assert "scha-unconverged" in found.flags
        assert len(found.history) == count
    assert found.g == whole.g
    assert found.history == whole.history
    assert np.array_equal(found.structure.cell, whole.structure.cell)


def test_a_state_is_anothers_or_damaged(tmp_path):
    path, settings = tmp_path / "state.npz", replace(AT_10_GPA, g_error=2e-3)
    first = scha(GOLD, emt, settings, state=path)
    other = scha(GOLD, emt, replace(settings, temperature=600.0), state=path)
    assert other.g < first.g - 0.02
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="remove it"):
        scha(GOLD, emt, settings, state=path)


def test_nothing_is_there_before_the_first_population():
    with pytest.raises(Interrupted, match="no free energy"):
        scha(GOLD, emt, AT_10_GPA, halt=lambda: "time limit")


def test_too_few_configurations_are_refused():
    atoms = bulk("Cu", cubic=True, a=3.75)
    atoms.symbols[0], atoms.symbols[1] = "Au", "Ni"
    atoms.positions += np.random.default_rng(0).normal(0, 0.05, (4, 3))
    with pytest.raises(ConfigError, match="force constants of 32 atoms"):
        scha(structure_of(atoms), emt, Settings(300.0, repeats=(2, 2, 2), configs=4))


def test_a_model_that_fails_on_configurations_refuses_the_structure():
    def often(structures):
        return [CalculationError("out of range") if k % 3 == 0 else a for k, a in enumerate(emt(structures))]

    def after_the_start(structures):
        return emt(structures) if len(structures) < 10 else often(structures)

    with pytest.raises(Rejected, match="out of range"):
        scha(GOLD, after_the_start, AT_10_GPA)


def test_a_crystal_that_is_none_melts():
    """Atoms that nothing holds stray as far as they are let."""
    cubic = structure_of(bulk("Au", a=4.0, cubic=True))
    free = springs(np.zeros((12, 12)), Crystal.prepare(cubic, (1, 1, 1)).lattice.sites)
    with pytest.raises(Rejected, match="no such crystal"):
        scha(cubic, free, Settings(300.0, cell="fixed", repeats=(1, 1, 1)))


def test_a_smaller_supercell_is_a_start_for_a_larger_one():
    """The mesh correction makes both the same crystal's."""
    small = scha(GOLD, emt, AT_10_GPA)
    large = scha(GOLD, emt, replace(AT_10_GPA, repeats=(3, 3, 3), g_error=1e-3), start=small)
    assert large.g == pytest.approx(small.g, abs=2e-3)
    assert large.structure.volume == pytest.approx(small.structure.volume, rel=5e-3)
