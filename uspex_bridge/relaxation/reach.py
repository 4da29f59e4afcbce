"""How far a model can be compressed: equations of state of the elements, up to the pressure of a search.

An element is compressed in close packings; one whose molecules live on under pressure, in a packing of these. The
pressure must rise on the way to the volume that the element has at the search's pressure, and no much denser packing
may be lower in enthalpy there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from uspex_bridge.base.data import Array
from uspex_bridge.base.units import pv_energy
from uspex_bridge.relaxation.holes import RISE, Evaluate, first_rise, values_of
from uspex_bridge.relaxation.volumes import element_volume

#: Elements of two-atomic molecules, and the bond's length, Å (Huber and Herzberg, Constants of Diatomic Molecules).
_BONDS = {"H": 0.741, "N": 1.098, "O": 1.208, "F": 1.412, "Cl": 1.988, "Br": 2.281, "I": 2.666}
#: Packings of other elements than the rest, and atoms in their cubic cells.
_PACKINGS = {"C": ("diamond",), **dict.fromkeys(_BONDS, ("molecules",))}
_ATOMS = {"fcc": 4, "bcc": 2, "diamond": 8}
#: Points from the volume without pressure to DENSER times that at the search's pressure, and further ones down to
#: DENSEST times that.
_POINTS, _FURTHER, DENSER, DENSEST = 10, 6, 0.9, 0.42
#: A packing in which the model finds this much more than the search's pressure, GPa, holds.
_ENOUGH, _MORE = 1.2, 5.0
#: The pressure may fall on compression by this, GPa, for noise and magnetism.
_LEAST_RISE = 5.0
#: Enthalpy that a packing denser than HOLE times the volume at the search's pressure may lie lower, eV/atom.
_HOLE, _LOWER = 0.7, 0.05


@dataclass(frozen=True)
class Limit:
    """Where a model breaks down on compression.

    Attributes:
        element: its symbol.
        packing: fcc, bcc, diamond or molecules.
        pressure: the largest that the model finds before it breaks down, GPa.
        volume: where, Å³/atom.
        why: one sentence.
    """

    element: str
    packing: str
    pressure: float
    volume: float
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def curves(elements: Sequence[str], pressure_gpa: float) -> dict[tuple[str, str], list[Atoms]]:
    """Return the packings of elements from strongly compressed to relaxed, by element and packing."""
    made = {}
    for symbol in elements:
        free, there = element_volume(symbol, 0.0), element_volume(symbol, pressure_gpa)
        inside = np.geomspace(DENSER * there, free, _POINTS)
        volumes = [*np.geomspace(DENSEST * there, inside[0], _FURTHER, endpoint=False), *inside]
        for packing in _PACKINGS.get(symbol, ("fcc", "bcc")):
            made[symbol, packing] = [_packed(symbol, packing, float(volume)) for volume in volumes]
    return made


def limits(elements: Sequence[str], pressure_gpa: float, evaluate_many: Evaluate) -> list[Limit]:
    """Return where a model breaks down when the elements of a search are compressed to its pressure.

    Args:
        elements: of the search.
        pressure_gpa: of the search.
        evaluate_many: of :class:`uspex_bridge.models.backends.Backend`, asked once for each packing.
    """
    paths = curves(elements, pressure_gpa)
    found = []
    for (symbol, packing), path in paths.items():
        values = np.array([values_of(answer, len(path[0])) for answer in evaluate_many(path)])
        volumes = np.array([atoms.get_volume() / len(atoms) for atoms in path])
        if limit := _judged(symbol, packing, volumes, values[:, 0], values[:, 1], pressure_gpa):
            found.append(limit)
    return found


def _judged(
    symbol: str, packing: str, volumes: Array, pressures: Array, energies: Array, target: float
) -> Limit | None:
    """Judge one curve; volumes grow, and the first ``_FURTHER`` of them are denser than the search gets."""
    name = f"{packing} {symbol}" if packing != "molecules" else f"{symbol}2"
    there = element_volume(symbol, target)
    enough = np.flatnonzero(pressures > _ENOUGH * target + _MORE)
    inside = slice(max(_FURTHER, int(enough[-1]) if len(enough) else 0), None)
    if bad := np.flatnonzero(~np.isfinite(pressures[inside])).tolist():
        at = float(volumes[inside][bad[-1]])
        known = pressures[inside][np.isfinite(pressures[inside])]
        return Limit(
            symbol, packing, float(known.max(initial=0.0)), at, f"the model fails on {name} of {at:.1f} Å³/atom"
        )
    if rise := first_rise(volumes[inside], pressures[inside], max(_LEAST_RISE, RISE * target)):
        wider = pressures[inside] * (volumes[inside] >= rise[0][0])
        top, at = float(wider.max()), float(volumes[inside][int(wider.argmax())])
        why = (
            f"the pressure of {name} rises to {top:.0f} GPa only ({at:.1f} Å³/atom) and falls on further compression "
            f"to {rise[0][1]:.0f} GPa at {rise[0][0]:.1f} Å³/atom"
        )
        return Limit(symbol, packing, top, at, why)
    top, at = float(pressures[inside].max()), float(volumes[inside][0])
    if top < target / 2 - _LEAST_RISE:
        why = f"the pressure of {name} does not rise beyond {top:.0f} GPa down to {at:.1f} Å³/atom"
        return Limit(symbol, packing, top, at, why)
    enthalpies = energies + pv_energy(target, 1.0) * volumes
    dense, usual = volumes < _HOLE * there, enthalpies[inside]
    lowest = int(np.nanargmin(np.where(dense, enthalpies, np.inf)))
    if packing != "molecules" and enthalpies[lowest] < usual.min() - _LOWER:  # molecules may well become an element
        top = float(np.nanmax(pressures[lowest:]))
        why = (
            f"{name} of {volumes[lowest]:.1f} Å³/atom lies {usual.min() - enthalpies[lowest]:.2f} eV/atom in H below "
            f"that of {volumes[inside][int(usual.argmin())]:.1f} Å³/atom at {target:g} GPa"
        )
        return Limit(symbol, packing, top, float(volumes[lowest]), why)
    return None


def _packed(symbol: str, packing: str, volume: float) -> Atoms:
    """Return a packing of an element with a volume, Å³/atom."""
    if packing != "molecules":
        return bulk(symbol, packing, a=(volume * _ATOMS[packing]) ** (1 / 3))
    edge = (8.0 * volume) ** (1 / 3)  # molecules on the sites of fcc along its four diagonals, as in nitrogen's Pa-3
    centres = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * edge
    half = 0.5 * _BONDS[symbol] / np.sqrt(3.0) * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return Atoms(
        [symbol] * 8, positions=np.concatenate([centres + half, centres - half]), cell=np.eye(3) * edge, pbc=True
    )
