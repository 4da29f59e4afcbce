"""CHGNet trained on at high pressure: weights that come with the bridge, run by CHGNet's own package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from uspex_bridge.calculators import chgnet
from uspex_bridge.calculators.chgnet import batch, build
from uspex_bridge.models.cards import KnownModel

__all__ = ["CARD", "batch", "build", "elements"]

#: Elements that CHGNet has numbers for and no DFT calculation at high pressure has.
_UNKNOWN = frozenset({"Po", "At", "Rn", "Fr", "Ra"})

CARD = replace(
    chgnet.CARD,
    kind="chgnet-hp",
    title="CHGNet-hp",
    keeper="uspex_bridge",
    models=(
        KnownModel(
            "1",
            size_mb=1.7,
            licence="BSD-3-Clause",
            in_wheel=True,
            files=("calculators/weights/chgnet-hp.pth.tar",),
            note="atoms within 6 Å; no magnetic moments",
            data="MPtrj, then MatterSim's sets at high pressure and ACWF's equations of state",
            functional="pbe",
        ),
    ),
    magmoms=False,
    pressure="0-120 GPa, with holes (Ca, light elements)",
)


def elements(calculator: Any) -> frozenset[str]:
    """Return the 89 elements that it was trained on."""
    return chgnet.elements(calculator) - _UNKNOWN
