"""The convex hull of enthalpies at one pressure: formation enthalpies and distances in eV/atom, by pymatgen.

The hull is spanned between components: elements, or compounds such as MgO and SiO2 (USPEX's blocks). pymatgen gets
one entry per composition, in which a component stands for an element, so that its phase diagram does the geometry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.formulas import formula_of, parts_of
from uspex_bridge.base.units import pv_energy
from uspex_bridge.base.words import counted
from uspex_bridge.results.reading.model import NAN, Composition, Entry, reduced_composition
from uspex_bridge.vasp.structure import ELEMENTS

#: Pressures closer than this are the same, GPa.
SAME_PRESSURE = 0.01
_UNSTATED = "the pressure is unknown; the enthalpies are used unchanged (--pressure gives it)"


@dataclass(frozen=True, slots=True)
class HullPoint:
    """An entry on the diagram.

    Attributes:
        entry: the entry.
        amounts: of each component in the cell, as many as there are components.
        formation: enthalpy of formation from the components, eV/atom.
        above: distance to the hull, eV/atom; 0 on it.
        vertex: whether it is a corner of the hull (of equal ones, the first).
    """

    entry: Entry
    amounts: tuple[float, ...]
    formation: float
    above: float
    vertex: bool


@dataclass(frozen=True, eq=False)
class Hull:
    """A convex hull and where every entry lies.

    Attributes:
        components: what it is spanned between.
        points: entries by distance to the hull, then by formation enthalpy.
        references: lowest enthalpy of each component, eV per formula as written in ``components``.
        planes: of each facet the enthalpy per unit of each component, (F, C): a cell's height on the hull is the
            largest of planes @ amounts, since the hull is convex.
        diagram: pymatgen's PhaseDiagram.
        outside: entries that are not made of the components.
    """

    components: tuple[Composition, ...]
    points: tuple[HullPoint, ...]
    references: tuple[float, ...]
    planes: Array
    diagram: Any
    outside: tuple[Entry, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The components' formulas."""
        return tuple(formula_of(component) for component in self.components)

    @cached_property
    def vertices(self) -> tuple[HullPoint, ...]:
        """The corners of the hull: the stable phases, in the order of the components' amounts."""
        corners = (point for point in self.points if point.vertex)
        return tuple(
            sorted(corners, key=lambda point: tuple(np.array(point.amounts) / sum(point.amounts)), reverse=True)
        )

    @cached_property
    def by_name(self) -> dict[str, HullPoint]:
        """Points by the name of their entry."""
        return {point.entry.name: point for point in self.points}

    @cached_property
    def facets(self) -> tuple[tuple[HullPoint, ...], ...]:
        """The facets of the hull, each by its corners."""
        corners = {_key(point.amounts): point for point in self.vertices}
        made = []
        for simplex in self.diagram.facets:
            amounts = [_amounts_in(self.diagram.qhull_entries[i], len(self.components)) for i in simplex]
            made.append(tuple(corners[_key(a)] for a in amounts if _key(a) in corners))
        return tuple(made)

    def products(self, point: HullPoint) -> list[tuple[HullPoint, float]]:
        """Return what a point decomposes into: phases of the hull and the share of the atoms that each holds."""
        amounts = np.array(point.amounts)
        facet = self.facets[int((self.planes @ amounts).argmax())]
        cells = np.linalg.lstsq(np.array([corner.amounts for corner in facet]).T, amounts, rcond=None)[0]
        shares = [n * c.entry.natoms / point.entry.natoms for c, n in zip(facet, cells, strict=True)]
        return sorted(((c, s) for c, s in zip(facet, shares, strict=True) if s > 1e-6), key=lambda pair: -pair[1])

    def within(self, distance: float) -> list[HullPoint]:
        """Return the points at most ``distance`` eV/atom above the hull."""
        return [point for point in self.points if point.above <= distance + 1e-9]

    def holds(self, composition: Composition) -> bool:
        """Tell whether a composition is made of the components."""
        return amounts_of(composition, self.components) is not None

    def above(self, composition: Composition, enthalpy: float) -> float:
        """Return how far a further entry (eV per cell) would lie above the hull, eV/atom; negative is below."""
        amounts = amounts_of(composition, self.components)
        if amounts is None:
            raise InputError(f"{formula_of(composition)} is not made of {', '.join(self.names)}")
        natoms = sum(n for _, n in composition)
        return (enthalpy - float((self.planes @ np.array(amounts)).max())) / natoms


