"""Train a small PET for an epoch with metatrain itself: python make_upet.py OUT.ckpt."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import write

SIZES = {"d_pet": 16, "d_node": 16, "d_head": 16, "d_feedforward": 16, "num_heads": 2, "num_gnn_layers": 1}


def data(path: Path) -> None:
    rng = np.random.default_rng(7)
    for _ in range(6):
        cell = np.eye(3) * 4.4 + rng.normal(0, 0.1, (3, 3))
        scaled = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) + rng.normal(0, 0.02, (4, 3))
        atoms = Atoms("CaFeFeNi", scaled_positions=scaled, cell=cell, pbc=True)
        atoms.calc = LennardJones(sigma=2.2, epsilon=0.3, rc=4.5, smooth=True)
        found = {"energy": atoms.get_potential_energy(), "virial": -atoms.get_stress(voigt=False) * atoms.get_volume()}
        forces = atoms.get_forces()
        atoms.calc = None
        atoms.info.update(found)
        atoms.arrays["forces"] = forces
        write(path, atoms, append=True)


def settings() -> dict:
    return {
        "seed": 1,
        "architecture": {
            "name": "pet",
            "model": {"cutoff": 4.5, **SIZES},
            "training": {"num_epochs": 1, "batch_size": 2},
        },
        "training_set": {
            "systems": {"read_from": "data.xyz", "length_unit": "angstrom"},
            "targets": {"energy": {"key": "energy", "unit": "eV"}},
        },
        "validation_set": 0.34,
        "test_set": 0.0,
    }


def main() -> None:
    out = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        data(Path("data.xyz"))
        Path("options.yaml").write_text(json.dumps(settings()))  # JSON is YAML
        subprocess.run([sys.executable, "-m", "metatrain", "train", "options.yaml", "-o", "model.pt"], check=True)
        shutil.copy("model.ckpt", out)


if __name__ == "__main__":
    main()
