"""Output that VASP left, as labels: every ionic step that can be believed, and why the others cannot.

vasprun.xml is read with pymatgen, OUTCAR alone with ASE, both also compressed. Where both files are there they are held
against each other: under PSTRESS the energy of vasprun.xml's steps is E + PV, and a label is E. Forces and stress
belong to the free energy F; E0 (sigma -> 0) is what hulls rank by.
"""

from __future__ import annotations

import gzip
import mmap
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.units import kbar_to_gpa, pressure_of, pv_energy, stress_from_vasp

#: VASP prints energies with so many decimals that they agree to this, eV.
ENERGY = 1e-4
#: OUTCAR prints the pressure in kB with two decimals.
_PRESSURE_KBAR = 0.05
#: What the last page of OUTCAR begins with.
_END = b"General timing"
_NAMES = ("OUTCAR", "vasprun.xml")
#: GGA tag -> functional.
_FUNCTIONALS = {"PE": "PBE", "PS": "PBEsol", "91": "PW91", "RP": "revPBE", "RE": "revPBE", "AM": "AM05", "CA": "LDA"}
_OURS = "but not VASP: uspex_bridge"


def ended(folder: Path) -> bool:
    """Tell whether VASP came to its end in a folder: builds with a profile print long tables after the last page."""
    path = folder / "OUTCAR"
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.rfind(_END) >= 0
    except (OSError, ValueError):  # none, or an empty one
        return False


def vasprun_of(path: Path) -> Any:
    """Read vasprun.xml with pymatgen, every ionic step.

    Raises:
        InputError: it cannot be read.
    """
    from pymatgen.io.vasp.outputs import Vasprun

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False, ionic_step_skip=None)
        except SyntaxError as error:  # of lxml and of xml
            raise InputError(f"{path.name} is incomplete or damaged ({error})") from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, EOFError) as error:
            raise InputError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from None


def titles_of(run: Any) -> dict[str, str]:
    """Return element -> POTCAR's title, both as VASP found them, of pymatgen's Vasprun."""
    elements = list(dict.fromkeys(str(symbol) for symbol in run.atomic_symbols))
    return {element: " ".join(title.split()) for element, title in zip(elements, run.potcar_symbols, strict=False)}


