"""A small relaxation in a scratch folder, by the path that the executables take, read back as USPEX does.

The relaxation runs in a process of its own (``python -m uspex_bridge.doctor.trial``), as it would under USPEX: a model
that crashes there does not take the caller with it.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import BridgeError, CalculationError
from uspex_bridge.base.units import gpa_to_kbar
from uspex_bridge.call.config import load_config
from uspex_bridge.uspex.readback import read_as_code20, read_as_matlab, read_as_python

#: Seconds for the relaxation, and for the process that does it.
TIME_LIMIT = 300.0
PROCESS_LIMIT = 600.0
#: How far both lines' enthalpies may differ, eV per cell: OSZICAR has eight digits.
TOLERANCE = 1e-4
_INCAR = "ISIF = 3\nIBRION = 2\nNSW = 300\nEDIFFG = -0.3\nNELM = 60\n"
_SITES = ((0.01, 0.0, 0.0), (0.0, 0.49, 0.5), (0.5, 0.01, 0.5), (0.5, 0.5, 0.02))


@dataclass(frozen=True)
class Trial:
    """How it went; ``problem`` is empty where all went well.

    Attributes:
        pressure: GPa.
        enthalpy: per line that reads it, eV per cell; of abinitioCode 20 it is what ``energy=`` says.
        stages: of the record: name, calculator, model, steps, outcome.
        models: of the record: calculator -> identity.
        seconds: of the relaxation; ``wall`` of the whole process.
    """

    formula: str
    pressure: float
    problem: str = ""
    enthalpy: dict[str, float] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    wall: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def run_trial(
    elements: Sequence[str], pressure: float, near: Path, explicit: Path | None = None, *, code20: bool = False
) -> Trial:
    """Relax four atoms of ``elements`` (at most four of them) at ``pressure`` GPa.

    Args:
        elements: chemical symbols.
        pressure: GPa.
        near: folder that the settings are looked for from.
        explicit: settings file, if one is named.
        code20: whether USPEX hands structures out as input.xyz.
    """
    chosen = list(elements)[: len(_SITES)]
    atoms = sorted((chosen * len(_SITES))[: len(_SITES)], key=chosen.index)
    formula = "".join(dict.fromkeys(f"{s}{atoms.count(s) if atoms.count(s) > 1 else ''}" for s in atoms))
    with tempfile.TemporaryDirectory(prefix="uspex-bridge-doctor-") as scratch:
        folder = Path(scratch, *(("Calculation", "Calcfold_1_1") if code20 else ("CalcFold1",)))
        folder.mkdir(parents=True)
        if code20:
            _write_xyz(folder, atoms[::2] + atoms[1::2])
        else:
            _write_inputs(folder, atoms, pressure)
        began = time.monotonic()
        problem = _in_own_process(folder, near, explicit)
        wall = time.monotonic() - began
        found: dict[str, Any] = {"wall": round(wall, 2), **_recorded(Path(scratch))}
        if not problem:
            try:
                read = {"code20": read_as_code20(folder).enthalpy} if code20 else None
                found["enthalpy"] = read or _read_back(folder, len(atoms), pressure)
            except BridgeError as error:
                problem = str(error)
        return Trial(formula, pressure, problem, **found)


def _write_inputs(folder: Path, atoms: list[str], pressure: float) -> None:
    """Write what USPEX's MATLAB line writes: no element line in POSCAR, PSTRESS at the end of INCAR."""
    from uspex_bridge.base.templates import render

    rows = [" ".join(f"{x:12.6f}" for x in row) for row in _cell(atoms)]
    sites = [" ".join(f"{x:12.6f}" for x in site) for site in _SITES]
    species = list(dict.fromkeys(atoms))
    counts = " ".join(f"{atoms.count(symbol):4d}" for symbol in species)
    lines = ["EA0     trial of uspex-bridge doctor", "1.0000", *rows, counts, "Direct", *sites]
    (folder / "POSCAR").write_text("\n".join(lines) + "\n")
    (folder / "INCAR").write_text(f"{_INCAR}PSTRESS={gpa_to_kbar(pressure):.5g}\n")
    (folder / "KPOINTS").write_text("EA\n0\nGamma\n   4    4    4\n")
    (folder / "POTCAR").write_text("".join(render("specific/POTCAR", {"symbol": symbol}) for symbol in species))


