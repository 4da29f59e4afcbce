"""Train a small NequIP or Allegro for an epoch with nequip itself and compile it: python make_nequip.py OUT.nequip.pth.

OUT ends in .nequip.pth (TorchScript), .nequip.pt2 (AOTInductor) or .nequip.zip (a package). A second argument
``allegro`` trains an Allegro.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import write

ELEMENTS = ["Ca", "Fe", "Ni"]
NETWORK = {
    "nequip": {
        "_target_": "nequip.model.NequIPGNNModel",
        "l_max": 1,
        "num_layers": 2,
        "num_features": 8,
        "parity": False,
    },
    "allegro": {
        "_target_": "allegro.model.AllegroModel",
        "l_max": 1,
        "num_layers": 1,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 4},
    },
}


def data(path: Path) -> None:
    rng = np.random.default_rng(7)
    for _ in range(6):
        cell = np.eye(3) * 4.4 + rng.normal(0, 0.1, (3, 3))
        scaled = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) + rng.normal(0, 0.02, (4, 3))
        atoms = Atoms("CaFeFeNi", scaled_positions=scaled, cell=cell, pbc=True)
        atoms.calc = LennardJones(sigma=2.2, epsilon=0.3, rc=4.5, smooth=True)
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        write(path, atoms, append=True)


def settings(kind: str) -> dict:
    transforms = [
        {
            "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
            "model_type_names": ELEMENTS,
            "chemical_species_to_atom_type_map": {e: e for e in ELEMENTS},
        },
        {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 4.5},
    ]
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 2}
    coefficients = {"total_energy": 1.0, "forces": 1.0, "stress": 1.0}
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": "data.xyz", "train": 4, "val": 2},
            "transforms": transforms,
            "train_dataloader": loader,
            "val_dataloader": loader,
            "stats_manager": {"_target_": "nequip.data.CommonDataStatisticsManager", "type_names": ELEMENTS},
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": ".", "filename": "last"}
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "loss": {"_target_": "nequip.train.EnergyForceStressLoss", "per_atom_energy": True, "coeffs": coefficients},
            "val_metrics": {
                "_target_": "nequip.train.EnergyForceStressMetrics",
                "coeffs": {f"{name}_mae": 1.0 for name in coefficients},
            },
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "model": {
                **NETWORK[kind],
                "seed": 1,
                "model_dtype": "float64",
                "type_names": ELEMENTS,
                "r_max": 4.5,
                "avg_num_neighbors": 20.0,
                "per_type_energy_shifts": {"Ca": -1.9, "Fe": -8.3, "Ni": -5.6},
                "per_type_energy_scales": 1.0,
            },
        },
    }


def main() -> None:
    out, kind = Path(sys.argv[1]).absolute(), (sys.argv[2:] or ["nequip"])[0]
    bin = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        data(Path("data.xyz"))
        Path("run.yaml").write_text(json.dumps(settings(kind)))  # JSON is YAML
        run = [sys.executable, "-W", "ignore"]
        subprocess.run([*run, bin / "nequip-train", "-cp", folder, "-cn", "run.yaml", "hydra.run.dir=."], check=True)
        if out.suffix == ".zip":
            subprocess.run([*run, bin / "nequip-package", "build", "last.ckpt", out], check=True)
            return
        mode = ["torchscript"] if out.suffix == ".pth" else ["aotinductor", "--target", "ase"]
        subprocess.run([*run, bin / "nequip-compile", "last.ckpt", out, "--device", "cpu", "--mode", *mode], check=True)


if __name__ == "__main__":
    main()
