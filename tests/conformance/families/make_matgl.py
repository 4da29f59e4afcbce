"""Save a potential of random weights with matgl itself: python make_matgl.py FOLDER [TensorNet|M3GNet|CHGNet]."""

from __future__ import annotations

import sys

import matgl.models
import torch
from matgl.apps.pes import Potential

SIZES = {
    "TensorNet": {"units": 16, "nblocks": 1, "cutoff": 4.5, "is_intensive": False},
    "M3GNet": {"dim_node_embedding": 16, "dim_edge_embedding": 16, "units": 16, "is_intensive": False},
    "CHGNet": {"dim_atom_embedding": 16, "dim_bond_embedding": 16, "dim_angle_embedding": 16, "num_blocks": 2},
}


def main() -> None:
    folder, kind = sys.argv[1], (sys.argv[2:] or ["TensorNet"])[0]
    torch.manual_seed(1)
    model = getattr(matgl.models, kind)(element_types=("Ca", "Fe", "Ni"), **SIZES[kind])
    Potential(model, element_refs=[-1.9, -8.3, -5.6], data_std=100.0).save(folder)


if __name__ == "__main__":
    main()
