"""What the same phase is: the one definition that every command uses.

Two entries of one composition are the same phase where

- their enthalpies and volumes per atom lie within the windows of :class:`Tolerances`,
- their atoms have the same surroundings (:mod:`uspex_bridge.results.phases.surroundings`) within its ``distance``,
- beyond ``STRICT``, their enthalpies tie or their space groups are the same with noise allowed for: a small distortion
  differs in both, a copy with noise in one at most,
- and, where both show a space group without noise, it is the same one.

The entry of lowest enthalpy stands for its phase, and every other joins a representative, never another duplicate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from uspex_bridge.base.data import Structure
from uspex_bridge.results.phases.fingerprint import FingerprintSettings, cosine_distance, fingerprint
from uspex_bridge.results.phases.surroundings import Surroundings
from uspex_bridge.results.reading.model import KEPT, TIE, Composition, Entry, Pool, original_of

Method = Literal["phase", "uspex", "none"]
METHODS: tuple[Method, ...] = ("phase", "uspex", "none")
#: Surroundings closer than this are the same whatever else is known, in units of the mean spacing.
STRICT = 0.011


@dataclass(frozen=True)
class Tolerances:
    """When two structures of one composition are the same phase.

    Attributes:
        energy: largest difference of enthalpies, eV/atom (USPEX's own rule: 0.015); None compares none.
        volume: largest difference of volumes per atom, relative; None compares none.
        distance: largest root mean square difference of the distances around paired atoms, in units of the mean
            spacing (V/N)^(1/3).
        fingerprint: USPEX's toleranceFing and settings: of the fingerprint, both for its own rule only.
    """

    energy: float | None = 0.015
    volume: float | None = 0.05
    distance: float = 0.022
    fingerprint: float = 0.008
    settings: FingerprintSettings = field(default_factory=FingerprintSettings)

    def describe(self, method: Method) -> str:
        """Say in one line what counts as the same phase."""
        if method == "none":
            return "duplicates are kept"
        if method == "phase":
            rules = [f"surroundings within {self.distance:g} (V/N)^1/3, same clean space group"]
        else:
            s = self.settings
            rules = [f"USPEX's fingerprint within {self.fingerprint:g} ({s.rmax:g}, {s.delta:g}, {s.sigma:g} Å)"]
        if self.energy is not None:
            rules.append(f"enthalpies within {self.energy:g} eV/atom")
        if self.volume is not None:
            rules.append(f"volumes within {100 * self.volume:g} %")
        return "same phase: " + ", ".join(rules)

    def across(self) -> Tolerances:
        """Return the tolerances between pressures, models or databases.

        These change enthalpies and volumes at will, so that they are not compared; they also change axial ratios and
        free coordinates by more than noise does, so that more distance is allowed.
        """
        return replace(self, energy=None, volume=None, distance=1.75 * self.distance)


def same_phase(one: Surroundings, other: Surroundings, limit: float, *, tie: bool = False) -> bool:
    """Tell whether two crystals of one composition are the same phase.

    Args:
        one: a crystal.
        other: another.
        limit: see :attr:`Tolerances.distance`.
        tie: their enthalpies are the same.
    """
    if not one.within(other, limit):
        return False
    if one.clean_group and other.clean_group:
        return one.clean_group == other.clean_group
    return tie or one.within(other, min(limit, STRICT)) or one.wide_group == other.wide_group


@dataclass(frozen=True)
class Phase:
    """A phase: the entry of lowest enthalpy that stands for it, and the others."""

    entry: Entry
    duplicates: tuple[Entry, ...] = ()

    @property
    def members(self) -> tuple[Entry, ...]:
        """All of them."""
        return (self.entry, *self.duplicates)

    def led_by(self, entry: Entry) -> Phase:
        """Return the phase with another of its members to stand for it."""
        return Phase(entry, tuple(member for member in self.members if member != entry))

    @property
    def found(self) -> int:
        """How often it came up; structures that USPEX kept from an earlier generation do not count again."""
        return max(1, sum(entry.origin not in KEPT for entry in self.members))


class _Comparer(Protocol):
    """How the structures of one composition are compared."""

    def keep(self, structure: Structure) -> Any: ...

    def same(self, leaders: Sequence[Any], gaps: NDArray[np.float64], other: Any) -> int | None:
        """Return which of the leaders, ``gaps`` eV/atom away, is the same as ``other``; None where none is."""


class _BySurroundings:
    def __init__(self, tolerances: Tolerances) -> None:
        self.tolerances = tolerances

    def keep(self, structure: Structure) -> Surroundings:
        return Surroundings(structure)

    def same(self, leaders: Sequence[Surroundings], gaps: NDArray[np.float64], other: Surroundings) -> int | None:
        limit = self.tolerances.distance
        ties = (gaps <= TIE + 1e-9) & (self.tolerances.energy is not None)
        least = other.at_least(np.array([leader.means for leader in leaders]))
        order: list[int] = np.argsort(least).tolist()
        for k in order:
            if least[k] > limit:
                break
            if same_phase(leaders[k], other, limit, tie=bool(ties[k])):
                return k
        return None


class _ByFingerprint:
    def __init__(self, tolerances: Tolerances) -> None:
        self.tolerances = tolerances

    def keep(self, structure: Structure) -> NDArray[np.float32]:
        return fingerprint(structure, self.tolerances.settings).vector

    def same(self, leaders: Sequence[Any], gaps: NDArray[np.float64], other: Any) -> int | None:
        distances = cosine_distance(np.array(leaders), other)
        nearest = int(distances.argmin())
        return nearest if distances[nearest] < self.tolerances.fingerprint else None


def find_phases(
    pool: Pool,
    entries: Iterable[Entry] | None = None,
    method: Method = "phase",
    tolerances: Tolerances | None = None,
) -> list[Phase]:
    """Group entries into phases, the lowest enthalpy per atom first; entries without enthalpy are left out.

    Structures are held one composition at a time. An entry whose structure cannot be read is a phase of its own.

    Args:
        pool: where structures come from.
        entries: some of its entries; None is all.
        method: ``phase`` for the definition above, ``uspex`` for USPEX's own fingerprint, ``none`` to join nothing.
        tolerances: of the method.
    """
    tolerances = tolerances or Tolerances()
    chosen = pool.entries if entries is None else entries
    phases = [Phase(entry) for entry in chosen if entry.valid]
    if method != "none":
        comparer = _BySurroundings(tolerances) if method == "phase" else _ByFingerprint(tolerances)
        phases = _join(pool, _join_kept(phases), comparer, tolerances)
    return sorted(phases, key=lambda phase: phase.entry.enthalpy_per_atom)


def _join_kept(phases: list[Phase]) -> list[Phase]:
    """Join structures that USPEX kept under a new ID, without a new relaxation, to those they are copies of."""
    runs: dict[str, dict[int, Entry]] = {}
    for phase in phases:
        runs.setdefault(phase.entry.run, {})[phase.entry.id] = phase.entry
    members: dict[tuple[str, int], list[Entry]] = {}
    for phase in phases:
        run = phase.entry.run
        members.setdefault((run, original_of(phase.entry, runs[run])), []).append(phase.entry)
    return [
        Phase(runs[run][first], tuple(entry for entry in group if entry.id != first))
        for (run, first), group in members.items()
    ]


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
    kept = {e.name: comparer.keep(s) for e, s in pool.structures(needed)}
    leaders: list[int] = []
    members: dict[int, list[Entry]] = {}
    for k, phase in enumerate(group):
        candidates = [i for i in near.earlier(k, leaders) if group[i].entry.name in kept]
        found = None
        if candidates and phase.entry.name in kept:
            leading = [kept[group[i].entry.name] for i in candidates]
            found = comparer.same(leading, energies[k] - energies[candidates], kept[phase.entry.name])
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
