"""CHGNet's trainer in its own interpreter: data, energies of the atoms, and checkpoints that appear whole.

The package has no command line. It converts structures to graphs, trains and evaluates; what is added here is what its
``Trainer`` leaves out: a first fit of the atoms' energies to other DFT settings, and a choice of the best epoch by all
errors instead of the energy's alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base.units import ev_a3_to_gpa, gpa_to_kbar, pressure_of
from uspex_bridge.learn.data.suspects import fit

#: The files that are left: errors per epoch, the last and the best epoch, how far the atoms' energies were moved (eV).
CURVE, LAST, BEST, SHIFTS = "curve.jsonl", "last.pth.tar", "best.pth.tar", "shifts.json"
#: Structures below this pressure give the atoms' energies, where they have all elements, GPa.
_CALM = 30.0


def train(resume: str | None) -> None:
    """Train as ``input.json`` in the working folder says, from a checkpoint with ``resume``."""
    import torch
    from chgnet.model.model import CHGNet
    from chgnet.trainer.trainer import Trainer

    settings = json.loads(Path("input.json").read_text())

    class Kept(Trainer):
        """Keeps the last and the best epoch, each file whole or not there, and the curve as lines."""

        def save_checkpoint(self, epoch: int, mae_error: dict[str, float], save_dir: str) -> None:
            history = self.training_history
            line = {
                "epoch": epoch + 1,
                "rate": self.optimizer.param_groups[0]["lr"],
                "train": {key: history[key]["train"][-1] for key in "efs"},
                "valid": {key: history[key]["val"][-1] for key in "efs"},
            }
            with Path(CURVE).open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            scores = [sum(history[key]["val"][k] / history[key]["val"][0] for key in "efs") for k in range(epoch + 1)]
            if scores[-1] == min(scores):
                self.save("part")
                os.replace("part", BEST)
            # Last of all: a training that was killed before this repeats the epoch, its line too.
            self.save("part")
            os.replace("part", LAST)

    if resume is None:
        stored = torch.load(settings["model"], map_location="cpu", weights_only=False)["model"]
        # 0.2.0 has biases that its own settings do not tell of.
        biased = "atom_conv_layers.0.mlp_out.layers.1.bias" in stored["state_dict"]
        model = CHGNet.from_dict(stored, **({} if "mlp_out_bias" in stored["model_args"] else {"mlp_out_bias": biased}))
        trainer = Kept(model, **settings["trainer"])
    else:
        state = torch.load(resume, map_location="cpu", weights_only=False)
        model = CHGNet.from_dict(state["model"])
        trainer = Kept(model, **settings["trainer"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scheduler.load_state_dict(state["scheduler"])
        trainer.training_history = state["training_history"]
        trainer.starting_epoch = len(trainer.training_history["e"]["train"])
    loaders = [_loader(name, model, settings) for name in ("train", "valid")]
    if resume is None and settings.get("refit_atoms", True):
        _refit(model, settings)
    trainer.train(*loaders, save_dir=".", train_composition_model=settings.get("train_atoms", True))


def _frames(name: str) -> list[Any]:
    import ase.io

    return list(ase.io.iread(f"data/{name}.xyz", index=":", format="extxyz"))


def _loader(name: str, model: Any, settings: dict[str, Any]) -> Any:
    from chgnet.data.dataset import StructureData, collate_graphs
    from pymatgen.io.ase import AseAtomsAdaptor
    from torch.utils.data import DataLoader

    frames = _frames(name)
    data = StructureData(
        [AseAtomsAdaptor.get_structure(atoms) for atoms in frames],
        [atoms.get_potential_energy() / len(atoms) for atoms in frames],
        [atoms.get_forces() for atoms in frames],
        # CHGNet wants VASP's kB and turns the sign itself.
        stresses=[-gpa_to_kbar(ev_a3_to_gpa(1.0)) * atoms.get_stress(voigt=False) for atoms in frames],
        graph_converter=model.graph_converter,
        shuffle=False,
    )
    size = int(settings.get("batch_size", 8))
    return DataLoader(data, batch_size=size, shuffle=name == "train", collate_fn=collate_graphs)


def _refit(model: Any, settings: dict[str, Any]) -> None:
    """Move the atoms' energies to those of the data: one constant per element that it has."""
    import torch
    from ase.data import chemical_symbols
    from pymatgen.io.ase import AseAtomsAdaptor

    frames = _frames("train")
    calm = [atoms for atoms in frames if abs(pressure_of(atoms.get_stress())) < _CALM]
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers})
    chosen = calm if {int(z) for atoms in calm for z in atoms.numbers} == set(elements) else frames
    structures = [AseAtomsAdaptor.get_structure(atoms) for atoms in chosen]
    found = model.predict_structure(structures, task="e", batch_size=int(settings.get("batch_size", 8)))
    found = [found] if isinstance(found, dict) else found  # of a single structure
    given = [atoms.get_potential_energy() / len(atoms) for atoms in chosen]
    residuals = np.array(given) - [float(one["e"]) for one in found]
    shares = np.array([[float(np.mean(atoms.numbers == z)) for z in elements] for atoms in chosen])
    # A little of nothing for every element, so that one that always comes with another stays where it is.
    weight = 0.01
    shifts = fit(
        np.vstack([shares, weight * np.eye(len(elements))]), np.concatenate([residuals, np.zeros(len(elements))])
    )
    with torch.no_grad():
        for z, shift in zip(elements, shifts.tolist(), strict=True):
            model.composition_model.fc.weight[0, z - 1] += shift
    Path(SHIFTS).write_text(
        json.dumps({chemical_symbols[z]: s for z, s in zip(elements, shifts.tolist(), strict=True)})
    )
