"""The Python line (input.uspex): a fresh folder per attempt, ASE for reading, PV added by USPEX.

Follows protocol parts B1-B3 for a stage of type vasp with the SHELL task manager.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import ParseError, read
from ase.io.vasp import iread_vasp_out
from emulators.candidates import Distances, far_enough
from emulators.inputs import write_specific
from emulators.records import Call, Candidate, Launch, Report, StepResult, Watch, format_kpoints, kpoints, shell

ATTEMPTS = 2
#: GPa·Å³ per eV, as the Python line has it.
GPA_A3_PER_EV = 160.21766208
#: Why an attempt failed that gets ISYM=0 on the next one.
UNCONVERGED = "SCF is not converged"
INPUTS = ("POSCAR", "INCAR", "POTCAR", "KPOINTS", "input", "pbc", "symbolsOrder")


def format_poscar(atoms: Atoms, label: str) -> str:
    """Return a VASP-5 POSCAR of ``atoms`` (already sorted by element) in the layout of ASE's short format."""
    symbols = atoms.get_chemical_symbols()
    kinds = list(dict.fromkeys(symbols))
    text = f"{label}\n{1.0:19.16f}\n"
    text += "".join("".join(f" {x:11.6f}" for x in row) + "\n" for row in atoms.cell.array)
    text += "".join(f" {kind:>3s}" for kind in kinds) + "\n"
    text += "".join(f" {symbols.count(kind):3d}" for kind in kinds) + "\nDirect\n"
    return text + "".join("".join(f" {x:9.6f}" for x in row) + "\n" for row in atoms.get_scaled_positions(wrap=False))


def judge(folder: Path) -> str:
    """Apply USPEX's isConverged; return "" where it holds, else why not.

    Raises (IndexError, ValueError) where its reader would, which makes the structure bad.
    """
    oszicar, outcar = folder / "OSZICAR", folder / "OUTCAR"
    if not all(path.exists() for path in (oszicar, outcar, folder / "CONTCAR")):
        return "files missing"
    lines = oszicar.read_text().splitlines()
    energies = [n for n, line in enumerate(lines) if " F= " in line]
    if not energies:
        return "no F in OSZICAR"
    steps = int(lines[energies[-1] - 1].split(":")[1].split()[0])
    for line in outcar.read_text().splitlines():
        if " NELM " in line:
            limit = int(line.split(" = ")[1].split()[0].strip(";"))
            return "" if steps < limit else UNCONVERGED
    return "no NELM in OUTCAR"


def read_last(folder: Path) -> Atoms:
    """Return the last ionic step of OUTCAR through ASE; all steps must parse.

    ASE opens CONTCAR for constraints; releases before 3.29 fail on an empty one, hence the reading of its own.
    Where ASE cannot read OUTCAR, vasprun.xml is tried.
    """
    read(folder / "CONTCAR", format="vasp")
    try:
        with (folder / "OUTCAR").open() as stream:
            return list(iread_vasp_out(stream, None))[-1]
    except (KeyError, ParseError):
        last = read(folder / "vasprun.xml", index=-1)
        assert isinstance(last, Atoms)
        return last


