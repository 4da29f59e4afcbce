"""The criteria: each looks at what a tool left in its folders and says yes, no or a figure."""

from __future__ import annotations

import re
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.io.vasp import iread_vasp_out, read_vasp_out
from cases import Case, all_cases
from reference import Reference, contcar
from tools import Run, Tool

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "roundtrip"))
import uspex_readers as uspex

KBAR = 1602.1766208  # of 1 eV/Å³


@dataclass
class Cell:
    """One cell of the table: ``ok`` is None where there is nothing to pass."""

    ok: bool | None
    text: str = ""

    def markdown(self) -> str:
        """Return the cell's text; what failed is bold."""
        if self.ok is None:
            return self.text
        word = "yes" if self.ok else "**no**"
        return f"{word}: {self.text}" if self.text else word


@dataclass
class Lab:
    """A tool's runs by case name, and the independent evaluation with its model."""

    tool: Tool
    runs: dict[str, Run]
    reference: Reference
    stale: Path | None = None
    times: dict[str, list[Run]] = field(default_factory=dict)

    def case(self, name: str) -> Case:
        """Return the case of that name."""
        return all_cases()[name]


Check = Callable[[Lab, Run], Cell]


def last(pattern: str, text: str) -> re.Match | None:
    """Return the last match."""
    found = None
    for found in re.finditer(pattern, text, re.M):  # noqa: B007
        pass
    return found


def f_value(folder: Path) -> float | None:
    """Return the number that the MATLAB line takes from OSZICAR, None where there is none."""
    path = folder / "OSZICAR"
    values = uspex.enthalpies(folder) if path.is_file() and " F= " in path.read_text() else []
    return values[-1] if values else None


def toten(run: Run) -> float | None:
    """Return the last TOTEN in OUTCAR."""
    found = last(r"free  energy   TOTEN\s*=\s*(\S+)", run.text("OUTCAR"))
    return float(found[1]) if found else None


def claims(folder: Path) -> list[str]:
    """Return the files that hold an energy someone would take for a result."""
    marks = {"OSZICAR": " F= ", "OUTCAR": "TOTEN", "vasprun.xml": "e_fr_energy"}
    texts = {n: (folder / n).read_text(errors="replace") for n in marks if (folder / n).is_file()}
    return [name for name, text in texts.items() if marks[name] in text]


def ended(run: Run) -> str:
    """Say how the call ended."""
    return f"given up after {run.cpu:.0f} s of CPU time" if run.rc is None else f"exit {run.rc}"


def finished(lab: Lab, name: str) -> Cell | None:
    """Return a "no" for a run without CONTCAR or with a bad exit code, else None."""
    run = lab.runs[name]
    if run.rc == 0 and run.text("CONTCAR"):
        return None
    lines = [line.strip() for line in (run.folder.parent / "log").read_text(errors="replace").splitlines()]
    reason = next((line for line in reversed(lines) if line), "")
    return Cell(False, f"{ended(run)}, no CONTCAR" if run.rc == 0 else f"{ended(run)}, `{_cut(reason)}`")


def _cut(text: str) -> str:
    return textwrap.shorten(text.replace("|", "/"), 60, placeholder=" ...")


def bare(lab: Lab) -> Cell:
    run = lab.runs["bare"]
    if failed := finished(lab, "bare"):
        return failed
    needs = lab.tool.needs
    return Cell(bool(claims(run.folder)), f"with {needs} set" if needs else "")


def vasp4(lab: Lab) -> Cell:
    if failed := finished(lab, "vasp4"):
        return failed
    run, wanted = lab.runs["vasp4"], lab.case("vasp4").atoms
    names = contcar_symbols(run.text("CONTCAR")) or outcar_symbols(run.text("OUTCAR"))
    right = lab.reference.energy(wanted)
    found = toten(run)
    ok = found is not None and abs(found - right) < 1e-3
    return Cell(ok, "" if ok else f"{ended(run)}, elements taken for {' '.join(names)}")


def contcar_symbols(text: str) -> list[str]:
    """Return CONTCAR's element line, empty where there is none."""
    words = text.splitlines()[5].split()
    return words if words and words[0].isalpha() else []


def outcar_symbols(text: str) -> list[str]:
    """Return the elements of OUTCAR's POTCAR lines."""
    return list(dict.fromkeys(re.findall(r"POTCAR:\s+\S+\s+([A-Z][a-z]?)", text)))