def build_hull(
    entries: Iterable[Entry],
    components: Sequence[str] | None = None,
    blocks: Sequence[Composition] = (),
) -> Hull:
    """Build the hull of entries of one level of theory at one pressure (see :func:`at_pressure`, :func:`one_level`).

    Args:
        entries: those without an enthalpy are passed over.
        components: formulas to span it between; by default the elements that occur, or ``blocks`` where one of the
            elements has no entry of its own, or the one composition that all entries have.
        blocks: what the search's compositions are made of.

    Raises:
        ConfigError: a component is no formula, or depends on the others.
        InputError: there is nothing to build it from, or a component has no entry.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    valid = [entry for entry in entries if entry.valid]
    if not valid:
        raise InputError("there are no entries with an enthalpy to build a hull from")
    chosen = _components(valid, components, blocks)
    placed, outside = _place(valid, chosen)
    lowest: dict[tuple[int, ...], int] = {}
    for k, (entry, amounts) in enumerate(placed):
        key = _key(amounts)
        best = lowest.get(key)
        if best is None or entry.enthalpy_per_atom < placed[best][0].enthalpy_per_atom:
            lowest[key] = k
    references = _references(placed, chosen)
    diagram = PhaseDiagram(
        [PDEntry(_diagram_composition(a), e.enthalpy) for e, a in (placed[k] for k in lowest.values())]
    )
    planes = _planes(diagram, len(chosen))
    corners = {lowest[_key(_amounts_in(entry, len(chosen)))] for entry in diagram.stable_entries}
    matrix = np.array([given for _, given in placed])
    enthalpies = np.array([entry.enthalpy for entry, _ in placed])
    natoms = np.array([entry.natoms for entry, _ in placed])
    above = np.maximum((enthalpies - (matrix @ planes.T).max(axis=1)) / natoms, 0.0)
    above[list(corners)] = 0.0
    formation = (enthalpies - matrix @ np.array(references)) / natoms
    points = [
        HullPoint(entry, given, float(formation[k]), float(above[k]), k in corners)
        for k, (entry, given) in enumerate(placed)
    ]
    points.sort(key=lambda point: (point.above, not point.vertex, point.formation))
    return Hull(tuple(chosen), tuple(points), tuple(references), planes, diagram, tuple(outside))


def parse_formula(formula: str) -> Composition:
    """Read a formula such as ``MgSiO3``.

    Raises:
        ConfigError: it is none.
    """
    parts = parts_of(formula)
    if not parts:
        raise ConfigError(f"'{formula}' is not a formula such as Ca or MgSiO3")
    if unknown := [symbol for symbol, _ in parts if symbol not in ELEMENTS]:
        raise ConfigError(f"'{formula}': {unknown[0]} is not an element")
    return tuple(parts)


@lru_cache(maxsize=100_000)
def amounts_of(composition: Composition, components: tuple[Composition, ...]) -> tuple[float, ...] | None:
    """Return how much of each component a cell holds, None where it is not made of them."""
    elements = sorted({symbol for part in (*components, composition) for symbol, _ in part})
    matrix = np.array([[dict(part).get(symbol, 0) for part in components] for symbol in elements], dtype=float)
    wanted = np.array([dict(composition).get(symbol, 0) for symbol in elements], dtype=float)
    amounts = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    if np.abs(matrix @ amounts - wanted).max() > 1e-6 or amounts.min() < -1e-9:
        return None
    return tuple(np.maximum(amounts, 0.0).round(9).tolist())


def at_pressure(entries: Sequence[Entry], pressure_gpa: float | None) -> tuple[list[Entry], list[str]]:
    """Bring entries to one pressure.

    Where an entry was relaxed at another one, its enthalpy there is E + PV at its own geometry, which is an upper
    bound: a relaxation at the new pressure would lower it. Entries without a pressure are taken to be at that one.

    Args:
        entries: of any pressures.
        pressure_gpa: None takes the one that all entries have.

    Returns:
        the entries, and a warning per run that was brought to another pressure, or whose own nothing states.

    Raises:
        ConfigError: they differ, and none is asked for.
    """
    known = sorted({round(entry.pressure_gpa, 3) for entry in entries if entry.pressure_gpa is not None})
    if pressure_gpa is None:
        if len(known) > 1 and known[-1] - known[0] > SAME_PRESSURE:
            listed = ", ".join(f"{value:g}" for value in known)
            raise ConfigError(f"the sources are of several pressures ({listed} GPa); choose one with --pressure")
        if not known:
            return list(entries), [_UNSTATED]
        pressure_gpa = known[0]
        unstated = dict.fromkeys(entry.run for entry in entries if entry.valid and entry.pressure_gpa is None)
        assumed = [f"the pressure of {run} is unknown and assumed to be {pressure_gpa:g} GPa" for run in unstated]
    else:
        assumed = []
    moved: dict[tuple[str, float], int] = {}
    brought = []
    for entry in entries:
        if entry.pressure_gpa is not None and abs(entry.pressure_gpa - pressure_gpa) > SAME_PRESSURE:
            moved[entry.run, entry.pressure_gpa] = moved.get((entry.run, entry.pressure_gpa), 0) + 1
            enthalpy = entry.energy + pv_energy(pressure_gpa, entry.volume)
            brought.append(replace(entry, enthalpy=enthalpy, pressure_gpa=pressure_gpa, fitness=NAN))
        else:
            brought.append(replace(entry, pressure_gpa=pressure_gpa))
    warnings = [
        f"{run}: {counted(count, 'entry')} of {old:g} GPa taken to {pressure_gpa:g} GPa as E + PV at their geometry, "
        "an upper bound; relax them there (uspex-bridge rescore) for reliable distances"
        for (run, old), count in moved.items()
    ]
    return brought, assumed + warnings


def levels_of(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Return level of theory -> runs that have entries of it; ``""`` is what no file states."""
    levels: dict[str, list[str]] = {}
    for entry in entries:
        if entry.valid and entry.run not in levels.setdefault(entry.level, []):
            levels[entry.level].append(entry.run)
    return levels


