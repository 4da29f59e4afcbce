"""Write a MACE of random weights with mace-torch itself: python make_mace.py OUT.model [HEAD ...]."""

from __future__ import annotations

import sys

import mace.calculators  # noqa: F401 (first: it lets torch load what e3nn keeps pickled)
import numpy as np
import torch
from e3nn import o3
from mace import modules

NUMBERS = [20, 26, 28]
ENERGIES = [-1.9, -8.3, -5.6]


def main() -> None:
    out, *heads = sys.argv[1:]
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    several = len(heads) > 1
    model = modules.ScaleShiftMACE(
        r_max=4.5,
        num_bessel=6,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(NUMBERS),
        hidden_irreps=o3.Irreps("8x0e"),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array([ENERGIES] * len(heads) if several else ENERGIES),
        avg_num_neighbors=12.0,
        atomic_numbers=NUMBERS,
        correlation=2,
        radial_type="bessel",
        pair_repulsion=True,
        heads=heads or None,
        atomic_inter_scale=[1.0] * len(heads) if several else 1.0,
        atomic_inter_shift=[0.0] * len(heads) if several else 0.0,
    )
    torch.save(model, out)


if __name__ == "__main__":
    main()
