"""Structures and energies from elsewhere: extxyz, tables of CIFs, OPTIMADE and Materials Project JSON, relaxed folders.

Energies in such files are E (without PV) unless they are called enthalpy. A structure without an energy is good for
recognising known phases only.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.call import record_file, record_reading
from uspex_bridge.call.cif import FULL
from uspex_bridge.call.structures import POSCAR_NAME, from_ase, read_images, read_structures, unconstrained, wrong_label
from uspex_bridge.results.reading.folder import Results, open_all
from uspex_bridge.results.reading.join import line_of, structure_of
from uspex_bridge.results.reading.labels_folder import is_dataset, labels_of
from uspex_bridge.results.reading.model import (
    NAN,
    Entry,
    Pool,
    Recorded,
    Source,
    composition_of,
)

#: Names of a cell's energy in OPTIMADE attributes after the provider's prefix, and of an atom's.
_PER_CELL, _PER_ATOM = ("energy", "total_energy", "energy_total"), ("energy_per_atom", "total_energy_per_atom")


@dataclass(frozen=True, eq=False)
class Loose:
    """Entries whose structures are in memory: references and hand-made lists."""

    label: str
    entries: tuple[Entry, ...]
    held: dict[int, Structure]
    names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def structures(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Structure]]:
        """Yield structures in the order of ``entries``."""
        for entry in entries:
            if entry.id in self.held:
                yield entry, self.held[entry.id]


@dataclass
class _Item:
    """One structure of a file, before it is an entry."""

    name: str
    structure: Structure
    energy: float = NAN
    enthalpy: float = NAN
    pressure_gpa: float | None = None
    level: str = ""
    symbol: str = ""
    flags: tuple[str, ...] = ()


def open_sources(places: Sequence[str], levels: Sequence[str] = (), *, record: bool = True) -> Pool:
    """Open results folders, folders of results, and files of references, in the order given.

    Args:
        places: paths; a folder is of USPEX's results (or holds some), one that ``uspex-bridge relax`` or ``rescore``
            left, or a dataset of labels; a file is a reference.
        levels: ``LABEL`` for everything that states no level of theory, or ``PATH=LABEL`` for one place.
        record: see :func:`uspex_bridge.results.reading.folder.open_results`.

    Raises:
        InputError: a place holds nothing that can be read.
        ConfigError: a level names a place that was not given.
    """
    default, named = _levels(places, levels)
    sources: list[Source] = []
    for place in places:
        level = named.get(place, "") or default
        opened = _open(place, record=record)
        sources.extend(_with_level(source, level, override=place in named) for source in opened)
    return Pool(sources)


def read_reference(path: Path, label: str | None = None) -> Loose:
    """Read one file of references by its ending: ``.json``, ``.csv`` (a table of files), POSCARs, else what ASE reads.

    Raises:
        InputError: it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    notes: list[str] = []
    if path.suffix == ".json":
        items = list(_from_json(path, notes))
    elif path.suffix == ".csv":
        items = list(_from_table(path))
    elif POSCAR_NAME.search(path.name):
        items = [_Item(s.comment.split()[0] if s.comment.split() else path.stem, s) for s in read_structures(path)]
    else:
        items = list(_from_ase(path))
    if not items:
        raise InputError(f"{path}: no structure in it can be used" + (f" ({notes[0]})" if notes else ""))
    return _loose(label or str(path), items, notes)


def read_relaxed(folder: Path, label: str | None = None) -> Loose:
    """Read what ``uspex-bridge relax`` or ``rescore`` left in a folder: the results in its record.

    Raises:
        InputError: there is no record.
    """
    path = record_file.in_folder(folder)
    if not path.is_file():
        raise InputError(f"{folder}: there is no {record_file.FILENAME} in it")
    name = label or str(folder)
    lines = [(k, f) for k, f in enumerate(record_reading.read(path), 1) if "enthalpy" in f and "output" in f]
    ids = _uspex_ids([str(fields.get("label", "")) for _, fields in lines]) or [number for number, _ in lines]
    entries, held, names = [], {}, {}
    notes: list[str] = []
    for number, (_, fields) in zip(ids, lines, strict=True):
        line, comment = line_of(fields, 0), str(fields.get("label", ""))
        structure = structure_of(fields["output"], comment)
        entries.append(
            Entry(
                run=name,
                id=number,
                composition=composition_of(structure.symbols),
                enthalpy=line.enthalpy,
                volume=structure.volume,
                pressure_gpa=line.pressure_gpa,
                level=line.level,
                record=line.recorded,
            )
        )
        held[number], names[number] = structure, comment.split()[0] if comment.split() else str(number)
        if wrong := wrong_label(comment, structure):
            notes.append(f"{path}, EA{number}: {wrong}" if comment.startswith("EA") else f"{path}: {wrong}")
    return Loose(name, tuple(entries), held, names, notes)


