"""Write an inference checkpoint of random weights with fairchem itself: python make_fairchem.py OUT.pt [uma].

Without ``uma`` it is an eSEN of one task; with it, a mixture of experts of two.
"""

from __future__ import annotations

import sys

import hydra
import torch
from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

SIZES = {
    "max_num_elements": 100,
    "sphere_channels": 16,
    "hidden_channels": 16,
    "edge_channels": 16,
    "num_distance_basis": 32,
    "num_layers": 2,
    "lmax": 2,
    "mmax": 2,
    "cutoff": 4.5,
    "otf_graph": True,
    "direct_forces": False,
    "regress_forces": True,
    "regress_stress": True,
}


def config(tasks: list[str], experts: int) -> dict:
    backbone = "escn_moe.eSCNMDMoeBackbone" if experts else "escn_md.eSCNMDBackbone"
    more = {"num_experts": experts, "use_composition_embedding": True, "model_version": 1.1} if experts else {}
    heads = {
        "efs": {"module": "fairchem.core.models.uma.escn_md.MLP_EFS_Head", "prefix": tasks[0]}
        if not experts
        else {
            "module": "fairchem.core.models.uma.escn_moe.DatasetSpecificMoEWrapper",
            "head_cls": "fairchem.core.models.uma.escn_md.MLP_EFS_Head",
            "head_kwargs": {"wrap_property": False},
            "dataset_mapping": {task: task for task in tasks},
        }
    }
    return {
        "_target_": "fairchem.core.models.base.HydraModel",
        "backbone": {
            "model": f"fairchem.core.models.uma.{backbone}",
            **SIZES,
            **more,
            "dataset_mapping": {task: task for task in tasks},
        },
        "heads": heads,
        "pass_through_head_outputs": True,
    }


def tasks_config(tasks: list[str]) -> list[dict]:
    found = []
    for task in tasks:
        for name, level, size in (("energy", "system", [1]), ("forces", "atom", [3]), ("stress", "system", [1, 9])):
            found.append(
                {
                    "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
                    "name": f"{task}_{name}",
                    "level": level,
                    "property": name,
                    "out_spec": {
                        "_target_": "fairchem.core.units.mlip_unit.mlip_unit.OutputSpec",
                        "dim": size,
                        "dtype": "float32",
                    },
                    "normalizer": {
                        "_target_": "fairchem.core.modules.normalization.normalizer.Normalizer",
                        "mean": 0.0,
                        "rmsd": 5.0,
                    },
                    "datasets": [task],
                }
            )
    return found


def main() -> None:
    out, several = sys.argv[1], sys.argv[2:] == ["uma"]
    torch.manual_seed(1)
    tasks = ["omat", "omol"] if several else ["omat"]
    model_config = config(tasks, 4 if several else 0)
    model = hydra.utils.instantiate(model_config)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    checkpoint = MLIPInferenceCheckpoint(model_config, model.state_dict(), averaged.state_dict(), tasks_config(tasks))
    torch.save(checkpoint, out)


if __name__ == "__main__":
    main()