def array_of(step: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    """Return a block of numbers of an ionic step.

    Raises:
        InputError: it is missing, has another shape, or is not finite.
    """
    if step.get(name) is None:
        raise InputError(f"no {name} in vasprun.xml")
    values = np.array(step[name], dtype=float)
    if values.shape != shape:
        raise InputError(f"{name} in vasprun.xml have shape {values.shape} instead of {shape}")
    if not np.all(np.isfinite(values)):
        raise InputError(f"{name} in vasprun.xml are not finite")
    return values


def stress_of(step: Mapping[str, Any]) -> Array:
    """Return the stress (6,) of an ionic step in eV/Å³ with ASE's sign and order.

    Raises:
        InputError: there is none.
    """
    kbar = array_of(step, "stress", (3, 3))
    return stress_from_vasp(kbar[[0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]])


def check_energies(step: Mapping[str, Any], printed: float) -> float:
    """Hold the energies of an ionic step of vasprun.xml against F of OUTCAR, eV.

    Returns:
        F.

    Raises:
        InputError: one of them is E + PV, or the files are of two runs.
    """
    free, own = float(step["electronic_steps"][-1]["e_fr_energy"]), float(step["e_fr_energy"])
    if not np.all(np.isfinite([free, printed])):
        raise InputError("no finite energy in OUTCAR")
    if abs(free - printed) > ENERGY:
        raise InputError(f"vasprun.xml has F = {free:.5f} eV, OUTCAR {printed:.5f} eV: files of two runs")
    if abs(own - printed) > ENERGY:
        raise InputError(
            f"energy of vasprun.xml is {own - printed:+.4f} eV off OUTCAR's: E + PV under PSTRESS, or files of two runs"
        )
    return printed


def check_pressure(stress: Array, printed_kbar: float) -> None:
    """Hold a stress against the cell's own pressure of OUTCAR, kB: same sign, same size, nothing subtracted.

    Raises:
        InputError: they are not of the same cell.
    """
    own = pressure_of(stress)
    if abs(kbar_to_gpa(printed_kbar) - own) > kbar_to_gpa(_PRESSURE_KBAR):
        raise InputError(
            f"the stress in vasprun.xml means {own:.2f} GPa, OUTCAR says {kbar_to_gpa(printed_kbar):.2f}: wrong "
            "sign, or files of two runs"
        )


@dataclass(frozen=True)
class Page:
    """What OUTCAR says of one ionic step: F and E0 in eV, the cell's own pressure in kB, electronic steps."""

    free: float
    e0: float
    pressure_kbar: float | None
    electronic: int
    aborted: bool


@dataclass(frozen=True, eq=False)
class Outcar:
    """What labels need of an OUTCAR besides geometries.

    Attributes:
        pages: one per ionic step.
        text: all of it.
    """

    pages: tuple[Page, ...]
    text: str

    @property
    def ended(self) -> bool:
        """Whether VASP came to its end."""
        return _END.decode() in self.text

    def tag(self, name: str) -> str:
        """Return a tag's value as VASP prints it back, empty where it does not."""
        found = re.search(rf"^\s*{name}\s*=\s*(\S+)", self.text, re.MULTILINE)
        return found[1] if found else ""

    @property
    def titles(self) -> dict[str, str]:
        """Element -> POTCAR's title."""
        found = [" ".join(title.split()) for title in re.findall(r"TITEL\s*=\s*(.+)", self.text)]
        return {re.split(r"[_\s.]", title.split()[1])[0]: title for title in found if len(title.split()) > 1}

    @property
    def version(self) -> str:
        """VASP's version."""
        found = re.search(r"^\s*vasp\.(\S+)", self.text)
        return found[1] if found else "of unknown version"


def outcar_of(path: Path) -> Outcar:
    """Read what OUTCAR says of each ionic step.

    Raises:
        InputError: it cannot be read, or a model wrote it.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace")
    except (OSError, EOFError) as error:
        raise InputError(f"{path.name} cannot be read: {error}") from None
    if _OURS in text[:2000]:
        raise InputError(f"{path.name} was written by uspex_bridge: values of a model, not of DFT")
    pages = []
    for part in re.split(r"Iteration +\d+\( +1\)", text)[1:]:
        free = re.findall(r"free  energy   TOTEN  = +(\S+)", part)
        e0 = re.findall(r"energy  without entropy *= *\S+ +energy\(sigma->0\) = +(\S+)", part)
        pressure = re.findall(r"external pressure = +(\S+) kB +Pullay stress = +(\S+)", part)
        if free and e0:
            numbers = [_number(word) for word in (free[-1], e0[-1], *(pressure[-1] if pressure else ()))]
            own = numbers[2] + numbers[3] if pressure else None
            steps = 1 + len(re.findall(r"Iteration +\d+\( *\d+\)", part))
            pages.append(Page(numbers[0], numbers[1], own, steps, "EDIFF was not reached" in part))
    return Outcar(tuple(pages), text)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:  # asterisks
        return float("nan")


@dataclass(frozen=True, eq=False)
class VaspRunFiles:
    """A run of VASP: one or both of its files.

    Attributes:
        folder: that they lie in.
        files: name without ``.gz`` -> path.
    """

    folder: Path
    files: Mapping[str, Path]

    @cached_property
    def vasprun(self) -> Any:
        """Pymatgen's Vasprun, None without the file."""
        return vasprun_of(self.files["vasprun.xml"]) if "vasprun.xml" in self.files else None

    @cached_property
    def outcar(self) -> Outcar | None:
        """What OUTCAR says, None without the file."""
        return outcar_of(self.files["OUTCAR"]) if "OUTCAR" in self.files else None

    @cached_property
    def images(self) -> list[Atoms]:
        """Geometries of OUTCAR with forces and stresses."""
        return _images(self.files["OUTCAR"])

    @property
    def facts(self) -> dict[str, Any]:
        """What VASP was given, for a label's provenance."""
        if self.vasprun is not None:
            run = self.vasprun
            return {
                "version": f"vasp {run.vasp_version}",
                "potentials": titles_of(run),
                "encut": float(run.parameters.get("ENMAX") or run.incar.get("ENCUT") or 0.0),
                "functional": functional_of({**run.parameters, **run.incar}, titles_of(run)),
            }
        assert self.outcar is not None
        tags = {name: self.outcar.tag(name) for name in ("GGA", "METAGGA", "LHFCALC", "LDAU", "IVDW")}
        return {
            "version": f"vasp {self.outcar.version}",
            "potentials": self.outcar.titles,
            "encut": float(self.outcar.tag("ENCUT") or 0.0),
            "functional": functional_of(tags, self.outcar.titles),
        }

    @property
    def pstress_gpa(self) -> float:
        """The pressure that was asked for, GPa."""
        if self.vasprun is not None:
            return kbar_to_gpa(float(self.vasprun.parameters.get("PSTRESS") or self.vasprun.incar.get("PSTRESS") or 0))
        assert self.outcar is not None
        return kbar_to_gpa(float(self.outcar.tag("PSTRESS") or 0.0))


def functional_of(tags: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Name the functional that tags and POTCARs mean: ``PBE``, ``PBE+U``, ``R2SCAN``, ``HSE06``, ``PBE+IVDW12``."""

    def said(name: str) -> str:
        word = str(tags.get(name) or "").strip(" .").upper()
        return "" if word in ("NONE", "--", "F", "FALSE", "0") else word

    if said("METAGGA"):
        name = said("METAGGA")
    elif said("LHFCALC"):
        name = "hybrid"
    elif said("GGA"):
        name = _FUNCTIONALS.get(said("GGA"), said("GGA"))
    else:
        name = "PBE" if all(title.startswith("PAW_PBE") for title in titles.values()) else "LDA"
    return name + ("+U" if said("LDAU") else "") + (f"+IVDW{said('IVDW')}" if said("IVDW") else "")


def runs_below(place: Path) -> Iterator[VaspRunFiles]:
    """Yield the runs in a folder and all folders below it; a single file is a run without the other one."""
    if place.is_file():
        yield VaspRunFiles(place.parent, {_plain(place): place})
        return
    found: dict[Path, dict[str, Path]] = {}
    for path in sorted(place.rglob("*")):
        if _plain(path) in _NAMES and path.is_file():
            found.setdefault(path.parent, {}).setdefault(_plain(path), path)
    for folder, files in found.items():
        yield VaspRunFiles(folder, files)


def is_output(path: Path) -> bool:
    """Tell by its name whether a file is one that VASP leaves."""
    return _plain(path) in _NAMES


def _plain(path: Path) -> str:
    return path.name.removesuffix(".gz")


@dataclass(frozen=True)
class Step:
    """An ionic step: a label, or why it is none.

    Attributes:
        number: from 1.
        atoms: with energy (E0), free_energy (F), forces, stress and moments; None where it cannot be believed.
    """

    number: int
    atoms: Atoms | None
    problem: str = ""


def steps_of(run: VaspRunFiles, every: int = 0) -> list[Step]:
    """Return ionic steps of a run as labels.

    Args:
        run: its files.
        every: 0 for the last one only, else each n-th, counted back from the last.

    Raises:
        InputError: nothing of the run can be read.
    """
    if run.outcar is not None and not run.outcar.ended:
        raise InputError("OUTCAR is incomplete; the run was stopped")
    total = len(run.vasprun.ionic_steps) if run.vasprun is not None else len(run.images)
    if not total:
        raise InputError("no ionic step is complete")
    numbers = [total - 1] if every == 0 else sorted(range(total - 1, -1, -every))
    made = _from_vasprun(run, numbers) if run.vasprun is not None else _from_outcar(run, numbers)
    return list(made)


def _from_vasprun(run: VaspRunFiles, numbers: Sequence[int]) -> Iterator[Step]:
    vasprun, pages = run.vasprun, run.outcar.pages if run.outcar is not None else ()
    steps = vasprun.ionic_steps
    if run.outcar is not None and len(pages) != len(steps):
        raise InputError(f"{len(steps)} ionic steps in vasprun.xml, {len(pages)} in OUTCAR: files of two runs")
    nelm = int(vasprun.parameters.get("NELM", 60))
    moments = _moments(run)
    for k in numbers:
        try:
            atoms = _atoms(steps[k], pages[k] if pages else None, nelm, run.pstress_gpa)
        except InputError as error:
            yield Step(k + 1, None, str(error))
            continue
        if k == len(steps) - 1:
            atoms.calc.results |= {
                name: value for name, value in moments.items() if np.shape(value) in ((), (len(atoms),))
            }
        yield Step(k + 1, atoms)


def _atoms(step: dict[str, Any], page: Page | None, nelm: int, pstress_gpa: float) -> Atoms:
    structure = step["structure"]
    symbols = [site.specie.symbol for site in structure]
    electronic = step["electronic_steps"]
    if not electronic or len(electronic) >= nelm or (page is not None and page.aborted):
        raise InputError(f"electronic convergence not reached in NELM = {nelm} steps")
    forces, stress = array_of(step, "forces", (len(symbols), 3)), stress_of(step)
    free, own = float(electronic[-1]["e_fr_energy"]), float(step["e_fr_energy"])
    e0 = float(electronic[-1]["e_0_energy"])
    pv = pv_energy(pstress_gpa, structure.volume)
    if min(abs(own - free), abs(own - free - pv)) > 10 * ENERGY:
        raise InputError(f"its energies differ by {own - free:+.4f} eV, which is not PV: {pv:.4f} eV")
    if page is not None:
        check_energies({**step, "e_fr_energy": free}, page.free)
        e0 = page.e0
        if page.pressure_kbar is not None:
            check_pressure(stress, page.pressure_kbar)
    atoms = Atoms(symbols, scaled_positions=structure.frac_coords, cell=structure.lattice.matrix, pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=e0, free_energy=free, forces=forces, stress=stress)
    return atoms


def _from_outcar(run: VaspRunFiles, numbers: Sequence[int]) -> Iterator[Step]:
    assert run.outcar is not None
    images, pages = run.images, run.outcar.pages
    nelm = int(run.outcar.tag("NELM").rstrip(";") or 60)
    for k in numbers:
        atoms, page = images[k], pages[k] if len(pages) == len(images) else None
        if page is None:
            yield Step(k + 1, None, f"{len(pages)} energies for {len(images)} geometries in OUTCAR")
        elif page.aborted or page.electronic >= nelm:
            yield Step(k + 1, None, f"electronic convergence not reached in NELM = {nelm} steps")
        else:
            atoms.calc.results |= {"energy": page.e0, "free_energy": page.free}
            atoms.set_constraint()
            yield Step(k + 1, atoms)


def _images(path: Path) -> list[Atoms]:
    """Read the geometries of an OUTCAR with forces and stress, by ASE."""
    import ase.io

    try:
        return list(ase.io.read(path, index=":", format="vasp-out"))
    except Exception as error:
        raise InputError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error


def _moments(run: VaspRunFiles) -> dict[str, Any]:
    """Return the magnetic moments of the last step, where OUTCAR prints them."""
    if run.outcar is None:
        return {}
    found: dict[str, Any] = {}
    if total := re.findall(r"number of electron +\S+ magnetization +(-?\d\S*)", run.outcar.text):
        found["magmom"] = _number(total[-1])
    tables = re.findall(r"magnetization \(x\)\s+# of ion.*?\n-+\n(.*?)\n-+\n", run.outcar.text, re.DOTALL)
    if tables:
        found["magmoms"] = np.array([_number(line.split()[-1]) for line in tables[-1].splitlines() if line.split()])
    return found