def _write_xyz(folder: Path, atoms: list[str]) -> None:
    """Write what USPEX 26 writes for abinitioCode 20."""
    from ase import Atoms
    from ase.io import write

    write(folder / "input.xyz", Atoms(atoms, scaled_positions=_SITES, cell=_cell(atoms), pbc=True), format="extxyz")


def _cell(atoms: list[str]) -> list[list[float]]:
    """Return a cell, Å, in which no two of the atoms at the sites touch."""
    from ase.data import atomic_numbers, covalent_radii

    # With 1.7 times the volume of the covalent spheres, neighbours in fcc are 8 % further apart than bonded ones.
    spheres = [4.19 * float(covalent_radii[atomic_numbers[symbol]]) ** 3 for symbol in atoms]
    edge = (1.7 * sum(spheres)) ** (1 / 3)
    rows = ((1.03, 0.01, 0.0), (0.0, 0.98, 0.02), (0.01, 0.0, 1.0))
    return [[edge * x for x in row] for row in rows]


def _in_own_process(folder: Path, near: Path, explicit: Path | None) -> str:
    """Run :func:`main` and return what went wrong, empty where nothing did."""
    command = [sys.executable, "-m", "uspex_bridge.doctor.trial", str(folder), str(near.absolute())]
    if explicit is not None:
        command.append(str(explicit.absolute()))
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROCESS_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {PROCESS_LIMIT:g} s; is the machine overloaded, or the model hanging?"
    if done.returncode == 0:
        return ""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    ours = [line.removeprefix("uspex-bridge: ") for line in said if line.startswith("uspex-bridge: ")]
    how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return f"{(ours or said or ['it said nothing'])[-1]} ({how})"


def _recorded(scratch: Path) -> dict[str, Any]:
    from uspex_bridge.call import record_file, record_reading

    path = record_file.in_folder(scratch)
    for entry in record_reading.read(path) if path.exists() else ():
        keys = ("name", "calculator", "model", "steps", "outcome", "evaluations")
        stages = [{key: stage[key] for key in keys} for stage in entry.get("stages", [])]
        return {"stages": stages, "models": entry.get("models", {}), "seconds": entry.get("seconds", 0.0)}
    return {}


def _read_back(folder: Path, natoms: int, pressure: float) -> dict[str, float]:
    """Return the enthalpy as each line reads it.

    Raises:
        BridgeError: a line cannot read the files, or they disagree.
    """
    readings = {"matlab": read_as_matlab(folder), "python": read_as_python(folder, pressure)}
    matlab, python = readings.values()
    if {reading.natoms for reading in readings.values()} != {natoms}:
        raise CalculationError(
            f"{natoms} atoms went in, {matlab.natoms} (CONTCAR) and {python.natoms} (OUTCAR) came out"
        )
    if abs(matlab.enthalpy - python.enthalpy) > TOLERANCE:
        raise CalculationError(
            f"USPEX's lines would read different enthalpies: {matlab.enthalpy:.6f} eV (MATLAB) and "
            f"{python.enthalpy:.6f} eV (Python)"
        )
    return {line: reading.enthalpy for line, reading in readings.items()}


def main(folder: Path, near: Path, explicit: Path | None) -> int:
    """Relax in ``folder`` with the settings of ``near``; the record stays in the scratch folder."""
    from uspex_bridge.base.files import OUTPUTS
    from uspex_bridge.base.halt import Halter
    from uspex_bridge.call.folders import ExternalFolder, VaspFolder
    from uspex_bridge.call.run import run_folder
    from uspex_bridge.call.slot import run_in_slot

    code20 = (folder / "input.xyz").exists()

    def work(log: logging.Logger) -> None:
        config = load_config(near, explicit)
        config = replace(config, record=None, on_reject="fail", time_limit=min(config.time_limit, TIME_LIMIT))
        run_folder(ExternalFolder(folder) if code20 else VaspFolder(folder), config, log, Halter())

    return run_in_slot(folder, OUTPUTS["external" if code20 else "vasp"], work)


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    sys.exit(main(given[0], given[1], given[2] if len(given) > 2 else None))
