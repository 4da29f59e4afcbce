"""The text files of a results folder of USPEX 25 and 26: tables whose first line names the columns.

Blanks separate the columns, but for those inside brackets. The order of the columns after the first three may differ,
so each is looked up by its name. Energies and volumes are per cell; a relaxation that failed has ``nan`` or ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.results.matlab import Notes, Ranked, number, numbered_lines
from uspex_bridge.results.model import NAN
from uspex_bridge.results.poscars import PoscarFile

_HEADER = re.compile(r"\s*generation\s+number\s+num_atoms_all\b", re.IGNORECASE)
_CELL = re.compile(r"\[[^\]]*\]?|[^\s\[]+")
#: What is left empty or was not computed.
_NOTHING = ("nan", "none", "n/a")
#: Column -> attribute of an entry.
_COLUMNS = {
    "energy": "enthalpy",
    "cell_volume": "volume",
    "density": "density",
    "e_above_hull": "fitness",
    "quasi_entropy": "quasi_entropy",
    "a_order": "average_order",
    "s_order": "structure_order",
}
_WORDS = {"origin": "origin", "space_group_symbol": "symbol"}
#: Columns that say what no entry keeps, or that are read by other means.
_OTHERS = ("generation", "number", "num_atoms_all", "parents", "space_group", "expected_origin")

Rows = list[dict[str, Any]]


def is_table(line: str) -> bool:
    """Tell by its first line whether a file is such a table."""
    return _HEADER.match(line) is not None


def read_table(path: Path, notes: Notes) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table by column name in lower case, with their line numbers.

    A row that is cut short, as the last one of a running search may be, becomes a note.
    """
    names: list[str] = []
    whole = path.read_bytes().endswith(b"\n")
    lines = list(numbered_lines(path))
    for line_number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if is_table(line):
            names = line.lower().split()
            continue
        cells = _CELL.findall(line)
        brackets = all(cell.endswith("]") for cell in cells if cell.startswith("["))
        if len(cells) != len(names) or not brackets or (line_number == len(lines) and not whole):
            notes.append(f"{path}, line {line_number}: cut short or not a row of the table; it is left out")
            continue
        yield line_number, dict(zip(names, cells, strict=True))


def read_individuals(path: Path, notes: Notes) -> Rows:
    """Read Individuals or BESTIndividuals: one dictionary per row, ``counts`` per species in the search's order."""
    rows: Rows = []
    for line_number, cells in read_table(path, notes):
        try:
            rows.append(_row(cells))
        except ValueError as error:
            notes.append(f"{path}, line {line_number}: {error}; it is left out")
    return rows


def _row(cells: dict[str, str]) -> dict[str, Any]:
    """Return a row's values under the names of an entry's attributes.

    Raises:
        ValueError: a number that a structure cannot do without is none.
    """
    row: dict[str, Any] = {"enthalpy": NAN, "origin": ""}
    row["generation"], row["id"] = (_whole(cells, name) for name in ("generation", "number"))
    row["counts"] = _list(cells["num_atoms_all"])
    if not any(row["counts"]):
        raise ValueError(f"num_atoms_all {cells['num_atoms_all']} names no atoms")
    row["parents"] = tuple(n for n in _list(cells.get("parents", "[]")) if n)
    for name, key in _COLUMNS.items():
        if name in cells:
            row[key] = _value(cells, name)
    for name, key in _WORDS.items():
        if cells.get(name, "None").lower() not in _NOTHING:
            row[key] = cells[name]
    group = cells.get("space_group", "")
    row["space_group"] = int(group) if group.isdigit() and int(group) else None
    left = [name for name in cells if name not in (*_COLUMNS, *_WORDS, *_OTHERS)]
    values = [(name, number(cells[name])) for name in left]
    row["properties"] = tuple((name, value) for name, value in values if value == value)
    return row


def _whole(cells: dict[str, str], name: str) -> int:
    if not cells[name].isdigit():
        raise ValueError(f"{name} {cells[name]} is no whole number")
    return int(cells[name])


def _value(cells: dict[str, str], name: str) -> float:
    word = cells[name]
    value = number(word)
    if value != value and word.lower() not in _NOTHING:
        raise ValueError(f"{name} {word} is no number")
    return value


def _list(cell: str) -> tuple[int, ...]:
    if cell.lower() in _NOTHING:
        return ()
    words = cell.strip("[]").replace(",", " ").split()
    if not all(word.isdigit() for word in words):
        raise ValueError(f"{cell} is no list of whole numbers")
    return tuple(int(word) for word in words)


def unique(rows: Rows, relaxed: PoscarFile | None, path: Path, notes: Notes) -> Rows:
    """Keep the row of the lowest energy of each ID, sorted by ID, and the structure whose volume is that row's."""
    by_id: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    kept = []
    for _, same in sorted(by_id.items()):
        row = min(same, key=lambda one: np.nan_to_num(one["enthalpy"], nan=np.inf))
        kept.append(row)
        if relaxed is not None:
            relaxed.choose(row["id"], row.get("volume", NAN))
    if len(kept) < len(rows):
        notes.append(f"{path}: {len(rows) - len(kept)} rows have an ID that others have too; the lowest energy is used")
    return kept


def species_of(rows: Rows, relaxed: PoscarFile | None) -> tuple[str, ...]:
    """Find which element each place of ``num_atoms_all`` stands for: the order in which most structures fit.

    Columns that no structure decides are called ``?1``, ``?2``, ...
    """
    from scipy.optimize import linear_sum_assignment

    width = max((len(row["counts"]) for row in rows), default=0)
    names = [f"?{k}" for k in range(1, width + 1)]
    known = {} if relaxed is None else {number: block.composition for number, block in relaxed.blocks.items()}
    pairs = [(row["counts"], dict(known[row["id"]] or ())) for row in rows if known.get(row["id"])]
    pairs = [(counts, held) for counts, held in pairs if len(counts) == width]
    elements = list(dict.fromkeys(symbol for _, held in pairs for symbol in held))
    if not elements:
        return tuple(names)
    fits = np.array(
        [
            [sum(counts[k] == held.get(element, 0) for counts, held in pairs) for element in elements]
            for k in range(width)
        ]
    )
    for column, element in zip(*linear_sum_assignment(-fits), strict=True):
        names[column] = elements[element]
    return tuple(names)


def read_ranked(path: Path, notes: Notes) -> list[Ranked]:
    """Read extended_convex_hull; ``fitness`` is the energy above the hull, eV/atom."""
    ranked = []
    for row in read_individuals(path, notes):
        natoms = sum(row["counts"]) or NAN
        energy, volume = row["enthalpy"] / natoms, row.get("volume", NAN) / natoms
        ranked.append(Ranked(row["id"], row["counts"], energy, volume, row.get("fitness", NAN), row["space_group"]))
    return ranked


def generations_of(rows: Sequence[dict[str, Any]]) -> dict[int, list[int]]:
    """Return the IDs of each generation (BESTIndividuals)."""
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(row["generation"], []).append(row["id"])
    return found
