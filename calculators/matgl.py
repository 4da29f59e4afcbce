"""MatGL's potentials: TensorNet, M3GNet, CHGNet, SO3Net and QET trained on MatPES and others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from uspex_bridge.base.neighbours import split
from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel, constructor_options

#: What MatGL saves a potential as.
_FILES = ("state.pt", "model.pt", "model.json")


def _known(network: str, functional: str, **facts: Any) -> KnownModel:
    name = f"{network}-PES-MatPES-{functional}-2025.2"
    return KnownModel(
        name,
        hub=f"materialyze/{name}",
        files=_FILES,
        beside=_FILES[1:],
        licence="BSD-3-Clause",
        data="MatPES",
        functional=functional.lower(),
        **facts,
    )


#: Names as in the README of matgl 4.1.2.
CARD = Card(
    kind="matgl",
    title="MatGL",
    package="matgl==4.1.2",
    module="matgl",
    install="uspex-bridge env create matgl",
    models=tuple(_known("TensorNet", functional) for functional in ("PBE", "r2SCAN")),
    folder_file=_FILES[0],
    dtypes=("float32", "float64"),
    elements="89",
    kernels="compile",
    licence="BSD-3-Clause",
    citation="doi:10.1038/s41524-025-01742-y",
    pickled=False,
    verified="made",
)
_OWN = ("potential", "stress_unit", "stress_weight", "use_voigt", "total_charge", "ext_pot", "directory")


def build(request: BuildRequest) -> Any:
    """Return MatGL's ASE calculator for a potential that MatGL saved: three files, of which one is named."""
    import torch
    from matgl.apps.pes import Potential
    from matgl.ext.ase import PESCalculator

    assert request.path is not None
    options = dict(request.options)
    compiled = bool(options.pop("compile", False))
    own = constructor_options(options, PESCalculator, *_OWN)
    with _precision(request.dtype):
        potential = Potential.load(request.path.parent)
    potential = potential.to(device=request.device, dtype=getattr(torch, request.dtype)).eval().requires_grad_(False)
    if compiled:
        potential.model = torch.compile(potential.model, dynamic=True)
    calculator = PESCalculator(potential, stress_unit="eV/A3", **own)
    calculator.bridge_dtype = request.dtype
    return calculator


def batch(calculator: Any) -> Batch | None:
    """Return the potential for many structures: MatGL's graphs, joined as its data loader does; not with charges."""
    if calculator.compute_charge:
        return None
    import torch
    from torch_geometric.data import Batch as Graphs

    @_precision(calculator.bridge_dtype)
    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        graphs, lattices, states = [], [], []
        for atoms in structures:
            inside = atoms.copy()
            inside.wrap()  # fractional coordinates in single precision are worse further out
            graph, lattice, state = calculator._atoms2graph.get_graph(inside)
            graphs.append(graph)
            lattices.append(lattice.reshape(1, 3, 3))
            states.append(
                torch.as_tensor(np.asarray(state)) if calculator.state_attr is None else calculator.state_attr
            )
        found = calculator.potential(Graphs.from_data_list(graphs), torch.cat(lattices), torch.stack(states))
        energies, forces, stresses = (values.detach().cpu().double().numpy() for values in found[:3])
        own = split(forces, [len(atoms) for atoms in structures])
        return [
            {"energy": energy, "forces": force, "stress": stress * calculator.conversion_factor}
            for energy, force, stress in zip(energies.reshape(-1), own, stresses.reshape(-1, 3, 3), strict=True)
        ]

    return Batch(
        evaluate, float(calculator.cutoff), float(getattr(calculator.potential.model, "threebody_cutoff", 0.0))
    )


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements in the model's table."""
    return frozenset(calculator.element_types)


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    """Let MatGL make graphs and networks of this precision, which it keeps for the whole process, and put it back."""
    import matgl
    import torch

    before, former = torch.get_default_dtype(), matgl.float_th
    matgl.set_default_dtype("float", int(name.removeprefix("float")))
    try:
        yield
    finally:
        matgl.set_default_dtype("float", 64 if former == torch.float64 else 32)
        torch.set_default_dtype(before)
