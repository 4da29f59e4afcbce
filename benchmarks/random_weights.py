"""Write MACE and MatterSim models of the published sizes, random weights: python benchmarks/random_weights.py FOLDER.

For measuring what they cost where the published weights cannot be had; their energies mean nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path


def mattersim(path: Path) -> None:
    """Write the shape of mattersim-v1.0.0-1M."""
    import torch
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
    from mattersim.forcefield.potential import Potential

    torch.manual_seed(1)
    model = M3Gnet(num_blocks=3, units=128, max_l=4, max_n=4, device="cpu")
    Potential(model, device="cpu").save(str(path))


def mace(path: Path) -> None:
    """Write the shape of the small foundation model (128x0e), for Ca, Fe and Ni only."""
    import mace.calculators  # noqa: F401 (first: it lets torch load what e3nn keeps pickled)
    import numpy as np
    import torch
    from e3nn import o3
    from mace import modules

    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    model = modules.ScaleShiftMACE(
        r_max=6.0,
        num_bessel=10,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=3,
        hidden_irreps=o3.Irreps("128x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array([-1.9, -8.3, -5.6]),
        avg_num_neighbors=60.0,
        atomic_numbers=[20, 26, 28],
        correlation=3,
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    torch.save(model, path)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    mace(folder / "mace-small.model")
    mattersim(folder / "mattersim-1m.pth")
