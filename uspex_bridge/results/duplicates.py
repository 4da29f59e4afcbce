"""Which entries are the same phase: by USPEX's fingerprint, or by pymatgen's StructureMatcher.

Entries are compared only with others of the same composition whose enthalpy and volume per atom are close. The one
of lowest enthalpy stands for its phase, and every other joins a representative, never another duplicate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from uspex_bridge.base.data import Structure
from uspex_bridge.results.convert import to_pymatgen
from uspex_bridge.results.fingerprint import FingerprintSettings, cosine_distance, fingerprint
from uspex_bridge.results.model import Composition, Entry, Pool

Method = Literal["fingerprint", "matcher", "both", "none"]
#: Origins of structures that come from an earlier generation as they are.
KEPT = ("keptBest", "convexHull")
METHODS: tuple[Method, ...] = ("fingerprint", "matcher", "both", "none")


@dataclass(frozen=True)
class Tolerances:
    """When two structures of one composition are the same phase.

    Attributes:
        energy: largest difference of enthalpies, eV/atom (USPEX's own rule: 0.015); None compares none.
        volume: largest difference of volumes per atom, relative; None compares none.
        distance: largest cosine distance of fingerprints (USPEX's toleranceFing).
        ltol, stol, angle_tol: StructureMatcher's tolerances: lengths (relative), sites (relative to the mean free
            length per atom), angles (degrees).
        volume_per_atom: scale structures to this before they are compared, Å³; None leaves them as they are.
        settings: of the fingerprint.
    """

    energy: float | None = 0.015
    volume: float | None = 0.05
    distance: float = 0.008
    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0
    volume_per_atom: float | None = None
    settings: FingerprintSettings = field(default_factory=FingerprintSettings)

    def describe(self, method: Method) -> str:
        """Say in one line what counts as the same phase."""
        if method == "none":
            return "duplicates are kept"
        s = self.settings
        how = {
            "fingerprint": f"fingerprint distance < {self.distance:g} (Rmax {s.rmax:g}, delta {s.delta:g}, "
            f"sigma {s.sigma:g} Å)",
            "matcher": f"StructureMatcher (ltol {self.ltol:g}, stol {self.stol:g}, angle_tol {self.angle_tol:g})",
        }
        rules = [how[name] for name in ("fingerprint", "matcher") if method in (name, "both")]
        near = []
        if self.energy is not None:
            near.append(f"enthalpies within {self.energy:g} eV/atom")
        if self.volume is not None:
            near.append(f"volumes within {100 * self.volume:g} %")
        return "same phase: " + ", ".join([" or ".join(rules), *near])


@dataclass(frozen=True)
class Phase:
    """A phase: the entry of lowest enthalpy that stands for it, and the others."""

    entry: Entry
    duplicates: tuple[Entry, ...] = ()

    @property
    def found(self) -> int:
        """How often it came up; structures that USPEX kept from an earlier generation do not count again."""
        return max(1, sum(entry.origin not in KEPT for entry in (self.entry, *self.duplicates)))


class _Comparer(Protocol):
    """How the structures of one composition are compared."""

    def keep(self, structure: Structure) -> Any: ...

    def same(self, leaders: Sequence[Any], other: Any) -> int | None: ...


class _ByFingerprint:
    def __init__(self, tolerances: Tolerances) -> None:
        self.tolerances = tolerances

    def keep(self, structure: Structure) -> Any:
        return fingerprint(structure, self.tolerances.settings).vector

    def same(self, leaders: Sequence[Any], other: Any) -> int | None:
        distances = cosine_distance(np.array(leaders), other)
        nearest = int(distances.argmin())
        return nearest if distances[nearest] < self.tolerances.distance else None


class _ByMatcher:
    def __init__(self, tolerances: Tolerances) -> None:
        self.matcher = matcher(tolerances)

    def keep(self, structure: Structure) -> Any:
        return to_pymatgen(structure).get_primitive_structure().get_reduced_structure()

    def same(self, leaders: Sequence[Any], other: Any) -> int | None:
        for k, leader in enumerate(leaders):
            if self.matcher.fit(leader, other, skip_structure_reduction=True):
                return k
        return None


def matcher(tolerances: Tolerances) -> Any:
    """Return pymatgen's StructureMatcher; volumes are left to :attr:`Tolerances.volume`."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(
        ltol=tolerances.ltol, stol=tolerances.stol, angle_tol=tolerances.angle_tol, primitive_cell=True, scale=True
    )


def find_phases(
    pool: Pool,
    entries: Iterable[Entry] | None = None,
    method: Method = "fingerprint",
    tolerances: Tolerances | None = None,
) -> list[Phase]:
    """Group entries into phases, the lowest enthalpy per atom first; entries without enthalpy are left out.

    ``both`` joins by fingerprint, then what is left by StructureMatcher. Structures are held one composition at a
    time. An entry whose structure cannot be read is a phase of its own.
    """
    tolerances = tolerances or Tolerances()
    chosen = pool.entries if entries is None else entries
    phases = [Phase(entry) for entry in chosen if entry.valid]
    if method != "none":
        phases = _join_kept(phases)
    if method in ("fingerprint", "both"):
        phases = _join(pool, phases, _ByFingerprint(tolerances), tolerances)
    if method in ("matcher", "both"):
        phases = _join(pool, phases, _ByMatcher(tolerances), tolerances)
    return sorted(phases, key=lambda phase: phase.entry.enthalpy_per_atom)


