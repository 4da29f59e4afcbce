"""Structures on their way to a label: ASE frames with where they come from in ``info``, and files of them.

``name``, ``id`` (identity by content), ``family`` (identity of the structure a copy was made from, its own otherwise),
``origin``, ``pressure_gpa``, ``reason``; and ``enthalpy`` (eV per cell) with its ``level`` where the search gave one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from uspex_bridge.base.atoms import extxyz, right_handed, to_structure
from uspex_bridge.base.data import Structure
from uspex_bridge.base.files import write_whole
from uspex_bridge.call.structures import from_ase, read_structures, unconstrained, wrong_label
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.data.identity import Split, content_id
from uspex_bridge.learn.data.labels import identity_of, read_frames
from uspex_bridge.results.reading.model import Entry, Pool
from uspex_bridge.results.reading.sources import Loose


def title_of(pool: Pool, entry: Entry) -> str:
    """Return what a structure is called: the name it has in its file, else run and ID."""
    source = pool.sources[entry.run]
    if isinstance(source, Loose):
        return source.names.get(entry.id, entry.name)
    return f"{Path(entry.run).name}:EA{entry.id}" if len(pool.sources) == 1 else entry.name


def candidate(entry: Entry, structure: Structure, name: str, **info: Any) -> Atoms:
    """Return a frame of a structure that is to be computed; ``info`` is added to what is known of it."""
    atoms = Atoms(list(structure.symbols), scaled_positions=structure.scaled, cell=structure.cell, pbc=True)
    identity = content_id(structure.symbols, structure.cell, structure.scaled)
    atoms.info = {"name": name, "id": identity, "family": identity, "origin": f"{name} {entry.origin}".strip()}
    if entry.pressure_gpa is not None:
        atoms.info["pressure_gpa"] = entry.pressure_gpa
    if entry.valid:
        atoms.info["enthalpy"] = entry.enthalpy
        if entry.level:
            atoms.info["level"] = entry.level
    if entry.flags:
        atoms.info["flags"] = " ".join(entry.flags)
    atoms.info |= {key: value for key, value in info.items() if value is not None}
    return atoms


def known_of(pool: Pool) -> dict[str, dict[str, Any]]:
    """Return what extxyz files in the pool say of their structures besides enthalpies, by name of the entry.

    That is family, origin and reason, and an estimate of the structure's own pressure (own_pressure_gpa).
    """
    found = {}
    for source in pool.sources.values():
        path = Path(source.label)
        if isinstance(source, Loose) and path.suffix in (".extxyz", ".xyz") and path.is_file():
            for number, atoms in enumerate(read_frames(path), 1):
                kept: dict[str, Any] = {
                    key: str(atoms.info[key]) for key in ("family", "origin", "reason") if key in atoms.info
                }
                if "own_pressure_gpa" in atoms.info:
                    kept["own_pressure_gpa"] = float(atoms.info["own_pressure_gpa"])
                found[f"{source.label}:EA{number}"] = kept
    return found


def read_labelled_structures(place: Path, split: Split | None = None) -> list[Structure]:
    """Read structures that have labels: a dataset's folder, or a file of structures.

    Args:
        place: folder or file.
        split: only these of a dataset: ``train`` is what models were trained on; None is all.

    Raises:
        InputError: there are none.
    """
    if place.is_dir():
        return [to_structure(atoms) for atoms in Dataset.open(place).frames(split)]
    return read_structures(place)


def read_frames_of(path: Path) -> list[Atoms]:
    """Read structures, without energies, with what ``info`` says of them; from other files than extxyz, their names.

    ``name``, ``id`` and ``family`` are filled in where they are missing; ``contradicted`` is what the atoms contradict.

    Raises:
        InputError: the file is missing, or is no structure.
    """
    if path.suffix in (".extxyz", ".xyz"):
        frames = read_frames(path)
    else:
        frames = []
        for structure in read_structures(path):
            frames.append(Atoms(structure.symbols, scaled_positions=structure.scaled, cell=structure.cell, pbc=True))
            frames[-1].info["name"] = " ".join(structure.comment.split()[:1])
            if wrong := wrong_label(structure.comment, structure):
                frames[-1].info["contradicted"] = wrong
    for number, atoms in enumerate(frames, 1):
        from_ase(unconstrained(atoms), f"{path}, structure {number}")  # says what is no crystal
        atoms.calc = None
        atoms.info["id"] = identity_of(atoms)
        atoms.info["name"] = str(atoms.info.get("name") or f"{path.stem}-{number}")
        atoms.info.setdefault("family", atoms.info["id"])
    return frames


def write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    """Write an extxyz file, whole or not at all, every cell right-handed.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(path, extxyz([right_handed(atoms) for atoms in frames]))
