import numpy as np
import pytest
from ase import units as ase_units

from uspex_bridge.base import units


def test_pressure_units_agree_with_ase():
    assert units.gpa_to_ev_a3(1.0) == pytest.approx(ase_units.GPa, rel=1e-9)
    assert units.ev_a3_to_gpa(units.gpa_to_ev_a3(37.0)) == pytest.approx(37.0)
    assert units.kbar_to_gpa(units.gpa_to_kbar(12.5)) == 12.5


def test_pv_of_a_real_vasp_run():
    """VASP 5.4.4 at PSTRESS = 0.001 kB and V = 247.80 Å³ printed P V = 0.00015466 (protocol file, 'Who adds PV')."""
    assert units.pv_energy(units.kbar_to_gpa(0.001), 247.80) == pytest.approx(0.00015466, abs=1e-8)


def test_stress_round_trip_and_order():
    stress = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) * 1e-3
    kbar = units.stress_to_vasp(stress)
    assert kbar[0] == pytest.approx(-1e-3 / ase_units.GPa * 10)
    assert list(kbar / kbar[0]) == pytest.approx([1, 2, 3, 6, 4, 5])
    assert units.stress_from_vasp(kbar) == pytest.approx(stress)


def test_compressed_cell_has_positive_pressure():
    assert units.pressure_of([-0.1, -0.1, -0.1, 0, 0, 0]) == pytest.approx(16.021766208)
