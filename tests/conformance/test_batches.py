"""Many structures in one pass: the same answers as each alone, as the package's own calculator, and in any company."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from uspex_bridge.base.errors import CalculationError


@pytest.fixture(scope="session")
def structures(crystal: Atoms) -> list[Atoms]:
    """One to eight atoms of one to three elements; one of them without neighbours, one in a left-handed cell."""
    lone = Atoms("FeNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[40.0, 41.0, 42.0], pbc=True)
    pair = Atoms("CaFe", scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.9]], cell=[2.9, 3.3, 3.6], pbc=True)
    eight = crystal * (2, 1, 1)
    eight.rattle(0.05, seed=5)
    mirrored = crystal.copy()
    mirrored.set_cell(crystal.cell.array[[1, 0, 2]])
    return [crystal, bulk("Fe", a=2.7), eight, lone, pair, mirrored]


@pytest.fixture(scope="session")
def alone(backend, structures) -> list[dict]:
    return [backend.evaluate_many([atoms])[0] for atoms in structures]


def same(found: dict, expected: dict, case, atoms: int) -> None:
    tolerance = case.tolerance
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found["energy"], expected["energy"], rtol=0, atol=tolerance.energy * atoms)
    np.testing.assert_allclose(found["free_energy"], expected["free_energy"], rtol=0, atol=tolerance.energy * atoms)
    np.testing.assert_allclose(found["forces"], expected["forces"], rtol=0, atol=tolerance.force)
    np.testing.assert_allclose(found["stress"], expected["stress"], rtol=0, atol=tolerance.stress)
    if case.magmoms:
        np.testing.assert_allclose(found["magmoms"], expected["magmoms"], rtol=0, atol=1e-5)


def test_every_kind_batches(backend):
    assert backend.batch is not None


def test_together_as_alone(backend, case, structures, alone):
    for found, expected, atoms in zip(backend.evaluate_many(structures), alone, structures, strict=True):
        same(found, expected, case, len(atoms))
        assert found["forces"].dtype == found["stress"].dtype == np.float64


def test_alone_as_through_ase(backend, case, structures, alone):
    for atoms, expected in zip(structures, alone, strict=True):
        backend.calculator.calculate(atoms)
        same(backend.calculator.results, expected, case, len(atoms))


def test_the_order_of_a_batch(backend, case, structures, alone):
    order = np.random.default_rng(1).permutation(len(structures))
    for index, found in zip(order, backend.evaluate_many([structures[i] for i in order]), strict=True):
        same(found, alone[index], case, len(structures[index]))


def test_a_batch_of_equals(backend, case, crystal, alone):
    for found in backend.evaluate_many([crystal] * 5):
        same(found, alone[0], case, len(crystal))


def test_bad_company(backend, case, structures, alone):
    """No numbers, no volume, atoms on top of each other: each fails or answers nonsense, and the others are as ever."""
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
        same(found, expected, case, len(atoms))


def test_size(backend, crystal):
    one, two = backend.size_of(crystal), backend.size_of(crystal * (2, 1, 1))
    assert two == 2 * one > 100


def test_a_left_handed_cell(case, structures, alone):
    """The same crystal: nothing changes but the names of the lattice vectors."""
    same(alone[5], alone[0], case, len(structures[0]))


def own_calculator(kind: str, model: str | None) -> object:
    """The package's own ASE calculator, made as its manual says."""
    if kind == "mace":
        from mace.calculators import MACECalculator

        return MACECalculator(model_paths=model, device="cpu", default_dtype="float64")
    if kind == "mattersim":
        from mattersim.forcefield import MatterSimCalculator

        return MatterSimCalculator.from_checkpoint(model, device="cpu")
    if kind == "sevennet":
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator("7net-0", device="cpu")
    if kind == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu", on_isolated_atoms="ignore")
    from deepmd.calculator import DP

    return DP(model=model)


@pytest.fixture(scope="session")
def published(case, settings, backend) -> Callable[[Atoms], dict]:
    if case.kind == "toy":
        pytest.skip("the toy potential is in no other package")
    calculator = own_calculator(case.kind, settings.model)

    def evaluate(atoms: Atoms) -> dict:
        atoms = atoms.copy()
        atoms.calc = calculator
        found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        if case.magmoms:
            found["magmoms"] = atoms.get_magnetic_moments()
        return found

    return evaluate


def test_as_the_package_itself(published, case, structures, alone):
    for atoms, found in zip(structures[:5], alone, strict=False):  # right-handed cells: not all packages take others
        expected = published(atoms)
        same(found, {**expected, "free_energy": expected["energy"]}, case, len(atoms))
