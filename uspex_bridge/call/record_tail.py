"""The end of the record, where a call looks for the same job, the same step and the same composition."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from uspex_bridge.base.version import version
from uspex_bridge.call import record_reading

#: What matters to a call is not long ago: so much of the record's end is read, bytes.
_TAIL = 8_000_000
_FORMULA = re.compile(rb'"formula":"([A-Za-z0-9]+)"')
_PER_ATOM = re.compile(rb'"enthalpy_per_atom":(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)[,}]')


class RecordTail:
    """The end of a record as it is now; empty where there is no record or it cannot be read.

    Attributes:
        path: of the record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = b""
        with suppress(OSError):
            if path.is_file():
                with path.open("rb") as stream:
                    stream.seek(0, os.SEEK_END)
                    stream.seek(max(0, stream.tell() - _TAIL))
                    self._text = stream.read()

    def latest(self, key: str) -> dict[str, Any] | None:
        """Return the latest entry of a job."""
        line = next(self._lines(f'"key":"{key}"'.encode()), b"")
        return next(record_reading.parse([line]), None)

    def latest_beside(self, where: dict[str, Any]) -> dict[str, Any] | None:
        """Return the latest entry of a structure, where the fields of a new one say which it is, else of its folder."""
        name = "id" if "id" in where else "folder"
        said = json.dumps({name: where[name]}, separators=(",", ":"), ensure_ascii=False)[1:-1]
        lines = record_reading.parse(self._lines(said.encode()))
        return next((entry for entry in lines if entry.get(name) == where[name]), None)

    def latest_result(self, step: str | None) -> dict[str, Any] | None:
        """Return the latest entry that names models, of a step of the search (None: not known)."""
        for line in self._lines(b'"models":{'):
            entry = next(record_reading.parse([line]), None)
            if entry and entry.get("models") and entry.get("step") == step:
                return entry
        return None

    def lowest(self, pressure_gpa: float, calculator: str, formula: str | None = None) -> dict[str, float]:
        """Return the lowest enthalpy at rest of each formula at a pressure, eV/atom; holes do not count.

        Args:
            pressure_gpa: at which.
            calculator: of the last stage.
            formula: the only one that is asked for, as in the record; None is all.
        """
        found: dict[str, float] = {}
        wanted = b'"enthalpy_per_atom":' if formula is None else f'"formula":{json.dumps(formula)},'.encode()
        for line in self._lines(wanted):
            name, value = _FORMULA.search(line), _PER_ATOM.search(line)
            if name is None or value is None:
                continue
            known = found.get(name[1].decode(), float("inf"))
            if float(value[1]) >= known and b'"enthalpy_at_rest":' not in line:
                continue  # parsing it whole takes a hundred times as long
            for entry in record_reading.parse([line]):
                same = entry.get("pressure_gpa") == pressure_gpa and "hole" not in entry.get("flags", ())
                if same and entry.get("stages") and entry["stages"][-1]["calculator"] == calculator:
                    at_rest = (entry.get("free_energy") or {}).get("enthalpy_at_rest")
                    here = entry["enthalpy_per_atom"] if at_rest is None else at_rest / entry["natoms"]
                    found[entry["formula"]] = min(known, here)
        return found

    def _lines(self, word: bytes) -> Iterator[bytes]:
        """Yield the lines that hold a word, the latest first; the first line of all may be the end of one."""
        end = len(self._text)
        while (at := self._text.rfind(word, 0, end)) >= 0:
            begin = self._text.rfind(b"\n", 0, at) + 1
            stop = self._text.find(b"\n", at)
            yield self._text[begin : stop if stop >= 0 else len(self._text)]
            end = begin


def refused_for_good(entry: dict[str, Any]) -> bool:
    """Tell whether an entry is a refusal for a lasting reason; what another version refused is tried again."""
    return bool(entry.get("lasting")) and _is_ours(entry)


def can_stand_again(entry: dict[str, Any]) -> bool:
    """Tell whether an entry is a converged result of this version from which its files can be written again."""
    output = entry.get("output") or {}
    return (
        entry.get("status") == "converged"
        and _is_ours(entry)
        and {"cell", "scaled", "forces", "stress"} <= output.keys()
        and {"energy", "enthalpy", "stages", "models"} <= entry.keys()
    )


def _is_ours(entry: dict[str, Any]) -> bool:
    return bool(entry.get("versions", {}).get("uspex_bridge") == version())
