"""Read a finished folder as each USPEX line would, to see that both get the same structure and enthalpy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from uspex_bridge.base.errors import OutputError
from uspex_bridge.base.files import read_text
from uspex_bridge.vasp.structure import read_poscar


@dataclass(frozen=True)
class Reading:
    """What USPEX takes from a folder: enthalpy in eV per cell, number of atoms, volume in Å³."""

    enthalpy: float
    natoms: int
    volume: float


def read_as_matlab(folder: Path) -> Reading:
    """Read as USPEX 9.4-10.x does: the enthalpy is the last F= of OSZICAR, the structure is CONTCAR.

    Raises:
        OutputError: USPEX would take the step for failed.
    """
    oszicar = read_text(folder / "OSZICAR").splitlines()
    found = [number for number, line in enumerate(oszicar) if " F= " in line]
    if not found:
        raise OutputError(f"{folder / 'OSZICAR'}: no line with F=, USPEX would repeat the step")
    _check_scf(folder, oszicar[found[-1] - 1] if found[-1] else "")
    structure = read_poscar(folder / "CONTCAR")
    line = oszicar[found[-1]]
    # USPEX takes the fourth word, the first being empty where blanks begin the line.
    value = re.match(r"\s+\d+ F= +(\S+)", line)
    try:
        enthalpy = float(value[1]) if value else math.nan
    except ValueError:
        enthalpy = math.nan
    if not math.isfinite(enthalpy):
        raise OutputError(f"{folder / 'OSZICAR'}: '{line}' holds no number where USPEX looks for it")
    return Reading(enthalpy, len(structure), structure.volume)


def read_as_python(folder: Path, pressure_gpa: float) -> Reading:
    """Read as the Python line does: the energy is OUTCAR's last, through ASE, and USPEX adds PV.

    Raises:
        OutputError: USPEX would take the step for failed.
    """
    from ase.io.vasp import iread_vasp_out

    from uspex_bridge.base.units import pv_energy

    try:
        with (folder / "OUTCAR").open() as stream:
            *_, last = iread_vasp_out(stream, slice(None))
        energy, volume = float(last.get_potential_energy()), float(last.get_volume())
    except Exception as error:  # ASE's reader raises whatever its parsers meet
        raise OutputError(f"{folder / 'OUTCAR'}: ASE cannot read it: {error or type(error).__name__}") from error
    return Reading(energy + pv_energy(pressure_gpa, volume), len(last), volume)


def read_as_code20(folder: Path) -> Reading:
    """Read as USPEX 26 does for abinitioCode 20, through ASE; what ``energy=`` says is taken for the enthalpy.

    Raises:
        OutputError: output.xyz is not the structure of input.xyz with an energy.
    """
    from ase.io import iread

    try:
        (given,), (atoms,) = (list(iread(folder / name)) for name in ("input.xyz", "output.xyz"))
        energy = float(atoms.get_potential_energy())
    except Exception as error:  # ASE's reader raises whatever its parsers meet
        raise OutputError(f"{folder / 'output.xyz'}: ASE cannot read it: {error or type(error).__name__}") from error
    if atoms.get_chemical_symbols() != given.get_chemical_symbols():
        raise OutputError(f"{folder / 'output.xyz'}: other atoms than in input.xyz, or in another order")
    return Reading(energy, len(atoms), float(atoms.get_volume()))


def _check_scf(folder: Path, before: str) -> None:
    """Check that the electronic steps of the last ionic step stay below NELM, as both lines do."""
    limits = [line.split()[2].rstrip(";") for line in read_text(folder / "OUTCAR").splitlines() if " NELM " in line]
    _, colon, rest = before.partition(": ")
    steps = rest.split()[0] if rest.split() else ""
    if not (colon and steps.isdigit() and limits and all(w.isdigit() and int(steps) < int(w) for w in limits)):
        raise OutputError(f"{folder}: '{before}' against NELM {limits}: USPEX would count the step as unconverged")
