"""The text files of a results folder of USPEX 25 and 26: tables whose first line names the columns.

Blanks separate the columns, but for those inside brackets. The order of the columns after the first three may differ,
so each is looked up by its name. Energies and volumes are per cell; a relaxation that failed has ``nan`` or ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base.files import split_lines
from uspex_bridge.base.words import counted
from uspex_bridge.results.reading.matlab import Notes, Ranked, number
from uspex_bridge.results.reading.model import NAN
from uspex_bridge.results.reading.poscars import PoscarFile

_HEADER = re.compile(r"\s*generation\s+number\s+num_atoms_all\b", re.IGNORECASE)
_CELL = re.compile(r"\[[^\]]*\]?|\([^)]*\)?|[^\s\[(][^\s\[]*")
_WHOLE = re.compile(r"(\d+)(?:\.0*)?")
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

#: Fewer structures do not speak against the order of the elements in the search's input.
_ENOUGH = 3

Rows = list[dict[str, Any]]


def is_table(line: str) -> bool:
    """Tell by its first line whether a file is such a table."""
    return _HEADER.match(line) is not None


def read_table(path: Path, notes: Notes) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table by column name in lower case, with their line numbers.

    A row that is cut short, as the last one of a running search may be, becomes a note.
    """
    names: list[str] = []
    text = path.read_bytes().decode("utf-8-sig", errors="replace")  # at once, since it may grow
    lines, whole = split_lines(text), text.endswith("\n")
    for line_number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if is_table(line):
            names = line.lower().split()
            continue
        cells = _with_parents(_CELL.findall(line), names)
        brackets = all(cell.endswith(("]", ")")) for cell in cells if cell.startswith(("[", "(")))
        if len(cells) != len(names) or not brackets or (line_number == len(lines) and not whole):
            notes.append(f"{path}, line {line_number}: incomplete, or not a row of the table; it is left out")
            continue
        yield line_number, dict(zip(names, cells, strict=True))


def _with_parents(cells: list[str], names: list[str]) -> list[str]:
    """Return the cells of a row with empty parents where it has nothing in their place."""
    place = names.index("parents") if "parents" in names else len(names)
    if len(cells) + 1 != len(names) or place >= len(cells) or cells[place].startswith(("[", "(")):
        return cells
    return [*cells[:place], "[]", *cells[place:]]


def read_individuals(path: Path, notes: Notes) -> Rows:
    """Read Individuals or BESTIndividuals: one dictionary per row, ``counts`` per species in the search's order.

    A value that should be a number and is none counts as not computed, and becomes a note.
    """
    rows: Rows = []
    for line_number, cells in read_table(path, notes):
        place = f"{path}, line {line_number}"
        try:
            rows.append(_row(cells))
        except ValueError as error:
            notes.append(f"{place}: {error}; it is left out")
            continue
        notes += [f"{place}: {name} {cells[name]} is not a number" for name in _COLUMNS if not _is_value(cells, name)]
    return rows


def _row(cells: dict[str, str]) -> dict[str, Any]:
    """Return a row's values under the names of an entry's attributes.

    Raises:
        ValueError: what a structure cannot do without is missing or wrong.
    """
    if "energy" not in cells:
        raise ValueError("the table has no column energy")
    row: dict[str, Any] = {"origin": ""}
    row["generation"], row["id"] = (_whole(cells, name) for name in ("generation", "number"))
    row["counts"] = _list(cells["num_atoms_all"])
    if not any(row["counts"]):
        raise ValueError(f"num_atoms_all {cells['num_atoms_all']} names no atoms")
    with suppress(ValueError):  # what is no list says of none
        row["parents"] = tuple(n for n in _list(cells.get("parents", "[]")) if n)
    for name, key in _COLUMNS.items():
        if name in cells:
            row[key] = number(cells[name])
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
    if not (match := _WHOLE.fullmatch(cells[name])):
        raise ValueError(f"{name} {cells[name]} is not a whole number")
    return int(match[1])


def _is_value(cells: dict[str, str], name: str) -> bool:
    word = cells.get(name, "nan")
    return word.lower() in _NOTHING or number(word) == number(word)


