"""What the bridge's own record (bridge.record) knows of the structures in a results folder.

The MATLAB line does not tell the bridge its IDs. A structure is found by where it began: the geometry that its first
step was given stands in gatheredPOSCARS_unrelaxed. The lines of its other steps follow in the same slot. A structure
that USPEX kept from an earlier generation was not relaxed again and shares the lines of the one it is a copy of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Array, Structure
from uspex_bridge.call import record_file
from uspex_bridge.call.record_line import ending, level_of
from uspex_bridge.call.record_reading import is_sound
from uspex_bridge.models.cards import model_name
from uspex_bridge.results.reading.model import NAN, Composition, Entry, Recorded, composition_of, original_of

#: Individuals prints enthalpies and volumes with 3 decimals.
_TOLERANCE = 6e-4
#: Largest difference of a starting geometry in its two files: Å of the cell, parts of the cell's edges.
_SAME_START = 2e-5
#: Status of calls that handed USPEX a result.
_RESULTS = ("converged", "unconverged", "single point", "penalty")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the record.

    Attributes:
        id: USPEX's ID, where the bridge knew it; slot: the folder it ran in; step: its number, None where unknown.
        composition: sorted by element.
        enthalpy: eV per cell, NaN where the call ended without a result.
        volume: Å³; pressure_gpa: GPa; level: of theory, of the last model.
        recorded: what an entry takes from it; None where the call ended without a result.
        moved: whether atoms could move.
        starts: IDs of the structures that began with its input.
        offset: where it begins in the record, bytes.
        begins: what tells the input of a first step from others; 0 where it cannot be told.
    """

    id: int | None
    slot: str
    step: int | None
    composition: Composition
    enthalpy: float
    volume: float
    pressure_gpa: float | None
    level: str
    recorded: Recorded | None
    moved: bool
    starts: tuple[int, ...]
    offset: int
    begins: int = 0

    @property
    def done(self) -> bool:
        """Whether the call handed USPEX a result: a refused one may be kept as training data."""
        return self.recorded is not None and self.recorded.status in _RESULTS


#: The lines of one structure in order, failed tries included.
Life = tuple[Line, ...]


def record_of(results: Path) -> Path | None:
    """Return the record of the search that a results folder belongs to, None where there is none."""
    for place in (results.parent, results):
        if (path := record_file.in_folder(place)).is_file():
            return path
    return None


def composition_in(fields: dict[str, Any]) -> Composition:
    """Return the composition of a line of the record, sorted by element."""
    return tuple(sorted(composition_of((fields.get("input") or fields.get("output") or {}).get("symbols", []))))


def structure_of(geometry: Mapping[str, Any], comment: str = "") -> Structure:
    """Return a structure as the record keeps it: ``symbols``, ``cell`` in Å, ``scaled``."""
    return Structure(tuple(geometry["symbols"]), np.array(geometry["cell"]), np.array(geometry["scaled"]), comment)


def line_of(fields: dict[str, Any], offset: int = 0, starts: tuple[int, ...] = ()) -> Line:
    """Return what is kept of one line of the record, which begins at byte ``offset``."""
    step = fields.get("step")
    return Line(
        id=fields.get("id"),
        slot=str(fields.get("slot", "")),
        step=int(step) if isinstance(step, str) and step.isdigit() else None,
        composition=composition_in(fields),
        enthalpy=float(fields.get("enthalpy", NAN)),
        volume=float(fields.get("volume", NAN)),
        pressure_gpa=fields.get("pressure_gpa"),
        level=level_of(fields),
        recorded=_recorded(fields, offset) if "enthalpy" in fields else None,
        moved=fields.get("nsw") != 0,
        starts=starts,
        offset=offset,
        begins=hash(repr(fields["input"])) if fields.get("id") is None and "cell" in (fields.get("input") or {}) else 0,
    )


def _recorded(fields: dict[str, Any], offset: int) -> Recorded:
    models = fields.get("models") or {}
    used = [stage["calculator"] for stage in fields.get("stages") or []]
    hole = "hole" in (fields.get("code"), str(fields.get("reason", "")).partition(":")[0])
    return Recorded(
        status=ending(fields),
        flags=tuple(dict.fromkeys([*(fields.get("flags") or ()), *(["hole"] if hole else [])])),
        models=tuple(dict.fromkeys(model_name(models[name]) for name in used if name in models)),
        energy=float(fields.get("energy", NAN)),
        fmax=float(fields.get("fmax", NAN)),
        stress_left_gpa=float(fields.get("stress_left_gpa", NAN)),
        steps=fields.get("steps", 0) if "fmax" in fields else 0,
        seconds=float(fields.get("seconds", NAN)),
        offset=offset,
    )