def one_level(entries: Sequence[Entry], *, mix: bool = False) -> list[str]:
    """Check that all enthalpies come from one level of theory.

    Args:
        entries: what the hull is built from.
        mix: go on with several.

    Returns:
        warnings, one line each.

    Raises:
        ConfigError: there are several levels, and mixing them was not asked for.
    """
    levels = levels_of(entries)
    listed = "; ".join(f"{level or 'not stated'} ({', '.join(runs)})" for level, runs in levels.items())
    if len(levels) > 1:
        if not mix:
            raise ConfigError(
                f"the enthalpies are of several levels of theory and cannot share a hull: {listed}; name what "
                "is not stated with --level, build a hull each with --per-level, or say --mix-levels"
            )
        return [f"several levels of theory on one hull, distances are unreliable: {listed}"]
    if levels.get("") and len(levels[""]) > 1:
        return [f"the level of theory of {', '.join(levels[''])} is unknown and assumed to be the same"]
    return []


def _components(
    entries: Sequence[Entry], given: Sequence[str] | None, blocks: Sequence[Composition]
) -> list[Composition]:
    if given:
        chosen = [parse_formula(formula) for formula in given]
        elements = sorted({symbol for part in chosen for symbol, _ in part})
        matrix = [[dict(part).get(symbol, 0) for symbol in elements] for part in chosen]
        if np.linalg.matrix_rank(np.array(matrix, dtype=float)) < len(chosen):
            raise ConfigError(f"the components {', '.join(given)} depend on each other")
        return chosen
    elements_found = list(dict.fromkeys(symbol for entry in entries for symbol, _ in entry.composition))
    if unknown := [symbol for symbol in elements_found if symbol not in ELEMENTS]:
        raise InputError(f"the element {unknown[0]} of {entries[0].run} is unknown; Parameters.txt contains it")
    pure = {entry.composition[0][0] for entry in entries if len(entry.composition) == 1}
    if pure.issuperset(elements_found):
        return [((symbol, 1),) for symbol in elements_found]
    compositions = {entry.reduced for entry in entries}
    if len(compositions) == 1:
        return [compositions.pop()]
    present = [block for block in blocks if any(entry.reduced == reduced_composition(block) for entry in entries)]
    if present and len(present) == len(blocks):
        return list(blocks)
    missing = ", ".join(symbol for symbol in elements_found if symbol not in pure)
    raise InputError(f"no entry of pure {missing}; add one with --reference, or choose --components")