def incar_forms(lab: Lab) -> Cell:
    if not lab.tool.reads_incar:
        return Cell(False, "reads no INCAR, everything goes on its command line")
    words, good = [], True
    for name, form in (("joined", "`;`"), ("fortran", "`5.0D+02`")):
        failed = finished(lab, name)
        if failed:
            words.append(f"{form} refused ({failed.text})")
        else:
            pressure = lab.reference.pressure(contcar(lab.runs[name].folder))
            if abs(pressure - 50) < 3:
                words.append(f"{form} yes")
                continue
            words.append(f"{form} no: relaxed to {pressure:.0f} instead of 50 GPa, {ended(lab.runs[name])}")
        good = False
    return Cell(good, "" if good else "; ".join(words))


def f_line(lab: Lab, run: Run) -> Cell:
    if not run.text("OSZICAR"):
        return Cell(False, "no OSZICAR")
    columns = re.search(r"^ +\d+ F= +\S+ E0= +\S+ +d E =", run.text("OSZICAR"), re.M)
    return Cell(bool(columns) and f_value(run.folder) is not None)


def accepted(lab: Lab, run: Run) -> Cell:
    oszicar, outcar = run.text("OSZICAR"), run.text("OUTCAR")
    if not oszicar:
        return Cell(False, "no OSZICAR")
    lacks = [] if re.search(r"^(DAV|RMM):", oszicar, re.M) else ["no `DAV:` line"]
    if not re.search(r" NELM\s+=\s+\d+;", outcar):
        lacks.append("no ` NELM   =  60;` line")
    try:
        matlab, python = uspex.accepted(run.folder), uspex.python_converged(run.folder)
    except (IndexError, ValueError):
        matlab = python = False
    return Cell(matlab and python, ", ".join(lacks) if not (matlab and python) else "")


def enthalpy(lab: Lab, run: Run) -> Cell:
    value = f_value(run.folder)
    if value is None:
        return Cell(False, "no ` F= `")
    pstress = lab.case("relax-50").pstress
    atoms = contcar(run.folder)
    off = value - lab.reference.enthalpy(atoms, pstress / 10)
    pv = pstress / KBAR * atoms.get_volume()
    return Cell(
        abs(off) < 1e-3, "" if abs(off) < 1e-3 else ("E alone" if abs(off + pv) < 1e-3 else f"off by {off:.3f} eV")
    )


def energies(lab: Lab, run: Run) -> Cell:
    atoms = contcar(run.folder)
    energy = lab.reference.energy(atoms)
    found, line = toten(run), last(r"enthalpy is  TOTEN\s+=\s+(\S+) eV\s+P V=\s+(\S+)", run.text("OUTCAR"))
    lacks = [] if found is not None and abs(found - energy) < 1e-3 else [f"TOTEN {found} for E = {energy:.4f}"]
    pv = lab.case("relax-50").pstress / KBAR * atoms.get_volume()
    if not line:
        lacks.append("TOTEN is E, no enthalpy line" if not lacks else "no enthalpy line")
    elif abs(float(line[1]) - energy - pv) > 1e-3 or abs(float(line[2]) - pv) > 1e-3:
        lacks.append(f"enthalpy line says {line[1]}")
    return Cell(not lacks, "; ".join(lacks))


def stress(lab: Lab, run: Run) -> Cell:
    right, pstress = lab.reference.kbar(contcar(run.folder)), lab.case("short").pstress
    row = last(r"in kB((?:\s+-?\d+\.\d+){6})\s*$", run.text("OUTCAR"))
    lacks = ["no six numbers on `in kB`"] if row is None else []
    if row is not None:
        found = np.array(row[1].split(), dtype=float)
        minus = right - np.array([pstress] * 3 + [0.0] * 3)
        faults = {"PSTRESS subtracted": minus, "ASE's sign": -right, "ASE's order": right[[0, 1, 2, 4, 5, 3]]}
        if np.abs(found - right).max() > 1.0:
            named = [name for name, wrong in faults.items() if np.abs(found - wrong).max() < 1.0]
            lacks.append(f"`in kB`: {named[0] if named else 'wrong numbers'}")
    line = last(r"external pressure =\s+(\S+) kB\s+Pullay stress =\s+(\S+) kB", run.text("OUTCAR"))
    outside = right[:3].mean() - pstress
    if not line:
        lacks.append("no `external pressure` line")
    elif abs(float(line[1]) - outside) > 1.0 or float(line[2]) != pstress:
        lacks.append(f"external pressure {line[1]}, Pullay {line[2]} kB (VASP: {outside:.2f}, {pstress:.2f})")
    return Cell(not lacks, "; ".join(lacks))


