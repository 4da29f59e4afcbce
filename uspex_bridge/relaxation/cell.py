"""What may move: VASP's ISIF as ASE filters, and the forces and stresses that are left to relax."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter

from uspex_bridge.base.data import Array
from uspex_bridge.base.units import ev_a3_to_gpa, gpa_to_ev_a3

CellMode = Literal["fixed", "full", "shape", "volume"]

#: ISIF -> (ions move, how the cell moves), VASP manual, tag ISIF. 8 is VASP 6's.
_ISIF: dict[int, tuple[bool, CellMode]] = {
    0: (True, "fixed"),
    1: (True, "fixed"),
    2: (True, "fixed"),
    3: (True, "full"),
    4: (True, "shape"),
    5: (False, "shape"),
    6: (False, "full"),
    7: (False, "volume"),
    8: (True, "volume"),
}


def motion(isif: int, move: str = "auto") -> tuple[bool, CellMode]:
    """Return whether the ions move and how the cell does, for ISIF 0-8 and a stage's ``move``."""
    ions, cell = _ISIF[isif]
    if move == "atoms":
        return ions, "fixed"
    if move == "cell":
        return False, cell
    return ions, cell


class _Once(FrechetCellFilter):
    """Takes the derivative of the matrix exponential once per geometry, not each of the three times ASE asks for it."""

    _at: tuple[bytes, bytes] | None = None
    _forces: Array

    def get_forces(self, **kwargs: Any) -> Array:
        at = (self.atoms.positions.tobytes(), self.atoms.cell.array.tobytes())
        if at != self._at:
            self._forces = super().get_forces(**kwargs)
            self._at = at
        return self._forces.copy()


class _FrozenIons(_Once):
    """The cell moves and carries the ions along at fixed fractional coordinates (ISIF 5, 6, 7)."""

    frozen_ions = True

    def get_forces(self, **kwargs: Any) -> Array:
        forces = super().get_forces(**kwargs)
        forces[: len(self.atoms)] = 0.0
        return forces


def movable(atoms: Atoms, ions: bool, cell: CellMode, pressure_gpa: float) -> Atoms | FrechetCellFilter:
    """Wrap ``atoms`` so that an ASE optimizer moves just what may move, towards ``pressure_gpa``.

    The Frechet filter keeps the volume exactly at constant volume; ASE's other cell filters do not.
    """
    if cell == "fixed":
        return atoms
    kind = _Once if ions else _FrozenIons
    return kind(
        atoms,
        constant_volume=cell == "shape",
        hydrostatic_strain=cell == "volume",
        scalar_pressure=0.0 if cell == "shape" else gpa_to_ev_a3(pressure_gpa),
    )


def stress_left(stress: Array, cell: CellMode, pressure_gpa: float) -> float:
    """Return the largest component of stress + P that the cell may still relax, GPa.

    At constant volume only the deviatoric part counts; where just the volume moves, only the mean.
    """
    tensor = ev_a3_to_gpa(1.0) * np.asarray(stress, dtype=float)
    mean = tensor[:3].mean()
    if cell == "fixed":
        return 0.0
    if cell == "volume":
        return float(abs(mean + pressure_gpa))
    shift = -mean if cell == "shape" else pressure_gpa
    tensor[:3] += shift
    return float(np.abs(tensor).max())


def largest_force(forces: Array, ions: bool) -> float:
    """Return the largest force on an atom, eV/Å; zero where ions do not move."""
    if not ions or len(forces) == 0:
        return 0.0
    return float(np.sqrt((np.asarray(forces) ** 2).sum(axis=1).max()))
