"""A dataset's folder as results: labels with the energy that ranks, E0 (extrapolated to zero smearing), and not F."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.results.model import Entry, composition_of

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
        InputError: a file is missing or shorter than the manifest says.
    """
    held: dict[str, dict[str, Any]] = {}
    for line in jsonl.read(folder / MANIFEST):
        if "withdrawn" in line:
            held.pop(str(line.get("id")), None)
        elif "id" in line:
            held[str(line["id"])] = line
    files = {name: _structures(folder / name) for name in dict.fromkeys(str(line["file"]) for line in held.values())}
    for number, line in enumerate(held.values(), 1):
        listed, index = files[str(line["file"])], int(line["index"])
        if index >= len(listed):
            raise InputError(f"{folder / str(line['file'])}: {len(listed)} frames where the manifest has {index + 1}")
        structure, pressure = listed[index], float(line["pressure_gpa"] or 0.0)
        level = line["level"]
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
        yield entry, structure, str(line["origin"] or line["id"])


def _structures(path: Path) -> list[Structure]:
    import ase.io

    try:
        return [to_structure(atoms) for atoms in ase.io.iread(path, index=":", format="extxyz")]
    except Exception as error:
        raise InputError(f"{path}: cannot be read as extxyz: {type(error).__name__}: {error}") from error
