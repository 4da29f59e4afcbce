"""The MATLAB/Octave line (USPEX 9.4, 10.x): slots, steps, perturbation, launch, reading, retries, dropping.

Follows protocol parts A1-A3 for abinitioCode 1 and whichCluster 0.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from emulators import matlab_files
from emulators.candidates import Distances, far_enough, reduced
from emulators.inputs import write_specific
from emulators.records import (
    Call,
    Candidate,
    Launch,
    Report,
    SearchHung,
    SearchStopped,
    StepResult,
    Watch,
    format_kpoints,
    kpoints,
    shell,
)

INPUTS = ("POSCAR", "INCAR", "POTCAR", "KPOINTS", "getStuff")
#: Renamed to *_old after a successful read.
RENAMED = ("CONTCAR", "OUTCAR", "OSZICAR", "POSCAR", "vasprun.xml")
_GET_STUFF = """#!/usr/bin/perl
my ($file, $pattern, $column) = @ARGV;
open(my $in, '<', $file) or exit;
while (<$in>) { if (/$pattern/) { my @words = split(/\\s+/, $_); print "$words[$column - 1]\\n"; } }
"""


@dataclass
class _Individual:
    """A structure on its way through the steps (USPEX's POP_STRUC.POPULATION)."""

    report: Report
    atoms: Atoms
    rng: np.random.Generator
    step: int = 1
    errors: int = 0
    attempts: dict[int, int] = field(default_factory=dict)
    watch: Watch | None = None


class MatlabLine:
    """One search folder of the MATLAB line.

    Args:
        root: the search's folder; Specific/ is made in it unless it has its files already.
        species: INPUT.txt's atomType order.
        incars: text of INCAR_1..n, one per step.
        pressure: ExternalPressure, GPa.
        commands: commandExecutable lines; with fewer lines than steps the first one serves for all.
        parallel: numParallelCalcs. Above 1 a command must return at once and end by writing JOB_IS_FINISHED
            to JOB_LOG.
        distances: IonDistances; None takes 0.5 Å for all.
        kresol: KresolStart for all steps.
        max_errors: maxErrors.
        generation: number used in the names of error files.
        seed: of the perturbations.
        patience: seconds after which a job that never reports its end raises SearchHung.
        launch: what runs a command line.
    """

    def __init__(
        self,
        root: Path,
        species: Sequence[str],
        incars: Sequence[str],
        *,
        pressure: float = 0.0,
        commands: Sequence[str] = ("uspex-bridge-vasp",),
        parallel: int = 1,
        distances: Distances | None = None,
        kresol: float = 0.12,
        max_errors: int = 2,
        generation: int = 1,
        seed: int = 0,
        patience: float = 300.0,
        launch: Launch = shell,
    ) -> None:
        self.root = root
        self.species = tuple(species)
        self.steps = len(incars)
        self.pressure = pressure
        self.commands = tuple(commands)
        self.parallel = parallel
        pairs = {frozenset((a, b)): 0.5 for a in species for b in species}
        self.distances: Distances = pairs if distances is None else distances
        self.kresol = kresol
        self.max_errors = max_errors
        self.generation = generation
        self.seed = seed
        self.patience = patience
        self.launch = launch
        self.specific = write_specific(root, species, incars)
        for slot in range(1, parallel + 1):
            self._make_slot(self.folder(slot))

    def folder(self, slot: int) -> Path:
        """Return the folder of a slot, CalcFold<slot>."""
        return self.root / f"CalcFold{slot}"

    def run(self, candidates: Iterable[Candidate]) -> list[Report]:
        """Relax a generation.

        Raises:
            SearchDied: an uncaught exception would have ended USPEX.
            SearchStopped: fewer than a third of the generation came out, or an input file is missing.
            SearchHung: a job never reported its end.
        """
        reports = self.relax(candidates)
        if sum(report.enthalpy < 90000 for report in reports) < len(reports) // 3:
            raise SearchStopped("Too many structures have errors or failed the constraints after optimization.")
        return reports

    def relax(self, candidates: Iterable[Candidate]) -> list[Report]:
        """Relax structures as ``run`` does, without the rule that ends a failing generation."""
        waiting = [self._individual(candidate) for candidate in candidates]
        reports = [individual.report for individual in waiting]
        slots: dict[int, _Individual] = {}
        while waiting or slots:
            for slot in range(1, self.parallel + 1):
                if slot not in slots and waiting:
                    slots[slot] = waiting.pop(0)
                if slot in slots and slots[slot].watch is None:
                    self._submit(slots[slot], slot)
            if self.parallel > 1:
                self._await_any(slots)
            for slot, individual in list(slots.items()):
                if self._finished(slot):
                    self._read(individual, slot)
                    if self._settle(individual):
                        del slots[slot]
        return reports

    def _individual(self, candidate: Candidate) -> _Individual:
        atoms = candidate.atoms
        order = [i for s in self.species for i, symbol in enumerate(atoms.get_chemical_symbols()) if symbol == s]
        if len(order) != len(atoms):
            raise ValueError(f"candidate {candidate.index} holds elements that INPUT.txt does not name")
        rng = np.random.default_rng([self.seed, candidate.index])
        return _Individual(Report(candidate), atoms[order], rng)

    def _make_slot(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        script = folder / "getStuff"
        script.write_text(_GET_STUFF)
        script.chmod(0o755)

    def _submit(self, individual: _Individual, slot: int) -> None:
        step = individual.step
        if 1 < step < self.steps - 1:
            individual.atoms = _perturbed(individual.atoms, individual.rng)
        folder = self.folder(slot)
        self._write_inputs(individual, folder)
        attempt = individual.attempts[step] = individual.attempts.get(step, 0) + 1
        call = Call(step=step, attempt=attempt, folder=folder)
        individual.report.calls.append(call)
        individual.watch = Watch(call, INPUTS)
        command = self.commands[step - 1] if len(self.commands) >= self.steps else self.commands[0]
        with open(os.devnull) as nothing, tempfile.TemporaryFile() as dropped, (self.root / "stderr").open("a") as err:
            call.returncode = self.launch(command, folder, nothing, dropped, err)

    def _write_inputs(self, individual: _Individual, folder: Path) -> None:
        incar = self.specific / f"INCAR_{individual.step}"
        if not incar.is_file():
            raise SearchStopped(f"No {incar.name} in Specific directory")
        text = incar.read_text() + f"PSTRESS={matlab_files.num2str(self.pressure * 10)}\n"
        if individual.errors > 1:
            text += "ISYM=0\n"
        (folder / "INCAR").write_text(text)
        symbols = individual.atoms.get_chemical_symbols()
        potcar = ""
        for symbol in (s for s in self.species if s in symbols):
            part = self.specific / f"POTCAR_{symbol}"
            if not part.is_file():
                raise SearchStopped(f"{part.name} is missing in Specific Directory")
            potcar += part.read_text()
        (folder / "POTCAR").write_text(potcar)
        (folder / "POSCAR").write_text(matlab_files.format_poscar(individual.atoms, self.species))
        mesh, spoiled = kpoints(individual.atoms.cell.array, self.kresol)
        if spoiled:
            individual.errors += 4
        (folder / "KPOINTS").write_text(format_kpoints(mesh))

    def _job_log(self, slot: int) -> Path:
        return self.folder(slot) / "JOB_LOG"

    def _finished(self, slot: int) -> bool:
        if self.parallel == 1:
            return True
        log = self._job_log(slot)
        if log.is_file() and "JOB_IS_FINISHED" in log.read_text():
            log.unlink()
            return True
        return False

    def _await_any(self, slots: Mapping[int, _Individual]) -> None:
        """Wait as the loop around USPEX does until a job has reported its end."""
        limit = time.monotonic() + self.patience
        while not any(log.is_file() and "JOB_IS_FINISHED" in log.read_text() for log in map(self._job_log, slots)):
            if time.monotonic() > limit:
                raise SearchHung(f"no JOB_IS_FINISHED in JOB_LOG of {', '.join(self.folder(s).name for s in slots)}")
            time.sleep(0.02)

    def _read(self, individual: _Individual, slot: int) -> None:
        folder, report = self.folder(slot), individual.report
        assert individual.watch is not None
        individual.watch.finish()
        call, individual.watch = individual.watch.call, None
        verdict = matlab_files.accept(folder)
        if not verdict.good:
            call.message = verdict.message
            individual.errors += 1
            self._warn(verdict.message)
            self._keep_outcar(folder, individual)
            return
        contcar = (folder / "CONTCAR").read_text() if (folder / "CONTCAR").is_file() else ""
        lattice, coordinates = matlab_files.read_contcar(folder)
        if not self._distances_kept(individual.atoms, lattice, coordinates):
            call.message = "distance constraint"
            individual.errors = self.max_errors + 1
            self._warn("The structure after relaxation cannot satisfy distance constraint")
        if individual.errors <= self.max_errors:
            atoms = individual.atoms.copy()
            atoms.set_cell(lattice)
            atoms.set_scaled_positions(coordinates)
            enthalpy = matlab_files.read_enthalpy(folder)
            incar = (folder / "INCAR").read_text()
            report.steps.append(StepResult(individual.step, enthalpy, atoms, contcar, incar))
            individual.atoms = reduced(atoms)
            individual.step += 1
            call.accepted = True
        for name in RENAMED:
            if (folder / name).exists():
                (folder / name).replace(folder / f"{name}_old")

    def _settle(self, individual: _Individual) -> bool:
        """Give the slot free where the structure is finished or has failed too often."""
        report = individual.report
        if individual.errors > self.max_errors:
            report.drop(report.calls[-1].message or "k-point mesh: spoiled cell")
        elif individual.step > self.steps:
            report.status = "done"
        return report.status != "running"

    def _distances_kept(self, expected: Atoms, lattice: np.ndarray, coordinates: np.ndarray) -> bool:
        if len(coordinates) != len(expected) or not (np.isfinite(lattice).all() and np.isfinite(coordinates).all()):
            return False
        atoms = Atoms(expected.get_chemical_symbols(), scaled_positions=coordinates, cell=lattice, pbc=True)
        return far_enough(atoms, self.distances)

    def _warn(self, text: str) -> None:
        with (self.root / "Warnings").open("a") as stream:
            stream.write(f"{text}\n")

    def _keep_outcar(self, folder: Path, individual: _Individual) -> None:
        outcar = folder / "OUTCAR"
        if outcar.is_file():
            name = f"ERROR-OUTCAR-Gen{self.generation}-Ind{individual.report.candidate.index}-Step{individual.step}"
            (folder / name).write_bytes(outcar.read_bytes())


def _perturbed(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Shift each lattice component by up to 0.25 Å, then each atom by up to 0.05 Å per Cartesian direction."""
    cell = atoms.cell.array + rng.uniform(-0.25, 0.25, size=(3, 3))
    scaled = atoms.get_scaled_positions() + rng.uniform(-0.05, 0.05, size=(len(atoms), 3)) @ np.linalg.inv(cell)
    return Atoms(atoms.get_chemical_symbols(), scaled_positions=scaled % 1.0, cell=cell, pbc=True)