def order(lab: Lab) -> Cell:
    if failed := finished(lab, "order"):
        return failed
    run, start = lab.runs["order"], lab.case("order").atoms
    names = start.get_chemical_symbols()
    shift = contcar(run.folder).get_scaled_positions() - start.get_scaled_positions()
    far = np.abs((shift - np.round(shift)) @ start.cell.array).max() if len(shift) == len(names) else np.inf
    lacks = [] if contcar(run.folder).get_chemical_symbols() == names and far < 0.5 else ["CONTCAR's rows differ"]
    blocks = re.findall(r"TOTAL-FORCE.*\n.*-+\n((?:(?:\s+-?\d+\.\d+){6}\n)+)", run.text("OUTCAR"))
    rows = np.array([line.split() for line in blocks[-1].splitlines()], dtype=float) if blocks else np.zeros((0, 6))
    apart = rows[:, :3] - contcar(run.folder).positions if len(rows) == len(names) else np.full((1, 3), np.inf)
    steps = np.linalg.solve(start.cell.array.T, apart.T) if np.isfinite(apart).all() else apart
    lacks += [] if np.abs(steps - np.round(steps)).max() < 1e-2 else ["OUTCAR's rows differ"]
    named = outcar_symbols(run.text("OUTCAR"))
    lacks += [f"OUTCAR names {' '.join(named)}"] if named and named != lab.case("order").symbols else []
    return Cell(not lacks, ", ".join(lacks) or ("" if named else "but OUTCAR names no elements"))


def ase_reads(lab: Lab, run: Run) -> Cell:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with (run.folder / "OUTCAR").open() as file:
                frames = list(iread_vasp_out(file, None))
            final = read_vasp_out(run.folder / "OUTCAR")
    except Exception as error:  # noqa: BLE001 (whatever a reader dies of is the answer)
        return Cell(False, _named(error))
    return _trajectory(lab, run, len(frames), final.get_chemical_symbols(), final.get_potential_energy())


def _trajectory(lab: Lab, run: Run, frames: int, symbols: list[str], energy: float) -> Cell:
    """Judge what a reader got out of a relaxation: as many frames as steps, the right atoms, the final E."""
    end = contcar(run.folder)
    lacks = [] if frames > 1 else ["one frame, no trajectory"]
    lacks += [] if symbols == end.get_chemical_symbols() else ["wrong elements"]
    off = abs(energy - lab.reference.energy(end))
    lacks += [] if off < 2e-3 else [f"E off by {off:.3f} eV"]
    return Cell(not lacks, ", ".join(lacks))


def _named(error: Exception) -> str:
    return _cut(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))


def pymatgen_reads(lab: Lab, run: Run) -> Cell:
    from pymatgen.io.vasp.outputs import Oszicar, Outcar, Vasprun

    readers: dict[str, Callable[[str], float]] = {
        "OUTCAR": lambda path: Outcar(path).final_energy or np.nan,
        "OSZICAR": lambda path: float(Oszicar(path).final_energy),
        "vasprun.xml": lambda path: float(
            Vasprun(path, parse_potcar_file=False, parse_dos=False, parse_eigen=False).final_energy
        ),
    }
    lacks = []
    for name, read in readers.items():
        if not (run.folder / name).is_file():
            lacks.append(f"no {name}")
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if not np.isfinite(read(str(run.folder / name))):
                    lacks.append(f"{name} without energy")
        except Exception as error:  # noqa: BLE001 (whatever a reader dies of is the answer)
            lacks.append(f"{name} {type(error).__name__}")
    return Cell(not lacks, ", ".join(lacks))


def dpdata_reads(lab: Lab, run: Run) -> Cell:
    import dpdata

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = dpdata.LabeledSystem(str(run.folder / "OUTCAR"), fmt="vasp/outcar").data
        frames, symbols = len(data["energies"]), [data["atom_names"][i] for i in data["atom_types"]]
        judged = _trajectory(lab, run, frames, symbols, float(data["energies"][-1]))
        volume = abs(np.linalg.det(data["cells"][-1]))
        pressure = np.trace(data["virials"][-1]) / 3 / volume * KBAR / 10
    except Exception as error:  # noqa: BLE001 (whatever a reader dies of is the answer)
        return Cell(False, _named(error))
    right = lab.reference.pressure(contcar(run.folder))
    return judged if abs(pressure - right) < 1 else Cell(False, f"virials say {pressure:.1f} for {right:.1f} GPa")
