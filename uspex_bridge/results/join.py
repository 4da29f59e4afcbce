"""What the bridge's own record (bridge_record.jsonl) knows of the structures in a results folder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uspex_bridge.call import record_file
from uspex_bridge.models.cards import model_name
from uspex_bridge.results.model import NAN, Composition, Entry, Recorded, composition_of

#: Individuals prints enthalpies and volumes with 3 decimals.
_TOLERANCE = 6e-4


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the record that ended with a result."""

    id: int | None
    composition: Composition
    enthalpy: float
    volume: float
    pressure_gpa: float | None
    level: str
    recorded: Recorded
    moved: bool


def record_of(results: Path) -> Path | None:
    """Return the record of the search that a results folder belongs to, None where there is none."""
    for place in (results.parent, results):
        if (place / record_file.FILENAME).is_file():
            return place / record_file.FILENAME
    return None


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a record that hold a result; geometries and forces are not kept."""
    offset = 0
    with path.open("rb") as stream:
        for raw in stream:
            start, offset = offset, offset + len(raw)
            try:
                fields = json.loads(raw)
            except ValueError:
                continue
            if isinstance(fields, dict) and "enthalpy" in fields:
                yield line_of(fields, start)


def composition_in(fields: dict[str, Any]) -> Composition:
    """Return the composition of a line of the record, sorted by element."""
    return tuple(sorted(composition_of((fields.get("input") or fields.get("output") or {}).get("symbols", []))))


def line_of(fields: dict[str, Any], offset: int) -> Line:
    """Return what is kept of one line of the record, which begins at byte ``offset`` and ended with a result."""
    models = fields.get("models") or {}
    used = [stage["calculator"] for stage in fields.get("stages") or []]
    names = tuple(dict.fromkeys(model_name(models[name]) for name in used if name in models))
    last = model_name(models[used[-1]]) if used and used[-1] in models else ""
    recorded = Recorded(
        status=str(fields.get("status", "")),
        flags=tuple(fields.get("flags") or ()),
        models=names,
        energy=float(fields.get("energy", NAN)),
        fmax=float(fields.get("fmax", NAN)),
        stress_left_gpa=float(fields.get("stress_left_gpa", NAN)),
        steps=int(fields["steps"]) if "fmax" in fields else 0,
        seconds=float(fields.get("seconds", NAN)),
        offset=offset,
    )
    return Line(
        fields.get("id"),
        composition_in(fields),
        float(fields["enthalpy"]),
        float(fields.get("volume", NAN)),
        fields.get("pressure_gpa"),
        last,
        recorded,
        fields.get("nsw") != 0,
    )


def attach(entries: Sequence[Entry], path: Path) -> tuple[Entry, ...]:
    """Join every entry to its line of the record.

    The MATLAB line does not tell the bridge its IDs, so lines are found by composition, enthalpy and volume to the
    digits that Individuals prints; of several, the one with the same ID, then one that moved atoms (a single point at
    the end says nothing of how the relaxation went), then the last. An entry without a line gets the level of theory
    all the same where the record knows only one.
    """
    known: dict[tuple[Composition, int], list[Line]] = defaultdict(list)
    levels = set()
    for line in read_lines(path):
        known[line.composition, round(100 * line.enthalpy)].append(line)
        if line.recorded.status != "penalty":
            levels.add(line.level)
    sole = levels.pop() if len(levels) == 1 else ""
    return tuple(_joined(entry, known, sole) for entry in entries)


def _joined(entry: Entry, known: dict[tuple[Composition, int], list[Line]], sole: str) -> Entry:
    if not entry.valid:
        return entry
    composition = tuple(sorted(entry.composition))
    near = {round(100 * (entry.enthalpy + shift)) for shift in (-_TOLERANCE, 0.0, _TOLERANCE)}
    lines = [line for value in near for line in known.get((composition, value), ())]
    fitting = [line for line in lines if abs(line.enthalpy - entry.enthalpy) < _TOLERANCE]
    if not fitting:
        return replace(entry, level=sole)
    line = max(
        fitting,
        key=lambda one: (
            one.id == entry.id,
            abs(one.volume - entry.volume) < _TOLERANCE,
            one.moved,
            one.recorded.offset,
        ),
    )
    pressure = line.pressure_gpa if entry.pressure_gpa is None else entry.pressure_gpa
    return replace(entry, level=line.level, record=line.recorded, pressure_gpa=pressure)