@dataclass
class _Starts:
    """Starting geometries by composition and volume."""

    held: dict[tuple[Composition, int], list[tuple[int, Array, Array]]] = field(default_factory=dict)

    def add(self, number: int, structure: Structure) -> None:
        key, cell, scaled = self._place(structure.symbols, structure.cell, structure.scaled)
        self.held.setdefault(key, []).append((number, cell, scaled))

    def find(self, geometry: dict[str, Any]) -> tuple[int, ...]:
        """Return the IDs of the structures that began so."""
        cell, scaled = (np.array(geometry.get(name, ()), dtype=float) for name in ("cell", "scaled"))
        symbols = geometry.get("symbols", ())
        if cell.shape != (3, 3) or scaled.shape != (len(symbols), 3):
            return ()
        (composition, volume), cell, scaled = self._place(symbols, cell, scaled)
        near = [one for v in (volume - 1, volume, volume + 1) for one in self.held.get((composition, v), ())]
        return tuple(number for number, c, s in near if _same(c, cell) and _same(s, scaled, wrapped=True))

    def _place(
        self, symbols: Sequence[str], cell: Array, scaled: Array
    ) -> tuple[tuple[Composition, int], Array, Array]:
        order = np.argsort(np.array(symbols), kind="stable")  # the Python line's POSCARs are sorted by element
        volume = round(10 * abs(float(np.linalg.det(cell))))
        return (tuple(sorted(composition_of(symbols))), volume), cell, scaled[order]


def _same(one: Array, other: Array, *, wrapped: bool = False) -> bool:
    difference = one - other
    if wrapped:
        difference -= np.round(difference)
    return bool(np.abs(difference).max(initial=0.0) < _SAME_START)


def lives(record: Path, entries: Sequence[Entry], starts: Iterable[tuple[int, Structure]]) -> dict[int, Life]:
    """Return the lines of the record that belong to each structure of a search.

    A structure whose starting geometry the record lacks is looked for by ID where the record has IDs, else by its
    composition, the enthalpies of its steps and its volume.

    Args:
        record: the file.
        entries: of one results folder.
        starts: IDs and starting geometries; those of kept structures do not matter.
    """
    by_id = {entry.id: entry for entry in entries}
    originals = {entry.id: original_of(entry, by_id) for entry in entries}
    index = _Starts()
    for number, structure in starts:
        if originals.get(number) == number:
            index.add(number, structure)
    slots: dict[object, list[Line]] = defaultdict(list)
    for line in _read(record, index):
        slots[(line.slot or line.offset) if line.id is None else ("id", line.id)].append(line)
    wanted = {entry.id: len(entry.steps) for entry in entries}
    found = [life for lines in slots.values() for life in _split(lines, wanted)]
    own = _claimed([entry for entry in entries if originals[entry.id] == entry.id], found)
    return {number: own[original] for number, original in originals.items() if original in own}


def _read(path: Path, starts: _Starts) -> Iterator[Line]:
    """Yield the lines of a record; geometries and forces are not kept."""
    offset = 0
    with path.open("rb") as stream:
        for raw in stream:
            start, offset = offset, offset + len(raw)
            try:
                fields = jsonl.loads(raw)
            except ValueError:
                continue
            if isinstance(fields, dict) and fields.get("status") and is_sound(fields):
                yield line_of(fields, start, starts.find(fields.get("input") or {}) if _may_begin(fields) else ())


def _may_begin(fields: dict[str, Any]) -> bool:
    """Tell whether a call may have been a structure's first step: a seed begins as an earlier structure ended."""
    alike = fields.get("steps")
    return "1" in alike if isinstance(alike, list) else fields.get("step", "1") == "1"


def _split(lines: Sequence[Line], wanted: dict[int, int]) -> Iterator[Life]:
    """Cut the lines of one slot where another structure begins."""
    current: list[Line] = []
    for line in lines:
        if current and _is_another(current, line, max((wanted.get(n, 0) for n in current[0].starts), default=0)):
            yield tuple(current)
            current = []
        current.append(line)
    if current:
        yield tuple(current)


