"""Holes of a potential: geometries far denser than real ones, that it holds for minima.

A result is compared with the room that its elements need (:mod:`uspex_bridge.relaxation.volumes`), and compressed and
expanded a little at fixed fractional coordinates: the pressure must fall as the volume grows, and the enthalpy must
not fall on compression. Between a hole and the real crystal there is a barrier, where the pressure rises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from uspex_bridge.base.data import Array
from uspex_bridge.base.units import pressure_of, pv_energy
from uspex_bridge.relaxation.contacts import contacts
from uspex_bridge.relaxation.volumes import dense_radius, expected_volume, smallest_share

#: A result that fills more of the expected volume than this needs no scan unless it would win.
COMFORTABLE = 1.0
#: No two atoms come closer than this share of the sum of their radii: the covalent ones, or where those of the dense
#: elements at this pressure are smaller, those.
SHORTEST = 0.6
#: A crystal under the pressure P has a bulk modulus below STIFFEST + STIFFENING P, GPa.
STIFFEST, STIFFENING = 1200.0, 12.0
#: Volumes of a scan over that of the result: two smaller ones, and four larger ones up to whichever of LARGEST and
#: BEYOND times the expected volume is more.
SMALLER, LARGER, LARGEST, BEYOND = (0.92, 0.96), 4, 1.2, 1.15
#: What fills less of the expected volume than DENSE is compressed further: it may lie at the brink of a hole.
DENSE, FURTHER = 0.9, (0.84, 0.88)
#: The pressure may rise with the volume by this share of the target pressure, or so many GPa, for noise.
RISE, LEAST_RISE = 0.05, 2.0
#: The enthalpy may fall on compression by this, eV/atom.
FALL = 0.01

Evaluate = Callable[[Sequence[Atoms]], Sequence[Any]]


@dataclass(frozen=True)
class Verdict:
    """What a scan found.

    Attributes:
        why: what is wrong; empty where nothing is.
        fill: volume over that which the elements need at this pressure.
        volumes: of the scan, Å³/atom, growing; empty where none was needed.
        pressures: there, GPa, NaN where the model failed.
        energies: there, eV/atom.
    """

    why: str
    fill: float
    volumes: tuple[float, ...] = ()
    pressures: tuple[float, ...] = ()
    energies: tuple[float, ...] = field(default=(), repr=False)

    @property
    def hole(self) -> bool:
        """Whether the structure lies in a hole of the potential."""
        return bool(self.why)


def scan(
    structures: Sequence[Atoms],
    evaluate_many: Evaluate,
    pressure_gpa: float | Sequence[float],
    own: Sequence[tuple[float, float]] | None = None,
    *,
    real: bool = True,
) -> list[Verdict]:
    """Tell of relaxed structures whether they lie in holes of a model, with one batch of evaluations.

    Args:
        structures: periodic, relaxed at their pressures by that model.
        evaluate_many: of :class:`uspex_bridge.models.backends.Backend`.
        pressure_gpa: at which they were relaxed, one for all or one each.
        own: pressure, GPa, and energy, eV/atom, that the model gives each as it is; None evaluates them too.
        real: whether the model's elements are real ones, whose size is known.
    """
    pressures = np.broadcast_to(np.asarray(pressure_gpa, dtype=float), len(structures))
    fills = [fill(atoms, float(p)) for atoms, p in zip(structures, pressures, strict=True)]
    faults = [too_dense(atoms, float(p)) if real else "" for atoms, p in zip(structures, pressures, strict=True)]
    ratios = [() if fault else _ratios(f) for fault, f in zip(faults, fills, strict=True)]
    cells = [
        scaled(atoms, ratio)
        for atoms, each in zip(structures, ratios, strict=True)
        for ratio in each
        if own is None or ratio != 1.0
    ]
    answers = iter(evaluate_many(cells) if cells else ())
    verdicts = []
    for k, (atoms, target, fault, full) in enumerate(zip(structures, pressures.tolist(), faults, fills, strict=True)):
        if fault:
            verdicts.append(Verdict(fault, full))
            continue
        there = [own[k] if own and ratio == 1.0 else values_of(next(answers), len(atoms)) for ratio in ratios[k]]
        values, volumes = np.array(there), np.array(ratios[k]) * atoms.get_volume() / len(atoms)
        why = judged(volumes, values[:, 0], values[:, 1], target, atoms.get_volume() / len(atoms), real=real)
        verdicts.append(Verdict(why, full, *(tuple(column.tolist()) for column in (volumes, *values.T))))
    return verdicts


def fill(atoms: Atoms, pressure_gpa: float) -> float:
    """Return the volume of a structure over that which its elements need at a pressure."""
    return float(atoms.get_volume() / len(atoms) / expected_volume(atoms.get_chemical_symbols(), pressure_gpa))


def too_dense(atoms: Atoms, pressure_gpa: float) -> str:
    """Say why no real crystal is as dense at a pressure; return an empty string where one may be."""
    full, own = fill(atoms, pressure_gpa), atoms.get_volume() / len(atoms)
    limit = smallest_share(atoms.get_chemical_symbols())
    if full < limit:
        return (
            f"{own:.2f} Å³/atom at {pressure_gpa:g} GPa is {full:.2f} of what its elements need "
            f"({own / full:.2f} Å³/atom), the limit is {limit}"
        )
    near = contacts(atoms, SHORTEST)
    symbols = atoms.get_chemical_symbols()
    radii = np.array([min(dense_radius(s, pressure_gpa), covalent_radii[atomic_numbers[s]]) for s in symbols])
    relative = near.distance / (radii[near.first] + radii[near.second])
    if len(relative) and relative.min() < SHORTEST:
        k = int(relative.argmin())
        pair = f"{symbols[near.first[k]]}{near.first[k] + 1}-{symbols[near.second[k]]}{near.second[k] + 1}"
        return (
            f"{pair} {near.distance[k]:.2f} Å apart at {pressure_gpa:g} GPa is {relative[k]:.2f} of the sum of their "
            f"radii at that pressure, the limit is {SHORTEST}"
        )
    return ""


def scaled(atoms: Atoms, ratio: float) -> Atoms:
    """Return a structure with ``ratio`` times its volume at the same fractional coordinates."""
    cell = atoms.cell.array * ratio ** (1 / 3)
    return Atoms(atoms.numbers, scaled_positions=atoms.cell.scaled_positions(atoms.positions), cell=cell, pbc=True)


def judged(volumes: Array, pressures: Array, energies: Array, target: float, own: float, *, real: bool = True) -> str:
    """Say what is wrong with a compression curve; return an empty string where nothing is.

    Args:
        volumes: growing, Å³/atom.
        pressures: there, GPa, NaN where the model failed.
        energies: there, eV/atom.
        target: pressure at which the structure was relaxed, GPa; where that was not reached, the model's own counts.
        own: volume of the structure, Å³/atom.
        real: whether the elements are real ones, of which none is stiffer than STIFFEST.
    """
    good = np.isfinite(pressures) & np.isfinite(energies)
    if good.sum() < 3:
        return f"the model fails around {own:.2f} Å³/atom"
    volumes, pressures, energies = volumes[good], pressures[good], energies[good]
    steepness = -np.diff(pressures) / np.diff(np.log(volumes))
    if real and (stiff := float(steepness.max())) > STIFFEST + STIFFENING * max(target, 0.0):
        return f"unphysical change of P, a bulk modulus of {stiff:.0f} GPa, around {own:.2f} Å³/atom"
    tolerance = max(LEAST_RISE, RISE * abs(target))
    if rise := first_rise(volumes, pressures, tolerance):
        (v1, p1), (v2, p2) = rise
        return f"P rises from {p1:.0f} to {p2:.0f} GPa while V grows from {v1:.2f} to {v2:.2f} Å³/atom"
    at = int(np.abs(volumes - own).argmin())
    enthalpies = energies + pv_energy(float(pressures[at]), 1.0) * volumes
    fall = float(enthalpies[at] - enthalpies[: at + 1].min())
    if fall > FALL and abs(pressures[at] - target) < tolerance:  # else it has still to find its volume
        return f"H falls by {fall:.3f} eV/atom as the crystal is compressed below {own:.2f} Å³/atom"
    return ""


def first_rise(volumes: Array, pressures: Array, tolerance: float) -> tuple[tuple[float, float], ...] | None:
    """Return between which points (volume, pressure) the pressure rises as the volume grows, or None.

    A crystal that is pulled apart gives way sooner or later: a rise that ends below zero is none.
    """
    lowest = 0
    for k in range(1, len(volumes)):
        if pressures[k] < pressures[lowest]:
            lowest = k
        elif pressures[k] - pressures[lowest] > tolerance and pressures[k] > 0.0:
            return tuple((float(volumes[i]), float(pressures[i])) for i in (lowest, k))
    return None


def _ratios(full: float) -> tuple[float, ...]:
    last = max(LARGEST, BEYOND / full)
    return (*(FURTHER if full < DENSE else ()), *SMALLER, 1.0, *np.geomspace(1.0, last, LARGER + 1)[1:].tolist())


def values_of(answer: Any, atoms: int) -> tuple[float, float]:
    """Return pressure (GPa) and energy (eV/atom) of an answer; NaN of a failure."""
    if isinstance(answer, Exception):
        return float("nan"), float("nan")
    return pressure_of(answer["stress"]), float(answer["energy"]) / atoms
