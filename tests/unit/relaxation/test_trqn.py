"""The Hessian of springs against finite differences, and the optimizer that starts from it against the others."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixScaled, FixSymmetry
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS
from ase.units import GPa
from emulators.candidates import candidate

from uspex_bridge.base.symmetry import space_group
from uspex_bridge.models.backends import load
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.relaxation import springs
from uspex_bridge.relaxation.cell import movable
from uspex_bridge.relaxation.contacts import contacts
from uspex_bridge.relaxation.springs import spring_hessian
from uspex_bridge.relaxation.trqn import TRQN, directions, updated

PRESSURE = 50.0


def random_crystal(number: int = 8) -> Atoms:
    return candidate(number, PRESSURE).atoms


def spring_energy(atoms: Atoms, cell: FrechetCellFilter):
    """Return the energy of the springs of the present geometry as a function of the filter's coordinates."""
    first, second, vector, distance, relative = contacts(atoms, springs.REACH)
    stiffness = np.exp(-springs.DECAY * (np.maximum(relative, springs.SHORTEST) - 1.0))
    unit = vector / distance[:, None]
    images = np.round((vector - atoms.positions[second] + atoms.positions[first]) @ np.linalg.inv(atoms.cell.array))

    def energy(x: np.ndarray) -> float:
        cell.set_positions(x.reshape(-1, 3))
        now = atoms.positions[second] - atoms.positions[first] + images @ atoms.cell.array
        change = now - vector
        along = (change * unit).sum(axis=1) ** 2
        across = (change**2).sum(axis=1) - along
        return 0.25 * float((stiffness * (along + springs.ACROSS * across)).sum())

    return energy


def test_updates_are_those_of_damped_bfgs_one_after_the_other():
    """Procedure 18.2 of Nocedal and Wright's, written out; with steps along which the gradient falls."""
    rng = np.random.default_rng(0)
    hessian = expected = np.diag(rng.uniform(1.0, 5.0, 6))
    steps = [(rng.normal(size=6), rng.normal(size=6)) for _ in range(8)]
    assert any(step @ change < 0 for step, change in steps)
    for step, change in steps:
        image = expected @ step
        curvature, damped = step @ image, change
        if step @ change < 0.1 * curvature:
            theta = 0.9 * curvature / (curvature - step @ change)
            damped = theta * change + (1 - theta) * image
        expected = expected - np.outer(image, image) / curvature + np.outer(damped, damped) / (step @ damped)
    np.testing.assert_allclose(updated(hessian, steps), expected, atol=1e-10)
    assert np.linalg.eigvalsh(expected).min() > 0
    assert updated(hessian, []) is hessian


def test_hessian_is_the_second_derivative_of_the_springs():
    atoms = random_crystal()
    cell = FrechetCellFilter(atoms)
    rng = np.random.default_rng(0)
    basis = directions(cell)
    moved = cell.get_positions().ravel() + basis @ rng.normal(scale=0.03, size=basis.shape[1])
    cell.set_positions(moved.reshape(-1, 3))
    x = cell.get_positions().ravel().copy()
    hessian = spring_hessian(atoms, cell.deform_grad(), cell.exp_cell_factor)
    energy = spring_energy(atoms, cell)
    for _ in range(5):
        step = basis @ rng.normal(size=basis.shape[1])
        small = 1e-4
        second = (energy(x + small * step) - 2 * energy(x) + energy(x - small * step)) / small**2
        assert second == pytest.approx(step @ hessian @ step, rel=1e-3)


def test_hessian_knows_translations_order_and_no_cell():
    atoms = random_crystal()
    n = len(atoms)
    hessian = spring_hessian(atoms, np.eye(3), 1.0)
    assert hessian == pytest.approx(hessian.T)
    shift = np.concatenate([np.tile([0.3, -0.2, 0.5], n), np.zeros(9)])
    assert hessian @ shift == pytest.approx(0.0, abs=1e-9)
    assert np.linalg.eigvalsh(hessian).min() > -1e-8
    assert spring_hessian(atoms) == pytest.approx(hessian[: 3 * n, : 3 * n])
    order = np.random.default_rng(1).permutation(n)
    rows = np.concatenate([(3 * order[:, None] + np.arange(3)).ravel(), 3 * n + np.arange(9)])
    assert spring_hessian(atoms[order], np.eye(3), 1.0) == pytest.approx(hessian[np.ix_(rows, rows)])


@pytest.mark.parametrize(("mode", "free"), [({}, 6), ({"constant_volume": True}, 5), ({"hydrostatic_strain": True}, 1)])
def test_directions_of_the_cell(mode, free):
    atoms = random_crystal()
    basis = directions(FrechetCellFilter(atoms, **mode))
    assert basis.shape == (3 * len(atoms) + 9, 3 * len(atoms) + free)
    assert basis.T @ basis == pytest.approx(np.eye(basis.shape[1]))
    strains = basis[3 * len(atoms) :, 3 * len(atoms) :].T.reshape(-1, 3, 3)
    assert strains == pytest.approx(strains.transpose(0, 2, 1))
    if "constant_volume" in mode:
        assert np.trace(strains, axis1=1, axis2=2) == pytest.approx(0.0)


