"""Where a structure comes from: its parents, theirs, and so on back to seeds and random structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uspex_bridge.base.errors import InputError
from uspex_bridge.results.reading.folder import Results
from uspex_bridge.results.reading.model import KEPT, Entry


@dataclass(frozen=True, eq=False)
class Family:
    """A structure and its ancestors.

    Attributes:
        child: the structure; where the search kept it under further IDs, the first of them.
        members: it and all ancestors by ID, copies that USPEX kept left out; the youngest first.
        parents: of each member, IDs of members.
        kept: IDs of copies that were left out -> the ID they are a copy of.
        main: IDs from the child back along the parent of lowest enthalpy (or distance to the hull).
    """

    child: Entry
    members: dict[int, Entry]
    parents: dict[int, tuple[int, ...]]
    kept: dict[int, int]
    main: tuple[int, ...]

    @property
    def founders(self) -> tuple[Entry, ...]:
        """Members without parents: random structures and seeds."""
        return tuple(entry for number, entry in self.members.items() if not self.parents[number])


def ancestors(results: Results, child: Entry, height: dict[int, float]) -> Family:
    """Follow the parents of a structure.

    Args:
        results: the search.
        child: one of its entries.
        height: of each ID, eV/atom; decides which parent the main line follows.

    Raises:
        InputError: the search's file ``origin`` is missing, so that nobody's parents are known.
    """
    origin = results.path / "origin"
    if not origin.is_file():
        raise InputError(f"{origin}: there is no such file; without it no structure's parents are known")
    members: dict[int, Entry] = {}
    parents: dict[int, tuple[int, ...]] = {}
    kept: dict[int, int] = {}
    first = _original(results, child.id, kept)
    waiting = [first]
    while waiting:
        number = waiting.pop()
        if number in members:
            continue
        entry = members[number] = results.by_id[number]
        known = [parent for parent in entry.parents if parent in results.by_id and parent != number]
        parents[number] = tuple(dict.fromkeys(_original(results, parent, kept) for parent in known))
        waiting += parents[number]
    ordered = dict(sorted(members.items(), key=lambda item: (-(item[1].generation or 0), item[0])))
    return Family(results.by_id[first], ordered, parents, kept, tuple(_main_line(first, parents, height)))


def _original(results: Results, number: int, kept: dict[int, int]) -> int:
    """Return what a structure that USPEX only kept is a copy of, itself where it is none."""
    start, seen = number, {number}
    while True:
        entry = results.by_id[number]
        parent = entry.parents[0] if entry.origin in KEPT and len(entry.parents) == 1 else None
        if parent is None or parent not in results.by_id or parent in seen:
            break
        seen.add(parent)
        number = parent
    if number != start:
        kept[start] = number
    return number


def _main_line(first: int, parents: dict[int, tuple[int, ...]], height: dict[int, float]) -> Sequence[int]:
    line = [first]
    while parents[line[-1]]:
        best = min(parents[line[-1]], key=lambda number: height.get(number, float("inf")))
        if best in line:
            break
        line.append(best)
    return line
