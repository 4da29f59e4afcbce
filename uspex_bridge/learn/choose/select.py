"""A compact set of structures to compute: near the hull first, then what is furthest from all that is there.

Nothing is taken twice: not what was taken before, not what the training set has, not what is held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.formulas import formula_of
from uspex_bridge.results.hulls.hull import HullPoint
from uspex_bridge.results.hulls.outliers import find_outliers
from uspex_bridge.results.phases.definition import Method as PhaseMethod
from uspex_bridge.results.phases.definition import Tolerances, find_phases
from uspex_bridge.results.reading.model import Composition, Entry, Pool

Method = Literal["farthest", "clusters", "random"]
METHODS: tuple[Method, ...] = ("farthest", "clusters", "random")
#: Points closer than this, relative to the width of the whole set, are the same environment.
_SAME = 1e-6


@dataclass(frozen=True)
class Quota:
    """How many structures, and of which kind.

    Attributes:
        budget: at most so many in all.
        near: part of the budget that structures near the hull may take.
        within: what is near the hull, eV/atom (the paper: 0.05).
        compositions: only the so many compositions of lowest distance to the hull; None is all.
        each: of each composition at most so many near the hull, the lowest first.
        method: how the rest is chosen: ``farthest`` point from all that is there, one of each of as many ``clusters``
            as places are left (BIRCH, as in DIRECT sampling), or at ``random``.
        seed: of what is random.
    """

    budget: int = 100
    near: float = 0.5
    within: float = 0.05
    compositions: int | None = None
    each: int = 3
    method: Method = "farthest"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1 or self.each < 1 or not 0 <= self.near <= 1 or self.within < 0:
            raise ConfigError("a quota needs a budget and a number per composition of at least 1, and 0 <= near <= 1")


@dataclass(frozen=True)
class Chosen:
    """A structure that was taken, and why.

    Attributes:
        above: distance to the hull, eV/atom; None where it has no place on one.
    """

    entry: Entry
    reason: str
    above: float | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """What was taken.

    Attributes:
        chosen: in the order in which they were taken.
        left: how many more of the candidates there were.
        spread: of the structures chosen by distance, how far each was from everything before it, in the same order.
    """

    chosen: tuple[Chosen, ...]
    left: int
    spread: tuple[float, ...] = ()


def distinct(pool: Pool, entries: Sequence[Entry], method: PhaseMethod, tolerances: Tolerances) -> list[Entry]:
    """Return one entry of each phase, the lowest in enthalpy, those without an enthalpy last.

    What has no enthalpy is compared by structure and volume alone, with all the others.
    """
    chosen = [phase.entry for phase in find_phases(pool, entries, method, tolerances)]
    bare = [entry for entry in entries if not entry.valid]
    if not bare:
        return chosen
    levelled = [replace(e, enthalpy=0.0 if e.valid else 1.0 * e.natoms, record=None) for e in (*chosen, *bare)]
    phases = find_phases(pool, levelled, method, replace(tolerances, energy=None))
    leaders = {phase.entry.name for phase in phases}
    return chosen + [entry for entry in bare if entry.name in leaders]


def doubtful(points: Iterable[HullPoint]) -> dict[str, str]:
    """Return why some structures are not to be taken unasked, by name: what stands out far from all others.

    A model that extrapolates makes them, and their labels are those of no material.
    """
    found = find_outliers([point.entry for point in points]) or []
    return {one.entry.name: f"{one.kind}, {abs(one.spreads):.0f} σ" for one in reversed(found)}


def select(
    candidates: Sequence[Entry],
    places: Mapping[str, Array],
    points: Mapping[str, HullPoint],
    have: Array,
    quota: Quota,
) -> Selection:
    """Choose from candidates that are no duplicates of each other.

    Args:
        candidates: the structures to choose from.
        places: coordinates (K,) by name of the entry, in which distances mean something.
        points: places on the hull by name of the entry; what has none is chosen by distance only.
        have: coordinates (M, K) of structures that need not be covered again.
        quota: how many.
    """
    near = near_hull(candidates, points, quota)[: round(quota.near * quota.budget)]
    taken = {chosen.entry.name for chosen in near}
    rest = [entry for entry in candidates if entry.name not in taken and entry.name in places]
    wanted = quota.budget - len(near)
    there = np.array([*have, *(places[name] for name in taken if name in places)])
    coordinates = np.array([places[entry.name] for entry in rest])
    spread: list[float] = []
    further: list[Chosen] = []
    if rest and wanted > 0:
        rng = np.random.default_rng(quota.seed)
        if quota.method == "random":
            picked = sorted(rng.permutation(len(rest))[:wanted].tolist())
            further = [Chosen(rest[k], "at random") for k in picked]
        elif quota.method == "clusters":
            further = [
                Chosen(rest[k], f"stands for {size} structures of a cluster")
                for k, size in clusters(coordinates, there, wanted)
            ]
        else:
            for k, away in farthest_points(coordinates, there, wanted):
                spread.append(away)
                further.append(Chosen(rest[k], f"farthest from all others, {away:.2f}"))
    placed = [replace(c, above=points[c.entry.name].above) if c.entry.name in points else c for c in (*near, *further)]
    return Selection(tuple(placed), len(candidates) - len(placed), tuple(spread))


def near_hull(candidates: Sequence[Entry], points: Mapping[str, HullPoint], quota: Quota) -> list[Chosen]:
    """Return the candidates near the hull by the quotas per composition, lowest first."""
    groups: dict[Composition, list[Entry]] = {}
    placed = [e for e in candidates if e.name in points and points[e.name].above <= quota.within + 1e-9]
    for entry in sorted(placed, key=lambda entry: points[entry.name].above):
        groups.setdefault(entry.reduced, []).append(entry)
    found = []
    for composition in list(groups)[: quota.compositions]:
        for rank, entry in enumerate(groups[composition][: quota.each], 1):
            above = points[entry.name].above
            where = "on the hull" if above < 1e-9 else f"{above:.4f} eV/atom above the hull"
            found.append((above, Chosen(entry, f"{where}, no. {rank} of {formula_of(composition)}")))
    return [chosen for _, chosen in sorted(found, key=lambda pair: pair[0])]


def farthest_points(coordinates: Array, there: Array, count: int) -> list[tuple[int, float]]:
    """Take points one after the other, each the furthest from those that are there and were taken before.

    Args:
        coordinates: (N, K) to take from.
        there: (M, K) already there; where there are none, the first is the one nearest the middle of all.
        count: how many at most; it ends earlier where nothing new is left.

    Returns:
        index and distance of each, in order of taking.
    """
    picked: list[tuple[int, float]] = []
    width = float(np.ptp(coordinates, axis=0).max(initial=0.0)) or 1.0
    if len(there):
        nearest = np.array([np.linalg.norm(there - point, axis=1).min() for point in coordinates])
    else:
        first = int(np.linalg.norm(coordinates - coordinates.mean(axis=0), axis=1).argmin())
        nearest = np.linalg.norm(coordinates - coordinates[first], axis=1)
        picked.append((first, float(nearest.max())))
    while len(picked) < count and nearest.max() > _SAME * width:
        k = int(nearest.argmax())
        picked.append((k, float(nearest[k])))
        nearest = np.minimum(nearest, np.linalg.norm(coordinates - coordinates[k], axis=1))
    return picked


def clusters(coordinates: Array, there: Array, count: int) -> list[tuple[int, int]]:
    """Cut all points into clusters and take from each that holds none of ``there`` the one nearest its middle.

    The number of clusters is raised until ``count`` of them are without one, or every point has its own.

    Returns:
        index and size of the cluster of each, largest cluster first.
    """
    from sklearn.cluster import Birch

    points = np.vstack([coordinates, there]) if len(there) else coordinates
    distinct = len(np.unique(points.round(9), axis=0))
    width = float(np.ptp(points, axis=0).max(initial=0.0))
    if distinct == 1:
        return [] if len(there) else [(0, len(coordinates))]
    number = min(count, distinct)
    while True:
        # A threshold far below any distance that matters leaves the cutting to the number of clusters.
        labels = Birch(threshold=_SAME * width, n_clusters=number).fit_predict(points)
        mine, taken = labels[: len(coordinates)], set(labels[len(coordinates) :].tolist())
        empty = [label for label in np.unique(mine).tolist() if label not in taken]
        if len(empty) >= count or number >= distinct:
            break
        number = min(distinct, number + max(1, count - len(empty)))
    found = []
    for label in empty:
        members = np.flatnonzero(mine == label)
        middle = coordinates[members].mean(axis=0)
        found.append((int(members[np.linalg.norm(coordinates[members] - middle, axis=1).argmin()]), len(members)))
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:count]