def _join_kept(phases: list[Phase]) -> list[Phase]:
    """Join structures that USPEX kept under a new ID, without a new relaxation, to those they are copies of."""
    entries = {(phase.entry.run, phase.entry.id): phase.entry for phase in phases}
    members: dict[tuple[str, int], list[Entry]] = {key: [] for key in entries}
    for key, entry in entries.items():
        original = key
        while (parent := _kept_from(entries[original])) in entries and _equal(entries[parent], entry):
            original = parent
        if original != key:
            members[original].append(entry)
    copies = {entry.name for group in members.values() for entry in group}
    return [Phase(e, tuple(members[key])) for key, e in entries.items() if e.name not in copies]


def _kept_from(entry: Entry) -> tuple[str, int]:
    """Return run and ID of the structure that this one is a copy of, an ID that does not occur where it is none."""
    kept = entry.origin in KEPT and len(entry.parents) == 1 and entry.parents[0] < entry.id
    return entry.run, entry.parents[0] if kept else -1


def _equal(one: Entry, other: Entry) -> bool:
    close = abs(one.enthalpy - other.enthalpy) < 1.5e-3 and abs(one.volume - other.volume) < 1.5e-3
    return one.composition == other.composition and close


def _join(pool: Pool, phases: list[Phase], comparer: _Comparer, tolerances: Tolerances) -> list[Phase]:
    groups: dict[Composition, list[Phase]] = {}
    for phase in phases:
        groups.setdefault(phase.entry.reduced, []).append(phase)
    joined = []
    for group in groups.values():
        group.sort(key=lambda phase: phase.entry.enthalpy_per_atom)
        joined += _join_group(pool, group, comparer, tolerances)
    return joined


def _join_group(pool: Pool, group: list[Phase], comparer: _Comparer, tolerances: Tolerances) -> list[Phase]:
    """Join phases of one composition, sorted by enthalpy."""
    energies = np.array([phase.entry.enthalpy_per_atom for phase in group])
    volumes = np.array([phase.entry.volume_per_atom for phase in group])
    near = _Near(energies, volumes, tolerances)
    needed = [phase.entry for k, phase in enumerate(group) if near.has_neighbour(k)]
    kept = {e.name: comparer.keep(_scaled(s, tolerances.volume_per_atom)) for e, s in pool.structures(needed)}
    leaders: list[int] = []
    members: dict[int, list[Entry]] = {}
    for k, phase in enumerate(group):
        candidates = [i for i in near.earlier(k, leaders) if group[i].entry.name in kept]
        found = None
        if candidates and phase.entry.name in kept:
            found = comparer.same([kept[group[i].entry.name] for i in candidates], kept[phase.entry.name])
        if found is None:
            leaders.append(k)
            members[k] = list(phase.duplicates)
        else:
            members[candidates[found]] += [phase.entry, *phase.duplicates]
    return [Phase(group[k].entry, tuple(members[k])) for k in leaders]


class _Near:
    """Which of several structures, sorted by enthalpy, are close enough in enthalpy and volume to be compared."""

    def __init__(self, energies: np.ndarray, volumes: np.ndarray, tolerances: Tolerances) -> None:
        self.energies, self.volumes = energies, volumes
        self.energy = math.inf if tolerances.energy is None else tolerances.energy
        self.volume = math.inf if tolerances.volume is None else tolerances.volume

    def earlier(self, k: int, leaders: list[int]) -> list[int]:
        if not leaders:
            return []
        return [leaders[i] for i in np.flatnonzero(self._close(k, np.array(leaders)))]

    def has_neighbour(self, k: int) -> bool:
        first = int(np.searchsorted(self.energies, self.energies[k] - self.energy - 1e-12))
        last = int(np.searchsorted(self.energies, self.energies[k] + self.energy + 1e-12))
        return int(self._close(k, np.arange(first, last)).sum()) > 1  # itself is one

    def _close(self, k: int, others: np.ndarray) -> np.ndarray:
        if self.volume == math.inf:
            alike = np.ones(len(others), dtype=bool)
        else:
            alike = np.abs(self.volumes[others] - self.volumes[k]) <= self.volume * self.volumes[k]
        return np.asarray((np.abs(self.energies[others] - self.energies[k]) <= self.energy) & alike)


def _scaled(structure: Structure, volume_per_atom: float | None) -> Structure:
    """Scale a cell to a volume per atom, Å³."""
    if volume_per_atom is None:
        return structure
    factor = (volume_per_atom * len(structure) / structure.volume) ** (1 / 3)
    return Structure(structure.symbols, structure.cell * factor, structure.scaled, structure.comment)
