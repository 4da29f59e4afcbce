"""Labels as others keep them: VASP's folders and trees of them, DeePMD-kit's systems, extxyz under anyone's names.

What cannot be used is refused with its reason, one line per run or frame; everything else is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import BridgeError, InputError
from uspex_bridge.learn.data import vasp_output
from uspex_bridge.learn.data.labels import Refused, identity_of, problem_of, read_frames

#: What every system of DeePMD-kit has.
_TYPES = "type.raw"


@dataclass
class Archive:
    """What was read.

    Attributes:
        frames: labelled structures; ``info`` has origin, and of VASP's runs family, pressure_gpa and provenance.
        refused: what cannot be used.
        code: what computed the labels, where the files say it.
    """

    frames: list[Atoms] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    code: str = ""

    def take(self, atoms: Atoms, name: str) -> None:
        """Add a frame, or refuse it."""
        if problem := problem_of(atoms):
            self.refused.append(Refused(name, problem))
            return
        atoms.info.setdefault("origin", name)
        self.frames.append(atoms)


def read_archive(place: Path, every: int = 0) -> Archive:
    """Read all labelled structures of a place.

    Args:
        place: an extxyz file, a file that VASP left, or a folder: one of VASP's, a system of DeePMD-kit, or any folder
            with such ones or extxyz files in it or below it.
        every: of the ionic steps of a run of VASP, 0 for the last one only, else each n-th, counted from the last.

    Raises:
        InputError: it is missing, or holds nothing of the kind.
    """
    archive = Archive()
    if place.is_file() and not vasp_output.is_output(place):
        _read_frames(place, place.name, archive)
        if not archive.frames and not archive.refused:
            raise InputError(f"{place}: no structures in it")
        return archive
    if not place.exists():
        raise InputError(f"{place}: there is no such file or folder")
    for run in vasp_output.runs_below(place):
        _read_run(run, _name(run.folder, place), every, archive)
    for system in sorted({path.parent for path in place.rglob(_TYPES)}) if place.is_dir() else ():
        _read_system(system, _name(system, place), archive)
    for path in sorted([*place.rglob("*.extxyz"), *place.rglob("*.xyz")]) if place.is_dir() else ():
        try:
            _read_frames(path, _name(path, place), archive)
        except InputError as error:
            archive.refused.append(Refused(_name(path, place), str(error).removeprefix(f"{path}: ")))
    if not archive.frames and not archive.refused:
        raise InputError(
            f"{place}: no labels in it or below it: no OUTCAR, no vasprun.xml, no {_TYPES} of DeePMD-kit, no extxyz"
        )
    return archive


def _name(path: Path, place: Path) -> str:
    inner = str(path.relative_to(place.parent if place.is_file() else place))
    return place.name if inner == "." else f"{place.name}/{inner}"


def _read_frames(path: Path, name: str, archive: Archive) -> None:
    for number, atoms in enumerate(read_frames(path), 1):
        archive.take(atoms, str(atoms.info.get("origin") or atoms.info.get("name") or f"{name}, frame {number}"))


def _read_run(run: vasp_output.VaspRunFiles, name: str, every: int, archive: Archive) -> None:
    """Read a run of VASP; its frames are one family, since they are one crystal on its way."""
    archive.code = "vasp"
    try:
        steps = vasp_output.steps_of(run, every)
        facts, pressure = run.facts, run.pstress_gpa
    except InputError as error:
        archive.refused.append(Refused(name, str(error)))
        return
    good = [step.atoms for step in steps if step.atoms is not None]
    for step in steps:
        title = name if len(steps) == 1 else f"{name}, step {step.number}"
        if step.atoms is None:
            archive.refused.append(Refused(title, step.problem))
            continue
        info: dict[str, Any] = {"family": identity_of(good[-1]), "provenance": dict(facts)}
        if pressure:
            info["pressure_gpa"] = pressure
        step.atoms.info = info
        archive.take(step.atoms, title)


def _read_system(folder: Path, name: str, archive: Archive) -> None:
    """Read a system of DeePMD-kit, in its plain or its mixed form, by dpdata."""
    try:
        images = list(_system(folder))
    except (BridgeError, ValueError, KeyError, OSError, IndexError, AssertionError, NotImplementedError) as error:
        archive.refused.append(Refused(name, f"cannot be read as a system of DeePMD-kit: {error}"))
        return
    for number, atoms in enumerate(images, 1):
        archive.take(atoms, f"{name}, frame {number}")


def _system(folder: Path) -> Iterator[Atoms]:
    import dpdata

    if not (folder / "type_map.raw").is_file():
        raise InputError("type_map.raw is missing; the elements are unknown")
    if (folder / "nopbc").is_file():
        raise InputError("not periodic")
    if any(folder.glob("set.*/real_atom_types.npy")):
        read = dpdata.MultiSystems()
        read.load_systems_from_file(str(folder), fmt="deepmd/npy/mixed")
        systems = list(read.systems.values())
    else:
        raw = "deepmd/raw" if (folder / "energy.raw").is_file() and not any(folder.glob("set.*")) else "deepmd/npy"
        systems = [dpdata.LabeledSystem(str(folder), fmt=raw)]
    for system in systems:
        data = system.data
        symbols = [data["atom_names"][kind] for kind in data["atom_types"]]
        for k in range(len(data["cells"])):
            atoms = Atoms(symbols, positions=data["coords"][k], cell=data["cells"][k], pbc=True)
            results = {"energy": float(data["energies"][k]), "forces": np.array(data["forces"][k])}
            if "virials" in data:
                results["stress"] = _stress(data["virials"][k], atoms.get_volume())
            atoms.calc = SinglePointCalculator(atoms, **results)
            yield atoms


def _stress(virial: Array, volume: float) -> Array:
    """Return the stress (6,) of a virial (3, 3) in eV."""
    return np.asarray(full_3x3_to_voigt_6_stress(-np.reshape(virial, (3, 3)) / volume))
