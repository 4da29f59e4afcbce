"""The run-wide record: one JSON line per relaxed candidate, beside the search.

USPEX deletes or reuses its CalcFolds; this file is what answers "what happened to structure 137?" and what
post-processing and retraining start from. docs/record.md describes the fields.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text
from uspex_bridge.base.version import version
from uspex_bridge.call import record_reading
from uspex_bridge.call.config import uspex_folder

#: Name of the record and version of its lines.
FILENAME = "bridge.record"
SCHEMA = 1
#: What it was called before: programs that load every ``*.json*`` of a folder, as emmet does, broke on it.
_OLD_NAME = "bridge_record.jsonl"
#: Retries come soon: an earlier refusal is looked for in this much of the record's end, bytes.
_TAIL = 8_000_000


def in_folder(folder: Path) -> Path:
    """Return the record of a search's folder, whether it is there or not; one of the old name is gone on with."""
    old = folder / _OLD_NAME
    return old if old.is_file() and not (folder / FILENAME).is_file() else folder / FILENAME


def append(path: Path, *entries: dict[str, Any]) -> None:
    """Append entries to the record.

    Raises:
        OutputError: the record cannot be written.
    """
    jsonl.append(path, *({"schema": SCHEMA, **entry} for entry in entries))


def places(path: Path) -> dict[str, int]:
    """Return where the last line of each job begins: key -> byte, for :func:`uspex_bridge.base.jsonl.read_at`."""
    found, offset = {}, 0
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n") and _KEY.search(line) and (entry := next(record_reading.parse([line]), None)):
                found[str(entry.get("key"))] = offset
            offset += len(line)
    return found


def job_key(structure: Structure, what: Any) -> str:
    """Return a hash of a starting structure (to 1e-5) and of everything ``what`` that decides its fate."""
    geometry = [list(structure.symbols), structure.cell.round(5).tolist(), structure.scaled.round(5).tolist()]
    return hashlib.sha256(json.dumps([geometry, repr(what)]).encode()).hexdigest()[:16]


def earlier_refusal(path: Path, key: str) -> dict[str, Any] | None:
    """Return the latest entry near the record's end that refused the same job for a lasting reason.

    What another version of the bridge refused is tried again.
    """
    entry = _latest(path, key)
    same = entry is not None and entry.get("versions", {}).get("uspex_bridge") == version()
    return entry if entry and same and entry.get("lasting") else None


def refused_alike(path: Path, key: str, code: str) -> bool:
    """Tell whether the latest entry of the same job near the record's end is a refusal of the same kind."""
    entry = _latest(path, key)
    return entry is not None and entry.get("code") == code


def latest_result(path: Path, step: str | None) -> dict[str, Any] | None:
    """Return the latest entry that names models, of a step of the search (None: not known), in the record's tail."""
    for line in reversed(_tail(path).splitlines()):
        if b'"models":{' in line:
            entry = next(record_reading.parse([line]), None)
            if entry and entry.get("models") and entry.get("step") == step:
                return entry
    return None


def lowest_enthalpy(path: Path, formula: str, pressure_gpa: float, calculator: str) -> float | None:
    """Return the lowest enthalpy of a composition at a pressure near the record's end, eV/atom; None for none.

    Args:
        path: of the record.
        formula: as in the record.
        pressure_gpa: at which.
        calculator: of the last stage.
    """
    wanted = f'"formula":{json.dumps(formula)},'.encode()
    found = []
    for line in _tail(path).splitlines():
        if wanted in line and b'"enthalpy_per_atom":' in line:
            for entry in record_reading.parse([line]):
                same = entry.get("pressure_gpa") == pressure_gpa and "hole" not in entry.get("flags", ())
                if same and entry.get("stages") and entry["stages"][-1]["calculator"] == calculator:
                    at_rest = (entry.get("free_energy") or {}).get("enthalpy_at_rest")
                    found.append(entry["enthalpy_per_atom"] if at_rest is None else at_rest / entry["natoms"])
    return min(found, default=None)


def _latest(path: Path, key: str) -> dict[str, Any] | None:
    tail = _tail(path)
    at = tail.rfind(f'"key":"{key}"'.encode())
    if at < 0:
        return None
    line = tail[tail.rfind(b"\n", 0, at) + 1 :].partition(b"\n")[0]
    return next(record_reading.parse([line]), None)


def _tail(path: Path) -> bytes:
    """Return the end of the record, which may begin within a line; nothing of one that is not there or unreadable."""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - _TAIL))
                return stream.read()
    return b""


def whereabouts(folder: Path, comment: str) -> dict[str, Any]:
    """Return what a working folder tells of the structure's place in the search.

    ``slot`` is the folder's name; ``id`` USPEX's ID where it is known (the MATLAB line writes EA0 while it
    relaxes); ``step`` the number n of the ``Specific/INCAR_n`` (CrySPY: ``calc_in/INCAR_n``) that the INCAR begins
    with, or what stands in the folder's name (Python line, USPEX 26);
    ``generation`` the newest generation folder of the newest results folder.
    """
    where: dict[str, Any] = {"folder": str(folder), "slot": folder.name}
    label = re.match(r"\s*EA(\d+)\b", comment)
    if label and int(label[1]) > 0:
        where["id"] = int(label[1])
    search = uspex_folder(folder) or folder.parent
    if tagged := re.fullmatch(r"Calc[Ff]old_?(\d+)_(.+)", folder.name):
        where |= {"id": int(tagged[1]), "step": tagged[2]}
    else:
        steps = _matching_steps(folder, search / "Specific") or _matching_steps(folder, search.parent / "calc_in")
        where |= {"step": steps[0]} if len(steps) == 1 else {"steps": steps} if steps else {}
    with suppress(OSError):
        found = [int(m[1]) for p in search.glob("results*/generation*") if (m := _GENERATION.search(str(p)))]
        where |= {"generation": max(found)} if found else {}
    return where


_KEY = re.compile(rb'"key":"([0-9a-f]+)"')
_GENERATION = re.compile(r"generation(\d+)$")


def _matching_steps(folder: Path, specific: Path) -> list[str]:
    try:
        incar = read_text(folder / "INCAR")
        paths = sorted(specific.glob("INCAR_*"))
    except (InputError, OSError):
        return []
    steps = []
    for path in paths:
        try:
            if incar.startswith(read_text(path)):
                steps.append(path.name.removeprefix("INCAR_"))
        except InputError:
            continue
    return steps
