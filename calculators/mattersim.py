"""MatterSim (M3GNet architecture), trained over temperatures and pressures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uspex_bridge.cards import Batch, BuildRequest, Card, KnownModel, constructor_options
from uspex_bridge.errors import ModelError
from uspex_bridge.neighbours import angles, pairs

_URL = "https://raw.githubusercontent.com/microsoft/mattersim/main/pretrained_models"


def _known(size: str, **facts: Any) -> KnownModel:
    name = f"mattersim-v1.0.0-{size}"
    return KnownModel(name, url=f"{_URL}/{name}.pth", licence="MIT", aliases=(f"{name}.pth", size), **facts)


#: Names and URL as in mattersim 1.2.3 (``mattersim.utils.download_utils``).
CARD = Card(
    kind="mattersim",
    title="MatterSim",
    package="mattersim==1.2.3",
    module="mattersim",
    install="pip install --no-deps mattersim==1.2.3 (with e3nn==0.5.1 beside MACE: docs/install.md)",
    models=(
        _known("5M", note="the larger and more accurate one"),
        _known("1M", note="smaller, faster; mattersim's own default"),
    ),
    search=("~/.local/mattersim/pretrained_models",),
    energy_zero="mp-pbe",
    licence="MIT",
    citation="arXiv:2405.04967",
)


def build(request: BuildRequest) -> Any:
    """Return MatterSim's ASE calculator for a ``.pth`` checkpoint.

    Raises:
        ModelError: the checkpoint lacks weights of the model it describes (MatterSim itself would leave them random).
    """
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
    own = ("potential", "device", "args_dict", "compute_stress", "stress_weight")
    options = constructor_options(request, MatterSimCalculator, *own)
    return MatterSimCalculator(potential=potential, device=request.device, args_dict={}, **options)


def batch(calculator: Any) -> Batch:
    """Return MatterSim's model for many structures: its graph, from the bridge's neighbour lists."""
    cutoffs = calculator.potential.model.model_args
    cutoff, angle_cutoff = float(cutoffs["cutoff"]), float(cutoffs["threebody_cutoff"])
    for parameter in calculator.potential.model.parameters():
        parameter.requires_grad_(False)

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        graph = _graph(structures, cutoff, angle_cutoff, calculator.device)
        found = calculator.potential.forward(graph, include_forces=True, include_stresses=True)
        energies, forces, stresses = (
            found[name].detach().cpu().numpy().astype(float) for name in ("total_energy", "forces", "stresses")
        )
        ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
        return [
            {"energy": energy, "forces": force, "stress": calculator.stress_weight * stress}
            for energy, force, stress in zip(energies, np.split(forces, ends), stresses, strict=True)
        ]

    return Batch(evaluate, cutoff, angle_cutoff)


def _graph(structures: Sequence[Any], cutoff: float, angle_cutoff: float, device: str) -> dict[str, Any]:
    """Return what M3GNet's ``forward`` reads, for all structures as one graph.

    Indices of pairs in the angles count within each structure; ``bond_index_bias`` shifts them.
    """
    import torch

    parts: dict[str, list[Any]] = {name: [] for name in ("edges", "cells", "angles", "per_pair", "positions")}
    offset = 0
    for atoms in structures:
        wrapped = atoms.copy()
        wrapped.wrap(eps=0)  # float32 positions near the origin, as MatterSim has them
        first, second, cells = pairs(wrapped, cutoff)
        positions = wrapped.positions
        vectors = positions[second] + cells @ wrapped.cell.array - positions[first]
        near = np.linalg.norm(vectors, axis=1) <= angle_cutoff
        one, other = angles(first, near)
        parts["edges"].append(np.stack((first, second)) + offset)
        parts["cells"].append(cells)
        parts["angles"].append(np.stack((one, other), axis=1))
        parts["per_pair"].append(np.bincount(one, minlength=len(first)))
        parts["positions"].append(positions)
        offset += len(atoms)

    def counts(name: str) -> Any:
        return torch.tensor([len(part) for part in parts[name]], device=device)

    def whole(values: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    def real(values: Any) -> Any:
        return whole(np.asarray(values, dtype=np.float32))

    pair_counts, angle_counts = counts("cells"), counts("angles")
    per_pair = whole(np.concatenate(parts["per_pair"]))
    starts = torch.cumsum(pair_counts, dim=0) - pair_counts
    sizes = torch.tensor([len(atoms) for atoms in structures], device=device)
    return {
        "atom_pos": real(np.concatenate(parts["positions"])),
        "cell": real(np.stack([atoms.cell.array for atoms in structures])),
        "pbc_offsets": real(np.concatenate(parts["cells"])),
        "atom_attr": real(np.concatenate([atoms.numbers for atoms in structures])[:, None]),
        "edge_index": whole(np.concatenate(parts["edges"], axis=1)),
        "three_body_indices": whole(np.concatenate(parts["angles"])),
        "num_three_body": angle_counts,
        "num_bonds": pair_counts,
        "num_triple_ij": per_pair[:, None],
        "num_atoms": sizes,
        "num_graphs": torch.tensor(len(structures), device=device),
        "batch": torch.repeat_interleave(torch.arange(len(structures), device=device), sizes),
        "total_num_atoms": offset,
        "total_num_bonds": len(per_pair),
        "bond_index_bias": torch.repeat_interleave(starts, angle_counts)[:, None],
        "three_body_edge_map": torch.repeat_interleave(torch.arange(len(per_pair), device=device), per_pair),
    }


def elements(calculator: Any) -> frozenset[str]:
    """Return every element up to the largest atomic number of the model's table.

    The file does not say which of them were in its training set; ``elements`` in the settings can.
    """
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1 : calculator.potential.model.max_z + 1])
