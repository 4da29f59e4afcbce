"""Write a checkpoint of random weights in Orb v3's own architecture: python make_orb.py OUT.ckpt."""

from __future__ import annotations

import sys

import torch
from orb_models.forcefield.atomic_system import SystemConfig
from orb_models.forcefield.pretrained import orb_v3_conservative_architecture


def main() -> None:
    torch.manual_seed(1)
    model = orb_v3_conservative_architecture(
        device="cpu", system_config=SystemConfig(radius=6.0, max_num_neighbors=120)
    )
    torch.save(model.state_dict(), sys.argv[1])


if __name__ == "__main__":
    main()
