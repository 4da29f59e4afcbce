"""One label: a structure with energies, forces and stress, what computed them, and whether to believe them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.formula import Formula
from ase.stress import full_3x3_to_voigt_6_stress

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.units import pressure_of
from uspex_bridge.call.structures import read_images
from uspex_bridge.learn.data.identity import SPLITS, Split, content_id

#: Beyond these no label is believed: eV/Å, GPa either way, Å³/atom, and eV/atom between F and E0.
_MAX_FORCE, _MAX_PRESSURE, _VOLUMES, _MAX_ENTROPY = 1000.0, 5000.0, (1.0, 500.0), 0.5

#: What stands before energy, forces, stress and virial(s) in files of labels: MACE's export and its users' habits.
_PREFIXES = ("REF_", "ref_", "DFT_", "dft_", "VASP_", "vasp_")


@dataclass(frozen=True)
class Level:
    """The level of theory; a dataset has one.

    Attributes:
        code: program, such as ``vasp`` or ``gpaw``, or ``model`` for a foundation model that stands in.
        functional: ``PBE``, or the model's name.
        settings: hash of all other settings that labels must share.
    """

    code: str
    functional: str
    settings: str

    def __str__(self) -> str:
        return f"{self.code} {self.functional} {self.settings}"


@dataclass(frozen=True)
class Label:
    """One line of the manifest.

    Attributes:
        id: see :func:`uspex_bridge.learn.data.identity.content_id`.
        family, split: perturbed copies share a family; a family has one split.
        generation: of the search, or the number of the cycle, that the label was made for.
        origin: the structure's name where it comes from, such as ``results1:EA137``.
        pressure_gpa: of the search, None where nothing says it; ``own_pressure_gpa`` is that of the label's stress.
        formula, natoms: of the cell.
        level: the level of theory.
        energy: free energy F in eV per cell, that forces and stress derive from: what models are trained on.
        e0: energy extrapolated to zero smearing, eV per cell: what hulls rank by.
        magmom: the cell's magnetic moment, Bohr magnetons, None where there is none.
        fmax: largest force, eV/Å.
        file, index: the frame's place, from 0; ``sha256`` is the file's checksum.
        provenance: what the labelling code was given: input hash, cutoff, k-points, potentials, its version.
        time: when it was added.
        volume: Å³ per cell; None of labels that were added before it was kept.
    """

    id: str
    family: str
    split: Split
    generation: int
    origin: str
    pressure_gpa: float | None
    own_pressure_gpa: float
    formula: str
    natoms: int
    level: Level
    energy: float
    e0: float
    magmom: float | None
    fmax: float
    file: str
    index: int
    sha256: str
    time: str
    provenance: dict[str, Any] = field(default_factory=dict)
    volume: float | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of atoms of each element."""
        return {symbol: int(n or 1) for symbol, n in re.findall(r"([A-Z][a-z]?)(\d*)", self.formula)}

    @property
    def reduced(self) -> str:
        """Formula unit, as ASE's empirical formula has it."""
        return str(Formula(self.formula).reduce()[0].format("hill"))


@dataclass(frozen=True)
class Refused:
    """A frame that was not added: its name (or number) and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Added:
    """What an addition did: the new labels, and the frames that were refused."""

    labels: tuple[Label, ...]
    refused: tuple[Refused, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of new labels per split."""
        return {split: sum(label.split == split for label in self.labels) for split in SPLITS}


def problem_of(atoms: Atoms) -> str:
    """Return why a labelled structure cannot be trained on, empty where it can."""
    if "free_energy_of" in atoms.info:
        return f"its energy is a free energy at {atoms.info['free_energy_of']}, which is no label"
    results = atoms.calc.results if atoms.calc is not None else {}
    missing = [key for key in ("energy", "forces", "stress") if key not in results]
    if missing:
        return f"no {' and no '.join(missing)}"
    if len(atoms) == 0 or atoms.cell.rank < 3 or not atoms.pbc.all():
        return "not periodic in three dimensions"
    forces, stress = np.asarray(results["forces"], dtype=float), np.asarray(results["stress"], dtype=float)
    if forces.shape != (len(atoms), 3) or stress.shape != (6,):
        return f"forces of shape {forces.shape} and stress of shape {stress.shape}"
    e0 = float(atoms.info.get("e0", results["energy"]))
    energy = free_energy(atoms)
    numbers = {"energy": [energy, e0], "forces": forces, "stress": stress, "positions": atoms.positions}
    for name, values in numbers.items():
        if not np.all(np.isfinite(values)):
            return f"{name} not finite"
    volume, fmax = atoms.get_volume() / len(atoms), float(np.linalg.norm(forces, axis=1).max())
    if not _VOLUMES[0] <= volume <= _VOLUMES[1]:
        return f"{volume:.3g} Å³/atom"
    if fmax > _MAX_FORCE:
        return f"a force of {fmax:.3g} eV/Å"
    if abs(own := pressure_of(stress)) > _MAX_PRESSURE:
        return f"a pressure of {own:.3g} GPa"
    if abs(energy - e0) > _MAX_ENTROPY * len(atoms):
        return f"free energy and energy are {abs(energy - e0) / len(atoms):.3g} eV/atom apart: the smearing is too wide"
    return ""


