"""How far a model is from reference labels, in the form of the paper's tables (arXiv:2606.30870, Tables 1 and 2).

Energies, virials and PV are per atom. The virial is -stress x V, PV a third of its trace: the model's own pressure at
the reference geometry, not the pressure that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import BridgeError
from uspex_bridge.base.units import pressure_of, pv_energy
from uspex_bridge.learn.choose.screen import fit_offsets
from uspex_bridge.results.hull import Hull, build_hull
from uspex_bridge.results.model import NAN, Entry, composition_of
from uspex_bridge.results.rescore import rank_correlation

#: Above this a reference pressure is ultra-high: trained on for its repulsion, not searched at. GPa.
ULTRA_HIGH = 500.0
#: Distance to the hull that counts as near it, eV/atom.
NEAR = 0.05
#: Thresholds of |ΔPV| that disagreement is counted at, eV/atom: the paper's later and first cycles.
PV_LIMITS = (0.03, 0.04)
#: Windows above a model's hull in which the reference's stable phases are looked for, eV/atom.
WINDOWS = (0.0, 0.05, 0.1)


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
        symbols: of its atoms.
        volume: Å³ per cell.
        pressure_gpa: that it belongs to (the search's), None where nothing says it.
        own_pressure_gpa: by the reference's stress.
        reference: its values.
    """

    name: str
    family: str
    symbols: tuple[str, ...]
    volume: float
    pressure_gpa: float | None
    own_pressure_gpa: float
    reference: Values

    def entry(self, values: Values, number: int) -> Entry:
        """Return it as an entry of a hull at its pressure, with a model's or the reference's energy."""
        n, pressure = len(self.symbols), self.pressure_gpa or 0.0
        enthalpy = values.energy * n + pv_energy(pressure, self.volume)
        return Entry("", number, composition_of(self.symbols), enthalpy, self.volume, pressure)


