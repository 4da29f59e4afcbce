"""Looking things up in the run-wide record (see :mod:`uspex_bridge.call.record_file`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import StageReport
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.tables import fitted
from uspex_bridge.call import record_file, record_reading
from uspex_bridge.call.record_line import ending

Entry = dict[str, Any]


def find_record(place: Path) -> Path:
    """Return the record at ``place``, a file or a folder that holds one.

    Raises:
        InputError: there is none.
    """
    path = record_file.in_folder(place) if place.is_dir() else place
    if not path.is_file():
        raise InputError(f"{path}: there is no record; name one with --record, or the folder of the search")
    return path


def find(place: Path, which: str | None = None) -> list[Entry]:
    """Return the entries of ``which`` (an ID, slot, label, formula or key), or all, oldest first.

    Raises:
        InputError: there is no record.
    """
    path = find_record(place)
    label = None if which is None else re.fullmatch(r"(?:EA)?(\d+)", which)
    if label is not None:
        number = int(label[1])
        return _of_structure(path, number) or [
            e for e in record_reading.read(path) if e.get("id") == number or ("id" not in e and e.get("slot") == which)
        ]
    entries = list(record_reading.read(path))
    if which is None:
        return entries
    names = ("slot", "label", "formula")
    return [e for e in entries if which in map(e.get, names) or str(e.get("key")).startswith(which)]


def _of_structure(record: Path, number: int) -> list[Entry]:
    """Return the entries of an ID in the newest results folder beside the record that has it."""
    from uspex_bridge.results.reading.folder import open_results, results_folders
    from uspex_bridge.results.reading.join import lives

    if not any(record.parent.glob("results*/Individuals")):
        return []
    for folder in reversed(results_folders(record.parent)):
        results = open_results(folder, record=False)
        if number in results.by_id:
            starts = results.starting.read(list(results.by_id)) if results.starting is not None else ()
            life = lives(record, results.entries, starts).get(number, ())
            return [jsonl.read_at(record, line.offset) for line in life]
    return []


#: Units of an entry's values.
UNITS = {
    "seconds": "s",
    "pressure_gpa": "GPa",
    "energy": "eV",
    "enthalpy": "eV",
    "enthalpy_per_atom": "eV/atom",
    "volume": "Å³",
    "fmax": "eV/Å",
    "stress_left_gpa": "GPa",
    "stages.fmax": "eV/Å",
    "stages.stress_gpa": "GPa",
    "cell": "Å",
    "forces": "eV/Å",
    "stress": "eV/Å³",
}
_HEADINGS = (
    ("time (UTC)", ""),
    ("", ""),
    ("step", ""),
    ("formula", ""),
    ("P", "GPa"),
    ("status", ""),
    ("H", "eV/atom"),
    ("fmax", "eV/Å"),
    ("steps", ""),
    ("wall", "s"),
)
#: Columns that are left out where the table would be wider than a terminal, the first one first.
_SPARE = ("fmax", "steps", "wall")


def table(entries: Sequence[Entry], *, stages: bool = False) -> str:
    """Return entries as a table of 80 columns; under an entry stand its flags, why it has no result, and its stages."""
    below = [[*_said(entry), *(_detail(entry) if stages else ())] for entry in entries]
    return fitted(_HEADINGS, [_row(entry) for entry in entries], _SPARE, below)


def _row(entry: Entry) -> list[str]:
    def number(name: str, spec: str) -> str:
        return format(entry[name], spec) if isinstance(entry.get(name), (int, float)) else ""

    return [
        str(entry.get("time", ""))[:16].replace("T", " "),
        f"EA{entry['id']}" if "id" in entry else str(entry.get("slot") or entry.get("source", "")),
        str(entry.get("step", "")),
        str(entry.get("formula", "")),
        number("pressure_gpa", "g"),
        ending(entry) if "enthalpy_per_atom" in entry else str(entry.get("status")),
        number("enthalpy_per_atom", ".4f"),
        number("fmax", ".3f"),
        number("steps", "g"),
        number("seconds", ".1f"),
    ]


def _said(entry: Entry) -> list[str]:
    flags = [f"flags: {' '.join(entry['flags'])}"] if entry.get("flags") else []
    return flags if "enthalpy_per_atom" in entry else [*flags, f"{entry.get('code')}: {entry.get('reason')}"]


def _detail(entry: Entry) -> Iterator[str]:
    """Yield a line about the automatic student, if there is one, and about each stage."""
    if entry.get("student"):
        yield f"student: {entry['student']}"
    named = {field.name for field in fields(StageReport)}
    for stage in entry.get("stages") or ():
        if not named <= {*stage, "detail"}:
            continue  # no call has written it
        measured = None not in (stage["fmax"], stage["stress_gpa"])
        left = f"fmax {stage['fmax']:.4f} eV/Å, stress left {stage['stress_gpa']:.3f} GPa" if measured else ""
        yield (
            f"{stage['name']}: {stage['calculator']} {stage['model']}, {stage['optimizer']}: {stage['outcome']} after "
            f"{stage['steps']} steps, {stage['evaluations']} evaluations, {stage['seconds']:.1f} s; "
            + "; ".join(filter(None, (left, stage.get("detail"))))
        )
