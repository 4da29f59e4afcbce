"""How well each operator of a search did, and how the best structures came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uspex_bridge.base.errors import InputError
from uspex_bridge.results.hulls.hull import Hull, HullPoint
from uspex_bridge.results.reading.folder import Results
from uspex_bridge.results.reading.model import KEPT, Composition, Entry

#: What USPEX's files round away, eV/atom.
_DIGIT = 2e-4


@dataclass(frozen=True)
class Record:
    """A structure that was the lowest of its composition so far when its generation was over.

    Attributes:
        entry: it.
        above: distance to the final hull, eV/atom.
    """

    entry: Entry
    above: float


@dataclass(frozen=True)
class Success:
    """What one operator did; structures that the search only kept count for nobody.

    Attributes:
        operator: its name as in the results.
        made: structures; failed: those of them without an enthalpy.
        better: nearer the final hull than every parent; of ``with_parents``, those whose parents are known.
        near: within the window of the final hull.
        stable: compositions of the final hull whose lowest structure it made.
    """

    operator: str
    made: int
    failed: int
    with_parents: int
    better: int
    near: int
    stable: int


@dataclass(frozen=True, eq=False)
class Progress:
    """A search generation by generation.

    Attributes:
        generations: first and last.
        points: what was made, kept copies left out, each with its distance to the final hull.
        records: of each stable composition the structures that were the lowest so far, in order.
        operators: the most productive first.
        within: window of ``Success.near``, eV/atom.
    """

    generations: tuple[int, int]
    points: tuple[HullPoint, ...]
    records: dict[Composition, tuple[Record, ...]]
    operators: tuple[Success, ...]
    within: float


def progress(results: Results, hull: Hull, within: float = 0.05) -> Progress:
    """Follow the best structure of every composition on the final hull, and count what each operator did.

    Args:
        results: the search.
        hull: of all its structures (and references).
        within: what counts as near the hull, eV/atom.

    Raises:
        InputError: nothing says which structure belongs to which generation.
    """
    mine = {p.entry.id: p for p in hull.points if p.entry.run == results.label}
    made = [e for e in results.entries if e.origin not in KEPT]
    numbers = [e.generation for e in made if e.generation is not None]
    if not numbers:
        raise InputError(f"{results.path}: the generations of the structures are unknown (no OUTPUT.txt)")
    points = [mine[e.id] for e in made if e.id in mine and e.generation is not None]
    points.sort(key=lambda point: (point.entry.generation or 0, point.entry.id))
    stable = [point.entry.reduced for point in hull.vertices]
    records = {composition: _records([p for p in points if p.entry.reduced == composition]) for composition in stable}
    last = {found[-1].entry.id for found in records.values() if found and found[-1].above <= _DIGIT}
    operators = [_success(name, made, mine, last, within) for name in dict.fromkeys(e.origin for e in made)]
    operators.sort(key=lambda success: (-success.made, success.operator))
    kept = {composition: found for composition, found in records.items() if found}
    return Progress((min(numbers), max(numbers)), tuple(points), kept, tuple(operators), within)


def _records(points: Sequence[HullPoint]) -> tuple[Record, ...]:
    """Return the best of each generation that was lower than all before it, by more than USPEX's files round away."""
    found: list[Record] = []
    for point in points:
        if not found or point.above < found[-1].above - _DIGIT:
            if found and found[-1].entry.generation == point.entry.generation:
                found.pop()
            found.append(Record(point.entry, point.above))
    return tuple(found)


def _success(name: str, made: Sequence[Entry], mine: dict[int, HullPoint], last: set[int], within: float) -> Success:
    entries = [entry for entry in made if entry.origin == name]
    family = [(mine[e.id], [mine[p] for p in e.parents if p in mine]) for e in entries if e.id in mine]
    compared = [(child, parents) for child, parents in family if parents]
    better = sum(child.above < min(parent.above for parent in parents) - _DIGIT for child, parents in compared)
    return Success(
        operator=name or "unknown",
        made=len(entries),
        failed=sum(not entry.valid for entry in entries),
        with_parents=len(compared),
        better=better,
        near=sum(child.above <= within + 1e-9 for child, _ in family),
        stable=sum(entry.id in last for entry in entries),
    )
