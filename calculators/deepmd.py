"""DeePMD-kit's PyTorch models: DPA-3 and se_a, frozen (.pth) or checkpoints (.pt)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np

from uspex_bridge.base import neighbours
from uspex_bridge.base.errors import ModelError
from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel, constructor_options

_HUBS = ("https://huggingface.co/deepmodelingcommunity", "https://hf-mirror.com/deepmodelingcommunity")
_SCOPE = "https://modelscope.cn/models/DeepModelingCommunity"


def _known(
    name: str, sha256: str, *, repository: str = "", remote: str = "", saved: str = "", **facts: Any
) -> KnownModel:
    """Describe a model of DeePMD-kit's registry: where it lies on each hub and the name its cache gives the file."""
    repository, remote = repository or name, remote or f"{name}.pt"
    first, second = (f"{hub}/{repository}/resolve/main/{remote}?download=true" for hub in _HUBS)
    third = f"{_SCOPE}/{repository}/resolve/master/{remote}"
    return KnownModel(
        name,
        url=first,
        mirrors=(second, third),
        sha256=sha256,
        files=(saved or remote,),
        aliases=(f"{name}.pt",),
        **facts,
    )


def _dpa4(size: str, sha256: str) -> KnownModel:
    return _known(
        f"DPA4-{size}-OMat24-v20260805",
        sha256,
        repository="DPA4-OMat24",
        note="OMat24 energies",
        data="OMat24",
        functional="pbe",
    )


#: Names, URLs and checksums as in deepmd-kit 3.2.0 (``deepmd.pretrained.registry``).
CARD = Card(
    kind="deepmd",
    title="DeePMD-kit",
    package="deepmd-kit==3.2.0",
    module="deepmd",
    install="pip install deepmd-kit==3.2.0 e3nn==0.5.1 (not its extra [torch])",
    models=(
        _known(
            "DPA-3.1-3M",
            "86dd3a804d78ca5d203ebf98747e8f16dff9713ba8950097ceb760b161e19907",
            note="many heads, see `dp --pt show FILE model-branch`",
        ),
        _known(
            "DPA-3.2-5M",
            "876354744aeaae17b2639a6a690514470273784f2b4836280850f50cbb799165",
            note="many heads; Default is OMat24",
        ),
        _known("DPA-3.3-1M", "36fe440c111108d60cda54aa7d3fccac743794de25abef4d49564b9fb896a55b", note="many heads"),
        _known(
            "DPA-2.4-7M",
            "904eb5560af9ff644347dedd3ebf1e9c97929d02ee37ce3cbe895de3df711198",
            remote="DPA-2.4-7M-patched-mt.pt",
            saved="dpa-2.4-7M.pt",
            note="many heads",
        ),
        _known(
            "DPA3-Omol-Large",
            "dc4d252b31450b41eb3546cc48f640ad0831c0b5d069ce27d996e0ff58fc037a",
            licence="CC-BY-4.0",
            note="molecules",
        ),
        _dpa4("Nano", "ded047546c2b44a50e2c850680d77279e2bf3e107c10f1c2fe39a5c344e693f6"),
        _dpa4("Mini", "13edeea63448c0f8a0b38e08fd8ba196fb1e2fad5f12486b1cd23320829da268"),
        _dpa4("Neo", "fd7f34ae28f921201e4a0328ddf56179892752084f8363e7796038201471c989"),
        _dpa4("Air", "7ac5fb696fc057229ceebc33f31f7a96b2f3616ac5b63a512acd1848f2d41a09"),
        _dpa4("Plus", "6820a320dc241a4002e6c257ad21983950df178b1f80271a6e6af199adb18567"),
    ),
    model_required=True,
    search=("~/.cache/deepmd/pretrained/models",),
    dtypes=(),
    head="branch",
    elements="as in the weights",
    licence="LGPL-3.0-or-later",
    citation="doi:10.1063/5.0155600 (DeePMD-kit), arXiv:2506.01686 (DPA-3), doi:10.1021/acs.jctc.5c00340 (version 3)",
    verified="made",
)


def import_backend(device: str = "cpu") -> Any:
    """Import ``deepmd.pt`` for a device, without its compiled operators where they do not fit this PyTorch.

    DeePMD-kit's wheel holds operators compiled against one PyTorch and an MPI library; where either is missing the
    import fails although energies, forces and training need neither (only compressed models and MPI do). Telling
    DeePMD-kit that there is no such library makes it run on PyTorch alone. It chooses its device at import.
    """
    if "deepmd.pt" in sys.modules:
        return sys.modules["deepmd.pt"]
    kind, _, index = device.partition(":")
    chosen = {"DEVICE": kind, "LOCAL_RANK": index or "0"}
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        try:
            import deepmd.pt
        except (PackageNotFoundError, RuntimeError, OSError, StopIteration):
            import deepmd.env

            deepmd.env.SHARED_LIB_DIR = Path(os.devnull)
            deepmd.env.GLOBAL_CONFIG["cibuildwheel"] = "0"
            import deepmd.pt
        import deepmd.pt.utils.env
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return deepmd.pt


