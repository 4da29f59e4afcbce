"""PET models (upet): PET-MAD, PET-OMat, PET-OAM and others; they learn rotations instead of building them in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from uspex_bridge.models.cards import Batch, BuildRequest, Card, KnownModel, constructor_options

_LICENCE = "BSD-3-Clause"


def _known(size: str) -> KnownModel:
    name = f"pet-mad-{size}-v1.6.0"
    return KnownModel(
        name,
        hub="lab-cosmo/upet",
        files=(f"models/{name}.ckpt", f"{name}.ckpt"),
        aliases=(f"pet-mad-{size}",),
        licence=_LICENCE,
        data="MAD: materials, surfaces, molecules",
        functional="r2scan",
    )


#: Names and sizes as in upet 0.3.1 (``upet.ase.UPETCalculator``); it takes the others' versions from the hub's listing.
CARD = Card(
    kind="upet",
    title="PET",
    package="upet==0.3.1",
    module="upet",
    install="uspex-bridge env create upet",
    models=tuple(_known(size) for size in ("s", "xs", "m")),
    dtypes=("float32", "float64"),
    head="variant",
    elements="102 (PET-MAD 1.6)",
    licence=_LICENCE,
    citation="arXiv:2305.19302 (PET), doi:10.1038/s41467-025-65662-7 (PET-MAD)",
    verified="made",
)
_OWN = ("model", "version", "dtype", "checkpoint_path", "variants", "device")


def build(request: BuildRequest) -> Any:
    """Return upet's ASE calculator for a checkpoint (.ckpt) of metatrain."""
    from upet.ase import UPETCalculator

    options = {"uncertainty_threshold": None, **constructor_options(request.options, UPETCalculator, *_OWN)}
    return UPETCalculator(
        checkpoint_path=str(request.path),
        dtype=request.dtype,
        device=request.device,
        variants={"energy": request.head} if request.head else None,
        **options,
    )


def batch(calculator: Any) -> Batch | None:
    """Return the network for many structures, by metatomic's own function for lists; no averages over rotations."""
    from metatomic_ase import MetatomicCalculator

    inner = calculator.calculator
    if not isinstance(inner, MetatomicCalculator):
        return None

    def evaluate(structures: Sequence[Any]) -> list[dict[str, Any]]:
        found = inner.compute_energy(list(structures), compute_forces_and_stresses=True)
        return [
            {"energy": energy, "forces": forces - forces.mean(axis=0), "stress": np.asarray(stress).reshape(3, 3)}
            for energy, forces, stress in zip(found["energy"], found["forces"], found["stress"], strict=True)
        ]

    return Batch(evaluate, float(inner.model().capabilities().interaction_range))


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements that the model has types for."""
    from ase.data import chemical_symbols

    inner = getattr(calculator.calculator, "base_calculator", calculator.calculator)
    return frozenset(chemical_symbols[z] for z in inner.model().capabilities().atomic_types)
