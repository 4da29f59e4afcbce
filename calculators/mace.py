"""MACE, higher-order equivariant message passing (mace-torch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uspex_bridge.base import neighbours
from uspex_bridge.base.errors import ModelError
from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel, constructor_options, file_of_url

_MP = "https://github.com/ACEsuit/mace-mp/releases/download"
_FOUNDATIONS = "https://github.com/ACEsuit/mace-foundations/releases/download"


def _known(name: str, url: str, **facts: Any) -> KnownModel:
    """Describe one of mace-torch's foundation models, with the name that its own cache gives the file."""
    file = file_of_url(url)
    cached = "".join(c for c in file if c.isalnum() or c == "_")
    mp = {"licence": "MIT", "data": "MPtrj", "functional": "pbe"}
    return KnownModel(name, url=url, files=(file, cached), **{**mp, **facts})


#: Names and URLs as in mace-torch 0.3.16 (``mace.calculators.foundations_models``), licences as in its README.
CARD = Card(
    kind="mace",
    title="MACE",
    package="mace-torch==0.3.16",
    module="mace",
    install="pip install --no-deps mace-torch==0.3.16 (with e3nn==0.5.1 beside MatterSim: uspex-bridge docs install)",
    models=(
        _known(
            "medium-mpa-0",
            f"{_MP}/mace_mpa_0/mace-mpa-0-medium.model",
            note="stable at high pressure",
            data="MPtrj, sAlex",
        ),
        _known("medium-0b3", f"{_MP}/mace_mp_0b3/mace-mp-0b3-medium.model", note="stable at high pressure"),
        _known("small-0b2", f"{_MP}/mace_mp_0b2/mace-small-density-agnesi-stress.model"),
        _known("medium-0b2", f"{_MP}/mace_mp_0b2/mace-medium-density-agnesi-stress.model"),
        _known("large-0b2", f"{_MP}/mace_mp_0b2/mace-large-density-agnesi-stress.model"),
        _known("small-0b", f"{_MP}/mace_mp_0b/mace_agnesi_small.model"),
        _known("medium-0b", f"{_MP}/mace_mp_0b/mace_agnesi_medium.model"),
        _known("small", f"{_MP}/mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model", size_mb=32.6),
        _known("medium", f"{_MP}/mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model"),
        _known("large", f"{_MP}/mace_mp_0/MACE_MPtrj_2022.9.model"),
        _known(
            "small-omat-0",
            f"{_MP}/mace_omat_0/mace-omat-0-small.model",
            licence="ASL",
            energy_zero="model",
            data="OMat24",
        ),
        _known(
            "medium-omat-0",
            f"{_MP}/mace_omat_0/mace-omat-0-medium.model",
            licence="ASL",
            energy_zero="model",
            data="OMat24",
        ),
        _known(
            "mace-matpes-pbe-0",
            f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
            licence="ASL",
            energy_zero="model",
            data="OMat24, MatPES",
        ),
        _known(
            "mace-matpes-r2scan-0",
            f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
            licence="ASL",
            energy_zero="model",
            data="OMat24, MatPES",
            functional="r2scan",
        ),
        _known(
            "mh-0",
            f"{_FOUNDATIONS}/mace_mh_1/mace-mh-0.model",
            licence="ASL",
            energy_zero="model",
            note="needs a head",
            data="several, by head",
            functional="",
        ),
        _known(
            "mh-1",
            f"{_FOUNDATIONS}/mace_mh_1/mace-mh-1.model",
            licence="ASL",
            energy_zero="model",
            note="needs a head",
            data="several, by head",
            functional="",
        ),
    ),
    search=("{cache}/mace", "{package}/calculators/foundations_models"),
    dtypes=("float64", "float32"),
    head="head",
    energy_zero="mp-pbe",
    elements="89",
    kernels="enable_cueq, enable_oeq, compile_mode",
    licence="MIT",
    citation="arXiv:2206.07697 (method), arXiv:2401.00096 (foundation models)",
    verified="made",
)


#: Arguments of MACECalculator that follow from the settings.
_OWN = ("model_paths", "models", "device", "default_dtype", "head")


def build(request: BuildRequest) -> Any:
    """Return mace-torch's ASE calculator for a ``.model`` file.

    Raises:
        ModelError: the weights have no such head (mace-torch itself would take another one).
    """
    from mace.calculators import MACECalculator

    head: dict[str, Any] = {} if request.head is None else {"head": request.head}
    calculator = MACECalculator(
        model_paths=[str(request.path)],
        device=request.device,
        default_dtype=request.dtype,
        **head,
        **constructor_options(request.options, MACECalculator, *_OWN),
    )
    if request.head is not None and request.head not in calculator.available_heads:
        raise ModelError(f"{request.path}: no head '{request.head}'; heads: {', '.join(calculator.available_heads)}")
    return calculator


def batch(calculator: Any) -> Batch | None:
    """Return the MACE network for many structures, on graphs of the bridge's neighbour lists.

    Committees, compiled models and those that ask for more than elements and positions are left to mace-torch.
    """
    import torch

    model = calculator.models[0]
    if (
        len(calculator.models) > 1
        or calculator.model_type != "MACE"
        or calculator.use_compile
        or hasattr(model, "joint_embedding")
        or calculator.head not in calculator.available_heads
    ):
        return None
    dtype = next(model.parameters()).dtype
    column = np.full(119, -1)
    column[calculator.z_table.zs] = np.arange(len(calculator.z_table))
    head = calculator.available_heads.index(calculator.head)
    energy_unit, length_unit = calculator.energy_units_to_eV, calculator.length_units_to_A

    def real(values: Any) -> Any:
        return torch.tensor(values, dtype=dtype, device=calculator.device)

    def whole(values: Any) -> Any:
        return torch.tensor(values, dtype=torch.int64, device=calculator.device)

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        graph = neighbours.graph(structures, calculator.r_max)
        inputs = {
            "positions": real(graph.positions),
            "node_attrs": real(np.eye(len(calculator.z_table))[column[graph.numbers]]),
            "edge_index": whole(np.stack((graph.first, graph.second))),
            "unit_shifts": real(graph.images),
            "shifts": real(graph.vectors - graph.positions[graph.second] + graph.positions[graph.first]),
            "cell": real(graph.cells.reshape(-1, 3)),
            "batch": whole(graph.owners),
            "ptr": whole(np.concatenate(([0], np.cumsum(graph.sizes)))),
            "head": whole(np.full(len(structures), head)),
        }
        found = model(inputs, compute_stress=True)
        energies, forces, stresses = (found[name].detach().cpu().numpy() for name in ("energy", "forces", "stress"))
        return [
            {
                "energy": energy * energy_unit,
                "forces": own * energy_unit / length_unit,
                "stress": stress * energy_unit / length_unit**3,
            }
            for energy, own, stress in zip(energies, graph.split(forces), stresses, strict=True)
        ]

    return Batch(evaluate, calculator.r_max)


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements in the model's table."""
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[int(z)] for z in calculator.z_table.zs)
