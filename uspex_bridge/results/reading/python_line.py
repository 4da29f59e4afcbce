"""The text files of a results folder of the Python line (2021-): drawn tables, and parameters.uspex.

Layouts: USPEX/IO of that line, AtomisticRepresentation.py and OutputRepresentation.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uspex_bridge.results.reading.matlab import Notes, Ranked, number, numbered_lines
from uspex_bridge.results.reading.model import NAN, Composition
from uspex_bridge.vasp.structure import ELEMENTS

#: Beginning of a column's name -> the attribute of an entry.
_COLUMNS = {
    "enthalpy": "enthalpy",
    "volume": "volume",
    "density": "density",
    "quasientropy": "quasi_entropy",
    "average order": "average_order",
    "structure order": "structure_order",
}
_GROUP = re.compile(r"(\S+)\s*\((\d+)\)")


@dataclass
class Table:
    """One table: the line before it that says ``Generation`` and a number, and its rows by column name."""

    generation: int | None
    rows: list[dict[str, str]] = field(default_factory=list)


def read_tables(path: Path, notes: Notes) -> Iterator[Table]:
    """Yield the tables of a file, empty ones included; a row with too few cells becomes a note."""
    generation: int | None = None
    names: list[str] | None = None
    table = Table(None)
    for line_number, line in numbered_lines(path):
        if head := re.match(r"\s*Generation\s+(\d+)\s*$", line):
            generation = int(head[1])
        if names is not None and not line.startswith(("|", "+")):
            yield table
            names = None
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "ID":
            if names is not None:
                yield table
            names, table = cells, Table(generation)
        elif names is None:
            continue
        elif len(cells) != len(names) or not line.rstrip().endswith("|") or not cells[0].isdigit():
            notes.append(f"{path}, line {line_number}: incomplete, or not a row of the table; it is left out")
        else:
            table.rows.append(dict(zip(names, cells, strict=True)))
    if names is not None:
        yield table


def row_values(row: dict[str, str]) -> dict[str, Any]:
    """Return a row's values under the names of an entry's attributes; energies and volumes are per cell."""
    values: dict[str, Any] = {"id": int(row["ID"]), "origin": row.get("Origin", ""), "enthalpy": NAN}
    for name, cell in row.items():
        lower = name.lower()
        key = next((key for start, key in _COLUMNS.items() if lower.startswith(start)), None)
        if key is not None:
            values[key] = number(cell)
        elif lower.startswith("symmetry"):
            if match := _GROUP.search(cell):
                values["symbol"], values["space_group"] = match[1], int(match[2])
        elif lower == "composition":
            values["composition"] = _composition(cell)
    return values


def _composition(cell: str) -> Composition:
    """Read ``Mg: 4  Al: 8``; empty where it holds anything but elements (molecules)."""
    pairs = re.findall(r"(\S+?):\s*(\d+)", cell)
    if not pairs or not ELEMENTS.issuperset(symbol for symbol, _ in pairs):
        return ()
    return tuple((symbol, int(count)) for symbol, count in pairs if int(count))


def read_individuals(path: Path, notes: Notes) -> list[dict[str, Any]]:
    """Read Individuals: one dictionary per row."""
    return [row_values(row) for table in read_tables(path, notes) for row in table.rows]


def read_ranked(path: Path, notes: Notes, natoms_of: Mapping[int, int]) -> list[Ranked]:
    """Read goodStructures (a file, or a folder with one file per composition) or extended_convex_hull.

    The tables hold values per cell; ``natoms_of`` gives the atoms of an ID where there is no composition in them.
    ``fitness`` is the column that holds an enthalpy above something, where there is one.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and re.fullmatch(r"\d+(_\d+)*", p.name))
    ranked = []
    for file in files:
        for table in read_tables(file, notes):
            for row in table.rows:
                values = row_values(row)
                above = next((number(c) for n, c in row.items() if "above" in n.lower()), NAN)
                counts = tuple(n for _, n in values.get("composition", ()))
                natoms = sum(counts) or natoms_of.get(values["id"], 0) or NAN
                enthalpy, volume = values["enthalpy"] / natoms, values.get("volume", NAN) / natoms
                ranked.append(Ranked(values["id"], counts, enthalpy, volume, above, values.get("space_group")))
    return ranked


def read_generations(path: Path, notes: Notes) -> dict[int, list[int]]:
    """Read which IDs the tables under each ``Generation N`` hold (BESTIndividuals, convex_hull)."""
    generations: dict[int, list[int]] = {}
    for table in read_tables(path, notes):
        if table.generation is not None:
            generations.setdefault(table.generation, []).extend(int(row["ID"]) for row in table.rows)
    return generations


def read_birth(path: Path) -> dict[int, int]:
    """Read from OUTPUT.txt in which generation each ID first stood in a table."""
    born: dict[int, int] = {}
    for table in read_tables(path, []):
        if table.generation is not None:
            for row in table.rows:
                born.setdefault(int(row["ID"]), table.generation)
    return born


def read_origin(path: Path, notes: Notes) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Read origin, ``ID howCome parents``: ID -> operator, parents."""
    made = {}
    for line_number, line in numbered_lines(path):
        match = re.match(r"\s*(\d+)\s+(\S+)\s*(.*)", line)
        if match:
            made[int(match[1])] = match[2], tuple(int(word) for word in re.findall(r"\d+", match[3]))
        elif line.strip():
            notes.append(f"{path}, line {line_number}: no ID and origin; parents are unknown")
    return made


@dataclass(frozen=True)
class Parameters:
    """What parameters.uspex or input.uspex say of the system; None where they do not."""

    pressure_gpa: float | None = None
    species: tuple[str, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()


def read_parameters(path: Path, notes: Notes) -> Parameters:
    """Read parameters.uspex, a printed Python dictionary."""
    try:
        tree = ast.literal_eval(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, SyntaxError) as error:
        notes.append(f"{path}, line {getattr(error, 'lineno', None) or 1}: not a dictionary that can be read: {error}")
        return Parameters()
    return parameters_of(tree)


def parameters_of(tree: Any) -> Parameters:
    """Take pressure, species and blocks from the main dictionary of the Python line."""
    target = _step(_step(tree, "optimizer"), "target")
    space, conditions = _step(target, "compositionSpace"), _step(target, "conditions")
    pressure = conditions.get("externalPressure", 0.0 if target else None)
    blocks = space.get("blocks") or ()
    good = all(isinstance(block, (list, tuple)) and all(isinstance(n, int) for n in block) for block in blocks)
    return Parameters(
        float(pressure) if isinstance(pressure, (int, float)) else None,
        tuple(str(symbol) for symbol in space.get("symbols") or ()),
        tuple(tuple(block) for block in blocks) if good else (),
    )


def _step(tree: Any, key: str) -> dict[str, Any]:
    value = tree.get(key) if isinstance(tree, dict) else None
    return value if isinstance(value, dict) else {}