def _is_another(life: list[Line], line: Line, steps: int) -> bool:
    """Tell whether a line is of another structure than those before it in its slot."""
    results = sum(one.done for one in life)
    if line.starts:
        return line.starts != life[0].starts or results > 0
    if line.step == life[0].step == 1 and line.begins != life[0].begins:
        return True  # USPEX tries the first step again with the very same input
    if line.composition != life[0].composition or (steps and results >= steps):
        return True
    last = life[-1]
    if line.step is None or last.step is None:
        return False
    return line.step < last.step or (line.step == last.step and last.done)


def _claimed(entries: Sequence[Entry], found: Sequence[Life]) -> dict[int, Life]:
    """Give every structure its life."""
    by_start: dict[int, list[Life]] = defaultdict(list)
    by_number: dict[int, list[Life]] = defaultdict(list)
    by_end: dict[tuple[Composition, int], list[Life]] = defaultdict(list)
    for life in found:
        for number in life[0].starts:
            by_start[number].append(life)
        if life[0].id is not None:
            by_number[life[0].id].append(life)
        if (end := _end(life)) is not None:
            by_end[end.composition, round(100 * end.enthalpy)].append(life)
    own: dict[int, Life] = {}
    for entry in entries:
        candidates = by_start[entry.id] or by_number[entry.id]
        if not candidates and entry.enthalpy == entry.enthalpy:
            near = {round(100 * (entry.enthalpy + shift)) for shift in (-_TOLERANCE, 0.0, _TOLERANCE)}
            ends = [life for value in near for life in by_end[tuple(sorted(entry.composition)), value]]
            candidates = [life for life in ends if ends_as(life, entry) and not life[0].starts]
        if candidates:
            own[entry.id] = min(candidates, key=lambda life: _mismatch(life, entry))
    return own


def _end(life: Life) -> Line | None:
    """Return the last line with a result."""
    return next((line for line in reversed(life) if line.done), None)


def ends_as(life: Life, entry: Entry) -> bool:
    """Tell whether the life's result is the entry's: not where other codes relaxed it further."""
    end = _end(life)
    return end is not None and abs(end.enthalpy - entry.enthalpy) < _TOLERANCE


def _mismatch(life: Life, entry: Entry) -> tuple[bool, float, float, int]:
    """Return by what the better of two lives is told: its end, its steps, its volume, and that it is the later one."""
    results = [line.enthalpy for line in life if line.done]
    steps = max((abs(a - b) for a, b in zip(results, entry.steps, strict=False)), default=0.0)
    volume = abs(life[-1].volume - entry.volume)
    return (
        not ends_as(life, entry),
        steps if steps > _TOLERANCE else 0.0,
        volume if volume > _TOLERANCE else 0.0,
        -life[-1].offset,
    )


def attach(
    entries: Sequence[Entry], record: Path, starts: Iterable[tuple[int, Structure]]
) -> tuple[tuple[Entry, ...], list[str]]:
    """Join every entry to its lines of the record: status, flags, level of theory, and the enthalpy with all digits.

    An entry without lines gets the level of theory all the same where the record knows only one.

    Returns:
        the entries, and what does not agree.
    """
    found = lives(record, entries, starts)
    levels = {life[-1].level for life in found.values() if _end(life) is not None}
    apart = [entry for entry in entries if entry.id in found and entry.valid and not ends_as(found[entry.id], entry)]
    sole = next(iter(levels)) if len(levels) == 1 and not apart else ""
    notes = []
    if apart:
        listed = ", ".join(f"EA{entry.id}" for entry in apart[:5]) + (", ..." if len(apart) > 5 else "")
        notes.append(f"{record}: of {len(apart)} structures the last enthalpy is not that of Individuals ({listed})")
    return tuple(_joined(entry, found.get(entry.id, ()), sole) for entry in entries), notes


def _joined(entry: Entry, life: Life, sole: str) -> Entry:
    if not entry.valid:
        return entry
    if not life:
        return replace(entry, level=sole)
    end = _end(life)
    if end is None or not ends_as(life, entry):
        return entry
    # A single point at the end says nothing of how the relaxation went.
    same = [line for line in life if line.done and abs(line.enthalpy - end.enthalpy) < _TOLERANCE]
    told = next((line for line in reversed(same) if line.moved), end)
    recorded = told.recorded
    assert recorded is not None
    assert end.recorded is not None
    flags = tuple(dict.fromkeys((*recorded.flags, *end.recorded.flags)))
    return replace(
        entry,
        enthalpy=end.enthalpy,
        level=end.level,
        record=replace(recorded, flags=flags),
        pressure_gpa=end.pressure_gpa if entry.pressure_gpa is None else entry.pressure_gpa,
    )