class PythonLine:
    """One search folder of the Python line.

    Args:
        root: the search's folder (workingDirectory).
        species: elements of the search.
        incars: text of INCAR_1..n, one per stage; the stages' tags are 1..n.
        pressure: externalPressure, GPa.
        command: commandExecutable of every stage.
        parallel: numParallelCalcs, structures at work at once.
        distances: minimum distances; None takes 0.5 Å for all.
        kresol: a float, as USPEX insists.
        perturb: shift atoms by up to 0.05 Å before each stage.
        keep_folders: keepFolders.
        seed: of the perturbations.
        launch: what runs a command line.
    """

    def __init__(
        self,
        root: Path,
        species: Sequence[str],
        incars: Sequence[str],
        *,
        pressure: float = 0.0,
        command: str = "uspex-bridge-vasp",
        parallel: int = 1,
        distances: Distances | None = None,
        kresol: float = 0.12,
        perturb: bool = False,
        keep_folders: bool = False,
        seed: int = 0,
        launch: Launch = shell,
    ) -> None:
        self.root = root
        self.stages = len(incars)
        self.pressure = pressure
        self.command = command
        self.parallel = parallel
        pairs = {frozenset((a, b)): 0.5 for a in species for b in species}
        self.distances: Distances = pairs if distances is None else distances
        self.kresol = kresol
        self.perturb = perturb
        self.keep_folders = keep_folders
        self.seed = seed
        self.launch = launch
        self.specific = write_specific(root, species, incars)

    def folder(self, index: int, tag: str) -> Path:
        """Return the folder of a structure and stage, CalcFold<ID>_<tag>."""
        return self.root / f"CalcFold{index}_{tag}"

    def run(self, candidates: Iterable[Candidate]) -> list[Report]:
        """Relax structures; a bad one is dropped and the search goes on."""
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._relax, candidates))

    def _relax(self, candidate: Candidate) -> Report:
        report = Report(candidate)
        atoms = candidate.atoms.copy()
        rng = np.random.default_rng([self.seed, candidate.index])
        for stage in range(1, self.stages + 1):
            if self.perturb:
                atoms.positions += rng.uniform(-0.05, 0.05, size=(len(atoms), 3))
            result = self._stage(report, atoms, stage)
            if result is None:
                return report
            report.steps.append(result)
            atoms = result.atoms.copy()
        report.status = "done"
        return report

    def _stage(self, report: Report, atoms: Atoms, stage: int) -> StepResult | None:
        """Try a stage up to ATTEMPTS times; None leaves the structure bad."""
        folder = self.folder(report.candidate.index, str(stage))
        for attempt in range(1, ATTEMPTS + 1):
            call = Call(step=stage, attempt=attempt, folder=folder)
            previous = report.calls[-1].message if attempt > 1 else ""
            report.calls.append(call)
            try:
                self._write_inputs(folder, atoms, report.candidate.index, stage, previous)
            except OSError as error:
                call.message = f"inputs: {error}"
                report.drop(call.message)
                return None
            self._launch(call)
            try:
                call.message = judge(folder)
                if call.message:
                    continue
                result = self._result(folder, atoms, stage)
            except Exception as error:  # noqa: BLE001 any exception while reading makes a structure isBad there
                call.message = f"reading: {type(error).__name__}: {error}"
                report.drop(call.message)
                return None
            if not far_enough(result.atoms, self.distances):
                call.message = "distance constraint"
                report.drop(call.message)
                return None
            call.accepted = True
            if not self.keep_folders:
                shutil.rmtree(folder)
            return result
        report.drop(report.calls[-1].message)
        return None

    def _launch(self, call: Call) -> None:
        folder = call.folder
        watch = Watch(call, INPUTS)
        with (
            (folder / "input").open("rb") as stdin,
            (folder / "output").open("wb") as stdout,
            (folder / "error").open("wb") as stderr,
        ):
            call.returncode = self.launch(f"{self.command} ", folder, stdin, stdout, stderr)
        watch.finish()

    def _write_inputs(self, folder: Path, atoms: Atoms, index: int, stage: int, previous: str) -> None:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        symbols = atoms.get_chemical_symbols()
        ordered = atoms[np.argsort(symbols, kind="stable")]
        incar = (self.specific / f"INCAR_{stage}").read_text()
        if self.pressure:
            incar += f"\nPSTRESS={10 * self.pressure:10f}\n"
        if previous == UNCONVERGED:
            incar += "ISYM=0\n"
        mesh, _ = kpoints(atoms.cell.array, self.kresol)
        texts = {
            "INCAR": incar,
            "POSCAR": format_poscar(ordered, f"EA{index}"),
            "POTCAR": "".join((self.specific / f"POTCAR_{symbol}").read_text() for symbol in sorted(set(symbols))),
            "KPOINTS": format_kpoints(mesh),
            "input": "",
            "pbc": "1 1 1\n",
            "symbolsOrder": " ".join(symbols) + "\n",
        }
        for name, text in texts.items():
            (folder / name).write_text(text)

    def _result(self, folder: Path, atoms: Atoms, stage: int) -> StepResult:
        last = read_last(folder)
        energy = last.get_potential_energy()
        enthalpy = energy + last.get_volume() * self.pressure / GPA_A3_PER_EV
        symbols = (folder / "symbolsOrder").read_text().split()
        back = last[np.argsort(np.argsort(symbols, kind="stable"), kind="stable")]
        if back.get_chemical_symbols() != symbols:
            raise ValueError(f"OUTCAR's elements {last.symbols} are not those of POSCAR")
        plain = Atoms(symbols, scaled_positions=back.get_scaled_positions(), cell=back.cell, pbc=True)
        contcar, incar = ((folder / name).read_text() for name in ("CONTCAR", "INCAR"))
        return StepResult(stage, float(enthalpy), plain, contcar, incar)
