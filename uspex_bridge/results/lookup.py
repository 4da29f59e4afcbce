"""Looking things up in the run-wide record (see :mod:`uspex_bridge.call.record_file`)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import InputError
from uspex_bridge.call import record_file

if TYPE_CHECKING:
    from uspex_bridge.results.model import Entry as Individual

Entry = dict[str, Any]

#: Individuals prints enthalpies with 3 decimals.
_TOLERANCE = 6e-4


def find_record(place: Path) -> Path:
    """Return the record at ``place``, a file or a folder that holds one.

    Raises:
        InputError: there is none.
    """
    path = place / record_file.FILENAME if place.is_dir() else place
    if not path.is_file():
        raise InputError(f"{path}: there is no record; name one with --record, or the folder of the search")
    return path


def find(place: Path, which: str | None = None) -> list[Entry]:
    """Return the entries of ``which`` (an ID, slot, formula or key), or all, oldest first.

    Raises:
        InputError: there is no record.
    """
    path = find_record(place)
    entries = list(jsonl.read(path))
    if which is None:
        return entries
    label = re.fullmatch(r"(?:EA)?(\d+)", which)
    if label is None:
        return [e for e in entries if which in (e.get("slot"), e.get("formula")) or str(e.get("key")).startswith(which)]
    number = int(label[1])
    direct = [e for e in entries if e.get("id") == number]
    return direct or _by_enthalpies(path.parent, entries, number)


def _by_enthalpies(run: Path, entries: list[Entry], number: int) -> list[Entry]:
    """Find a structure of the MATLAB line by what USPEX wrote of it: composition and enthalpies of all its steps."""
    wanted = _individual(run, number)
    if wanted is None:
        return []
    from uspex_bridge.results.join import composition_in

    composition = tuple(sorted(wanted.composition))
    lives = [
        _life(entries, k, len(wanted.steps))
        for k, entry in enumerate(entries)
        if _is_result(entry)
        and abs(entry["enthalpy"] - wanted.enthalpy) < _TOLERANCE
        and composition_in(entry) == composition
    ]
    # several may end alike, as they do when a search converges
    return min(reversed(lives), key=lambda life: _difference(life, wanted), default=[])


def _difference(life: list[Entry], wanted: Individual) -> tuple[float, float]:
    """Return by how much the enthalpies of the steps differ at most, eV per cell, and the volume, Å³."""
    found = [entry["enthalpy"] for entry in life if _is_result(entry)]
    alike = len(found) == len(wanted.steps)
    worst = max((abs(a - b) for a, b in zip(found, wanted.steps, strict=True)), default=0.0) if alike else math.inf
    return worst if worst > _TOLERANCE else 0.0, abs(life[-1]["volume"] - wanted.volume)


def _life(entries: list[Entry], last: int, steps: int) -> list[Entry]:
    """Return the entries of one structure up to number ``last``: those of its slot back to its first step.

    It has ``steps`` results; where that is unknown (0), the numbers of the steps decide.
    """
    life = [entries[last]]
    for entry in reversed(entries[:last]):
        if entry.get("slot") != life[0].get("slot"):
            continue
        results = sum(map(_is_result, life))
        if entry.get("formula") != life[0].get("formula") or (steps and results == steps and _is_result(entry)):
            break
        if results == steps and entry.get("input") != life[0].get("input"):  # no earlier try of the first step
            break
        if not steps and _is_earlier_life(entry, life[0]):
            break
        life.insert(0, entry)
    return life


def _is_result(entry: Entry) -> bool:
    return "enthalpy" in entry and entry.get("status") in ("converged", "unconverged", "penalty")


def _is_earlier_life(entry: Entry, follower: Entry) -> bool:
    """Tell by their steps whether ``entry`` is of another structure than the one that follows it in the slot."""
    mine, next_ = _step(entry), _step(follower)
    return mine is not None and next_ is not None and (mine > next_ or (mine == next_ and _is_result(entry)))


def _step(entry: Entry) -> int | None:
    step = entry.get("step")
    return int(step) if isinstance(step, str) and step.isdigit() else None


def _individual(run: Path, number: int) -> Individual | None:
    """Return an ID's entry in the newest results folder that has it."""
    if not any(run.glob("results*/Individuals")):
        return None
    from uspex_bridge.results.folder import open_results, results_folders

    for folder in reversed(results_folders(run)):
        if found := open_results(folder, record=False).by_id.get(number):
            return found
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
