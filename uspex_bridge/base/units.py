"""Units and signs: the only place where they change.

Inside the bridge energies are eV, lengths Å, stresses eV/Å³ with ASE's sign (positive = tension) and order
(xx, yy, zz, yz, xz, xy). Users give and read pressures in GPa. VASP's files hold kB, the opposite sign and
the order XX YY ZZ XY YZ ZX.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: 1 eV/Å³ in GPa (CODATA 2014, the value of ase.units and of USPEX's Python line).
GPA_PER_EV_A3 = 160.21766208
#: 1 GPa in kB.
KBAR_PER_GPA = 10.0
#: Where each of VASP's XX YY ZZ XY YZ ZX stands in ASE's xx yy zz yz xz xy, and the other way round.
_VASP_FROM_ASE = (0, 1, 2, 5, 3, 4)
_ASE_FROM_VASP = (0, 1, 2, 4, 5, 3)


def gpa_to_ev_a3(pressure: float) -> float:
    """Convert GPa to eV/Å³."""
    return pressure / GPA_PER_EV_A3


def ev_a3_to_gpa(pressure: float) -> float:
    """Convert eV/Å³ to GPa."""
    return pressure * GPA_PER_EV_A3


def kbar_to_gpa(pressure: float) -> float:
    """Convert kB to GPa."""
    return pressure / KBAR_PER_GPA


def gpa_to_kbar(pressure: float) -> float:
    """Convert GPa to kB."""
    return pressure * KBAR_PER_GPA


def pv_energy(pressure_gpa: float, volume: float) -> float:
    """Return PV in eV of a cell of ``volume`` Å³ at ``pressure_gpa``.

    This is the target pressure times the volume, the term that turns E into the enthalpy H = E + PV.
    """
    return gpa_to_ev_a3(pressure_gpa) * volume


def own_pv(stress: ArrayLike, volume: float) -> float:
    """Return PV in eV of a cell of ``volume`` Å³ at the pressure of its own stress (6,), -V tr(stress)/3."""
    return pv_energy(pressure_of(stress), volume)


def stress_to_vasp(stress: ArrayLike) -> NDArray[np.float64]:
    """Convert a stress (6,) in eV/Å³, ASE's sign and order, to kB, VASP's sign and order (XX YY ZZ XY YZ ZX).

    VASP prints the cell's own stress on ``in kB``, positive where a compressed cell wants to expand; the
    external pressure is not subtracted there.
    """
    values = np.asarray(stress, dtype=float)
    return -ev_a3_to_gpa(1.0) * KBAR_PER_GPA * values[list(_VASP_FROM_ASE)]


def stress_from_vasp(kbar: ArrayLike) -> NDArray[np.float64]:
    """Convert VASP's ``in kB`` row (6,) to eV/Å³ in ASE's sign and order (xx, yy, zz, yz, xz, xy)."""
    values = np.asarray(kbar, dtype=float)
    return -values[list(_ASE_FROM_VASP)] / (GPA_PER_EV_A3 * KBAR_PER_GPA)


def pressure_of(stress: ArrayLike) -> float:
    """Return the pressure in GPa, -tr(stress)/3, of a stress (6,) in eV/Å³ with ASE's sign."""
    return -ev_a3_to_gpa(float(np.asarray(stress, dtype=float)[:3].mean()))
