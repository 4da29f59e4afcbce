"""USPEX 26: one process for the whole search, folders two levels down, exit codes that count, its own Python around.

Follows what public material shows. Where nothing does, the plainest guess is taken: a failed task drops its
structure, and VASP's files (code 1) are read as the Python line reads them.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.io import read, write
from emulators.inputs import write_specific
from emulators.python_line import GPA_A3_PER_EV, format_poscar, judge, read_last
from emulators.records import Call, Candidate, Launch, Report, StepResult, Watch, format_kpoints, kpoints

#: What a fresh start removes; a bridge.toml must not lie there.
MADE = ("Calculation", "CalculationTemp", "Specific", "results1")
INPUTS = {20: ("input.xyz",), 99: ("geom.in",), 1: ("POSCAR", "INCAR", "POTCAR", "KPOINTS")}
#: Modules that end every program which finds them before its own.
_FOREIGN = ("sitecustomize", "encodings", "json", "click", "numpy", "ase", "uspex_bridge")


def bundle(folder: Path) -> dict[str, str]:
    """Make the folder that USPEX unpacks itself into; return the environment that its children get."""
    library = folder / "lib" / "python3.10"
    library.mkdir(parents=True)
    for name in _FOREIGN:
        (library / f"{name}.py").write_text("raise ImportError('this is the Python of USPEX')\n")
    own = {"PYTHONHOME": folder, "PYTHONPATH": library, "LD_LIBRARY_PATH": folder / "lib"}
    return {**os.environ, **{name: str(path) for name, path in own.items()}}


class Uspex26:
    """One search folder.

    Args:
        root: the search's folder.
        codes: abinitioCode of each step: 20, 99 or 1.
        commands: commandExecutable of each step.
        environment: what the commands are started with.
        pressure: ExternalPressure, GPa; only code 1 is told it.
        incars: INCAR of each step, for code 1.
        parallel: numParallelCalcs.
        prepare: is called with each folder before a launch.
        launch: what runs a command line; None is the shell.
    """

    def __init__(
        self,
        root: Path,
        codes: Sequence[int],
        commands: Sequence[str],
        environment: dict[str, str],
        *,
        pressure: float = 0.0,
        incars: Sequence[str] = (),
        parallel: int = 1,
        prepare: Callable[[Path], None] = lambda folder: None,
        launch: Launch | None = None,
    ) -> None:
        self.root, self.codes, self.commands = root, codes, commands
        self.environment, self.pressure, self.incars = environment, pressure, incars
        self.parallel, self.prepare = parallel, prepare
        self.launch = launch or self._shell
        for name in MADE:
            shutil.rmtree(root / name, ignore_errors=True)

    def folder(self, system: int, step: int) -> Path:
        """Return the folder of a structure and step."""
        return self.root / "Calculation" / f"Calcfold_{system}_{step}"

    def run(self, candidates: Iterable[Candidate]) -> list[Report]:
        """Relax structures; a failed task drops its structure and the search goes on."""
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._relax, candidates))

    def _relax(self, candidate: Candidate) -> Report:
        report, atoms = Report(candidate), candidate.atoms.copy()
        for step, code in enumerate(self.codes, 1):
            call = Call(step, 1, self.folder(candidate.index, step))
            report.calls.append(call)
            self._write(call.folder, atoms, code, step)
            self.prepare(call.folder)
            self._start(call, code)
            if call.returncode != 0:
                call.message = f"Task failed: exit code {call.returncode}"
            else:
                try:
                    report.steps.append(self._read(call.folder, atoms, code, step))
                    call.accepted = True
                except Exception as error:  # noqa: BLE001
                    call.message = f"reading: {type(error).__name__}: {error}"
            if not call.accepted:
                report.drop(call.message)
                return report
            atoms = report.final.copy()
        report.status = "done"
        return report

    def _start(self, call: Call, code: int) -> None:
        watch = Watch(call, INPUTS[code])
        with Path(os.devnull).open("r+b") as null:
            call.returncode = self.launch(self.commands[call.step - 1], call.folder, null, null, null)
        watch.finish()

    def _shell(self, command: str, cwd: Path, stdin: IO[Any], stdout: IO[Any], stderr: IO[Any]) -> int:
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        return subprocess.run(command, shell=True, cwd=cwd, env=self.environment, **streams).returncode

    def _write(self, folder: Path, atoms: Atoms, code: int, step: int) -> None:
        folder.mkdir(parents=True)
        ordered = atoms[np.argsort(atoms.get_chemical_symbols(), kind="stable")]
        if code == 20:
            write(folder / "input.xyz", atoms, format="extxyz")
        elif code == 99:
            (folder / "geom.in").write_text(format_poscar(ordered, folder.name))
        else:
            species = sorted(set(atoms.get_chemical_symbols()))
            specific = write_specific(self.root, species, self.incars)
            pstress = f"\nPSTRESS={10 * self.pressure:10f}\n" if self.pressure else ""
            mesh, _ = kpoints(atoms.cell.array, 0.2)
            texts = {
                "POSCAR": format_poscar(ordered, folder.name),
                "INCAR": (specific / f"INCAR_{step}").read_text() + pstress,
                "POTCAR": "".join((specific / f"POTCAR_{symbol}").read_text() for symbol in species),
                "KPOINTS": format_kpoints(mesh),
            }
            for name, text in texts.items():
                (folder / name).write_text(text)

    def _read(self, folder: Path, atoms: Atoms, code: int, step: int) -> StepResult:
        symbols = atoms.get_chemical_symbols()
        if code == 20:
            final = read(folder / "output.xyz")
            value = final.get_potential_energy()
        else:
            if code == 99:
                value = float((folder / "energy.txt").read_text())
                final = read(folder / "geom.out", format="vasp")
            else:
                if problem := judge(folder):
                    raise ValueError(problem)
                final = read_last(folder)
                value = final.get_potential_energy() + self.pressure * final.get_volume() / GPA_A3_PER_EV
            final = final[np.argsort(np.argsort(symbols, kind="stable"), kind="stable")]
        if final.get_chemical_symbols() != symbols:
            raise ValueError(f"the atoms came back as {final.symbols}")
        plain = Atoms(symbols, positions=final.positions, cell=final.cell, pbc=True)
        text = io.StringIO()
        write(text, plain, format="vasp", direct=True)
        return StepResult(step, float(value), plain, text.getvalue(), "")


def write_results(root: Path, reports: Sequence[Report], species: Sequence[str]) -> Path:
    """Write results1 with Individuals and gatheredPOSCARS in USPEX 26's layout; return it."""
    folder = root / "results1"
    folder.mkdir()
    rows = ["generation number num_atoms_all energy cell_volume density space_group space_group_symbol origin parents"]
    blocks = []
    for report in reports:
        number = report.candidate.index
        counts = ",".join(str(report.candidate.atoms.symbols.count(symbol)) for symbol in species)
        if report.done:
            values = f"{report.enthalpy:.4f} {report.final.get_volume():.4f} 5.0 1 P1"
            blocks.append(_block(number, report.final, species))
        else:
            values = "nan nan nan nan None"
        rows.append(f"1 {number} [{counts}] {values} RandSym []")
    (folder / "Individuals").write_text("\n".join(rows) + "\n")
    (folder / "gatheredPOSCARS").write_text("".join(blocks))
    return folder


def _block(number: int, atoms: Atoms, species: Sequence[str]) -> str:
    order = np.argsort([species.index(symbol) for symbol in atoms.get_chemical_symbols()], kind="stable")
    return format_poscar(atoms[order], f"number={number}")
