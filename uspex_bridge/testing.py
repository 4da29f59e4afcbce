"""What every calculator must do, as tests that a package runs on a calculator of its own (docs/calculators.md).

import pytest
pytest.register_assert_rewrite("uspex_bridge.testing")
from uspex_bridge.testing import SINGLE, Case, Conformance

class TestMine(Conformance):
case = Case("mine", CalculatorSettings(kind="my_package:build"), SINGLE, elements=("Ca", "Fe", "Ni"))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import CalculationError, InputError
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.models import backends, inventory
from uspex_bridge.models.cards import CalculatorSettings

Results = Mapping[str, Any]
Evaluate = Callable[[Atoms], Results]


@dataclass(frozen=True)
class Tolerance:
    """How far two ways to the same number may lie apart.

    Attributes:
        energy: eV/atom; force: eV/Å; stress: eV/Å³: of a number computed twice.
        slope: eV/Å; strain: eV/Å³: of a derivative against finite differences.
        step: of these differences, Å or strain.
    """

    energy: float
    force: float
    stress: float
    slope: float
    strain: float
    step: float


DOUBLE = Tolerance(energy=1e-9, force=1e-8, stress=1e-10, slope=1e-5, strain=1e-7, step=1e-3)
SINGLE = Tolerance(energy=2e-6, force=1e-4, stress=1e-5, slope=5e-3, strain=1e-4, step=3e-3)
#: For random weights: all numbers are small, so are the errors.
SINGLE_TINY = Tolerance(energy=1e-7, force=1e-6, stress=1e-7, slope=3e-5, strain=3e-6, step=1e-2)


@dataclass(frozen=True)
class Case:
    """A calculator under test.

    Attributes:
        name: of the calculator.
        settings: as in a table ``[calculators.NAME]``; its ``kind`` must be set.
        tolerance: how exact it is.
        elements: three elements that it knows.
        magmoms: whether it gives magnetic moments.
        repeats: whether the same input gives the same bits. PyTorch's just-in-time compiler rewrites some models
            after their first calls: then it does not.
        batches: whether it evaluates structures together.
        breaks: what does not hold exactly of it: ``rotation`` of networks that learn it, ``extensivity``.
    """

    name: str
    settings: CalculatorSettings
    tolerance: Tolerance
    elements: tuple[str, str, str] = ("Ca", "Fe", "Ni")
    magmoms: bool = False
    repeats: bool = True
    batches: bool = True
    breaks: tuple[Literal["rotation", "extensivity"], ...] = ()


def crystal_of(elements: tuple[str, str, str]) -> Atoms:
    """Return four atoms of three elements in a general cell under some pressure, all symmetry broken."""
    rng = np.random.default_rng(3)
    first, second, third = elements
    cell = np.array([[3.5, 0.3, 0.1], [-0.2, 3.7, 0.4], [0.3, -0.1, 3.9]])
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) + rng.normal(0, 0.02, (4, 3))
    return Atoms([first, second, second, third], scaled_positions=scaled, cell=cell, pbc=True)


class Conformance:
    """The suite; a subclass sets ``case``."""

    @pytest.fixture(scope="class")
    def backend(self, case: Case) -> Iterator[backends.Backend]:
        """The loaded calculator, on one thread."""
        limit_threads(1)
        with backends.load(case.name, case.settings) as loaded:
            yield loaded

    @pytest.fixture(scope="class")
    def crystal(self, case: Case) -> Atoms:
        """See :func:`crystal_of`."""
        return crystal_of(case.elements)

    @pytest.fixture(scope="class")
    def evaluate(self, backend: backends.Backend) -> Evaluate:
        """Evaluate one structure as an ASE calculator does."""

        def function(atoms: Atoms) -> Results:
            backend.calculator.calculate(atoms)
            return dict(backend.calculator.results)

        return function

    @pytest.fixture(scope="class")
    def reference(self, evaluate: Evaluate, crystal: Atoms) -> Results:
        """What the calculator says of ``crystal``."""
        return evaluate(crystal)

    @pytest.fixture(scope="class")
    def structures(self, crystal: Atoms, case: Case) -> list[Atoms]:
        """One to eight atoms of one to three elements, one without neighbours, one in a left-handed cell."""
        first, second, third = case.elements
        lone = Atoms([second, third], scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[24.0, 25.0, 26.0], pbc=True)
        sites = [[0.1, 0.2, 0.3], [0.6, 0.7, 0.9]]
        pair = Atoms([first, second], scaled_positions=sites, cell=[2.9, 3.3, 3.6], pbc=True)
        eight = crystal * (2, 1, 1)
        eight.rattle(0.05, seed=5)
        mirrored = crystal.copy()
        mirrored.set_cell(crystal.cell.array[[1, 0, 2]])
        return [crystal, bulk(second, "bcc", a=2.7), eight, lone, pair, mirrored]

    @pytest.fixture(scope="class")
    def alone(self, backend: backends.Backend, structures: list[Atoms]) -> list[Results]:
        """What the calculator says of each of ``structures`` by itself."""
        found = [backend.evaluate_many([atoms])[0] for atoms in structures]
        assert not [one for one in found if isinstance(one, CalculationError)]
        return found  # type: ignore[return-value]  # no errors among them

    # ------------------------------------------------------------------------------------------------- one structure

    def test_shapes_and_types(self, reference: Results, crystal: Atoms, case: Case) -> None:
        """Energy is a float, arrays are float64 of ASE's shapes, all numbers are finite."""
        assert type(reference["energy"]) is float
        assert reference["free_energy"] == reference["energy"]
        assert reference["forces"].shape == (len(crystal), 3)
        assert reference["stress"].shape == (6,)
        assert ("magmoms" in reference) == case.magmoms
        for name, values in reference.items():
            assert np.isfinite(values).all(), name
            assert np.asarray(values).dtype == np.float64, name
        if case.magmoms:
            assert reference["magmoms"].shape == (len(crystal),)

    def test_ase_interface(self, backend: backends.Backend, crystal: Atoms, reference: Results, case: Case) -> None:
        """ASE's own methods give the same numbers."""
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
        _same_bits(found, reference, case)

    def test_same_answer_after_another_structure(
        self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case
    ) -> None:
        """Nothing of a structure stays for the next one."""
        other = crystal[[1, 2]]
        other.set_cell(other.cell * 1.1, scale_atoms=True)
        assert evaluate(other)["energy"] != reference["energy"]
        _same_bits(evaluate(crystal), reference, case)

    def test_forces_are_minus_the_slope(
        self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case
    ) -> None:
        """Forces are -dE/dx along random directions."""
        found, expected = [], []
        for seed in range(3):
            direction = np.random.default_rng(seed).normal(size=(len(crystal), 3))
            direction /= np.linalg.norm(direction)

            def energy(step: float, direction: Array = direction) -> float:
                moved = crystal.copy()
                moved.positions += step * direction
                return float(evaluate(moved)["energy"])

            found.append(-(reference["forces"] * direction).sum())
            expected.append(_slope(energy, case.tolerance.step))
        _close(found, expected, case.tolerance.slope)
        assert np.abs(expected).max() > 10 * case.tolerance.slope  # else the comparison says nothing

    def test_stress_is_the_slope_with_strain(
        self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case
    ) -> None:
        """Stress is dE/dstrain over the volume, in ASE's sign and order."""
        expected = []
        for row, column in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
            strain = np.zeros((3, 3))
            strain[row, column] += 0.5
            strain[column, row] += 0.5

            def energy(step: float, strain: Array = strain) -> float:
                strained = crystal.copy()
                strained.set_cell(crystal.cell.array @ (np.eye(3) + step * strain), scale_atoms=True)
                return float(evaluate(strained)["energy"])

            expected.append(_slope(energy, case.tolerance.step) / crystal.get_volume())
        _close(reference["stress"], expected, case.tolerance.strain)
        assert np.abs(expected).max() > 10 * case.tolerance.strain

    def test_net_force_is_zero(self, reference: Results, case: Case) -> None:
        """Forces add up to nothing."""
        _close(reference["forces"].sum(axis=0), 0.0, 10 * case.tolerance.force)

    def test_energy_is_extensive(self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case) -> None:
        """A doubled cell has twice the energy, the same forces and the same stress."""
        if "extensivity" in case.breaks:
            pytest.skip("its energy is not extensive")
        double = evaluate(crystal * (1, 2, 1))
        _close(double["energy"] / 2, reference["energy"], case.tolerance.energy * len(crystal))
        _close(double["forces"], np.tile(reference["forces"], (2, 1)), case.tolerance.force)
        _close(double["stress"], reference["stress"], case.tolerance.stress)

    def test_translation(self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case) -> None:
        """Where the crystal lies does not matter."""
        moved = crystal.copy()
        moved.positions += (0.7, -1.3, 0.4)
        _same_values(evaluate(moved), reference, case, len(crystal))

    def test_lattice_translations_of_single_atoms(
        self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case
    ) -> None:
        """Which image of an atom is given does not matter."""
        moved = crystal.copy()
        moved.positions += np.array([[1, 0, -1], [0, 2, 0], [-1, -1, 1], [0, 0, 3]]) @ crystal.cell.array
        _same_values(evaluate(moved), reference, case, len(crystal))

    def test_another_cell_of_the_same_lattice(
        self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case
    ) -> None:
        """Which basis of the lattice is given does not matter."""
        other = crystal.copy()
        other.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ crystal.cell.array)
        _same_values(evaluate(other), reference, case, len(crystal))

    def test_rotation(self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case) -> None:
        """Forces and stress turn with the crystal."""
        if "rotation" in case.breaks:
            pytest.skip("it learns rotations")
        turn = Rotation.from_euler("xyz", (0.4, -1.1, 2.0)).as_matrix()
        turned = crystal.copy()
        turned.set_cell(crystal.cell.array @ turn.T)
        turned.positions = crystal.positions @ turn.T
        found = evaluate(turned)
        _close(found["energy"], reference["energy"], case.tolerance.energy * len(crystal))
        _close(found["forces"], reference["forces"] @ turn.T, case.tolerance.force)
        _close(_tensor(found["stress"]), turn @ _tensor(reference["stress"]) @ turn.T, case.tolerance.stress)

    def test_order_of_atoms(self, evaluate: Evaluate, crystal: Atoms, reference: Results, case: Case) -> None:
        """Atoms may come in any order."""
        order = [2, 0, 3, 1]
        found = evaluate(crystal[order])
        _close(found["energy"], reference["energy"], case.tolerance.energy * len(crystal))
        _close(found["forces"], reference["forces"][order], case.tolerance.force)
        _close(found["stress"], reference["stress"], case.tolerance.stress)
        if case.magmoms:
            _close(found["magmoms"], reference["magmoms"][order], 1e-5)

    def test_one_atom(self, evaluate: Evaluate, case: Case) -> None:
        """A primitive cell of one atom has no forces and an isotropic stress where it is cubic."""
        cell = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) * 1.4
        found = evaluate(Atoms(case.elements[1], cell=cell, pbc=True))
        assert np.isfinite(found["energy"])
        assert found["forces"].shape == (1, 3)
        _close(found["forces"], 0.0, case.tolerance.force)
        if "rotation" not in case.breaks:
            _close(found["stress"][3:], 0.0, case.tolerance.stress)
            _close(found["stress"][:3], found["stress"][0], case.tolerance.stress)

    def test_atoms_without_neighbours(self, alone: list[Results], case: Case) -> None:
        """An inflated cell is a structure like another; the guards say whether it is wanted."""
        lone = alone[3]
        assert np.isfinite(lone["energy"])
        _close(lone["forces"], 0.0, case.tolerance.force)
        _close(lone["stress"], 0.0, case.tolerance.stress)

    # ------------------------------------------------------------------------------------------------------ elements

    def test_unknown_element(self, backend: backends.Backend, case: Case) -> None:
        """An element that the model does not know is refused by name."""
        backend.check_elements(case.elements)
        if backend.elements is not None:
            with pytest.raises(InputError, match=rf"{case.name}.*does not know Og.*knows"):
                backend.check_elements([case.elements[1], "Og"])

    def test_elements_narrowed_by_the_settings(self, case: Case) -> None:
        """The settings may allow fewer elements than the model knows."""
        first, second, third = case.elements
        with backends.load(case.name, replace(case.settings, elements=(second, third))) as narrow:
            assert narrow.elements == frozenset((second, third))
            with pytest.raises(InputError, match=f"does not know {first}; it knows:"):
                narrow.check_elements([first, second])

    def test_identity(self, backend: backends.Backend, case: Case) -> None:
        """The record can tell which weights, which package and which device an energy came from."""
        identity = backend.identity
        assert identity["kind"] == case.settings.kind
        assert identity["package"].endswith(f" {inventory.available(case.name, case.settings).version}")
        assert identity["device"] in ("cpu", *(f"cuda:{k}" for k in range(16)))
        found = inventory.find_weights(case.name, case.settings)
        if found.path is None:
            assert identity["sha256"] is None
        else:
            assert identity["weights"] == found.path.name
            assert identity["sha256"] == hashlib.sha256(Path(found.path).read_bytes()).hexdigest()

    def test_worker_gives_the_same_numbers(
        self, case: Case, crystal: Atoms, reference: Results, backend: backends.Backend
    ) -> None:
        """In a process of its own the calculator says the same."""
        with backends.load(case.name, replace(case.settings, isolate=True)) as remote:
            assert remote.elements == backend.elements
            assert remote.energy_zero == backend.energy_zero
            assert remote.identity == {**backend.identity, "worker": case.settings.python or "isolated"}
            assert (remote.batch is None) == (backend.batch is None)
            remote.calculator.calculate(crystal)
            found = remote.calculator.results
            together = remote.evaluate_many([crystal, crystal * (2, 1, 1)])
        _same_bits(found, reference, case)
        same_answers(together[0], reference, case, len(crystal))
        assert len(together) == 2
        assert all(np.asarray(value).dtype == np.float64 for value in found.values())

    # ------------------------------------------------------------------------------------------------------- batches

    def test_batches_as_it_says(self, backend: backends.Backend, case: Case) -> None:
        """The calculator evaluates structures together if it says so."""
        assert (backend.batch is not None) == case.batches

    def test_together_as_alone(
        self, backend: backends.Backend, case: Case, structures: list[Atoms], alone: list[Results]
    ) -> None:
        """A structure gets the same answer in company as alone."""
        for found, expected, atoms in zip(backend.evaluate_many(structures), alone, structures, strict=True):
            same_answers(found, expected, case, len(atoms))

    def test_alone_as_through_ase(
        self, evaluate: Evaluate, case: Case, structures: list[Atoms], alone: list[Results]
    ) -> None:
        """A batch of one is what the ASE calculator says."""
        for atoms, expected in zip(structures, alone, strict=True):
            same_answers(evaluate(atoms), expected, case, len(atoms))

    def test_the_order_of_a_batch(
        self, backend: backends.Backend, case: Case, structures: list[Atoms], alone: list[Results]
    ) -> None:
        """Answers come in the order of the structures."""
        order = np.random.default_rng(1).permutation(len(structures))
        for index, found in zip(order, backend.evaluate_many([structures[i] for i in order]), strict=True):
            same_answers(found, alone[index], case, len(structures[index]))

    def test_a_batch_of_equals(
        self, backend: backends.Backend, case: Case, crystal: Atoms, alone: list[Results]
    ) -> None:
        """Equal structures get equal answers."""
        for found in backend.evaluate_many([crystal] * 5):
            same_answers(found, alone[0], case, len(crystal))

    def test_bad_company(
        self, backend: backends.Backend, case: Case, structures: list[Atoms], alone: list[Results]
    ) -> None:
        """Coordinates that are no numbers, a flat cell, atoms on one site: the other structures do not notice."""
        nan, flat, onto = (structures[0].copy() for _ in range(3))
        nan.positions[2, 1] = np.nan
        flat.set_cell(np.diag([3.0, 3.0, 0.0]))
        onto.positions[1] = onto.positions[0]
        mixed = [nan, *structures[:2], onto, *structures[2:], flat]
        answers = backend.evaluate_many(mixed)
        sound = [answer for atoms, answer in zip(mixed, answers, strict=True) if any(atoms is s for s in structures)]
        assert isinstance(answers[0], CalculationError)
        assert isinstance(answers[-1], CalculationError)
        for found, expected, atoms in zip(sound, alone, structures, strict=True):
            same_answers(found, expected, case, len(atoms))

    def test_a_left_handed_cell(self, case: Case, structures: list[Atoms], alone: list[Results]) -> None:
        """The names of the lattice vectors do not matter, nor does the cell's hand."""
        same_answers(alone[5], alone[0], case, len(structures[0]))

    def test_size(self, backend: backends.Backend, crystal: Atoms) -> None:
        """The size of a structure adds up."""
        one, two = backend.size_of(crystal), backend.size_of(crystal * (2, 1, 1))
        assert two == 2 * one
        assert one > len(crystal)


