"""MatterSim (M3GNet architecture), trained over temperatures and pressures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uspex_bridge.base import neighbours
from uspex_bridge.base.errors import ModelError
from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel, constructor_options

_URL = "https://raw.githubusercontent.com/microsoft/mattersim/main/pretrained_models"


def _known(size: str, **facts: Any) -> KnownModel:
    name = f"mattersim-v1.0.0-{size}"
    return KnownModel(
        name,
        url=f"{_URL}/{name}.pth",
        licence="MIT",
        aliases=(f"{name}.pth", size),
        data="MatterSim's own, 0-5000 K, 0-1000 GPa",
        functional="pbe",
        **facts,
    )


#: Names and URL as in mattersim 1.2.3 (``mattersim.utils.download_utils``).
CARD = Card(
    kind="mattersim",
    title="MatterSim",
    package="mattersim==1.2.3",
    module="mattersim",
    install="pip install --no-deps mattersim==1.2.3 (with e3nn==0.5.1 beside MACE: uspex-bridge docs install)",
    models=(
        _known("5M", note="the larger and more accurate one"),
        _known("1M", note="smaller, faster; mattersim's own default"),
    ),
    search=("~/.local/mattersim/pretrained_models",),
    dtypes=("float32", "float64"),
    kernels="compile (1.2.5, Python 3.12)",
    energy_zero="mp-pbe",
    elements="89",
    pressure="0-1000 GPa (training data)",
    licence="MIT",
    citation="arXiv:2405.04967",
    verified="made",
)


def build(request: BuildRequest) -> Any:
    """Return MatterSim's ASE calculator for a ``.pth`` checkpoint.

    Raises:
        ModelError: the checkpoint lacks weights of the model it describes (MatterSim itself would leave them random),
            or this release runs in float32 only.
    """
    import inspect

    import torch
    from loguru import logger

    logger.disable("mattersim")
    from mattersim.forcefield.potential import MatterSimCalculator, Potential

    potential = Potential.from_checkpoint(str(request.path), device=request.device, load_training_state=False)
    saved = torch.load(str(request.path), map_location="cpu")["model"]
    missing = [name for name, _ in potential.model.named_parameters() if name not in saved]
    if missing:
        raise ModelError(
            f"{request.path}: incomplete MatterSim checkpoint, {len(missing)} arrays lack: {missing[0]}, ..."
        )
    own = ("potential", "device", "args_dict", "compute_stress", "stress_weight", "dtype")
    options = constructor_options(request.options, MatterSimCalculator, *own)
    if "dtype" in inspect.signature(MatterSimCalculator).parameters:
        options["dtype"] = request.dtype
    elif request.dtype != "float32":
        raise ModelError(
            "float64 takes mattersim 1.2.5 (uspex-bridge env create mattersim); this one runs in float32 only"
        )
    return MatterSimCalculator(potential=potential, device=request.device, args_dict={}, **options)


def batch(calculator: Any) -> Batch | None:
    """Return MatterSim's model for many structures: its own ``forward`` on a graph made without its data loader.

    What torch.compile made of it is left to the package.
    """
    if getattr(calculator, "_compiled", False):
        return None
    model = calculator.potential.model.requires_grad_(False)
    cutoff, angle_cutoff = float(model.model_args["cutoff"]), float(model.model_args["threebody_cutoff"])

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        graph = neighbours.graph(structures, cutoff)
        inputs = _inputs(graph, angle_cutoff, calculator)
        found = calculator.potential.forward(inputs, include_forces=True, include_stresses=True)
        energies, forces, stresses = (
            found[name].detach().cpu().numpy() for name in ("total_energy", "forces", "stresses")
        )
        return [
            {"energy": energy, "forces": own, "stress": calculator.stress_weight * stress}
            for energy, own, stress in zip(energies, graph.split(forces), stresses, strict=True)
        ]

    return Batch(evaluate, cutoff, angle_cutoff)


def _inputs(graph: neighbours.Graph, angle_cutoff: float, calculator: Any) -> dict[str, Any]:
    """Return what M3GNet's ``forward`` reads; ``bond_index_bias`` is 0 as the pairs are numbered through."""
    import torch

    device, dtype = calculator.device, getattr(calculator, "dtype", torch.float32)

    def real(values: Any) -> Any:
        return torch.tensor(values, dtype=dtype, device=device)

    def whole(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.int64, device=device)

    one, other = graph.angles(angle_cutoff)
    per_pair = np.bincount(one, minlength=len(graph.first))
    return {
        "atom_pos": real(graph.positions),
        "cell": real(graph.cells),
        "pbc_offsets": real(graph.images),
        "atom_attr": real(graph.numbers[:, None]),
        "edge_index": whole(np.stack((graph.first, graph.second))),
        "three_body_indices": whole(np.stack((one, other), axis=1)),
        "num_bonds": whole(np.bincount(graph.owners[graph.first], minlength=len(graph.sizes))),
        "num_triple_ij": whole(per_pair[:, None]),
        "num_atoms": whole(graph.sizes),
        "num_graphs": whole(len(graph.sizes)),
        "batch": whole(graph.owners),
        "total_num_atoms": len(graph.numbers),
        "total_num_bonds": len(graph.first),
        "bond_index_bias": whole([[0]]),
        "three_body_edge_map": whole(one),
    }


def elements(calculator: Any) -> frozenset[str]:
    """Return every element up to the largest atomic number of the model's table.

    The file does not say which of them were in its training set; ``elements`` in the settings can.
    """
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1 : calculator.potential.model.max_z + 1])