def _flagged(flags: tuple[str, ...]) -> Recorded:
    """Return what a record would say of a structure of which only the flags are known."""
    return Recorded("", flags, (), NAN, NAN, NAN, 0, NAN, -1)


def read_dataset(folder: Path, label: str | None = None) -> Loose:
    """Read the labels of a dataset, on E0; see :mod:`uspex_bridge.results.reading.labels_folder`.

    Raises:
        InputError: it has none, or a file is missing.
    """
    name = label or str(folder)
    found = list(labels_of(folder, name))
    if not found:
        raise InputError(f"{folder}: the dataset holds no label")
    held = {entry.id: structure for entry, structure, _ in found}
    return Loose(name, tuple(entry for entry, *_ in found), held, {entry.id: title for entry, _, title in found})


def _uspex_ids(labels: Sequence[str]) -> list[int]:
    """Return the IDs of labels that begin with EA and a number, none where some do not or two are the same."""
    found = [re.match(r"EA(\d+)\b", label) for label in labels]
    ids = [int(match[1]) for match in found if match]
    return ids if len(set(ids)) == len(labels) else []


def _open(place: str, *, record: bool) -> list[Source]:
    path = Path(place)
    if path.is_file():
        return [read_reference(path, place)]
    if record_file.in_folder(path).is_file() and not _has_results(path):
        return [read_relaxed(path, place)]
    if is_dataset(path):
        return [read_dataset(path, place)]
    return list(open_all([path], record=record))


def _has_results(path: Path) -> bool:
    return (path / "Individuals").is_file() or any(path.glob("results*/Individuals"))


def _levels(places: Sequence[str], levels: Sequence[str]) -> tuple[str, dict[str, str]]:
    default, named = "", {}
    for text in levels:
        place, equals, label = text.rpartition("=")
        if not equals:
            default = text
        elif place in places:
            named[place] = label
        else:
            raise ConfigError(f"--level {text}: {place} is not one of the places given")
    return default, named


def _with_level(source: Source, level: str, *, override: bool) -> Source:
    """Label what states no level of theory; of a place that was named, everything."""
    if not level:
        return source
    entries = tuple(replace(e, level=level) if override or not e.level else e for e in source.entries)
    if isinstance(source, (Results, Loose)):
        return replace(source, entries=entries)
    return source


def _loose(label: str, items: Sequence[_Item], notes: list[str]) -> Loose:
    entries, held, names = [], {}, {}
    for number, item in enumerate(items, 1):
        pressure, enthalpy = item.pressure_gpa, item.enthalpy
        if not math.isfinite(enthalpy):
            # A file that says no pressure holds E; that is the enthalpy at 0 GPa.
            pressure = 0.0 if pressure is None else pressure
            enthalpy = item.energy + pv_energy(pressure, item.structure.volume)
        entries.append(
            Entry(
                run=label,
                id=number,
                composition=composition_of(item.structure.symbols),
                enthalpy=enthalpy,
                volume=item.structure.volume,
                pressure_gpa=pressure,
                level=item.level,
                symbol=item.symbol,
                origin="reference",
                record=_flagged(item.flags) if item.flags else None,
            )
        )
        held[number], names[number] = item.structure, item.name
        if wrong := wrong_label(f"{item.name} {item.structure.comment}", item.structure):
            notes.append(f"{label}, structure {number}: {wrong}")
    if missing := sum(not math.isfinite(entry.enthalpy) for entry in entries):
        notes.append(f"{label}: {missing} of {len(entries)} structures have no energy; usable for comparison only")
    return Loose(label, tuple(entries), held, names, notes)


def _from_ase(path: Path) -> Iterator[_Item]:
    """Read extxyz and all else that ASE reads; energies from the calculator, names and pressures from ``info``."""
    for number, atoms in enumerate(read_images(path), 1):
        structure = from_ase(unconstrained(atoms), f"{path}, structure {number}")
        info = atoms.info
        results: dict[str, Any] = atoms.calc.results if atoms.calc is not None else {}
        energy: Any = results.get("energy", info.get("energy", NAN))
        pressure = next((info[k] for k in ("pressure_gpa", "pressure_GPa", "pressure") if k in info), None)
        name = next((info[k] for k in ("name", "material_id", "id") if k in info), f"{path.stem}-{number}")
        yield _Item(
            str(name),
            replace(structure, comment=str(name)),
            float(energy),
            float(info.get("enthalpy", NAN)),
            None if pressure is None else float(pressure),
            str(info.get("level", "")),
            flags=tuple(str(info.get("flags", "")).split()),
        )


