"""A finished VASP run of a prepared structure read as a label, and every reason not to."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import BridgeError, InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.learn.data.vasp_output import (
    VaspRunFiles,
    array_of,
    check_energies,
    check_pressure,
    ended,
    steps_of,
    stress_of,
    titles_of,
    vasprun_of,
)
from uspex_bridge.learn.label import kpoints
from uspex_bridge.learn.label.settings import HARMLESS
from uspex_bridge.learn.label.tasks import LabelTask
from uspex_bridge.vasp.structure import read_poscar

#: VASP prints coordinates with so many decimals that they agree to this, Å.
_LENGTH = 1e-3


def read(folder: Path, task: LabelTask) -> list[Atoms]:
    """Read a run as labels.

    Returns:
        the structure as it was prepared, with energy (E0), free_energy (F), forces, stress and moments; of one that was
        relaxed, the relaxed one after it.

    Raises:
        InputError: it cannot be used, and why.
    """
    if "relax" not in task.inputs:
        return [_single_point(folder, task, task.structure)]
    try:
        at = read_poscar(folder / "POSCAR", list(dict.fromkeys(task.symbols)))
    except BridgeError as error:
        raise InputError(f"no relaxed structure: {error}") from None
    relaxed = _single_point(folder, task, replace(at, symbols=task.symbols))
    first = _as_prepared(folder / "relax", task)
    gain = (_enthalpy(first, task) - _enthalpy(relaxed, task)) / len(first)
    relaxed.info["origin"] = f"{task.origin} relaxed by DFT"
    relaxed.info["provenance"] |= {"relaxed_from": task.id, "gain_ev_per_atom": round(gain, 6)}
    return [first, relaxed]


def _single_point(folder: Path, task: LabelTask, structure: Structure) -> Atoms:
    run, outcar = _open(folder)
    for check in (_one_point, _settings, _converged, _species):
        check(run, task)
    _geometry(run, structure)
    _kpoints(run, task, structure)
    step = run.ionic_steps[-1]
    forces, stress = array_of(step, "forces", (len(task.symbols), 3)), stress_of(step)
    free, e0 = _energies(step, outcar)
    _pressure(outcar, stress)
    atoms = task.atoms
    atoms.set_cell(structure.cell)
    atoms.set_scaled_positions(structure.scaled)
    atoms.info["provenance"] |= {"version": f"vasp {run.vasp_version}", "potentials": titles_of(run)}
    cores, seconds = outcar.run_stats.get("cores"), outcar.run_stats.get("Elapsed time (sec)")
    if cores and seconds:
        atoms.info["provenance"]["core_hours"] = round(cores * seconds / 3600, 4)
    results: dict[str, Any] = {"energy": e0, "free_energy": free, "forces": forces, "stress": stress}
    moments = [row.get("tot", 0.0) for row in outcar.magnetization or ()]
    if len(moments) == len(atoms):
        results["magmoms"] = np.array(moments)
    if outcar.total_mag is not None:
        results["magmom"] = float(outcar.total_mag)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _as_prepared(folder: Path, task: LabelTask) -> Atoms:
    """Return the structure as it was prepared, by the single point before the relaxation."""
    files = {name: folder / f"{name}.0" for name in ("OUTCAR", "vasprun.xml")}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise InputError(f"relax/{missing[0]} is missing, of the single point before the relaxation")
    step = steps_of(VaspRunFiles(folder, files))[0]
    if step.atoms is None:
        raise InputError(f"the single point before the relaxation: {step.problem}")
    atoms = task.atoms
    shifts = step.atoms.cell.scaled_positions(step.atoms.positions) - np.array(task.scaled)
    if not np.allclose(step.atoms.cell.array, task.cell, rtol=0, atol=_LENGTH) or _moved(shifts, task.cell):
        raise InputError("the relaxation did not begin with the structure that was prepared")
    atoms.calc = SinglePointCalculator(atoms, **step.atoms.calc.results)
    return atoms


def _enthalpy(atoms: Atoms, task: LabelTask) -> float:
    """Return E0 + PV in eV per cell at the pressure of the search."""
    return float(atoms.calc.results["energy"]) + pv_energy(task.pressure_gpa, atoms.get_volume())


def _moved(shifts: Any, cell: Any) -> bool:
    return bool(np.abs((shifts - np.round(shifts)) @ np.array(cell)).max() > _LENGTH)


def _open(folder: Path) -> tuple[Any, Any]:
    from pymatgen.io.vasp.outputs import Outcar

    for name in ("OUTCAR", "vasprun.xml"):
        if not (folder / name).is_file():
            raise InputError(f"{name} is missing")
    if not ended(folder):
        raise InputError("OUTCAR is incomplete; the run was stopped")
    run = vasprun_of(folder / "vasprun.xml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return run, Outcar(folder / "OUTCAR")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"OUTCAR cannot be read: {type(error).__name__}: {error}") from None


def _one_point(run: Any, task: LabelTask) -> None:
    if len(run.ionic_steps) != 1:
        raise InputError(f"{len(run.ionic_steps)} ionic steps; a label is a single point (NSW = 0)")


def _settings(run: Any, task: LabelTask) -> None:
    """Compare the INCAR that VASP saw with the one that was prepared."""
    from pymatgen.io.vasp.inputs import Incar

    wanted = Incar.from_str("".join(f"{tag} = {value}\n" for tag, value in task.inputs["incar"].items()))
    found = Incar(run.incar)
    if found.get("PSTRESS"):
        raise InputError(f"PSTRESS = {found['PSTRESS']}: its energies are E + PV; run it without")
    for tag in sorted({*wanted, *found} - {*HARMLESS}):
        if not _equal(tag, wanted.get(tag), found.get(tag)):
            raise InputError(f"other settings: {tag} is {_said(found.get(tag))}, prepared was {_said(wanted.get(tag))}")


def _equal(tag: str, one: Any, other: Any) -> bool:
    if one is None:  # not prepared: fine where it says what VASP does anyway
        return not other or str(other).strip(" .").lower() in ("f", "false")
    if other is None:
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and bool(np.allclose(one, other, rtol=1e-6, atol=1e-6))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return bool(np.isclose(float(one), float(other), rtol=1e-6, atol=0))
    words = [str(value).strip(" .").lower() for value in (one, other)]
    words = [{"t": "true", "f": "false"}.get(word, word) for word in words]
    return words[0] == words[1] or (tag == "PREC" and words[0][:4] == words[1][:4])


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)


def _converged(run: Any, task: LabelTask) -> None:
    steps = len(run.ionic_steps[-1]["electronic_steps"])
    nelm = int(run.parameters.get("NELM", 60))
    if steps >= nelm:
        raise InputError(f"electronic convergence not reached in NELM = {nelm} steps")
    if not run.converged_electronic:
        raise InputError("electronic convergence not reached")


def _species(run: Any, task: LabelTask) -> None:
    symbols = tuple(str(symbol) for symbol in run.atomic_symbols)
    if symbols != task.symbols:
        given, wanted = " ".join(symbols), " ".join(task.symbols)
        raise InputError(f"atoms are {given}, prepared was {wanted}; POSCAR and POTCAR disagree?")
    potentials = task.inputs.get("potentials")
    for symbol, title in titles_of(run).items():
        name = title.split()[1] if len(title.split()) > 1 else title
        if name != task.inputs["sets"][symbol]:
            raise InputError(f"POTCAR of {symbol} is {name}, prepared was {task.inputs['sets'][symbol]}")
        if not title.startswith("PAW_PBE"):
            raise InputError(f"POTCAR of {symbol} is '{title}', which is not PBE")
        if potentials is not None and potentials[symbol] != title:
            raise InputError(f"POTCAR of {symbol} is '{title}', prepared was '{potentials[symbol]}'")


def _geometry(run: Any, structure: Structure) -> None:
    found = run.final_structure
    same = np.allclose(found.lattice.matrix, structure.cell, rtol=0, atol=_LENGTH)
    if not same or _moved(found.frac_coords - structure.scaled, structure.cell):
        raise InputError("cell or positions differ from the prepared ones")


def _kpoints(run: Any, task: LabelTask, structure: Structure) -> None:
    """Check that the grid is at least as fine as the one prepared."""
    points = run.kpoints
    automatic = points.style.name in ("Gamma", "Monkhorst") and points.kpts
    size = tuple(int(n) for n in points.kpts[0]) if automatic else (0, 0, 0)
    if min(size, default=0) < 1 or len(size) != 3:
        raise InputError("its k-points are no automatic grid; label with the KPOINTS that was prepared")
    wanted = kpoints.distance_of(structure.cell, tuple(task.inputs["kpoints"]))
    if size != tuple(task.inputs["kpoints"]) and kpoints.distance_of(structure.cell, size) < wanted - 1e-6:
        raise InputError(f"k-points {size} are coarser than those prepared, {tuple(task.inputs['kpoints'])}")


def _energies(step: dict[str, Any], outcar: Any) -> tuple[float, float]:
    """Return F and E0 in eV after holding vasprun.xml's energies against OUTCAR's."""
    e0, printed = outcar.final_energy, outcar.final_fr_energy
    if printed is None or e0 is None or not np.isfinite(e0):
        raise InputError("no finite energy in OUTCAR")
    return check_energies(step, float(printed)), float(e0)


def _pressure(outcar: Any, stress: Any) -> None:
    """Hold the stress against OUTCAR's external pressure: same sign, same size, nothing subtracted."""
    outcar.read_pattern({"pressure": r"external pressure\s*=\s*([-\d.]+) kB\s+Pullay stress\s*=\s*([-\d.]+)"})
    printed = outcar.data.get("pressure") or []
    if not printed:
        raise InputError("no pressure in OUTCAR; the stress was not computed (ISIF)")
    check_pressure(stress, sum(float(word) for word in printed[-1]))
