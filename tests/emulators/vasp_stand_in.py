"""Stands in for VASP in a folder of prepared labels: a single point or a relaxation with Lennard-Jones, as INCAR says.

$STAND_IN makes it fail: ``unconverged`` electrons with the first INCAR, ``killed`` in the middle of the relaxation,
``endless`` relaxations.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from emulators import vasp_label

from uspex_bridge.base.data import Frame, Intent, Structure, VaspRun
from uspex_bridge.base.units import gpa_to_ev_a3, kbar_to_gpa
from uspex_bridge.learn.label.tasks import read_task
from uspex_bridge.vasp.incar import parse_incar
from uspex_bridge.vasp.outcar import format_outcar
from uspex_bridge.vasp.vasprun import format_vasprun


def frame_of(atoms: Atoms) -> Frame:
    """Return an ionic step."""
    return Frame(
        atoms.cell.array.copy(),
        atoms.get_scaled_positions(),
        atoms.get_potential_energy(),
        atoms.get_forces(),
        atoms.get_stress(),
        magmoms=np.arange(1.0, len(atoms) + 1),
    )


def main() -> int:
    """Compute what the folder asks for."""
    kind = os.environ.get("STAND_IN", "")
    tags = parse_incar(Path("INCAR").read_text())
    inside = Path.cwd().name == "relax"
    task = read_task(Path.cwd().parent if inside else Path.cwd())
    atoms = ase.io.read("POSCAR", format="vasp")
    atoms.calc = LennardJones(sigma=2.1, epsilon=0.6, rc=5.0, smooth=True)
    pressure, steps = kbar_to_gpa(float(tags.get("PSTRESS", 0))), int(tags["NSW"])
    frames, converged = [frame_of(atoms)], True
    if steps:
        optimizer = BFGS(FrechetCellFilter(atoms, scalar_pressure=gpa_to_ev_a3(pressure)), logfile=None)
        most = {"killed": 4, "endless": 2}.get(kind, 12)
        frames = [frame_of(atoms) for _ in optimizer.irun(fmax=0.005, steps=most)]
        converged = bool(optimizer.converged(optimizer.optimizable.get_gradient())) and kind != "endless"
    ase.io.write("CONTCAR", atoms, format="vasp", direct=True)
    if kind == "killed" and steps:
        return 137
    first = Structure(task.symbols, frames[0].cell, frames[0].scaled, task.id)
    intent = Intent(
        nsw=steps, ibrion=2 if steps else -1, isif=3 if steps else 2, nelm=int(tags["NELM"]), pressure_gpa=pressure
    )
    run = VaspRun(first, tuple(frames), intent, converged, "lj")
    outcar, xml = (vasp_label._as_vasp(text, task) for text in (format_outcar(run), format_vasprun(run)))
    outcar = outcar.replace("layout, but not VASP: uspex_bridge", "stand-in")
    folder = Path.cwd().parent if inside else Path.cwd()
    given = vasp_label._incar(folder, "", len(task.symbols))
    xml = xml.replace(" <incar />\n", given).replace(" <kpoints>\n", vasp_label._grid(task, ""))
    if kind == "unconverged" and "AMIX" not in tags:
        outcar = outcar.replace("Iteration ", "EDIFF was not reached\n Iteration ", 1)
    Path("OUTCAR").write_text(outcar)
    Path("vasprun.xml").write_text(xml)
    return 0


if __name__ == "__main__":
    sys.exit(main())