def _from_table(path: Path) -> Iterator[_Item]:
    """Read a table with the columns file, energy (eV per cell) and, if wanted, enthalpy, pressure_gpa, level, name."""
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        columns = set(reader.fieldnames or ())
        if "file" not in columns or not columns & {"energy", "enthalpy"}:
            raise InputError(f"{path}: a table of references needs the columns file and energy (eV per cell)")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            file = path.parent / row["file"]
            structures = read_structures(file)
            if len(structures) != 1:
                raise InputError(f"{where}: {file} holds {len(structures)} structures; an energy is for one structure")
            pressure = row.get("pressure_gpa")
            yield _Item(
                row.get("name") or Path(row["file"]).stem,
                structures[0],
                _value(row.get("energy"), f"{where}: energy"),
                _value(row.get("enthalpy"), f"{where}: enthalpy"),
                _value(pressure, f"{where}: pressure_gpa") if pressure else None,
                row.get("level") or "",
            )


def _value(word: str | None, where: str) -> float:
    if not word:
        return NAN
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{where} = '{word}' is not a number") from None


def _from_json(path: Path, notes: list[str]) -> Iterator[_Item]:
    """Read an OPTIMADE response, Materials Project documents or pymatgen entries, alone or in a list."""
    try:
        data = jsonl.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        data = data["data"]
    elif isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        raise InputError(f"{path}: neither an OPTIMADE response nor a list of documents")
    for number, document in enumerate(data, 1):
        try:
            yield _from_optimade(document) if "attributes" in document else _from_pymatgen(document)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            notes.append(f"{path}: document {number} is left out: {type(error).__name__}: {error}")


def _from_optimade(document: dict[str, Any]) -> _Item:
    attributes = document["attributes"]
    if attributes.get("nperiodic_dimensions", 3) != 3 or not all(attributes.get("dimension_types") or (1,)):
        raise ValueError("it is not periodic in three dimensions")
    symbols = []
    species = {one["name"]: one for one in attributes.get("species") or ()}
    for site in attributes["species_at_sites"]:
        one = species.get(site, {})
        found, shares = one.get("chemical_symbols", [site]), one.get("concentration", [1.0])
        if len(found) != 1 or abs(shares[0] - 1.0) > FULL:
            raise ValueError(f"site {site} is disordered")
        if one.get("attached"):
            raise ValueError(f"site {site} has atoms without positions ({', '.join(one['attached'])})")
        symbols.append(found[0])
    cell = np.array(attributes["lattice_vectors"], dtype=float)
    positions = np.array(attributes["cartesian_site_positions"], dtype=float)
    structure = Structure(tuple(symbols), cell, positions @ np.linalg.inv(cell), str(document["id"]))
    structure = _stating(structure, attributes.get("chemical_formula_reduced"))
    energy, level = NAN, ""
    for key, value in attributes.items():
        prefixed = re.fullmatch(r"_([a-z0-9]+)_(\w+)", key)
        if prefixed and isinstance(value, (int, float)):
            if prefixed[2] in _PER_CELL:
                energy, level = float(value), prefixed[1]
            elif prefixed[2] in _PER_ATOM and not math.isfinite(energy):
                energy, level = float(value) * len(symbols), prefixed[1]
    return _Item(str(document["id"]), structure, energy, level=level)


def _stating(structure: Structure, formula: object) -> Structure:
    """Say of a structure that its document has another formula, where it does."""
    wrong = wrong_label(formula, structure) if isinstance(formula, str) else ""
    return replace(structure, contradicted=wrong)


def _from_pymatgen(document: dict[str, Any]) -> _Item:
    """Read a Materials Project document or a ComputedStructureEntry; corrections to energies are left off."""
    from pymatgen.core import Structure as PymatgenStructure

    read = PymatgenStructure.from_dict(document["structure"])
    if not read.is_ordered:
        raise ValueError("it is disordered")
    structure = Structure(tuple(site.specie.symbol for site in read), read.lattice.matrix, read.frac_coords)
    structure = _stating(structure, document.get("formula_pretty"))
    name = str(document.get("material_id") or document.get("entry_id") or document.get("task_id") or "")
    per_atom = document.get("uncorrected_energy_per_atom", document.get("energy_per_atom"))
    energy = document["energy"] if "energy" in document else NAN if per_atom is None else per_atom * len(read)
    run_type = (document.get("parameters") or {}).get("run_type", "")
    level = f"Materials Project {run_type}".strip() if re.match(r"mp-|mvc-", name) else str(run_type)
    return _Item(name or structure.formula, replace(structure, comment=name), float(energy), level=level)
