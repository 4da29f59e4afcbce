"""A dataset's folder as results: labels with the energy that ranks, E0 (extrapolated to zero smearing), and not F."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import checksum
from uspex_bridge.base.units import pv_energy
from uspex_bridge.results.reading.model import Entry, composition_of

#: What makes a folder a dataset.
MANIFEST = "manifest.jsonl"


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is a dataset of labels."""
    return (folder / MANIFEST).is_file()


def labels_of(folder: Path, run: str) -> Iterator[tuple[Entry, Structure, str]]:
    """Yield the labels of a dataset as entries with their structures and names, in the order they were added.

    The enthalpy is E0 + PV at the pressure of the search; a label that states none is at 0 GPa.

    Args:
        folder: of the dataset.
        run: what its entries name as their run.

    Raises:
        InputError: a file is not as it was written, or a line of the manifest is no label.
    """
    held: dict[str, dict[str, Any]] = {}
    for line in jsonl.read(folder / MANIFEST):
        if "withdrawn" in line:
            held.pop(str(line.get("id")), None)
        elif "id" in line:
            held[str(line["id"])] = line
    files: dict[str, list[Structure]] = {}
    for number, (identity, line) in enumerate(held.items(), 1):
        try:
            name = str(line["file"])
            if name not in files:
                files[name] = _structures(folder / name, str(line["sha256"]))
            entry, structure = _entry(line, files[name], run, number)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise InputError(f"{folder / MANIFEST}: the line of label {identity} is damaged") from None
        yield entry, structure, str(line.get("origin") or identity)


def _entry(line: dict[str, Any], listed: list[Structure], run: str, number: int) -> tuple[Entry, Structure]:
    structure, pressure, level = listed[int(line["index"])], float(line["pressure_gpa"] or 0.0), line["level"]
    entry = Entry(
        run=run,
        id=number,
        composition=composition_of(structure.symbols),
        enthalpy=float(line["e0"]) + pv_energy(pressure, structure.volume),
        volume=structure.volume,
        pressure_gpa=pressure,
        generation=int(line["generation"]),
        origin="label",
        level=f"{level['code']} {level['functional']} {level['settings']}".strip(),
    )
    return entry, structure


def _structures(path: Path, sha256: str) -> list[Structure]:
    """Read the structures of a file that is as it was when its labels were added: others have other energies."""
    import ase.io

    if not path.is_file():
        raise InputError(f"{path} is missing: restore it; 'uspex-bridge dataset check {path.parent}' names its labels")
    if checksum(path) != sha256:
        raise InputError(f"{path}: not as it was written; 'uspex-bridge dataset check {path.parent}' says what changed")
    try:
        return [to_structure(atoms) for atoms in ase.io.iread(path, index=":", format="extxyz")]
    except Exception as error:
        raise InputError(f"{path}: cannot be read as extxyz: {type(error).__name__}: {error}") from error
