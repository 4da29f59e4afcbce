"""Save a GRACE of one layer and random weights with tensorpotential itself: python make_grace.py FOLDER."""

from __future__ import annotations

import sys

import tensorflow as tf
from tensorpotential.potentials.presets import GRACE_1LAYER_v2_25
from tensorpotential.tpmodel import ComputeStructureEnergyAndForcesAndVirial, TPModel

ELEMENTS = ["Ca", "Fe", "Ni"]


def main() -> None:
    tf.random.set_seed(1)
    instructions = GRACE_1LAYER_v2_25(
        element_map={symbol: index for index, symbol in enumerate(ELEMENTS)},
        rcut=4.5,
        avg_n_neigh=20.0,
        lmax=2,
        n_rad_base=6,
        n_rad_max=6,
        prod_func_n_max=6,
        embedding_size=8,
        n_mlp_dens=4,
        max_order=3,
        cutoff_function_order=5,
    )
    model = TPModel(instructions.get_instructions(), compute_function=ComputeStructureEnergyAndForcesAndVirial())
    model.build(tf.float64)
    model.save_model(sys.argv[1], jit_compile=False)


if __name__ == "__main__":
    main()
