"""NEP, neuroevolution potentials of GPUMD (calorine): fast on one CPU core, their weights are text."""

from __future__ import annotations

from typing import Any

from uspex_bridge.base.errors import ModelError
from uspex_bridge.models.cards import BuildRequest, Card, constructor_options

CARD = Card(
    kind="nep",
    title="NEP",
    package="calorine==4.1",
    module="calorine",
    install="uspex-bridge env create nep",
    model_required=True,
    pickled=False,
    dtypes=(),
    devices=("cpu",),
    elements="as in the weights",
    licence="MPL-2.0",
    citation="doi:10.1063/5.0106617 (GPUMD), doi:10.21105/joss.06264 (calorine)",
    verified="made",
)
_OWN = ("model_filename", "atoms", "label")


def build(request: BuildRequest) -> Any:
    """Return calorine's ASE calculator for a file ``nep.txt``.

    Raises:
        ModelError: it is a model of dipoles or polarizabilities.
    """
    from calorine.calculators import CPUNEP

    calculator = CPUNEP(str(request.path), **constructor_options(request.options, CPUNEP, *_OWN))
    if missing := {"energy", "forces", "stress"} - set(calculator.implemented_properties):
        raise ModelError(f"{request.path}: this model predicts no {', '.join(sorted(missing))}")
    return calculator


def elements(calculator: Any) -> frozenset[str]:
    """Return the elements in the model's header."""
    return frozenset(calculator.supported_species)