def own_process(request: BuildRequest) -> bool:
    """Tell whether this model cannot live in this process beside what is loaded already.

    DPA-3 checkpoints (.pt) do not compile once torch_geometric is imported (MatterSim and SevenNet do), and one
    process has one DeePMD device.
    """
    if "deepmd.pt" in sys.modules and _device() != request.device:
        return True
    return _suffix(request) == ".pt" and "torch_geometric" in sys.modules


def build(request: BuildRequest) -> Any:
    """Return DeePMD-kit's ASE calculator for a ``.pth`` or ``.pt`` file.

    Raises:
        ModelError: a head where there is none to choose, the random head, or the backend sits on another device.
    """
    if request.head and request.head.upper() == "RANDOM":
        raise ModelError(f"{request.path}: head RANDOM is untrained; name one of the model's branches")
    if request.head and _suffix(request) != ".pt":
        raise ModelError(f"{request.path}: head = '{request.head}' is set, but a frozen model holds one head only")
    import_backend(request.device)
    if _device() != request.device:
        raise ModelError(f"deepmd runs on {_device()} in this process, not on {request.device}; set isolate = true")
    from deepmd.calculator import DP

    options = constructor_options(request.options, DP, "model", "head", "type_dict")
    return DP(model=str(request.path), head=request.head, **options)


def batch(calculator: Any) -> Batch | None:
    """Return an energy model for many structures, by the entry that LAMMPS uses: atoms, ghosts and neighbour lists.

    DeePMD-kit's own calculator makes every image of every atom within some cells and looks for the neighbours among
    them. Here all structures are atoms of one frame that are in nobody's neighbour list but their own's. Models of
    spin, of frame or atomic parameters and of DeePMD-kit's newer edge interface are left to it.
    """
    import torch

    deep = calculator.dp.deep_eval
    model = deep.dp.model["Default"]
    others = (deep.get_has_spin(), deep.modifier, deep._has_hessian, deep._uses_edge_schema)
    charged = getattr(model, "get_dim_chg_spin", lambda: 0)()  # models frozen before DeePMD-kit 3.2 have no such thing
    if any(others) or deep.get_dim_fparam() or deep.get_dim_aparam() or charged:
        return None
    if "energy" not in model.model_output_type() or not hasattr(model, "forward_lower"):
        return None
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    cutoff, device = float(deep.get_rcut()), _device()

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        graph = neighbours.graph(structures, cutoff)
        types = np.array([calculator.type_dict[symbol] for atoms in structures for symbol in atoms.symbols])
        coordinates, atom, lists = _extended(graph)
        inputs = (torch.tensor(array[None], device=device) for array in (coordinates, types[atom], lists, atom))
        # TorchScript would optimise a frozen model anew for every few shapes: half a minute each, and no faster after.
        with torch.jit.optimized_execution(device != "cpu"):
            found = model.forward_lower(*inputs)
        energy, extended = (found[name].detach().cpu().numpy()[0] for name in ("atom_energy", "extended_force"))
        forces, virials = np.zeros(graph.positions.shape), np.zeros(graph.cells.shape)
        np.add.at(forces, atom, extended)
        np.add.at(virials, graph.owners[atom], extended[:, :, None] * coordinates[:, None, :])
        stresses = -0.5 * (virials + virials.transpose(0, 2, 1)) / graph.volumes[:, None, None]
        energies = np.bincount(graph.owners, energy[:, 0])
        return [
            {"energy": total, "forces": own, "stress": stress}
            for total, own, stress in zip(energies, graph.split(forces), stresses, strict=True)
        ]

    return Batch(evaluate, cutoff)


def _extended(graph: neighbours.Graph) -> tuple[Any, Any, Any]:
    """Return coordinates of atoms and then ghosts, the atom that each is, and the atoms' neighbours (-1 fills up).

    The neighbours are in order of distance, as the models want them that take only so many.
    """
    order = np.lexsort((np.linalg.norm(graph.vectors, axis=1), graph.first))
    first, second, images, vectors = (a[order] for a in (graph.first, graph.second, graph.images, graph.vectors))
    atoms, outside = len(graph.numbers), images.any(axis=1)
    seen = np.column_stack((second, images))[outside]
    ghosts, index, inverse = np.unique(seen, axis=0, return_index=True, return_inverse=True)
    coordinates = np.concatenate((graph.positions, (graph.positions[first] + vectors)[outside][index]))
    target = second.copy()
    target[outside] = atoms + inverse.ravel()
    many = np.bincount(first, minlength=atoms)
    rank = np.arange(len(first)) - (np.cumsum(many) - many)[first]
    lists = np.full((atoms, int(many.max())), -1)
    lists[first, rank] = target
    return coordinates, np.concatenate((np.arange(atoms), ghosts[:, 0])), lists


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements in the model's type map."""
    return frozenset(calculator.type_dict)


def _suffix(request: BuildRequest) -> str:
    return request.path.suffix if request.path else ""


def _device() -> str:
    return str(sys.modules["deepmd.pt.utils.env"].DEVICE)
