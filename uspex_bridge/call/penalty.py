"""A valid result for a refused structure: far above any hull, so that it never survives, yet stops no search.

USPEX ends a run in which more than two thirds of a generation failed; with ``on_reject = "penalty"`` a refused
structure counts as relaxed instead.
"""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from uspex_bridge.base.data import Frame, VaspRun
from uspex_bridge.base.units import pv_energy
from uspex_bridge.call.folders import Request

#: Å of spacing between the atoms of a penalty structure, as a multiple of the largest covalent diameter.
_SPACING = 1.3


def penalty_run(request: Request, penalty: float, why: str) -> VaspRun:
    """Return a one-step run whose enthalpy is ``penalty`` eV per atom.

    The atoms stand on a simple cubic grid wide enough for USPEX's distance checks, which would otherwise drop the
    structure and count it as failed. Energies follow PV once, as in every result.
    """
    structure = request.structure
    n = len(structure)
    diameter = 2 * max(covalent_radii[atomic_numbers[s]] for s in structure.symbols)
    sides = np.ceil(round(n ** (1 / 3), 9)) * np.ones(3, dtype=int)
    cell = np.diag(sides * _SPACING * diameter)
    grid = np.stack(np.meshgrid(*(np.arange(k) / k for k in sides), indexing="ij"), axis=-1).reshape(-1, 3)[:n]
    energy = penalty * n - pv_energy(request.intent.pressure_gpa, float(np.linalg.det(cell)))
    frame = Frame(cell=cell, scaled=grid, energy=energy, forces=np.zeros((n, 3)), stress=np.zeros(6))
    return VaspRun(request.structure, (frame,), request.intent, converged=False, model=why, incar=request.incar)
