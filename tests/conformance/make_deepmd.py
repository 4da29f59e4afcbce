"""Train a se_a and a DPA-3 model for a few steps with DeePMD-kit itself and freeze them: python make_deepmd.py FOLDER.

Labels come from the toy potential. Leaves se_a.pth, dpa3.pth and the checkpoint dpa3.pt.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from ase import Atoms

from uspex_bridge.calculators import toy
from uspex_bridge.calculators.deepmd import import_backend
from uspex_bridge.models.cards import BuildRequest

ELEMENTS = ["Ca", "Fe", "Ni"]
SE_A = {
    "type": "se_e2_a",
    "rcut": 4.5,
    "rcut_smth": 3.0,
    "sel": [80, 80, 80],
    "neuron": [4, 8],
    "axis_neuron": 4,
    "precision": "float64",
}
DPA3 = {
    "type": "dpa3",
    "repflow": {
        "n_dim": 8,
        "e_dim": 6,
        "a_dim": 4,
        "nlayers": 2,
        "e_rcut": 4.5,
        "e_rcut_smth": 3.0,
        "e_sel": 150,
        "a_rcut": 3.2,
        "a_rcut_smth": 2.5,
        "a_sel": 60,
        "axis_neuron": 2,
        "update_angle": True,
        "smooth_edge_update": True,
    },
    "activation_function": "silut:10.0",
    "precision": "float64",
}


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(7)
    calculator = toy.build(BuildRequest(None, None, "cpu", "float64"))
    frames: dict[str, list[np.ndarray]] = {"coord": [], "box": [], "energy": [], "force": [], "virial": []}
    for _ in range(6):
        cell = np.eye(3) * 4.4 + rng.normal(0, 0.1, (3, 3))
        scaled = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) + rng.normal(0, 0.02, (4, 3))
        atoms = Atoms("CaFeFeNi", scaled_positions=scaled, cell=cell, pbc=True)
        calculator.calculate(atoms)
        stress = calculator.results["stress"][[0, 5, 4, 5, 1, 3, 4, 3, 2]]
        frames["coord"].append(atoms.positions.ravel())
        frames["box"].append(cell.ravel())
        frames["energy"].append(np.array([calculator.results["energy"]]))
        frames["force"].append(calculator.results["forces"].ravel())
        frames["virial"].append(-stress * atoms.get_volume())
    (folder / "set.000").mkdir(parents=True)
    (folder / "type.raw").write_text("0 1 1 2\n")
    (folder / "type_map.raw").write_text("\n".join(ELEMENTS) + "\n")
    for name, values in frames.items():
        np.save(folder / "set.000" / f"{name}.npy", np.array(values))


def settings(descriptor: dict, steps: int) -> dict:
    return {
        "model": {
            "type_map": ELEMENTS,
            "descriptor": descriptor,
            "fitting_net": {"neuron": [8, 8], "precision": "float64", "seed": 1},
        },
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-5, "decay_steps": 5},
        "loss": {
            "type": "ener",
            **{
                f"{edge}_pref_{term}": weight
                for edge in ("start", "limit")
                for term, weight in zip("efv", (1, 1, 0.1), strict=True)
            },
        },
        "training": {
            "training_data": {"systems": ["data"], "batch_size": 2},
            "numb_steps": steps,
            "disp_freq": steps,
            "save_freq": steps,
            "seed": 1,
        },
    }


def main() -> None:
    os.chdir(sys.argv[1])
    write_data(Path("data"))
    import_backend()
    from deepmd.main import main as dp
    from deepmd.pt.utils import env

    for name, descriptor in (("se_a", SE_A), ("dpa3", DPA3)):
        Path(f"{name}.json").write_text(json.dumps(settings(descriptor, 3)))
        dp(["--pt", "train", f"{name}.json", "--skip-neighbor-stat"])
        shutil.copy("model.ckpt-3.pt", f"{name}.pt")
        env.CUSTOM_OP_USE_JIT = False  # training leaves it set, a frozen model cannot hold it
        dp(["--pt", "freeze", "-c", f"{name}.pt", "-o", f"{name}.pth"])
        for left in Path().glob("model.ckpt*"):
            left.unlink()


if __name__ == "__main__":
    main()
