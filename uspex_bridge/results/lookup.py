"""Looking things up in the run-wide record (see :mod:`uspex_bridge.call.record_file`)."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import InputError
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
    from uspex_bridge.results.folder import open_results, results_folders
    from uspex_bridge.results.join import lives

    if not any(record.parent.glob("results*/Individuals")):
        return []
    for folder in reversed(results_folders(record.parent)):
        results = open_results(folder, record=False)
        if number in results.by_id:
            starts = results.starting.read(list(results.by_id)) if results.starting is not None else ()
            life = lives(record, results.entries, starts).get(number, ())
            return [jsonl.read_at(record, line.offset) for line in life]
    return []


def summarise(entry: Entry) -> str:
    """Return one entry on one line."""
    name = f"EA{entry['id']}" if "id" in entry else str(entry.get("slot") or entry.get("source", ""))
    step = f" step {entry['step']}" if "step" in entry else ""
    number = defaultdict(lambda: math.nan, entry)
    head = f"{entry.get('time', '')}  {name}{step}  {entry.get('formula', ''):<12} {entry.get('pressure_gpa', 0):g} GPa"
    if "enthalpy_per_atom" in entry:
        flags = f"  [{' '.join(entry['flags'])}]" if entry.get("flags") else ""
        return (
            f"{head}  {ending(entry)}  H {number['enthalpy_per_atom']:.4f} eV/atom  V {number['volume']:.2f} Å³  "
            f"fmax {number['fmax']:.4f}  {entry.get('steps', '?')} steps  {number['seconds']:.1f} s{flags}"
        )
    return f"{head}  {entry.get('status')} ({entry.get('code')}): {entry.get('reason')}"
