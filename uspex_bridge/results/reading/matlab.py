"""The text files of a results folder of the MATLAB/Octave line (9.4-10.x).

Layouts: FunctionFolder/USPEX of USPEX 9.4.4 and the files in its examples. Everything is read as far as it goes;
a line that cannot be read becomes a note with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uspex_bridge.results.reading.model import NAN

Notes = list[str]

#: Columns of Individuals between composition and k-points, and after them, where the header is missing.
_BEFORE, _AFTER = ("Enthalpy", "Volume", "Density", "Fitness"), ("SYMM", "Q_entr", "A_order", "S_order")
_INDIVIDUAL = re.compile(
    r"\s*(?P<generation>\d+)\s+(?P<id>\d+)\s+(?:(?P<origin>[^\s\[]+)\s+)?(?:\[(?P<counts>[^]]*)\]|N/A)(?P<before>[^[]*)"
    r"(?:\[(?P<kpoints>[^]]*)\])?(?P<after>.*)"
)
#: First letters of a column's name -> the attribute of an entry.
_COLUMNS = {
    "Enthalpy": "enthalpy",
    "Volume": "volume",
    "Density": "density",
    "Fitness": "fitness",
    "SYMM": "space_group",
    "Q_entr": "quasi_entropy",
    "A_order": "average_order",
    "S_order": "structure_order",
}
#: ID, operator, enthalpy, that of the parents (which seeds lack), parents.
_ORIGIN = re.compile(r"\s*(\d+)\s+(\S+)\s+\S+\s+(?:\S+\s+)?\[([\d\s]*)\]")
_RANKED = re.compile(r"\s*(\d+)\s+\[([\d\s]*)\]\s+(.*)")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|NaN|-?Inf", re.IGNORECASE)


@dataclass(frozen=True)
class Ranked:
    """A line of goodStructures or extended_convex_hull: the unique structures by fitness.

    ``enthalpy`` is eV/atom and ``volume`` Å³/atom; ``fitness`` as USPEX prints it.
    """

    id: int
    counts: tuple[int, ...]
    enthalpy: float
    volume: float
    fitness: float
    space_group: int | None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        yield from enumerate((line.rstrip("\n") for line in stream), 1)


def number(word: str) -> float:
    """Read a number as MATLAB prints it; NaN for ``N/A`` and anything else."""
    try:
        return float(word)
    except ValueError:
        return NAN


def read_individuals(path: Path, notes: Notes) -> list[dict[str, Any]]:
    """Read Individuals or BESTIndividuals: one dictionary per line, ``counts`` per species in the search's order.

    The header names the columns; older files have fewer. Those of metadynamics have no origin, hold supercells in the
    place of compositions where the cell is multiplied, and enthalpies and volumes per atom (``per_atom``).
    """
    before: tuple[str, ...] = _BEFORE
    after: tuple[str, ...] = _AFTER
    counted, per_atom = True, False
    rows: list[dict[str, Any]] = []
    for line_number, line in numbered_lines(path):
        words = line.split()
        if not words:
            continue
        counts = next((word for word in ("Composition", "SuperCell") if word in words), None)
        if counts is not None and "KPOINTS" in words:
            first, last = words.index(counts), words.index("KPOINTS")
            before, after = tuple(words[first + 1 : last]), tuple(words[last + 1 :])
            counted, per_atom = counts == "Composition", "Enthalpy(eV/atom)" in before
            continue
        if line_number <= 2 and not words[0].isdigit():  # the line of units
            if "kcal/mol" in line:
                notes.append(f"{path}, line {line_number}: enthalpies in kcal/mol; they are not in eV")
            continue
        row = _individual(line, before, after)
        if row is None:
            notes.append(f"{path}, line {line_number}: incomplete, or not a line of USPEX; it is left out")
            continue
        if not counted:
            row["counts"] = ()
        if per_atom:
            row["per_atom"] = True
        if row["enthalpy"] != row["enthalpy"]:
            notes.append(f"{path}, line {line_number}: the enthalpy of EA{row['id']} is not a number")
        rows.append(row)
    return rows


def _individual(line: str, before: tuple[str, ...], after: tuple[str, ...]) -> dict[str, Any] | None:
    match = _INDIVIDUAL.fullmatch(line)
    if match is None or match["counts"] is None:
        return None
    left, right = match["before"].split(), match["after"].split()
    if match["kpoints"] is None:  # N/A instead of k-points: the words after them stand with those before
        left, right = left[: len(before)], left[len(before) + 1 :]
    needed = sum(not name.startswith("Magmom") for name in after)  # a column that is empty but in magnetic searches
    if (
        len(left) < len(before)
        or len(right) < needed
        or not left
        or any(map(_foreign, (left + right)[: len(before) + needed]))
    ):
        return None
    row: dict[str, Any] = {
        "generation": int(match["generation"]),
        "id": int(match["id"]),
        "origin": match["origin"] or "",
        "counts": tuple(int(word) for word in match["counts"].split()),
        "enthalpy": NAN,
    }
    for name, word in zip((*before, *after), (*left[: len(before)], *right), strict=False):
        key = next((key for start, key in _COLUMNS.items() if name.startswith(start)), None)
        if key is not None:
            row[key] = number(word)
    group = row.pop("space_group", NAN)
    row["space_group"] = int(group) if group == group and group > 0 else None
    return row


def _foreign(word: str) -> bool:
    return not _NUMBER.fullmatch(word) and word != "N/A"


def read_origin(path: Path, notes: Notes) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Read origin: ID -> operator, parents (0 is none)."""
    made = {}
    for line_number, line in numbered_lines(path):
        match = _ORIGIN.match(line)
        if match:
            made[int(match[1])] = match[2], tuple(int(word) for word in match[3].split() if int(word))
        elif line.strip() and not line.lstrip().startswith("ID"):
            notes.append(f"{path}, line {line_number}: incomplete, or not a line of USPEX; parents are unknown")
    return made


