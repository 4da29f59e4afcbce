"""How far a model is from reference labels, in the form of the paper's tables (arXiv:2606.30870, Tables 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import BridgeError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.learn.choose.screen import fit_offsets
from uspex_bridge.learn.judge.cases import Case, Error, Values
from uspex_bridge.results.hulls.hull import Hull, build_hull
from uspex_bridge.results.hulls.rescore import rank_correlation
from uspex_bridge.results.reading.model import Composition, composition_of, reduced_composition

#: Above this a reference pressure is ultra-high: trained on for its repulsion, not searched at. GPa.
ULTRA_HIGH = 500.0
#: Edges of the windows of the labels' own pressure that take the place of the search's pressures, GPa.
WINDOWS_GPA = (5.0, 50.0, 120.0, 300.0, 600.0)
#: Distance to the hull that counts as near it, eV/atom.
NEAR = 0.05
#: Thresholds of |ΔPV| that disagreement is counted at, eV/atom: the paper's later and first cycles.
PV_LIMITS = (0.03, 0.04)
#: Windows above a model's hull in which the reference's stable phases are looked for, eV/atom.
WINDOWS = (0.0, 0.05, 0.1)


@dataclass(frozen=True)
class Order:
    """Whether a model puts structures of one composition in the right order.

    Two structures are compared by their enthalpies at the mean of the pressures that the reference gives them, where
    one energy per element plays no part.

    Attributes:
        pairs: that there are.
        wrong: that the model puts the other way round.
        error: mean absolute error of the difference between two structures, eV/atom.
    """

    pairs: int
    wrong: int
    error: float


@dataclass(frozen=True)
class Row:
    """One line of the table of errors.

    Attributes:
        label: a pressure, a window of pressures, or which total.
        count: structures in it.
        energy, virial, pv: eV/atom; forces: eV/Å, by component; stress, by component, and pressure: GPa.
        order: of the structures of one composition in this line; None where no two have the same.
        near, near_rmse: structures within 50 meV/atom of the model's own hull, and within this line's energy RMSE of
            it, as the paper counts them; None where there is no hull.
    """

    label: str
    count: int
    energy: Error
    forces: Error
    virial: Error
    pv: Error
    stress: Error
    pressure: Error
    order: Order | None = None
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


@dataclass(frozen=True)
class Lines:
    """How structures are put in the lines of a table: by the search's pressure, or in windows of their own.

    Attributes:
        windows: edges, GPa; None takes the search's pressures where any structure says one, else the usual windows.
        ultra_high: above this reference pressure a structure is in no line but the total, GPa.
    """

    windows: tuple[float, ...] | None = None
    ultra_high: float = ULTRA_HIGH

    def of(self, cases: Sequence[Case]) -> list[tuple[str, list[int]]]:
        """Return each line's label and the places of its structures; those of no line are left out."""
        edges = self.edges(cases)
        if edges is not None:
            labels = _window_labels(edges)
            found: dict[str, list[int]] = {label: [] for label in labels}
            for k, case in enumerate(cases):
                if case.own_pressure_gpa <= edges[-1]:
                    found[labels[int(np.searchsorted(edges, case.own_pressure_gpa))]].append(k)
        else:
            found = {_pressure_label(pressure): [] for pressure in pressures_of(cases)}
            for k, case in enumerate(cases):
                if case.own_pressure_gpa <= self.ultra_high:
                    found[_pressure_label(case.pressure_gpa)].append(k)
        return [(label, places) for label, places in found.items() if places]

    def edges(self, cases: Sequence[Case]) -> tuple[float, ...] | None:
        """Return the edges of the windows, None where lines are the search's pressures."""
        if self.windows is None and any(case.pressure_gpa is not None for case in cases):
            return None
        return self.windows or WINDOWS_GPA

    def limit(self, cases: Sequence[Case]) -> float:
        """Return the reference pressure above which a structure is in the total only, GPa."""
        edges = self.edges(cases)
        return self.ultra_high if edges is None else edges[-1]


#: Lines where nothing else is asked for.
BY_PRESSURE = Lines()


def _window_labels(edges: Sequence[float]) -> list[str]:
    return [f"below {edges[0]:g} GPa", *(f"{low:g}-{high:g} GPa" for low, high in pairwise(edges))]


def _pressure_label(pressure: float | None) -> str:
    return "not stated" if pressure is None else f"{pressure:g} GPa"


