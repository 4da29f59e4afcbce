"""Read the files in a CalcFold as their consumers do, and print what each of them sees."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from ase.io import read
from ase.io.vasp import read_vasp_out
from pymatgen.io.vasp.outputs import Oszicar, Outcar, Vasprun


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    pressure = 50.0
    atoms = read_vasp_out(folder / "OUTCAR")
    energy = atoms.get_potential_energy()
    enthalpy = energy + pressure * atoms.get_volume() / 160.21766208
    line = [text for text in (folder / "OSZICAR").read_text().splitlines() if " F= " in text][-1]
    vasprun = Vasprun(folder / "vasprun.xml", parse_potcar_file=False, parse_dos=False, parse_eigen=False)
    inside = -np.mean(atoms.get_stress()[:3]) * 160.21766208
    rows = [
        ("E, OUTCAR by ASE (USPEX, Python line)", energy, "eV"),
        ("E + PV from it", enthalpy, "eV"),
        ("E + PV, OSZICAR's 4th column (USPEX, MATLAB line)", float(line.split()[2]), "eV"),
        ("E + PV, OSZICAR by pymatgen", float(Oszicar(folder / "OSZICAR").final_energy), "eV"),
        ("E + PV, vasprun.xml by pymatgen", float(vasprun.final_energy), "eV"),
        ("E, OUTCAR by pymatgen", float(Outcar(folder / "OUTCAR").final_energy), "eV"),
        ("pressure in the relaxed cell", inside, "GPa"),
        ("volume, CONTCAR by ASE", read(folder / "CONTCAR").get_volume(), "Å³"),
    ]
    for what, value, unit in rows:
        print(f"  {what:<52}{value:14.6f} {unit}")
    print(
        "files:", *(f"{p.name} ({p.stat().st_size} B)" for p in sorted(folder.iterdir()) if not p.name.startswith("."))
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