def _list(cell: str) -> tuple[int, ...]:
    if cell.lower() in _NOTHING:
        return ()
    found = [_WHOLE.fullmatch(word) for word in cell.strip("[]()").replace(",", " ").split()]
    if not all(found):
        raise ValueError(f"{cell} is not a list of whole numbers")
    return tuple(int(match[1]) for match in found if match)


def unique(rows: Rows, relaxed: PoscarFile | None, path: Path, notes: Notes) -> Rows:
    """Keep the row of the lowest energy of each ID, sorted by ID, and the structure whose volume is that row's."""
    by_id: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    kept = []
    for _, same in sorted(by_id.items()):
        row = min(same, key=lambda one: one["enthalpy"] if np.isfinite(one["enthalpy"]) else np.inf)
        kept.append(row)
        if relaxed is not None:
            relaxed.choose(row["id"], row.get("volume", NAN))
    if len(kept) < len(rows):
        many = sum(len({row["counts"] for row in same}) > 1 for same in by_id.values())
        other = f" ({counted(many, 'ID')} of several compositions: rows of two searches?)" if many else ""
        notes.append(
            f"{path}: {counted(len(rows) - len(kept), 'row')} more than IDs; the lowest energy of each is used{other}"
        )
    return kept


def species_of(rows: Rows, relaxed: PoscarFile | None, given: Sequence[str], notes: Notes) -> tuple[str, ...]:
    """Find which element each place of ``num_atoms_all`` stands for.

    It is the order that is ``given``, unless the structures fit another one and hardly any fits this one.
    """
    pairs = _pairs(rows, relaxed)
    if given and 2 * _fitting(pairs, given) >= len(pairs):
        return tuple(given)
    found = _order_of(pairs, [row["counts"] for row in rows])
    if not given and relaxed is not None and 2 * _fitting(pairs, found) < len(pairs):
        notes.append(f"{relaxed.path}: most of its structures contradict Individuals; no element is known")
        return tuple(f"?{k}" for k in range(1, len(found) + 1))
    if given and (len(pairs) < _ENOUGH or _fitting(pairs, found) < len(pairs)):
        return tuple(given)
    if given and relaxed is not None:
        notes.append(
            f"{relaxed.path}: its structures fit {' '.join(found)} as the order of num_atoms_all, not that "
            f"of atomType, {' '.join(given)}"
        )
    return found


Pairs = list[tuple[tuple[int, ...], dict[str, int]]]


def _pairs(rows: Rows, relaxed: PoscarFile | None) -> Pairs:
    """Return what a row and its structure say of the atoms, of each row whose structure says it."""
    known = {} if relaxed is None else {number: block.composition for number, block in relaxed.blocks.items()}
    return [(row["counts"], dict(known[row["id"]] or ())) for row in rows if known.get(row["id"])]


def _fitting(pairs: Pairs, species: Sequence[str]) -> int:
    """Return how many structures have the atoms that their rows name."""
    return sum(
        len(counts) == len(species) and {s: n for s, n in zip(species, counts, strict=True) if n} == held
        for counts, held in pairs
    )


def _order_of(pairs: Pairs, rows: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """Return the order in which most structures fit.

    Columns that no structure decides are called ``?1``, ``?2``, ...; so are two that would fit as well the other way
    round, where ``rows`` have different numbers in them.
    """
    from scipy.optimize import linear_sum_assignment

    width = max(map(len, rows), default=0)
    rows = [row for row in rows if len(row) == width]
    names = [f"?{k}" for k in range(1, width + 1)]
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
    fits = np.hstack([fits, np.zeros((width, max(0, width - len(elements))), dtype=int)])  # columns of no element
    columns, chosen = linear_sum_assignment(-fits)
    for column, element in zip(columns, chosen, strict=True):
        swapped = fits[:, element] + fits[column, chosen] - fits[columns, chosen]
        even = [k for k in columns[swapped == fits[column, element]] if any(row[k] != row[column] for row in rows)]
        if element < len(elements) and not even:
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