def read_step_enthalpies(path: Path, notes: Notes) -> list[tuple[float, ...]]:
    """Read enthalpies_complete.dat (blanks) or .csv (commas): per line one enthalpy per step, eV per cell."""
    rows: list[tuple[float, ...]] = []
    for line_number, line in numbered_lines(path):
        words = line.replace(",", " ").split()
        values = tuple(number(word) for word in words)
        wrong = next((w for w, v in zip(words, values, strict=True) if v != v and w.lower() != "nan"), None)
        if wrong is not None:
            notes.append(f"{path}, line {line_number}: '{wrong}' is not a number")
        if values or path.suffix == ".csv":
            rows.append(values)
    return rows


def read_ranked(path: Path, notes: Notes) -> list[Ranked]:
    """Read goodStructures or extended_convex_hull."""
    ranked = []
    for line_number, line in numbered_lines(path):
        match = _RANKED.match(line)
        if match is None:
            if line_number > 6 and line.strip():
                notes.append(f"{path}, line {line_number}: incomplete, or not a line of USPEX; it is left out")
            continue
        words = match[3].split()
        if len(words) < 4 or any(map(_foreign, words)):
            notes.append(f"{path}, line {line_number}: EA{match[1]} is incomplete; it is left out")
            continue
        enthalpy, volume, fitness, group = (number(word) for word in words[:4])
        counts = tuple(int(word) for word in match[2].split())
        known = int(group) if group == group and group > 0 else None
        ranked.append(Ranked(int(match[1]), counts, enthalpy, volume, fitness, known))
    return ranked


def read_convex_hull(path: Path, notes: Notes) -> dict[int, list[tuple[tuple[int, ...], float]]]:
    """Read convex_hull: generation -> its stable compositions (counts, eV/atom)."""
    hulls: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    current: list[tuple[tuple[int, ...], float]] | None = None
    for line_number, line in numbered_lines(path):
        if head := re.match(r"-+\s*generation\s*(\d+)\s*-+", line):
            current = hulls.setdefault(int(head[1]), [])
            continue
        words = line.split()
        if not words:
            continue
        if current is None or len(words) < 2 or not all(w.isdigit() for w in words[:-1]) or _foreign(words[-1]):
            notes.append(f"{path}, line {line_number}: not a composition and its enthalpy; it is left out")
            continue
        current.append((tuple(int(w) for w in words[:-1]), number(words[-1])))
    return hulls
