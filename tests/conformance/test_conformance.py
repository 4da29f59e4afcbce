"""The same demands on every calculator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from uspex_bridge.base.errors import InputError
from uspex_bridge.models import backends

FULL = ((0, 5, 4), (5, 1, 3), (4, 3, 2))


def tensor(stress: np.ndarray) -> np.ndarray:
    """(6,) in ASE's order to (3, 3)."""
    return stress[np.array(FULL)]


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def same_values(found, expected, tolerance, atoms):
    """Compare two results of one structure."""
    close(found["energy"], expected["energy"], tolerance.energy * atoms)
    close(found["forces"], expected["forces"], tolerance.force)
    close(found["stress"], expected["stress"], tolerance.stress)


def same_results(found, expected, case):
    """Compare what one model gave twice, bit for bit where it can."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=0 if case.repeats else 1e-12, err_msg=name)


def slope(energy: Callable[[float], float], step: float) -> float:
    """Derivative at zero by four points."""
    return (8 * (energy(step) - energy(-step)) - (energy(2 * step) - energy(-2 * step))) / (12 * step)


def test_shapes_and_types(reference, crystal, case):
    assert type(reference["energy"]) is float
    assert reference["free_energy"] == reference["energy"]
    assert reference["forces"].shape == (len(crystal), 3)
    assert reference["stress"].shape == (6,)
    assert ("magmoms" in reference) == case.magmoms == backends.cards()[case.kind].magmoms
    for name, values in reference.items():
        assert np.isfinite(values).all(), name
        assert np.asarray(values).dtype == np.float64, name
    if case.magmoms:
        assert reference["magmoms"].shape == (len(crystal),)
        assert reference["magmoms"].max() > 0.5


def test_ase_interface(backend, crystal, reference, case):
    atoms = crystal.copy()
    atoms.calc = backend.calculator
    found = {
        "energy": atoms.get_potential_energy(),
        "free_energy": atoms.get_potential_energy(force_consistent=True),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    if case.magmoms:
        found["magmoms"] = atoms.get_magnetic_moments()
    same_results(found, reference, case)


def test_same_answer_after_another_structure(evaluate, crystal, reference, case):
    other = crystal[[1, 2]]
    other.set_cell(other.cell * 1.1, scale_atoms=True)
    assert evaluate(other)["energy"] != reference["energy"]
    same_results(evaluate(crystal), reference, case)


def test_forces_are_minus_the_slope(evaluate, crystal, reference, case):
    found, expected = [], []
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=(len(crystal), 3))
        direction /= np.linalg.norm(direction)

        def energy(step: float, direction=direction) -> float:
            moved = crystal.copy()
            moved.positions += step * direction
            return evaluate(moved)["energy"]

        found.append(-(reference["forces"] * direction).sum())
        expected.append(slope(energy, case.tolerance.step))
    close(found, expected, case.tolerance.slope)
    assert np.abs(expected).max() > 10 * case.tolerance.slope  # else the comparison says nothing


def test_stress_is_the_slope_with_strain(evaluate, crystal, reference, case):
    expected = []
    for row, column in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[row, column] += 0.5
        strain[column, row] += 0.5

        def energy(step: float, strain=strain) -> float:
            strained = crystal.copy()
            strained.set_cell(crystal.cell.array @ (np.eye(3) + step * strain), scale_atoms=True)
            return evaluate(strained)["energy"]

        expected.append(slope(energy, case.tolerance.step) / crystal.get_volume())
    close(reference["stress"], expected, case.tolerance.strain)
    assert np.abs(expected).max() > 10 * case.tolerance.strain


def test_net_force_is_zero(reference, case):
    close(reference["forces"].sum(axis=0), 0.0, 10 * case.tolerance.force)


def test_energy_is_extensive(evaluate, crystal, reference, case):
    double = evaluate(crystal * (1, 2, 1))
    close(double["energy"] / 2, reference["energy"], case.tolerance.energy * len(crystal))
    close(double["forces"], np.tile(reference["forces"], (2, 1)), case.tolerance.force)
    close(double["stress"], reference["stress"], case.tolerance.stress)


def test_translation(evaluate, crystal, reference, case):
    moved = crystal.copy()
    moved.positions += (0.7, -1.3, 0.4)
    same_values(evaluate(moved), reference, case.tolerance, len(crystal))


def test_lattice_translations_of_single_atoms(evaluate, crystal, reference, case):
    moved = crystal.copy()
    moved.positions += np.array([[1, 0, -1], [0, 2, 0], [-1, -1, 1], [0, 0, 3]]) @ crystal.cell.array
    same_values(evaluate(moved), reference, case.tolerance, len(crystal))


def test_another_cell_of_the_same_lattice(evaluate, crystal, reference, case):
    other = crystal.copy()
    other.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ crystal.cell.array)
    same_values(evaluate(other), reference, case.tolerance, len(crystal))


def test_rotation(evaluate, crystal, reference, case):
    turn = Rotation.from_euler("xyz", (0.4, -1.1, 2.0)).as_matrix()
    turned = crystal.copy()
    turned.set_cell(crystal.cell.array @ turn.T)
    turned.positions = crystal.positions @ turn.T
    found = evaluate(turned)
    close(found["energy"], reference["energy"], case.tolerance.energy * len(crystal))
    close(found["forces"], reference["forces"] @ turn.T, case.tolerance.force)
    close(tensor(found["stress"]), turn @ tensor(reference["stress"]) @ turn.T, case.tolerance.stress)


def test_order_of_atoms(evaluate, crystal, reference, case):
    order = [2, 0, 3, 1]
    found = evaluate(crystal[order])
    close(found["energy"], reference["energy"], case.tolerance.energy * len(crystal))
    close(found["forces"], reference["forces"][order], case.tolerance.force)
    close(found["stress"], reference["stress"], case.tolerance.stress)
    if case.magmoms:
        close(found["magmoms"], reference["magmoms"][order], 1e-5)


def test_one_atom(evaluate, case):
    found = evaluate(Atoms("Fe", cell=np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) * 1.4, pbc=True))
    assert np.isfinite(found["energy"])
    assert found["forces"].shape == (1, 3)
    close(found["forces"], 0.0, case.tolerance.force)
    close(found["stress"][3:], 0.0, case.tolerance.stress)
    close(found["stress"][:3], found["stress"][0], case.tolerance.stress)


def test_atoms_without_neighbours(evaluate, case):
    """An inflated cell is a structure like another; whether it is wanted is for the guards to say."""
    found = evaluate(Atoms("FeNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[40.0, 41.0, 42.0], pbc=True))
    assert np.isfinite(found["energy"])
    close(found["forces"], 0.0, case.tolerance.force)
    close(found["stress"], 0.0, case.tolerance.stress)


def test_elements(backend, case):
    assert backend.elements is not None
    assert {"Ca", "Fe", "Ni"} <= backend.elements
    assert len(backend.elements) == case.elements
    backend.check_elements(["Ca", "Fe", "Fe", "Ni"])


def test_unknown_element(backend, case):
    with pytest.raises(InputError, match=rf"{case.name}.*does not know Og.*knows"):
        backend.check_elements(["Fe", "Og"])


def test_elements_narrowed_by_the_settings(case, settings):
    with backends.load(case.name, replace(settings, elements=("Fe", "Ni"))) as narrow:
        assert narrow.elements == {"Fe", "Ni"}
        with pytest.raises(InputError, match="does not know Ca; it knows: Fe Ni"):
            narrow.check_elements(["Ca", "Fe"])


def test_identity(backend, case, settings):
    card = backends.cards()[case.kind]
    identity = backend.identity
    assert identity["kind"] == case.kind
    assert identity["package"] == f"{card.package.split('==')[0]} {backends.package_version(card)}"
    assert identity["device"] == "cpu"
    assert identity["dtype"] == (card.dtypes[0] if card.dtypes else "as in the weights")
    found = backends.find_weights(case.name, settings)
    if case.kind == "toy":
        assert found.path is None
        assert identity["sha256"] is identity["torch"] is None
        return
    assert identity["torch"]
    assert identity["model"] == (Path(settings.model).name if settings.model else card.models[0].name)
    assert identity["weights"] == found.path.name
    assert identity["sha256"] == hashlib.sha256(found.path.read_bytes()).hexdigest()
    assert backend.energy_zero == ("model" if settings.model else card.energy_zero)


def test_worker_gives_the_same_numbers(case, settings, crystal, reference, backend):
    with backends.load(case.name, replace(settings, isolate=True)) as remote:
        assert remote.elements == backend.elements
        assert remote.energy_zero == backend.energy_zero
        assert remote.identity == {**backend.identity, "worker": "isolated"}
        remote.calculator.calculate(crystal)
        found = remote.calculator.results
    same_results(found, reference, case)
    assert all(np.asarray(value).dtype == np.float64 for value in found.values())