@pytest.mark.parametrize("cell", ["fixed", "full"])
def test_fixed_atoms_stay_and_half_fixed_ones_move_along_free_vectors(cell):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ [[1, 0.08, 0], [0, 1.02, 0.05], [0, 0, 0.97]], scale_atoms=True)
    atoms.rattle(0.15, seed=2)
    atoms.set_constraint([FixAtoms([0]), FixScaled(1, mask=[True, False, True])])
    atoms.calc = EMT()
    before = atoms.get_scaled_positions(wrap=False)
    TRQN(movable(atoms, True, cell, 5.0)).run(fmax=0.01, steps=100)
    moved = atoms.get_scaled_positions(wrap=False) - before
    assert moved[0] == pytest.approx(0.0, abs=1e-9)
    assert moved[1][[0, 2]] == pytest.approx(0.0, abs=1e-9)
    assert abs(moved[1][1]) > 1e-3
    assert np.abs(moved[2:]).max() > 1e-2


def test_symmetry_is_kept():
    atoms = candidate(5, PRESSURE).atoms
    atoms.calc = load("toy", CalculatorSettings()).calculator
    group = group_of(atoms)
    atoms.set_constraint(FixSymmetry(atoms, symprec=1e-4))
    TRQN(movable(atoms, True, "full", PRESSURE)).run(fmax=0.01, steps=200)
    assert group == group_of(atoms)
    assert not group.startswith("P1 ")


def group_of(atoms: Atoms) -> str:
    return space_group(atoms.get_chemical_symbols(), atoms.cell.array, atoms.get_scaled_positions(), 1e-3)


def relaxed(atoms: Atoms, optimizer) -> tuple[int, float]:
    """Return evaluations and enthalpy per atom of a structure relaxed with the toy potential."""
    atoms = atoms.copy()
    atoms.calc = load("toy", CalculatorSettings()).calculator
    run = optimizer(movable(atoms, True, "full", PRESSURE), logfile=None)
    steps = sum(1 for _ in run.irun(fmax=0.01, steps=400))
    assert run.converged()
    return steps, (atoms.get_potential_energy() + PRESSURE * GPa * atoms.get_volume()) / len(atoms)


def test_far_fewer_evaluations_than_bfgs_on_random_crystals():
    crystals = [random_crystal(number) for number in (1, 2, 6, 8)]
    ours, others = (sum(relaxed(atoms, kind)[0] for atoms in crystals) for kind in (TRQN, BFGS))
    assert ours < 0.6 * others


@pytest.mark.parametrize("seed", range(3))
def test_same_minimum_from_a_distorted_crystal(seed):
    start = bulk("Ni", cubic=True, a=3.4)
    start.rattle(0.1, seed=seed)
    strain = np.random.default_rng(seed).uniform(-0.05, 0.05, (3, 3))
    start.set_cell(start.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    (steps, ours), (more, others) = relaxed(start, TRQN), relaxed(start, BFGS)
    assert ours == pytest.approx(others, abs=1e-4)
    assert steps < more


def test_a_step_that_raises_the_enthalpy_is_taken_back():
    atoms = random_crystal(2)
    atoms.calc = load("toy", CalculatorSettings()).calculator
    optimizer = TRQN(movable(atoms, True, "full", PRESSURE), maxstep=0.35)
    lowest, back = np.inf, 0
    for _ in optimizer.irun(fmax=0.01, steps=400):
        value = optimizer.target.get_potential_energy()
        back += value > lowest + 1e-3
        assert value < lowest + 5.0
        lowest = min(lowest, value)
    assert optimizer.converged()
    assert lowest == pytest.approx(optimizer.target.get_potential_energy(), abs=1e-3)


def test_it_is_used_as_any_optimizer_of_ase(tmp_path):
    """Observers, log, trajectory, and a restart that goes on with the curvature found so far."""

    def crystal():
        atoms = bulk("Cu", cubic=True) * (2, 2, 1)
        atoms.symbols[[1, 4, 7, 10]] = "Ag"
        atoms.rattle(0.3, seed=4)
        atoms.calc = EMT()
        return atoms

    seen = []
    whole = TRQN(FrechetCellFilter(crystal()), logfile=str(tmp_path / "log"))
    whole.attach(lambda: seen.append(whole.nsteps), interval=1)
    assert whole.run(fmax=0.001, steps=90)
    assert seen == list(range(whole.nsteps + 1))
    assert len((tmp_path / "log").read_text().splitlines()) == whole.nsteps + 2

    files = {"restart": str(tmp_path / "restart.json"), "trajectory": str(tmp_path / "all.traj")}
    first = TRQN(FrechetCellFilter(crystal()), **files)
    first.run(fmax=0.001, steps=whole.nsteps // 2)
    atoms = read(files["trajectory"], index=-1)
    atoms.calc = EMT()
    with pytest.warns(UserWarning, match="orig_cell is not loaded"):  # which TRQN does not need
        second = TRQN(FrechetCellFilter(atoms), restart=files["restart"])
    assert len(second._steps) == len(first._steps) > 0
    assert (second._stiffness, second._radius) == (first._stiffness, first._radius)
    assert second.run(fmax=0.001, steps=90)
    assert first.nsteps + second.nsteps <= whole.nsteps + 3
    assert atoms.get_potential_energy() == pytest.approx(whole.atoms.atoms.get_potential_energy(), abs=1e-4)
