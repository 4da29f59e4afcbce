"""The data that every command about results works on: one entry per structure, several of them with their structures.

Enthalpies are H = E + PV in eV per cell as USPEX holds them, volumes Å³ per cell; ``_per_atom`` says the other thing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.formulas import formula_of
from uspex_bridge.base.units import pv_energy
from uspex_bridge.relaxation.volumes import expected_volume, smallest_share

NAN = float("nan")
#: What stands for the enthalpy of a structure that could not be relaxed, eV per cell: 999 in USPEX 10, 1000 in the
#: Python line, 100000 in USPEX 9; nothing from ``FAILED_ENTHALPY`` on is a result.
FAILURES = frozenset((999.0, 999.9, 999.99, 999.999, 1000.0, 9999.0, 9999.9, 9999.99, 9999.999, 10000.0))
FAILED_ENTHALPY = 9e4
#: Entries this close in enthalpy share their place: near-ties would flip with the last digit, eV/atom.
TIE = 0.001

#: Origins of structures that come from an earlier generation as they are.
KEPT = ("keptBest", "convexHull")

#: Level of theory of the toy potential, whose elements are no real ones.
INVENTED = "toy"

#: Flags that are told wherever a structure stands: in a hole of the model; at a saddle point, not a minimum; symmetric
#: from the start and not displaced to see whether it is one; a single point at another pressure than its enthalpy's.
DOUBTS = ("hole", "saddle", "unprobed", "off-pressure")

Composition = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the bridge's own record adds to an entry (the line of its last step that moved atoms).

    Attributes:
        status: ``converged``, ``unconverged``, ``penalty``, ``single point``.
        flags: short words such as ``elongated``.
        models: every model of the last step, in order of use; the last one gave the enthalpy.
        energy: E without PV, eV per cell.
        fmax: eV/Å; stress_left_gpa: GPa: what was left to relax.
        steps: ionic steps; seconds: wall time, both of the last step.
        offset: where the line begins in the record, bytes.
    """

    status: str
    flags: tuple[str, ...]
    models: tuple[str, ...]
    energy: float
    fmax: float
    stress_left_gpa: float
    steps: int
    seconds: float
    offset: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One structure of a search, or a reference.

    Attributes:
        run: label of the results folder or file it comes from.
        id: USPEX's ID, or the number in the file (from 1).
        composition: elements and numbers of atoms in the cell, in the search's order, no zeros.
        enthalpy: H in eV per cell, NaN where unknown.
        volume: Å³ per cell.
        pressure_gpa: GPa that the enthalpy was taken at, None where nothing says it.
        generation: as the line counts (MATLAB from 1, Python from 0); None where unknown.
        origin: the operator that made it; parents: IDs in the same run.
        steps: enthalpy after each step, eV per cell.
        space_group: number, symbol: international symbol, where the files give them.
        fitness: as USPEX prints it (varcomp: above the hull, eV per block, of USPEX 26 eV/atom), NaN while a
            generation runs.
        density: g/cm³; quasi_entropy, average_order, structure_order: USPEX's own measures.
        level: what computed the enthalpy; empty where nothing says it.
        substrate: whether enthalpy and volume hold a substrate too, so that neither means anything per atom.
        dense: whether no real crystal of these atoms is as dense (:mod:`uspex_bridge.relaxation.volumes`).
        record: what the bridge's record adds.
        properties: further numbers of USPEX 26 by the names of their columns, as they stand there.
    """

    run: str
    id: int
    composition: Composition
    enthalpy: float = NAN
    volume: float = NAN
    pressure_gpa: float | None = None
    generation: int | None = None
    origin: str = ""
    parents: tuple[int, ...] = ()
    steps: tuple[float, ...] = ()
    space_group: int | None = None
    symbol: str = ""
    fitness: float = NAN
    density: float = NAN
    quasi_entropy: float = NAN
    average_order: float = NAN
    structure_order: float = NAN
    level: str = ""
    substrate: bool = False
    dense: bool = False
    record: Recorded | None = None
    properties: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """Unique name: run and ID."""
        return f"{self.run}:EA{self.id}"

    @property
    def natoms(self) -> int:
        """Atoms in the cell."""
        return sum(n for _, n in self.composition)

    @property
    def formula(self) -> str:
        """Formula of the cell in IUPAC's order, ``Ca2FeNi``."""
        return formula_of(self.composition)

    @property
    def reduced(self) -> Composition:
        """Composition of the formula unit, sorted by element: equal for equal compositions."""
        return reduced_composition(self.composition)

    @property
    def valid(self) -> bool:
        """True where there is an enthalpy to rank by; the bridge's penalty for a refused structure is none."""
        if self.record is not None and self.record.status == "penalty":
            return False
        return math.isfinite(self.enthalpy) and not is_failure(self.enthalpy) and self.natoms > 0

    @property
    def flags(self) -> tuple[str, ...]:
        """The record's flags, ``hole`` where it is too dense, ``unstable`` where phonons found it so."""
        own = self.record.flags if self.record is not None else ()
        own = (*own, "hole") if self.dense and "hole" not in own else own
        return (*own, "unstable") if dict(self.properties).get("unstable") else own

    @property
    def marks(self) -> tuple[str, ...]:
        """Those of the flags that put the enthalpy in doubt, see ``DOUBTS``."""
        return tuple(flag for flag in self.flags if flag in DOUBTS)

    @property
    def enthalpy_per_atom(self) -> float:
        """H in eV/atom."""
        return self.enthalpy / self.natoms if self.composition and not self.substrate else NAN

    @property
    def volume_per_atom(self) -> float:
        """Å³/atom."""
        return self.volume / self.natoms if self.composition and not self.substrate else NAN

    @property
    def energy(self) -> float:
        """E without PV in eV per cell: the record's, else H - PV."""
        if self.record is not None and math.isfinite(self.record.energy):
            return self.record.energy
        return NAN if self.pressure_gpa is None else self.enthalpy - pv_energy(self.pressure_gpa, self.volume)

    def row(self) -> dict[str, Any]:
        """Return its scalar columns for tables (CSV, JSON, databases); what is unknown is None."""
        record = self.record
        columns: dict[str, Any] = {
            **dict(self.properties),
            "name": self.name,
            "run": self.run,
            "id": self.id,
            "generation": self.generation,
            "origin": self.origin,
            "parents": " ".join(map(str, self.parents)),
            "formula": self.formula,
            "natoms": self.natoms,
            "enthalpy": self.enthalpy,
            "enthalpy_per_atom": self.enthalpy_per_atom,
            "volume": self.volume,
            "volume_per_atom": self.volume_per_atom,
            "pressure_gpa": self.pressure_gpa,
            "space_group": self.space_group,
            "space_group_symbol": self.symbol or None,
            "fitness": self.fitness,
            "density": self.density,
            "quasi_entropy": self.quasi_entropy,
            "average_order": self.average_order,
            "structure_order": self.structure_order,
            "step_enthalpies": " ".join(f"{value:.6g}" for value in self.steps) or None,
            "level": self.level or None,
            "energy": self.energy,
            "status": record.status if record else None,
            "flags": " ".join(self.flags) or None,
            "doubtful": " ".join(self.marks) or None,
            "models": ", ".join(record.models) if record else None,
            "fmax": record.fmax if record else None,
            "stress_left_gpa": record.stress_left_gpa if record else None,
        }
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in columns.items()}


