"""A labelled structure and what a model says of it.

Energies, virials and PV are per atom. The virial is -stress x V, PV a third of its trace: the model's own pressure at
the reference geometry, not the pressure that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from uspex_bridge.base.data import Array
from uspex_bridge.base.units import ev_a3_to_gpa, pressure_of, pv_energy
from uspex_bridge.learn.data.labels import free_energy
from uspex_bridge.results.reading.model import NAN, Entry, composition_of


@dataclass(frozen=True, eq=False)
class Values:
    """What a model or the reference says of one structure.

    Attributes:
        energy: eV/atom.
        forces: (N, 3) eV/Å.
        virial: (3, 3) eV/atom.
    """

    energy: float
    forces: Array
    virial: Array

    @property
    def pv(self) -> float:
        """PV of its own pressure, eV/atom."""
        return float(np.trace(self.virial)) / 3.0


def values_of(energy: float, forces: Array, stress: Array, volume: float) -> Values:
    """Make values from a cell's energy (eV), forces, stress (6,) (eV/Å³, ASE's sign) and volume (Å³)."""
    natoms = len(forces)
    return Values(energy / natoms, np.asarray(forces), -voigt_6_to_full_3x3_stress(stress) * volume / natoms)


@dataclass(frozen=True, eq=False)
class Case:
    """One structure with its reference values.

    Attributes:
        name: of the structure.
        family: of the structure and its perturbed copies; the name where nothing says it.
        split: that it is in, empty where nothing says it.
        symbols: of its atoms.
        volume: Å³ per cell.
        pressure_gpa: that it belongs to (the search's), None where nothing says it.
        own_pressure_gpa: by the reference's stress.
        reference: its values.
    """

    name: str
    family: str
    split: str
    symbols: tuple[str, ...]
    volume: float
    pressure_gpa: float | None
    own_pressure_gpa: float
    reference: Values

    @property
    def gpa_per_energy(self) -> float:
        """What turns a virial or PV in eV/atom into a stress or pressure in GPa."""
        return ev_a3_to_gpa(len(self.symbols) / self.volume)

    def entry(self, values: Values, number: int) -> Entry:
        """Return it as an entry of a hull at its pressure, with a model's or the reference's energy."""
        n, pressure = len(self.symbols), self.pressure_gpa or 0.0
        enthalpy = values.energy * n + pv_energy(pressure, self.volume)
        return Entry("", number, composition_of(self.symbols), enthalpy, self.volume, pressure)


def case_of(atoms: Any, number: int) -> Case:
    """Make a case of a labelled structure; ``info`` may hold id (or name), family and pressure_gpa."""
    stress, info = atoms.get_stress(), atoms.info
    pressure = info.get("pressure_gpa")
    name = str(info.get("id") or info.get("name") or number)
    return Case(
        name=name,
        family=str(info.get("family") or name),
        split=str(info.get("split") or ""),
        symbols=tuple(atoms.symbols),
        volume=float(atoms.get_volume()),
        pressure_gpa=None if pressure is None else float(pressure),
        own_pressure_gpa=pressure_of(stress),
        reference=values_of(free_energy(atoms), atoms.get_forces(), stress, atoms.get_volume()),
    )


@dataclass(frozen=True)
class Error:
    """Mean absolute and root mean square error of one quantity, and the largest."""

    mae: float = NAN
    rmse: float = NAN
    largest: float = NAN

    @classmethod
    def of(cls, differences: Iterable[Array | float]) -> Error:
        """Take it over all components of all structures alike."""
        flat = [np.ravel(one) for one in differences]
        if not flat:
            return cls()
        values = np.abs(np.concatenate(flat))
        return cls(float(values.mean()), float(np.sqrt(np.mean(values**2))), float(values.max()))
