"""Looking things up in the run-wide record (see :mod:`uspex_bridge.journal`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from uspex_bridge import journal
from uspex_bridge.errors import InputError

Entry = dict[str, Any]

#: Individuals prints enthalpies with 3 decimals.
_TOLERANCE = 6e-4


def record_file(place: Path) -> Path:
    """Return the record at ``place``, a file or a folder that holds one.

    Raises:
        InputError: there is none.
    """
    path = place / journal.FILENAME if place.is_dir() else place
    if not path.is_file():
        raise InputError(f"{path}: there is no record; name one with --record, or the folder of the search")
    return path


def find(place: Path, which: str | None = None) -> list[Entry]:
    """Return the entries of ``which`` (an ID, slot, formula or key), or all, oldest first.

    Raises:
        InputError: there is no record.
    """
    path = record_file(place)
    entries = list(journal.read(path))
    if which is None:
        return entries
    label = re.fullmatch(r"(?:EA)?(\d+)", which)
    if label is None:
        return [e for e in entries if which in (e.get("slot"), e.get("formula")) or str(e.get("key")).startswith(which)]
    number = int(label[1])
    direct = [e for e in entries if e.get("id") == number]
    return direct or _by_enthalpy(path.parent, entries, number)


def _by_enthalpy(run: Path, entries: list[Entry], number: int) -> list[Entry]:
    """Find a structure of the MATLAB line by what Individuals says of it, then its earlier steps in the same slot."""
    row = _individual(run, number)
    if row is None:
        return []
    counts, enthalpy = row
    for k in range(len(entries) - 1, -1, -1):
        entry = entries[k]
        close = abs(float(entry.get("enthalpy", 1e9)) - enthalpy) < _TOLERANCE
        if close and _counts(entry) == counts:
            return _life(entries, k)
    return []


def _life(entries: list[Entry], last: int) -> list[Entry]:
    """Return the entries of one structure up to number ``last``: those of its slot back to its first step."""
    slot, formula = entries[last].get("slot"), entries[last].get("formula")
    life = [entries[last]]
    for entry in reversed(entries[:last]):
        if entry.get("slot") != slot:
            continue
        if entry.get("formula") != formula or _is_later(entry, life[0]):
            break
        life.insert(0, entry)
    return life


def _is_later(entry: Entry, follower: Entry) -> bool:
    """Tell whether ``entry`` is of a later step than the one that follows it, thus of another structure."""
    mine, next_ = _step(entry), _step(follower)
    return mine is not None and next_ is not None and mine > next_


def _step(entry: Entry) -> int | None:
    step = entry.get("step")
    return int(step) if isinstance(step, str) and step.isdigit() else None


def _counts(entry: Entry) -> list[int]:
    """Return the numbers of atoms per species in file order."""
    counts: dict[str, int] = {}
    for symbol in entry.get("input", {}).get("symbols", []):
        counts[symbol] = counts.get(symbol, 0) + 1
    return list(counts.values())


def _individual(run: Path, number: int) -> tuple[list[int], float] | None:
    """Return composition (counts that are not zero) and enthalpy (eV per cell) of an ID from results*/Individuals."""
    for path in sorted(run.glob("results*/Individuals"), reverse=True):
        for line in path.read_text(errors="replace").splitlines():
            row = re.match(r"\s*\d+\s+(\d+)\s+\S+\s+\[([\d\s]+)\]\s+(\S+)", line)
            if row and int(row[1]) == number:
                return [int(n) for n in row[2].split() if int(n)], float(row[3])
    return None


def summarise(entry: Entry) -> str:
    """Return one entry on one line."""
    name = f"EA{entry['id']}" if "id" in entry else str(entry.get("slot") or entry.get("source", ""))
    step = f" step {entry['step']}" if "step" in entry else ""
    head = f"{entry.get('time', '')}  {name}{step}  {entry.get('formula', ''):<12} {entry.get('pressure_gpa', 0):g} GPa"
    if "enthalpy_per_atom" in entry:
        flags = f"  [{' '.join(entry['flags'])}]" if entry.get("flags") else ""
        return (
            f"{head}  {entry['status']}  H {entry['enthalpy_per_atom']:.4f} eV/atom  V {entry['volume']:.2f} Å³  "
            f"fmax {entry['fmax']:.4f}  {entry['steps']} steps  {entry['seconds']:.1f} s{flags}"
        )
    return f"{head}  {entry.get('status')} ({entry.get('code')}): {entry.get('reason')}"
