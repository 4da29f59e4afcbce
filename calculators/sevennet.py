"""SevenNet, NequIP-type equivariant network; four sets of weights come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uspex_bridge.base import neighbours
from uspex_bridge.base.errors import ModelError
from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel, constructor_options

_URL = "https://github.com/MDIL-SNU/SevenNet/releases/download"


def _in_wheel(name: str, file: str, size_mb: float, **facts: Any) -> KnownModel:
    return KnownModel(
        name,
        size_mb=size_mb,
        licence="MIT",
        in_wheel=True,
        files=(f"pretrained_potentials/{file}",),
        **{"data": "MPtrj", **facts},
    )


def _released(name: str, release: str, **facts: Any) -> KnownModel:
    """Describe weights that SevenNet downloads itself, into a folder per model."""
    folder = name.removeprefix("7net-").replace("-", "_").replace("mf_", "MF_")
    file = f"checkpoint_sevennet_{folder.lower()}.pth"
    return KnownModel(
        name,
        url=f"{_URL}/{release}/{file}",
        licence="MIT",
        files=(file, f"SevenNet_{folder}/{file}"),
        aliases=(name.replace("7net", "sevennet"),),
        energy_zero="model",
        **facts,
    )


#: Names, files and URLs as in sevenn 0.13.0 (``sevenn._const``, ``sevenn.util``).
CARD = Card(
    kind="sevennet",
    title="SevenNet",
    package="sevenn==0.13.0",
    module="sevenn",
    install="pip install sevenn==0.13.0",
    models=(
        _in_wheel(
            "7net-0",
            "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
            10.3,
            aliases=("sevennet-0", "7net-0_11jul2024"),
            functional="pbe",
        ),
        _in_wheel("7net-0_22may2024", "SevenNet_0__22May2024/checkpoint_sevennet_0.pth", 10.3, functional="pbe"),
        _in_wheel("7net-l3i5", "SevenNet_l3i5/checkpoint_l3i5.pth", 14.3, aliases=("sevennet-l3i5",), functional="pbe"),
        _in_wheel(
            "7net-mf-0",
            "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
            10.3,
            aliases=("sevennet-mf-0",),
            note="head is PBE or R2SCAN",
            data="MPtrj, MP r2SCAN",
            energy_zero="model",
        ),
        _released(
            "7net-mf-ompa", "v0.11.0.cp", note="head is mpa or omat24", data="OMat24, MPtrj, sAlex", functional="pbe"
        ),
        _released("7net-omat", "v0.11.0.cp", data="OMat24", functional="pbe"),
        _released("7net-omni", "v0.12.0.cp", note="head is mpa (PBE), matpes_r2scan, ..."),
        _released("7net-omni-i8", "v0.12.1.cp", note="as 7net-omni, larger"),
        _released("7net-omni-i12", "v0.12.1.cp", note="as 7net-omni, largest"),
    ),
    search=("{package}/pretrained_potentials", "{cache}/sevennet"),
    head="modal",
    energy_zero="mp-pbe",
    elements="89",
    kernels="enable_cueq, enable_flash, enable_oeq",
    licence="MIT",
    citation="doi:10.1021/acs.jctc.4c00190; mf: doi:10.1021/jacs.4c14455; omni: doi:10.1038/s41467-026-70195-8",
)


def build(request: BuildRequest) -> Any:
    """Return SevenNet's ASE calculator for a model of the package or a checkpoint file.

    Raises:
        ModelError: the head (SevenNet's modal) is missing, not one of the model's, or the model has none.
    """
    from sevenn.calculator import SevenNetCalculator
    from sevenn.util import load_checkpoint

    source = str(request.path or request.model)
    modals = list(load_checkpoint(source).config.get("_modal_map") or {})
    modal = next((name for name in modals if name.lower() == (request.head or "").lower()), None)
    if modals and modal is None:
        asked = f"no head '{request.head}'" if request.head else "head is not set"
        raise ModelError(f"{source}: {asked}; this multi-fidelity model has: {', '.join(modals)}")
    if request.head and not modals:
        raise ModelError(f"{source}: head = '{request.head}' is set, but this model has no heads")
    options = constructor_options(request.options, SevenNetCalculator, "model", "file_type", "device", "modal")
    return SevenNetCalculator(model=source, device=request.device, modal=modal, **options)


def batch(calculator: Any) -> Batch:
    """Return SevenNet's network for many structures, on graphs of the bridge's neighbour lists."""
    import torch
    from sevenn import _keys as key
    from sevenn.atom_graph_data import AtomGraphData

    model = calculator.model.requires_grad_(False)
    cutoff = float(calculator.cutoff)

    def real(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.float32, device=calculator.device)

    def whole(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.int64, device=calculator.device)

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        graph = neighbours.graph(structures, cutoff)
        inputs = {
            key.NODE_FEATURE: whole(graph.numbers),
            key.ATOMIC_NUMBERS: whole(graph.numbers),
            key.POS: real(graph.positions),
            key.EDGE_IDX: whole(np.stack((graph.first, graph.second))),
            key.EDGE_VEC: real(graph.vectors),
            key.CELL_VOLUME: real(graph.volumes),
            key.NUM_ATOMS: whole(graph.sizes),
            key.BATCH: whole(graph.owners),
        }
        if calculator.modal:
            inputs[key.DATA_MODALITY] = [calculator.modal] * len(structures)
        model.set_is_batch_data(True)
        try:
            found = model(AtomGraphData(**inputs))
        finally:
            model.set_is_batch_data(False)  # what the package's own calculator expects
        energies, forces, stresses = (
            found[name].detach().cpu().numpy() for name in (key.PRED_TOTAL_ENERGY, key.PRED_FORCE, key.PRED_STRESS)
        )
        return [
            {"energy": energy, "forces": own, "stress": -stress[[0, 1, 2, 4, 5, 3]]}
            for energy, own, stress in zip(energies, graph.split(forces), stresses, strict=True)
        ]

    return Batch(evaluate, cutoff)


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements in the model's type map."""
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[int(z)] for z in calculator.type_map)
