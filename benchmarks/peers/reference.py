"""Energy and stress of a geometry by the tool's own model, evaluated apart from every tool."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances
from ase.io.vasp import read_vasp

GPA = 160.21766208  # of 1 eV/Å³
VASP_ORDER = [0, 1, 2, 5, 3, 4]


@functools.cache
def calculator(model: str, mace: Path | None) -> Any:
    """Return an ASE calculator, on CPU: "chgnet", or the MACE in the file ``mace``."""
    if model == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu")
    from mace.calculators import MACECalculator

    return MACECalculator(model_paths=str(mace), device="cpu", default_dtype="float64")


class Reference:
    """Evaluations of geometries by one model."""

    def __init__(self, model: str, mace: Path | None) -> None:
        self.model, self.mace = model, mace

    def energy(self, atoms: Atoms) -> float:
        """Return E of the cell in eV."""
        return float(self._with_calculator(atoms).get_potential_energy())

    def enthalpy(self, atoms: Atoms, pressure: float) -> float:
        """Return E + PV of the cell in eV at ``pressure`` in GPa."""
        return self.energy(atoms) + pressure / GPA * atoms.get_volume()

    def kbar(self, atoms: Atoms) -> np.ndarray:
        """Return the stress (6,) as VASP's ``in kB`` has it: kB, compressed is positive, XX YY ZZ XY YZ ZX."""
        return -10 * GPA * self._with_calculator(atoms).get_stress()[VASP_ORDER]

    def pressure(self, atoms: Atoms) -> float:
        """Return the pressure inside the cell in GPa."""
        return float(self.kbar(atoms)[:3].mean() / 10)

    def _with_calculator(self, atoms: Atoms) -> Atoms:
        atoms = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions, cell=atoms.cell, pbc=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms.calc = calculator(self.model, self.mace)
            atoms.get_stress()
        return atoms


def contcar(folder: Path) -> Atoms:
    """Return the geometry in CONTCAR."""
    return read_vasp(folder / "CONTCAR")


def closeness(atoms: Atoms) -> tuple[float, float]:
    """Return the shortest distance in Å, and the smallest d / (r_i + r_j) over all pairs and images."""
    _, distances = get_distances(atoms.positions, cell=atoms.cell, pbc=True)
    near = min(np.linalg.norm(atoms.cell[i]) for i in range(3))
    np.fill_diagonal(distances, near)
    radii = covalent_radii[atoms.numbers]
    return float(distances.min()), float((distances / (radii[:, None] + radii)).min())
