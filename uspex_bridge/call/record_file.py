"""The run-wide record: one JSON line per relaxed candidate, beside the search.

USPEX deletes or reuses its CalcFolds; this file is what answers "what happened to structure 137?" and what
post-processing and retraining start from. docs/record.md describes the fields.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text
from uspex_bridge.call import record_reading
from uspex_bridge.call.config import uspex_folder

#: Name of the record and version of its lines.
FILENAME = "bridge.record"
SCHEMA = 1
#: What it was called before: programs that load every ``*.json*`` of a folder, as emmet does, broke on it.
_OLD_NAME = "bridge_record.jsonl"


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
    if structure.free is not None:
        geometry.append(structure.free.tolist())
    return hashlib.sha256(json.dumps([geometry, repr(what)]).encode()).hexdigest()[:16]


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
