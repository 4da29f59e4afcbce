"""ISIF 0-8 as physics: what may move does, what may not stays, and the pressure reached is the pressure asked."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import BFGS

from uspex_bridge.base.units import pressure_of
from uspex_bridge.relaxation.cell import largest_force, motion, movable, stress_left
from uspex_bridge.relaxation.trqn import TRQN


def distorted():
    atoms = bulk("Cu", cubic=True) * (1, 1, 1)
    atoms.rattle(0.1, seed=3)
    rng = np.random.default_rng(1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.06, 0.06, (3, 3))), scale_atoms=True)
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize("optimizer", [BFGS, TRQN])
@pytest.mark.parametrize("isif", range(9))
def test_isif(isif, optimizer):
    atoms = distorted()
    start = atoms.copy()
    ions, cell = motion(isif)
    optimizer(movable(atoms, ions, cell, 20.0), logfile=None).run(fmax=1e-4, steps=400)
    strain = np.linalg.solve(start.cell.array, atoms.cell.array)
    moved_ions = not np.allclose(atoms.get_scaled_positions(False), start.get_scaled_positions(False), atol=1e-9)
    assert moved_ions == (isif in (0, 1, 2, 3, 4, 8))
    growth = atoms.get_volume() / start.get_volume()
    if isif in (0, 1, 2):
        assert np.array_equal(atoms.cell.array, start.cell.array)
    elif isif in (4, 5):
        assert growth == pytest.approx(1.0, abs=1e-6)
        assert not np.allclose(strain, np.eye(3), atol=1e-3)
    else:
        assert growth != pytest.approx(1.0, abs=1e-3)
    if isif in (7, 8):
        assert strain == pytest.approx(np.eye(3) * strain[0, 0], abs=1e-9)
    if isif in (3, 6, 7, 8):
        assert pressure_of(atoms.get_stress()) == pytest.approx(20.0, abs=0.02)
    assert stress_left(atoms.get_stress(), cell, 20.0) < 0.02
    assert largest_force(atoms.get_forces(), ions) < 1e-3


def test_stress_left_knows_what_may_relax():
    stress = np.array([-0.1, -0.2, -0.3, 0.01, 0.0, 0.0])
    assert stress_left(stress, "fixed", 0.0) == 0.0
    assert stress_left(stress, "full", 0.0) == pytest.approx(0.3 * 160.21766208)
    assert stress_left(stress, "shape", 999.0) == pytest.approx(0.1 * 160.21766208)
    assert stress_left(stress, "volume", 0.2 * 160.21766208) == pytest.approx(0.0, abs=1e-9)


def test_stage_may_restrict_motion():
    assert motion(3, "atoms") == (True, "fixed")
    assert motion(3, "cell") == (False, "full")
    assert motion(2, "cell") == (False, "fixed")
