"""A valid result for a refused structure: far above any hull, so that it never survives, yet stops no search.

USPEX ends a run in which more than two thirds of a generation failed; with ``on_reject = "penalty"`` a refused
structure counts as relaxed instead.
"""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from uspex_bridge.base.data import Frame, Structure, VaspRun
from uspex_bridge.base.units import pv_energy
from uspex_bridge.call.folders import Request

#: Å of spacing between the atoms of a penalty structure, as a multiple of the largest covalent diameter.
_SPACING = 1.3
#: How far a penalty may lie from its grid, relative to the cell, to be known again: files have six digits.
_ALIKE = 1e-4
#: How far USPEX's MATLAB line moves each component of the lattice vectors and of the atoms between two steps, Å.
_LATTICE, _ATOMS = 0.25, 0.05


def penalty_run(request: Request, penalty: float, why: str) -> VaspRun:
    """Return a one-step run whose enthalpy is ``penalty`` eV per atom.

    The atoms stand on a simple cubic grid wide enough for USPEX's distance checks, which would otherwise drop the
    structure and count it as failed. Energies follow PV once, as in every result.
    """
    structure = request.structure
    n = len(structure)
    edge, side = _grid(structure)
    cell = edge * np.eye(3)
    grid = np.stack(np.meshgrid(*[np.arange(side) / side] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:n]
    energy = penalty * n - pv_energy(request.intent.pressure_gpa, float(np.linalg.det(cell)))
    frame = Frame(cell=cell, scaled=grid, energy=energy, forces=np.zeros((n, 3)), stress=np.zeros(6))
    return VaspRun(request.structure, (frame,), request.intent, converged=False, model=why, incar=request.incar)


def is_penalty(structure: Structure, *, moved: bool = False) -> bool:
    """Tell whether a structure is the grid of a penalty, whatever the order of its atoms and the cell's orientation.

    Args:
        structure: it.
        moved: whether USPEX may have moved lattice and atoms, which it does before every step but the first and the
            last two; a real crystal may then look alike.
    """
    edge, side = _grid(structure)
    metric = structure.cell @ structure.cell.T
    if moved:
        alike, off = bool((np.abs(structure.cell - edge * np.eye(3)) < 1.05 * _LATTICE).all()), 2 * _ATOMS / edge
    else:
        alike, off = np.allclose(metric, edge**2 * np.eye(3), rtol=0, atol=_ALIKE * edge**2), _ALIKE
    steps = structure.scaled * side
    sites = np.round(steps)
    return bool(
        alike and np.abs(steps - sites).max() < off * side and len(np.unique(sites % side, axis=0)) == len(structure)
    )


def _grid(structure: Structure) -> tuple[float, int]:
    """Return the edge of a penalty's cell, Å, and the sites along it."""
    diameter = 2 * max(float(covalent_radii[atomic_numbers[s]]) for s in structure.symbols)
    side = int(np.ceil(round(len(structure) ** (1 / 3), 9)))
    return side * _SPACING * diameter, side
