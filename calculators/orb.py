"""Orb v3 (orb-models): networks whose forces and stress are the slope of their energy, or are predicted beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.base.neighbours import split
from uspex_bridge.base.schema import nearest
from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel, constructor_options

_URL = "https://orbitalmaterials-public-models.s3.us-west-1.amazonaws.com/forcefields/orb-v3"


def _known(forces: str, neighbours: str, data: str) -> KnownModel:
    name = f"orb-v3-{forces}-{neighbours}-{data}"
    notes = [] if forces == "conservative" else ["forces and stress are not derivatives of the energy"]
    notes += ["at most 20 neighbours, not continuous"] if neighbours == "20" else []
    return KnownModel(
        name,
        url=f"{_URL}/{name}-20250404.ckpt",
        licence="Apache-2.0",
        note="; ".join(notes),
        data={"omat": "OMat24", "mpa": "MPtrj, Alexandria"}[data],
        functional="pbe",
        energy_zero="mp-pbe" if data == "mpa" else "model",
    )


#: Names and URLs as in orb-models 0.5.5 (``orb_models.forcefield.pretrained``); those of OMol25 have no stress.
CARD = Card(
    kind="orb",
    title="Orb",
    package="orb-models==0.5.5",
    module="orb_models",
    install="uspex-bridge env create orb",
    models=tuple(
        _known(forces, neighbours, data)
        for forces in ("conservative", "direct")
        for neighbours in ("inf", "20")
        for data in ("omat", "mpa")
    ),
    dtypes=("float32", "float64"),
    elements="89",
    licence="Apache-2.0",
    citation="arXiv:2504.06231",
    kernels="compile",
    pickled=False,
    verified="made",
)
#: Arguments of ORBCalculator and of the function that loads weights which follow from the settings.
_OWN = ("model", "device", "system_config", "conservative", "directory")


def build(request: BuildRequest) -> Any:
    """Return orb-models' ASE calculator for a checkpoint of one of its architectures.

    The checkpoint holds numbers only: of a known model its name says the architecture, of a file of one's own
    ``options.architecture`` does, by the name of the published model that it was trained from.

    Raises:
        ConfigError: there is no such architecture.
        ModelError: the architecture is not said.
    """
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.calculator import ORBCalculator

    options = dict(request.options)
    architecture = options.pop("architecture", request.model if CARD.known(request.model or "") else None)
    compiled = bool(options.pop("compile", False))
    precision = options.pop("precision", {"float32": "float32-highest"}.get(request.dtype, request.dtype))
    names = [model.name for model in CARD.models]
    if architecture is None:
        raise ModelError(
            f"{request.path}: a checkpoint does not say its architecture; set options.architecture to the model "
            f"that it was trained from: {', '.join(names)}"
        )
    if architecture not in names:
        raise ConfigError(f"options: there is no architecture '{architecture}'{nearest(architecture, names)}")
    make = pretrained.ORB_PRETRAINED_MODELS[architecture]
    own = constructor_options(options, ORBCalculator, *_OWN)
    with _default_dtype(request.dtype):
        model = make(weights_path=str(request.path), device=request.device, precision=precision, compile=compiled)
    calculator = ORBCalculator(model, device=request.device, **own)
    calculator.bridge_dtype = request.dtype
    return calculator


def batch(calculator: Any) -> Batch:
    """Return Orb's network for many structures: orb-models' own graphs, joined by its own function."""
    from orb_models.forcefield.atomic_system import ase_atoms_to_atom_graphs
    from orb_models.forcefield.base import batch_graphs

    model, device = calculator.model, calculator.device
    options = {name: getattr(calculator, name) for name in ("edge_method", "max_num_neighbors", "half_supercell")}
    slopes = bool(calculator.conservative)
    forces_name = model.grad_forces_name if slopes else "forces"
    stress_name = model.grad_stress_name if slopes else "stress"

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        with _default_dtype(calculator.bridge_dtype):
            graphs = [
                ase_atoms_to_atom_graphs(atoms, system_config=calculator.system_config, device=device, **options)
                for atoms in structures
            ]
            found = model.predict(batch_graphs(graphs).to(device))
        energies, forces, stresses = (
            found[name].detach().cpu().double().numpy() for name in ("energy", forces_name, stress_name)
        )
        own = split(forces, [len(atoms) for atoms in structures])
        return [
            {"energy": energy, "forces": force, "stress": stress}
            for energy, force, stress in zip(
                energies.reshape(-1), own, stresses.reshape(len(structures), 6), strict=True
            )
        ]

    return Batch(evaluate, float(calculator.system_config.radius))


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements of the network's table; the file does not say which of them its weights saw."""
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1:95])


@contextlib.contextmanager
def _default_dtype(name: str) -> Iterator[None]:
    """Let PyTorch make tensors of this precision, as orb-models does for the whole process, and put it back."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)