def pressures_of(cases: Sequence[Case]) -> list[float | None]:
    """Return the pressures that occur, in order, None last."""
    known = sorted({case.pressure_gpa for case in cases if case.pressure_gpa is not None})
    return [*known, *([None] if any(case.pressure_gpa is None for case in cases) else [])]


def rows(cases: Sequence[Case], answers: Sequence[Values], lines: Lines = BY_PRESSURE) -> list[Row]:
    """Return errors per line and in total.

    The totals are taken over all structures, never from the other lines. One line leaves out what the reference has
    above the limit of ``lines``, where there is any such thing; so do the lines themselves. The numbers of structures
    near the hull add up in the totals, as in the paper.
    """
    pairs = list(zip(cases, answers, strict=True))
    limit = lines.limit(cases)
    usual = [pair for pair in pairs if pair[0].own_pressure_gpa <= limit]
    made = []
    for label, places in lines.of(cases):
        part = [pairs[k] for k in places]
        above = None if lines.edges(cases) is not None else _above(part)
        made.append(_row(label, part, above))
    near = None if any(row.near is None for row in made) else sum(row.near or 0 for row in made)
    near_rmse = None if near is None else sum(row.near_rmse or 0 for row in made)
    totals = [("total", pairs)]
    if len(usual) < len(pairs):
        totals.insert(0, (f"up to {limit:g} GPa", usual))
    made += [replace(_row(label, part, None), near=near, near_rmse=near_rmse) for label, part in totals if part]
    return made


def order_of(pairs: Sequence[tuple[Case, Values]]) -> Order | None:
    """Compare every two structures of the same composition; None where there are none."""
    groups: dict[Composition, list[tuple[Case, Values]]] = {}
    for case, answer in pairs:
        groups.setdefault(reduced_composition(composition_of(case.symbols)), []).append((case, answer))
    apart, errors = [], []
    for group in groups.values():
        for (one, mine), (other, theirs) in combinations(group, 2):
            pressure = (one.own_pressure_gpa + other.own_pressure_gpa) / 2
            volumes = (case.volume / len(case.symbols) for case in (one, other))
            pv = pv_energy(pressure, next(volumes) - next(volumes))
            reference = one.reference.energy - other.reference.energy + pv
            predicted = mine.energy - theirs.energy + pv
            apart.append(reference * predicted < 0)
            errors.append(abs(predicted - reference))
    return Order(len(apart), sum(apart), float(np.mean(errors))) if apart else None


def _row(label: str, pairs: Sequence[tuple[Case, Values]], above: Array | None) -> Row:
    def error(quantity: Callable[[Values], Array | float], *, gpa: bool = False) -> Error:
        return Error.of(
            (quantity(answer) - quantity(case.reference)) * (case.gpa_per_energy if gpa else 1.0)
            for case, answer in pairs
        )

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
        error(lambda values: values.virial, gpa=True),
        error(lambda values: values.pv, gpa=True),
        order_of(pairs),
        near,
        near_rmse,
    )


def _above(pairs: Sequence[tuple[Case, Values]]) -> Array | None:
    """Return the model's distances to its own hull, eV/atom; None where there is no hull."""
    hull = _hull([case for case, _ in pairs], [answer for _, answer in pairs])
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
            "split": case.split,
            "energy": round(abs(values.energy - case.reference.energy), 6),
            "forces": round(float(np.abs(values.forces - case.reference.forces).mean()), 6),
            "pv": round(abs(values.pv - case.reference.pv), 6),
            "pressure_gpa": round(case.own_pressure_gpa, 4),
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


def offsets(cases: Sequence[Case], answers: Mapping[int, Values]) -> dict[str, float]:
    """Return by how much a model's energy of each element lies above the reference's, eV, by a robust fit.

    Args:
        cases: structures.
        answers: the model's, by the structure's place among ``cases``.
    """
    entries = [cases[k].entry(cases[k].reference, k) for k in answers]
    differences = np.array([answer.energy - cases[k].reference.energy for k, answer in answers.items()])
    return fit_offsets(entries, differences)[0]


def atom_energies(cases: Sequence[Case]) -> dict[str, float]:
    """Return the reference's energy of each element, eV, by a robust fit to its energies."""
    entries = [case.entry(case.reference, k) for k, case in enumerate(cases)]
    return fit_offsets(entries, np.array([case.reference.energy for case in cases]))[0]


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
