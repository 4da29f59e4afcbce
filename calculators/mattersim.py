"""MatterSim (M3GNet architecture), trained over temperatures and pressures."""

from __future__ import annotations

from typing import Any

from uspex_bridge.cards import BuildRequest, Card, KnownModel, constructor_options
from uspex_bridge.errors import ModelError

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


def elements(calculator: Any) -> frozenset[str]:
    """Return every element up to the largest atomic number of the model's table.

    The file does not say which of them were in its training set; ``elements`` in the settings can.
    """
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1 : calculator.potential.model.max_z + 1])