def case_of(atoms: Any, number: int) -> Case:
    """Make a case of a labelled structure; ``info`` may hold id (or name), family and pressure_gpa."""
    from uspex_bridge.learn.data.labels import free_energy

    stress, info = atoms.get_stress(), atoms.info
    pressure = info.get("pressure_gpa")
    name = str(info.get("id") or info.get("name") or number)
    return Case(
        name=name,
        family=str(info.get("family") or name),
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


@dataclass(frozen=True)
class Row:
    """One line of the table of errors.

    Attributes:
        label: a pressure, or which total.
        count: structures in it.
        energy, virial, pv: eV/atom; forces: eV/Å, by component.
        near, near_rmse: reference structures within 50 meV/atom of the reference hull, and within this line's energy
            RMSE; None where there is no hull.
    """

    label: str
    count: int
    energy: Error
    forces: Error
    virial: Error
    pv: Error
    near: int | None = None
    near_rmse: int | None = None


@dataclass(frozen=True)
class Ranking:
    """How a model ranks structures near the reference's hull at one pressure.

    Attributes:
        pressure_gpa: of the hull.
        within: reference structures in the window (``window``, eV/atom).
        spearman: rank correlation of their distances to either hull.
        stable: the reference's stable phases besides the elements.
        recalled: window above the model's hull -> how many of those it holds.
        needed: window that holds all of them, eV/atom.
        error: mean absolute error of formation enthalpies in the window, eV/atom.
    """

    pressure_gpa: float
    window: float
    within: int
    spearman: float
    stable: int
    recalled: Mapping[str, int]
    needed: float
    error: float


def pressures_of(cases: Sequence[Case]) -> list[float | None]:
    """Return the pressures that occur, in order, None last."""
    known = sorted({case.pressure_gpa for case in cases if case.pressure_gpa is not None})
    return [*known, *([None] if any(case.pressure_gpa is None for case in cases) else [])]


def rows(cases: Sequence[Case], answers: Sequence[Values], ultra_high: float = ULTRA_HIGH) -> list[Row]:
    """Return errors per pressure and in total.

    The totals are taken over all structures, never from the other lines. One line leaves out what the reference has
    above ``ultra_high`` GPa, where there is any such thing; so do the lines of the pressures. The numbers of structures
    near the hull add up in the totals, as in the paper.
    """
    pairs = list(zip(cases, answers, strict=True))
    usual = [pair for pair in pairs if pair[0].own_pressure_gpa <= ultra_high]
    made = []
    for pressure in pressures_of(cases):
        part = [pair for pair in usual if pair[0].pressure_gpa == pressure]
        if part:
            label = "not stated" if pressure is None else f"{pressure:g} GPa"
            made.append(_row(label, part, _above([case for case, _ in part])))
    near = None if any(row.near is None for row in made) else sum(row.near or 0 for row in made)
    near_rmse = None if near is None else sum(row.near_rmse or 0 for row in made)
    totals = [("total", pairs)]
    if len(usual) < len(pairs):
        totals.insert(0, (f"total up to {ultra_high:g} GPa", usual))
    made += [replace(_row(label, part, None), near=near, near_rmse=near_rmse) for label, part in totals if part]
    return made


def _row(label: str, pairs: Sequence[tuple[Case, Values]], above: Array | None) -> Row:
    def error(quantity: Callable[[Values], Array | float]) -> Error:
        return Error.of(quantity(answer) - quantity(case.reference) for case, answer in pairs)

    energy = error(lambda values: values.energy)
    near = near_rmse = None
    if above is not None:
        near, near_rmse = int((above < NEAR).sum()), int((above < energy.rmse).sum())
    return Row(
        label,
        len(pairs),
        energy,
        error(lambda values: values.forces),
        error(lambda values: values.virial),
        error(lambda values: values.pv),
        near,
        near_rmse,
    )


def _above(cases: Sequence[Case]) -> Array | None:
    """Return the reference's distances to its own hull, eV/atom; None where there is no hull."""
    hull = _hull(cases, [case.reference for case in cases])
    return None if hull is None else np.array([point.above for point in hull.points])


def _hull(cases: Sequence[Case], answers: Sequence[Values]) -> Hull | None:
    if not cases or cases[0].pressure_gpa is None:
        return None
    try:
        return build_hull([case.entry(one, k) for k, (case, one) in enumerate(zip(cases, answers, strict=True))])
    except BridgeError:
        return None


def by_structure(cases: Sequence[Case], answers: Sequence[Values]) -> list[dict[str, Any]]:
    """Return the absolute errors of every structure: energy and PV in eV/atom, the mean over forces in eV/Å."""
    return [
        {
            "name": case.name,
            "family": case.family,
            "energy": round(abs(values.energy - case.reference.energy), 6),
            "forces": round(float(np.abs(values.forces - case.reference.forces).mean()), 6),
            "pv": round(abs(values.pv - case.reference.pv), 6),
        }
        for case, values in zip(cases, answers, strict=True)
    ]


def rankings(
    cases: Sequence[Case], answers: Sequence[Values], window: float = 0.1, ultra_high: float = ULTRA_HIGH
) -> list[Ranking]:
    """Compare the model's hull with the reference's at every pressure, at the reference's geometries."""
    made = []
    pairs = [pair for pair in zip(cases, answers, strict=True) if pair[0].own_pressure_gpa <= ultra_high]
    for pressure in pressures_of(cases):
        part = [pair for pair in pairs if pair[0].pressure_gpa == pressure]
        own = [case for case, _ in part]
        first = _hull(own, [case.reference for case in own])
        second = _hull(own, [answer for _, answer in part])
        if pressure is None or first is None or second is None:
            continue
        near = [(point, second.by_name[point.entry.name]) for point in first.within(window)]
        stable = [second.by_name[p.entry.name].above for p in first.vertices if len(p.entry.composition) > 1]
        made.append(
            Ranking(
                pressure_gpa=pressure,
                window=window,
                within=len(near),
                spearman=rank_correlation([a.above for a, _ in near], [b.above for _, b in near]),
                stable=len(stable),
                recalled={f"{w:g}": sum(above <= w + 1e-9 for above in stable) for w in WINDOWS},
                needed=max(stable, default=0.0),
                error=float(np.mean([abs(a.formation - b.formation) for a, b in near])),
            )
        )
    return made


def offsets(cases: Sequence[Case], answers: Sequence[Values]) -> dict[str, float]:
    """Return by how much the model's energy of each element lies above the reference's, eV, by a robust fit."""
    entries = [case.entry(case.reference, k) for k, case in enumerate(cases)]
    differences = np.array([a.energy - c.reference.energy for c, a in zip(cases, answers, strict=True)])
    return fit_offsets(entries, differences)[0]


def without_offsets(cases: Sequence[Case], answers: Sequence[Values], found: Mapping[str, float]) -> list[Values]:
    """Return a model's values with its elements' energies moved to the reference's."""
    return [
        replace(answer, energy=answer.energy - float(np.mean([found[symbol] for symbol in case.symbols])))
        for case, answer in zip(cases, answers, strict=True)
    ]


@dataclass(frozen=True)
class Disagreement:
    """How far two models are apart on the same structures.

    Attributes:
        models: their names.
        energy, pv: eV/atom; forces: eV/Å, by component.
        over: |ΔPV| threshold, eV/atom -> structures above it.
    """

    models: tuple[str, str]
    energy: Error
    forces: Error
    pv: Error
    over: Mapping[str, int]


def disagreement(names: tuple[str, str], first: Sequence[Values], second: Sequence[Values]) -> Disagreement:
    """Compare two models' values of the same structures."""
    pairs = list(zip(first, second, strict=True))
    apart = [abs(a.pv - b.pv) for a, b in pairs]
    return Disagreement(
        names,
        Error.of(a.energy - b.energy for a, b in pairs),
        Error.of(a.forces - b.forces for a, b in pairs),
        Error.of(apart),
        {f"{limit:g}": sum(value > limit for value in apart) for limit in PV_LIMITS},
    )
