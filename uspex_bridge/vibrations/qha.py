"""The quasi-harmonic approximation: harmonic phonons at several volumes, the volume at each temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.units import ev_a3_to_gpa, gpa_to_ev_a3
from uspex_bridge.vibrations.harmonic import Harmonic

#: Volumes relative to the one at rest that are tried by default.
VOLUMES = (0.95, 0.975, 1.0, 1.025, 1.05)


@dataclass(frozen=True, eq=False)
class QuasiHarmonic:
    """Volume and free energy against temperature at one pressure.

    Attributes:
        temperatures: K, (T,).
        volumes: of the unit cell, (T,), Å³; NaN where the free energy has no minimum within the volumes.
        gibbs: F + PV of the unit cell, (T,), eV; NaN as above.
        moduli: isothermal bulk modulus, (T,), GPa; NaN as above.
        residuals: largest deviation of the fit from the free energies, (T,), eV: the error of ``gibbs``.
        imaginary: whether phonons at some volume are imaginary, where the free energy means nothing.
    """

    temperatures: Array
    volumes: Array
    gibbs: Array
    moduli: Array
    residuals: Array
    imaginary: bool


def at_volumes(structure: Structure, relative: Sequence[float] = VOLUMES) -> list[Structure]:
    """Return the structure at volumes relative to its own, to be relaxed at fixed volume where atoms are free."""
    return [replace(structure, cell=structure.cell * v ** (1 / 3)) for v in relative]


def quasi_harmonic(crystals: Sequence[Harmonic], temperatures: Sequence[float], pressure_gpa: float) -> QuasiHarmonic:
    """Minimise F(V) + PV at each temperature, F fitted by a cubic in V^(-2/3) (Birch and Murnaghan's third order).

    Args:
        crystals: harmonic phonons at four volumes or more, atoms and shape of the cell relaxed at each.
        temperatures: K.
        pressure_gpa: target.

    Raises:
        InputError: fewer than four different volumes.
    """
    order = np.argsort([c.lattice.unit.volume for c in crystals])
    volumes = np.array([crystals[k].lattice.unit.volume for k in order])
    if len(volumes) < 4 or np.diff(volumes).min() < 1e-6 * volumes.max():
        raise InputError("the quasi-harmonic approximation needs four different volumes or more")
    pressure = gpa_to_ev_a3(pressure_gpa)
    rows = []
    for temperature in temperatures:
        free = np.array([crystals[k].free_energy(temperature) for k in order])
        rows.append(_minimum(volumes, free, pressure))
    found = np.array(rows).T
    volume, gibbs, modulus, residual = found
    unstable = any(c.imaginary for c in crystals)
    return QuasiHarmonic(np.array(temperatures, dtype=float), volume, gibbs, modulus, residual, unstable)


def _minimum(volumes: Array, free: Array, pressure: float) -> tuple[float, float, float, float]:
    """Return volume, F + PV, bulk modulus (GPa) at the minimum, and the fit's residual."""
    scale = volumes.mean()
    x = (volumes / scale) ** (-2.0 / 3.0)
    curve = np.polynomial.Polynomial.fit(x, free, 3)
    residual = float(np.abs(curve(x) - free).max())
    fine = np.linspace(volumes[0], volumes[-1], 4001)
    gibbs = curve((fine / scale) ** (-2.0 / 3.0)) + pressure * fine
    k = int(gibbs.argmin())
    if k in (0, len(fine) - 1):
        return np.nan, np.nan, np.nan, residual
    left, here, right = gibbs[k - 1 : k + 2]
    step = fine[1] - fine[0]
    shift = 0.5 * (left - right) / (left - 2.0 * here + right)
    curvature = (left - 2.0 * here + right) / step**2
    volume = fine[k] + shift * step
    return float(volume), float(here - 0.25 * (left - right) * shift), ev_a3_to_gpa(volume * curvature), residual