def _place(
    entries: Sequence[Entry], components: Sequence[Composition]
) -> tuple[list[tuple[Entry, tuple[float, ...]]], list[Entry]]:
    """Return the entries with their amounts of the components, and those that are not made of them."""
    placed, outside = [], []
    for entry in entries:
        amounts = amounts_of(entry.composition, tuple(components))
        if amounts is None:
            outside.append(entry)
        else:
            placed.append((entry, amounts))
    return placed, outside


def _references(placed: Sequence[tuple[Entry, tuple[float, ...]]], components: Sequence[Composition]) -> list[float]:
    """Return the lowest enthalpy of each component, eV per formula."""
    lowest = [float("inf")] * len(components)
    for entry, amounts in placed:
        present = [k for k, amount in enumerate(amounts) if amount > 0]
        if len(present) == 1:
            k = present[0]
            lowest[k] = min(lowest[k], entry.enthalpy / amounts[k])
    for component, value in zip(components, lowest, strict=True):
        if value == float("inf"):
            formula = formula_of(component)
            raise InputError(f"no entry of pure {formula}; add one with --reference, or choose other --components")
    return lowest


def _planes(diagram: Any, count: int) -> Array:
    """Return the enthalpy per unit of each component on each facet of a diagram, (F, C)."""
    planes = []
    for simplex in diagram.facets:
        entries = [diagram.qhull_entries[i] for i in simplex]
        corners = np.array([_amounts_in(entry, count) for entry in entries])
        planes.append(np.linalg.solve(corners, [entry.energy for entry in entries]))
    return np.array(planes)


def _amounts_in(entry: Any, count: int) -> tuple[float, ...]:
    """Return the amounts of the components in an entry of a diagram."""
    return tuple(float(entry.composition[dummy]) for dummy in _dummies(count))


def _key(amounts: Sequence[float]) -> tuple[int, ...]:
    """Return a key of the mixing ratio."""
    total = sum(amounts)
    return tuple(round(1e7 * amount / total) for amount in amounts)


@lru_cache
def _dummies(count: int) -> tuple[Any, ...]:
    """Return the stand-ins for components, pymatgen's species that are no elements."""
    from pymatgen.core import DummySpecies

    return tuple(DummySpecies(f"X{letter}") for letter in "abcdefgh"[:count])


def _diagram_composition(amounts: Sequence[float]) -> Any:
    from pymatgen.core import Composition as PymatgenComposition

    return PymatgenComposition(dict(zip(_dummies(len(amounts)), amounts, strict=True)))
