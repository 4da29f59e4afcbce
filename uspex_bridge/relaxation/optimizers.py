"""The optimizers by name: some of ASE's, TRQN, and those that other packages offer by entry point."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import nearest

#: Name -> module of the class.
BUILT_IN = {
    **dict.fromkeys(("FIRE", "FIRE2", "BFGS", "LBFGS", "BFGSLineSearch"), "ase.optimize"),
    "TRQN": "uspex_bridge.relaxation.trqn",
}
#: Entry-point group: a class like ASE's, ``Class(target, logfile=None, maxstep=0.2)`` with ``irun`` and ``nsteps``.
GROUP = "uspex_bridge.optimizers"


def check_name(name: str) -> None:
    """Check that there is an optimizer of this name, without importing it.

    Raises:
        ValueError: there is none.
    """
    if name not in BUILT_IN:
        offered = [point.name for point in importlib.metadata.entry_points(group=GROUP)]
        if name not in offered:
            raise ValueError(f"there is no optimizer '{name}'{nearest(name, [*BUILT_IN, *offered])}")


def optimizer(name: str) -> Any:
    """Return the class of an optimizer.

    Raises:
        ConfigError: there is none of this name, or it cannot be imported.
    """
    if name in BUILT_IN:
        return getattr(importlib.import_module(BUILT_IN[name]), name)
    try:
        check_name(name)
        (point, *_) = importlib.metadata.entry_points(group=GROUP, name=name)
        return point.load()
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"optimizer '{name}': {error}") from error
