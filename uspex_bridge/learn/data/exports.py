"""Labelled structures in the formats that trainers read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from uspex_bridge.base.atoms import extxyz, right_handed
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.files import replacing, write_whole
from uspex_bridge.learn.data.labels import free_energy, trained_on

Keys = Literal["ase", "mace"]
#: Name of the file in every exported DeePMD system that says which label each frame is.
IDS = "ids.txt"


def write_extxyz(frames: Sequence[Atoms], file: Path, keys: Keys = "ase") -> int:
    """Write frames into one extxyz file and return how many.

    Args:
        frames: labelled structures.
        file: replaced when all is written.
        keys: ``ase`` for energy, forces and stress as ASE and MatterSim read them, ``mace`` for REF_energy, REF_forces
            and REF_stress. The energy is the free energy, that forces and stress derive from.

    Raises:
        InputError: there is no frame.
        OutputError: the file cannot be written.
    """
    _some(frames, file)
    turned = [right_handed(atoms) for atoms in frames]
    images = [_for_mace(atoms) if keys == "mace" else trained_on(atoms) for atoms in turned]
    write_whole(file, extxyz(images))
    return len(frames)


def write_deepmd(frames: Sequence[Atoms], folder: Path, *, mixed: bool = False, elements: Iterable[str] = ()) -> int:
    """Write frames as DeePMD-kit's npy systems and return how many.

    One system per formula, or per number of atoms where ``mixed`` (which se_a cannot read). All have the same
    type_map: the elements of the frames and ``elements``, in alphabetic order. Energies are eV, virials -stress x
    volume in eV.

    Args:
        frames: labelled structures.
        folder: replaced when all is written.
        mixed: DeePMD's mixed format.
        elements: to have in the type_map whether or not the frames hold them.

    Raises:
        ConfigError: dpdata is missing, or ``folder`` holds something else.
        InputError: there is no frame, or one has no stress (DeePMD would train without virials).
        OutputError: the folder cannot be written.
    """
    import dpdata

    _some(frames, folder)
    if folder.exists() and any(folder.iterdir()) and not list(folder.rglob("type.raw")):
        raise ConfigError(f"{folder}: contains other files than DeePMD systems; name another folder")
    type_map = sorted({*elements, *(symbol for atoms in frames for symbol in atoms.symbols)})
    systems = dpdata.MultiSystems(type_map=type_map)
    names: dict[str, list[str]] = {}
    for formula, group in _grouped([right_handed(atoms) for atoms in frames], type_map).items():
        systems.append(dpdata.LabeledSystem(data=_system(group, type_map)))
        system = str(len(group[0])) if mixed else formula
        names.setdefault(system, []).extend(str(atoms.info.get("id", "")) for atoms in group)
    with replacing(folder) as draft:
        systems.to("deepmd/npy/mixed" if mixed else "deepmd/npy", str(draft), set_size=10**9, comp_prec=np.float64)
        for system, ids in names.items():
            (draft / system / IDS).write_text("\n".join(ids) + "\n", encoding="utf-8")
    return len(frames)


def _some(frames: Sequence[Atoms], target: Path) -> None:
    if not frames:
        raise InputError(f"{target}: there is no label to write; the split is empty")


def _for_mace(atoms: Atoms) -> Atoms:
    """Return a copy with the labels as plain data: what ASE takes for results MACE does not see."""
    results = atoms.calc.results
    copy = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
    copy.info = {**atoms.info, "REF_energy": free_energy(atoms), "REF_stress": np.asarray(results["stress"])}
    copy.arrays["REF_forces"] = np.asarray(results["forces"], dtype=float)
    return copy


def _grouped(frames: Sequence[Atoms], type_map: Sequence[str]) -> dict[str, list[Atoms]]:
    """Return frames by formula as dpdata names it (``Ca1Fe2Ni0``), in the order given."""
    groups: dict[str, list[Atoms]] = {}
    for atoms in frames:
        symbols = list(atoms.symbols)
        groups.setdefault("".join(f"{one}{symbols.count(one)}" for one in type_map), []).append(atoms)
    return groups


def _system(group: Sequence[Atoms], type_map: Sequence[str]) -> dict[str, Any]:
    """Return frames of one formula as dpdata holds them, atoms sorted by type."""
    types = [np.array([type_map.index(symbol) for symbol in atoms.symbols]) for atoms in group]
    orders = [np.argsort(kinds, kind="stable") for kinds in types]
    first = types[0][orders[0]]
    return {
        "atom_names": list(type_map),
        "atom_numbs": [int((first == kind).sum()) for kind in range(len(type_map))],
        "atom_types": first,
        "orig": np.zeros(3),
        "cells": np.array([atoms.cell.array for atoms in group]),
        "coords": np.array([atoms.positions[order] for atoms, order in zip(group, orders, strict=True)]),
        "energies": np.array([free_energy(atoms) for atoms in group]),
        "forces": np.array(
            [np.asarray(atoms.calc.results["forces"])[order] for atoms, order in zip(group, orders, strict=True)]
        ),
        "virials": np.array([_virial(atoms) for atoms in group]),
    }


def _virial(atoms: Atoms) -> NDArray[np.float64]:
    stress = atoms.calc.results.get("stress")
    if stress is None:
        name = atoms.info.get("id", atoms.get_chemical_formula())
        raise InputError(f"{name}: no stress; DeePMD would train without virials")
    return np.asarray(-voigt_6_to_full_3x3_stress(stress) * atoms.get_volume())
