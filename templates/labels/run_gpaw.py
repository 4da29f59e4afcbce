"""Compute one label with GPAW. Run this script in the folder of a structure, with any Python with gpaw.

The input is structure.json. The output is gpaw.txt (log of GPAW) and label.json, written whole at the end.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from gpaw import GPAW, PW, KohnShamConvergenceError, __version__

task = json.loads(Path("structure.json").read_text())
inputs = task["inputs"]
atoms = Atoms(task["symbols"], cell=task["cell"], scaled_positions=task["scaled"], pbc=True)
atoms.set_initial_magnetic_moments(inputs["magmoms"])
atoms.calc = calculator = GPAW(
    mode=PW(inputs["encut"]),
    xc=inputs["functional"],
    kpts={"size": inputs["kpoints"], "gamma": True},
    occupations={"name": "fermi-dirac", "width": inputs["smearing"]},
    convergence={"energy": inputs["ediff"]},
    maxiter=inputs["maxiter"],
    spinpol=True,
    txt="gpaw.txt",
)
label = {"id": task["id"], "key": task["key"], "version": f"gpaw {__version__}"}
try:
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    label |= {
        "converged": True,
        "energy": energy,
        "free_energy": atoms.get_potential_energy(force_consistent=True),
        "forces": np.asarray(forces).tolist(),
        "stress": np.asarray(stress).tolist(),
        "magmoms": np.asarray(atoms.get_magnetic_moments()).tolist(),
        "magmom": float(atoms.get_magnetic_moment()),
        "potentials": {setup.symbol: f"GPAW {setup.fingerprint}" for setup in calculator.setups},
    }
except KohnShamConvergenceError:
    label |= {"converged": False, "reason": f"not converged after {inputs['maxiter']} electronic iterations"}
label["core_hours"] = round(time.process_time() / 3600, 4)
Path(".label.json.part").write_text(json.dumps(label))
os.replace(".label.json.part", "label.json")