def is_dense(entry: Entry) -> bool:
    """Return whether no real crystal of these atoms is as dense at the entry's pressure."""
    if entry.pressure_gpa is None or not entry.valid or not entry.volume_per_atom > 0 or entry.level == INVENTED:
        return False
    symbols = [symbol for symbol, n in entry.reduced for _ in range(n)]
    return entry.volume_per_atom < smallest_share(symbols) * expected_volume(symbols, entry.pressure_gpa)


def is_failure(enthalpy: float) -> bool:
    """Tell whether a number stands for a failed relaxation instead of an enthalpy, eV per cell."""
    return enthalpy >= FAILED_ENTHALPY or round(enthalpy, 6) in FAILURES


def reduced_composition(composition: Composition) -> Composition:
    """Divide by the greatest common divisor and sort by element."""
    divisor = reduce(math.gcd, (n for _, n in composition), 0) or 1
    return tuple(sorted((symbol, n // divisor) for symbol, n in composition))


def composition_of(symbols: Iterable[str]) -> Composition:
    """Count elements, in order of first appearance."""
    counts: dict[str, int] = {}
    for symbol in symbols:
        counts[symbol] = counts.get(symbol, 0) + 1
    return tuple(counts.items())


def original_of(entry: Entry, by_id: Mapping[int, Entry]) -> int:
    """Return the ID of what USPEX kept under this new one without a new relaxation; its own where it was relaxed.

    Args:
        entry: of one search.
        by_id: the entries of that search.
    """
    while entry.origin in KEPT and len(entry.parents) == 1 and entry.parents[0] < entry.id:
        parent = by_id.get(entry.parents[0])
        if parent is None or not _equal(parent, entry):
            break
        entry = parent
    return entry.id


def _equal(one: Entry, other: Entry) -> bool:
    close = abs(one.enthalpy - other.enthalpy) < 1.5e-3 and abs(one.volume - other.volume) < 1.5e-3
    return one.composition == other.composition and close


class Source(Protocol):
    """Something that entries with structures come from."""

    @property
    def label(self) -> str:
        """What its entries name as their run."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its entries."""

    @property
    def notes(self) -> list[str]:
        """Unreadable data, one line each with file and line."""

    def structures(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Structure]]:
        """Yield the structures of ``entries`` one at a time, in any order; those that cannot be read are left out."""


class Pool:
    """Several sources as one; labels are unique in it.

    Raises:
        InputError: two sources have the same label.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = {source.label: source for source in sources}
        if len(self.sources) < len(sources):
            twice = next(s.label for k, s in enumerate(sources) if s.label in {t.label for t in sources[:k]})
            raise InputError(f"{twice}: given twice; name every results folder and file once")
        self.entries = tuple(entry for source in sources for entry in source.entries)

    def only(self, entries: Iterable[Entry]) -> Pool:
        """Return a pool of the same sources with some of the entries."""
        part = Pool(list(self.sources.values()))
        part.entries = tuple(entries)
        return part

    @property
    def notes(self) -> list[str]:
        """Unreadable data, of all sources."""
        return [note for source in self.sources.values() for note in source.notes]

    def structures(self, entries: Sequence[Entry] | None = None) -> Iterator[tuple[Entry, Structure]]:
        """Yield structures one at a time, source by source (see :class:`Source`); all of them by default."""
        wanted: dict[str, list[Entry]] = {}
        for entry in self.entries if entries is None else entries:
            wanted.setdefault(entry.run, []).append(entry)
        for label, group in wanted.items():
            yield from self.sources[label].structures(group)

    def structure(self, entry: Entry) -> Structure:
        """Return one structure.

        Raises:
            InputError: its file lacks it, or it cannot be read.
        """
        for _, structure in self.structures([entry]):
            return structure
        raise InputError(f"{entry.name}: there is no readable structure of it in {entry.run}")