def free_energy(atoms: Atoms) -> float:
    """Return F in eV, that forces and stress derive from; codes that know no other energy give only that one."""
    results = atoms.calc.results
    return float(results.get("free_energy", results["energy"]))


def provenance_of(atoms: Atoms) -> dict[str, Any]:
    """Return what the labelling code was given; nothing where a file from elsewhere holds something else there."""
    found = atoms.info.get("provenance")
    return dict(found) if isinstance(found, dict) else {}


def trained_on(atoms: Atoms) -> Atoms:
    """Return a copy with F as its energy."""
    copy, results = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True), atoms.calc.results
    energy = free_energy(atoms)
    kept = {"energy": energy, "free_energy": energy, "forces": results["forces"], "stress": results["stress"]}
    if results.get("magmoms") is not None:
        kept["magmoms"] = results["magmoms"]
    copy.calc = SinglePointCalculator(copy, **kept)
    copy.info = dict(atoms.info)
    return copy


def informed(atoms: Atoms, label: Label) -> Atoms:
    """Give a frame the ``info`` that its label says."""
    atoms.info = {
        "id": label.id,
        "family": label.family,
        "split": label.split,
        "generation": label.generation,
        "origin": label.origin,
        "level": str(label.level),
        "e0": label.e0,
    }
    if label.pressure_gpa is not None:
        atoms.info["pressure_gpa"] = label.pressure_gpa
    return atoms


def read_frames(path: Path) -> list[Atoms]:
    """Read every frame of an extxyz file, labels also under the names of :data:`_PREFIXES`.

    Raises:
        InputError: it is missing, not extxyz, a site is disordered, or a label is none.
    """
    found = []
    for number, atoms in enumerate(read_images(path, "extxyz"), 1):
        try:
            found.append(_with_named_labels(atoms))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}, frame {number}: its label cannot be read: {error}") from None
    return found


def _with_named_labels(atoms: Atoms) -> Atoms:
    """Make results of labels that ASE takes for plain data, such as MACE's REF_energy; those count before ASE's own."""
    held, arrays = atoms.info, atoms.arrays
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    names = [prefix for prefix in _PREFIXES if f"{prefix}energy" in held and f"{prefix}forces" in arrays]
    for prefix in names[:1]:
        results = {"energy": float(held.pop(f"{prefix}energy")), "forces": np.array(arrays.pop(f"{prefix}forces"))}
        if f"{prefix}free_energy" in held:
            results["free_energy"] = float(held.pop(f"{prefix}free_energy"))
    for prefix in names[:1] or ([""] if "forces" in results and "stress" not in results else []):
        if f"{prefix}stress" in held:
            results["stress"] = _voigt(held.pop(f"{prefix}stress"))
        for name in (f"{prefix}virial", f"{prefix}virials"):
            if name in held and "stress" not in results:
                results["stress"] = -_voigt(held.pop(name)) / atoms.get_volume()
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _voigt(values: Any) -> Array:
    """Return a tensor (6,) in ASE's order of (6,), (9,) or (3, 3)."""
    flat = np.asarray(values, dtype=float).ravel()
    return flat if flat.size == 6 else np.asarray(full_3x3_to_voigt_6_stress(flat.reshape(3, 3)))


def settings_hash(settings: Any) -> str:
    """Return 12 hexadecimal digits for settings that labels must share, whatever their order in a dictionary."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def identity_of(atoms: Atoms) -> str:
    """Return the identity of ASE atoms; see :func:`uspex_bridge.learn.data.identity.content_id`."""
    return content_id(atoms.get_chemical_symbols(), atoms.cell.array, atoms.cell.scaled_positions(atoms.positions))
