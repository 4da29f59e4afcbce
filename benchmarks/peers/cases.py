"""The folders that every tool is given: POSCAR, INCAR, POTCAR and KPOINTS as USPEX writes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms

OUTPUTS = ("OSZICAR", "OUTCAR", "CONTCAR", "XDATCAR", "vasprun.xml")
_INCAR = """PREC = Accurate
EDIFF = 1e-5
ENCUT = 550
IBRION = 2
ISIF = {isif}
NSW = {nsw}
EDIFFG = -{fmax}
ISMEAR = 1
SIGMA = 0.10
NELM = 60
PSTRESS={pstress}
"""
# What USPEX 9.4 makes of an INCAR_n in the manual's own style.
_JOINED = """PREC = Accurate ; EDIFF = 1e-5 ; ENCUT = 550
IBRION = 2 ; NSW = {nsw} ; EDIFFG = -{fmax}
ISMEAR = 1 ; SIGMA = 0.10 ; NELM = 60
ISIF = {isif} ; PSTRESS = {pstress}
"""
_FORTRAN = """EDIFF = 1.0D-05
IBRION = 2
ISIF = {isif}
NSW = {nsw}
EDIFFG = -{fmax:.1f}D+00
NELM = 60
PSTRESS = {kilo:.2f}D+03
"""


@dataclass(frozen=True)
class Case:
    """One folder, and what its INCAR asks for.

    Attributes:
        poscar: "vasp5", "vasp4" (USPEX's MATLAB line: no element line), or a whole text.
        fmax: eV/Å.
        pstress: kB.
        limit: seconds of CPU time after which the run is given up.
        stale: whether results of an earlier structure lie in the folder.
        bad_model: whether the tool is told to use a model file that does not exist.
        staged: whether one call is to run a stage with MACE and then one with CHGNet (only where the tool can).
        bare: whether the tool gets nothing but USPEX's four files and no arguments.
    """

    name: str
    atoms: Atoms
    poscar: str = "vasp5"
    incar: str = _INCAR
    isif: int = 3
    nsw: int = 120
    fmax: float = 0.02
    pstress: float = 500.0
    stale: bool = False
    bad_model: bool = False
    bare: bool = False
    staged: bool = False
    limit: float = 60.0

    @property
    def symbols(self) -> list[str]:
        """The species in POSCAR's order."""
        return list(dict.fromkeys(self.atoms.get_chemical_symbols()))

    def write(self, folder: Path, stale: Path | None) -> None:
        """Write the folder; ``stale`` is a folder with the results of an earlier structure."""
        folder.mkdir(parents=True)
        settings = vars(self) | {"kilo": self.pstress / 1000}
        (folder / "INCAR").write_text(self.incar.format(**settings))
        (folder / "POSCAR").write_text(self.poscar_text())
        (folder / "POTCAR").write_text("".join(map(_potcar, self.symbols)))
        (folder / "KPOINTS").write_text("EA\n0\nGamma\n   4    4    4\n")
        if self.stale and stale is not None:
            for name in OUTPUTS:
                if (stale / name).is_file():
                    (folder / name).write_bytes((stale / name).read_bytes())

    def poscar_text(self) -> str:
        """Return POSCAR's text."""
        if self.poscar not in ("vasp4", "vasp5"):
            return self.poscar
        names = self.atoms.get_chemical_symbols()
        lines = ["EA0    4.500  4.500  3.600 90.00 90.00 120.00 Sym.group:    1", "1.0000"]
        lines += ["".join(f"{x:12.6f}" for x in row) for row in self.atoms.cell]
        lines += ["".join(f"{s:>5}" for s in self.symbols)] if self.poscar == "vasp5" else []
        lines += ["".join(f"{names.count(s):5d}" for s in self.symbols), "Direct"]
        lines += ["".join(f"{x:12.6f}" for x in row) for row in self.atoms.get_scaled_positions(wrap=False)]
        return "\n".join(lines) + "\n"


def _potcar(symbol: str) -> str:
    return f"  PAW_PBE {symbol} stub\n   VRHFIN ={symbol}: stub\n   TITEL  = PAW_PBE {symbol} stub\n End of Dataset\n"


def cell(scale: float, strain: float = 0.03, order: str = "CaFeNi", symbols: str = "CaFeNi4") -> Atoms:
    """Return a distorted cell of CaCu5 type (CaFeNi4), scaled; ``order`` is that of the species."""
    a, c = 4.75 * scale, 3.85 * scale
    sites = [(0, 0, 0), (1 / 3, 2 / 3, 0), (2 / 3, 1 / 3, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5)]
    lattice = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
    atoms = Atoms(symbols, scaled_positions=sites, cell=lattice, pbc=True)
    rng = np.random.default_rng(1)
    atoms.set_cell(lattice @ (np.eye(3) + rng.uniform(-strain, strain, (3, 3))), scale_atoms=True)
    atoms.positions += rng.uniform(-0.05, 0.05, (6, 3))
    where = {"Ca": order.index("Ca"), "Fe": order.index("Fe"), "Ni": order.index("Ni")}
    return atoms if symbols != "CaFeNi4" else atoms[sorted(range(6), key=lambda i: where[atoms[i].symbol])]


def _moved(atoms: Atoms, index: int, position: np.ndarray) -> Atoms:
    atoms = atoms.copy()
    atoms.positions[index] = position
    return atoms


def _stretched(atoms: Atoms, factors: tuple[float, float, float]) -> Atoms:
    atoms = atoms.copy()
    atoms.set_cell(np.array(factors)[:, None] * atoms.cell.array, scale_atoms=True)
    return atoms


def all_cases() -> dict[str, Case]:
    """Return every case by name, in the order in which they run."""
    free, dense = cell(1.0), cell(0.94)
    sound = Case("", dense, poscar="vasp5")
    text = sound.poscar_text()
    close = _moved(dense, 4, dense.positions[3] + [0.3, 0.0, 0.0])
    cases = [
        Case("relax-0", free, pstress=0),
        Case("relax-50", dense),
        Case("static", dense, nsw=0),
        Case("bare", dense, nsw=0, bare=True),
        Case("vasp4", dense, nsw=0, poscar="vasp4"),
        Case("joined", free, incar=_JOINED, fmax=0.1),
        Case("fortran", free, incar=_FORTRAN, fmax=0.1),
        Case("order", cell(0.94, order="NiFeCa"), nsw=3, isif=2),
        Case("isif4", cell(0.94, strain=0.08), isif=4),
        Case("short", dense, nsw=2),
        Case("garbled", dense, poscar=_broken(text, "abc"), stale=True, limit=20),
        Case("empty", dense, poscar="", stale=True, limit=20),
        Case("nan", dense, poscar=_broken(text, "nan"), stale=True, limit=20),
        Case("unknown", cell(0.94, symbols="CaOgNi4"), stale=True),
        Case("no-model", dense, stale=True, bad_model=True),
        Case("overlap", close, stale=True),
        Case("flat", _stretched(dense, (1, 1, 0.08)), nsw=60, stale=True, limit=30),
        Case("inflated", _stretched(dense, (20, 20, 20)), nsw=60, stale=True, limit=30),
    ]
    return {case.name: case for case in cases}


def staged() -> Case:
    """Return the case that goes through two models."""
    return Case("staged", cell(0.94, strain=0.06), staged=True)


def killed(number: int) -> Case:
    """Return the ``number``-th copy of relax-50 that is to be killed on the way."""
    return replace(all_cases()["relax-50"], name=f"kill-{number}", stale=True)


def _broken(poscar: str, word: str) -> str:
    lines = poscar.splitlines()
    first, _, last = lines[-3].split()
    return "\n".join([*lines[:-3], f"{first} {word} {last}", *lines[-2:]]) + "\n"
