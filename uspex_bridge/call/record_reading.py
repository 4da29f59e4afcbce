"""Lines of the record as everything that reads it gets them: whole, and of the types that docs/record.md says.

A record lives as long as a search; disks, editors and other programs leave lines that are half, or say what no call
has written. Those are passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import jsonl

_WORDS = (
    *("status", "time", "host", "slot", "folder", "source", "label", "formula", "protocol", "key", "reason", "code"),
    "student",
)
_NUMBERS = ("pressure_gpa", "energy", "enthalpy", "enthalpy_per_atom", "volume", "fmax", "stress_left_gpa", "seconds")
_COUNTS = ("id", "natoms", "isif", "nsw", "generation", "exit", "index")
#: What hulls and phases are made of; NaN is none.
_FINITE = ("enthalpy", "enthalpy_per_atom", "volume")
_IDENTITY = ("kind", "model", "head", "sha256", "dispersion", "repulsion")
_STAGE = {
    "words": ("name", "calculator", "model", "optimizer", "outcome", "detail"),
    "numbers": ("fmax", "stress_gpa", "seconds"),
    "counts": ("steps", "evaluations"),
}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the sound lines of a record in order."""
    return (entry for entry in jsonl.read(path) if is_sound(entry))


def parse(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield those of some lines that are sound."""
    return (entry for entry in jsonl.parse(lines) if is_sound(entry))


def is_sound(entry: dict[str, Any]) -> bool:
    """Tell whether what stands in a line has the types that a call writes; what it lacks is nobody's concern here."""
    stages, models, flags, steps = (entry.get(name) for name in ("stages", "models", "flags", "steps"))
    return (
        _typed(entry, _WORDS, _NUMBERS, _COUNTS)
        and all(math.isfinite(entry.get(name, 0.0)) for name in _FINITE)
        and isinstance(entry.get("step", ""), str)
        and (steps is None or _is_count(steps) or (_are_words(steps) and "fmax" not in entry))
        and (flags is None or _are_words(flags))
        and (stages is None or (isinstance(stages, list) and all(map(_is_stage, stages))))
        and (models is None or (isinstance(models, dict) and all(map(_is_identity, models.values()))))
        and isinstance(entry.get("versions", {}), dict)
        and _is_free_energy(entry.get("free_energy"))
        and all(_is_geometry(entry[name]) for name in ("input", "output") if entry.get(name) is not None)
    )


def _typed(fields: dict[str, Any], words: Iterable[str], numbers: Iterable[str], counts: Iterable[str]) -> bool:
    return (
        all(isinstance(fields[name], str) for name in words if name in fields)
        and all(_is_number(fields[name]) for name in numbers if name in fields)
        and all(_is_count(fields[name]) for name in counts if name in fields)
    )


def _known(fields: dict[str, Any], *maybe: str) -> dict[str, Any]:
    """Return all fields but those that ``maybe`` are null, and are."""
    return {name: value for name, value in fields.items() if value is not None or name not in maybe}


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_count(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_stage(stage: Any) -> bool:
    return (
        isinstance(stage, dict)
        and isinstance(stage.get("calculator"), str)
        and _typed(_known(stage, *_STAGE["numbers"][:2]), _STAGE["words"], _STAGE["numbers"], _STAGE["counts"])
    )


def _is_identity(identity: Any) -> bool:
    """Tell whether this says which model it was."""
    return isinstance(identity, dict) and _typed(_known(identity, *_IDENTITY), _IDENTITY, (), ())


def _is_free_energy(told: Any) -> bool:
    """Tell whether this is none, or says at which temperature and by what method it was found."""
    return told is None or (
        isinstance(told, dict)
        and {"temperature", "method"} <= told.keys()
        and _typed(told, ("method",), ("temperature", "enthalpy_at_rest"), ())
    )


def _is_geometry(geometry: Any) -> bool:
    """Tell whether this holds symbols, a cell and coordinates that fit together; results also have forces."""
    if not isinstance(geometry, dict) or not _are_words(geometry.get("symbols", [])):
        return False
    atoms = len(geometry.get("symbols", ()))
    shapes = {"cell": (3, 3), "scaled": (atoms, 3), "forces": (atoms, 3), "stress": (6,), "magmoms": (atoms,)}
    try:
        return all(
            np.array(geometry[name], dtype=float).shape == shape and np.isfinite(np.array(geometry[name], float)).all()
            for name, shape in shapes.items()
            if name in geometry
        )
    except (TypeError, ValueError, OverflowError):
        return False