def same_answers(found: Any, expected: Results, case: Case, atoms: int) -> None:
    """Check that two answers about a structure are the same within the calculator's tolerance."""
    assert not isinstance(found, CalculationError), found
    assert found.keys() == expected.keys()
    _same_values(found, expected, case, atoms)
    _close(found["free_energy"], expected["free_energy"], case.tolerance.energy * atoms)
    if case.magmoms:
        _close(found["magmoms"], expected["magmoms"], 1e-5)


def _same_values(found: Results, expected: Results, case: Case, atoms: int) -> None:
    _close(found["energy"], expected["energy"], case.tolerance.energy * atoms)
    _close(found["forces"], expected["forces"], case.tolerance.force)
    _close(found["stress"], expected["stress"], case.tolerance.stress)


def _same_bits(found: Results, expected: Results, case: Case) -> None:
    """Compare what a model gave twice, bit for bit where it can."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=0 if case.repeats else 1e-12, err_msg=name)


def _close(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def _slope(energy: Callable[[float], float], step: float) -> float:
    """Return the derivative at zero by four points."""
    return (8 * (energy(step) - energy(-step)) - (energy(2 * step) - energy(-2 * step))) / (12 * step)


def _tensor(stress: Array) -> Array:
    """Return a stress (6,) in ASE's order as (3, 3)."""
    return np.asarray(stress[np.array(((0, 5, 4), (5, 1, 3), (4, 3, 2)))])
