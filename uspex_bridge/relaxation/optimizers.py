"""The optimizers by name: some of ASE's, TRQN, and those that other packages offer by entry point."""

from __future__ import annotations

import importlib
from typing import Any

from uspex_bridge.relaxation.offered import OPTIMIZERS, check_offered, load_offered

#: Name -> module of the class.
BUILT_IN = {
    **dict.fromkeys(("FIRE", "FIRE2", "BFGS", "LBFGS", "BFGSLineSearch"), "ase.optimize"),
    "TRQN": "uspex_bridge.relaxation.trqn",
}


def check_name(name: str) -> None:
    """Check that there is an optimizer of this name, without importing it.

    Raises:
        ValueError: there is none.
    """
    if name not in BUILT_IN:
        check_offered(OPTIMIZERS, name, BUILT_IN)


def optimizer(name: str) -> Any:
    """Return the class of an optimizer.

    Raises:
        ConfigError: there is none of this name, or it cannot be imported.
    """
    if name in BUILT_IN:
        return getattr(importlib.import_module(BUILT_IN[name]), name)
    return load_offered(OPTIMIZERS, name)
