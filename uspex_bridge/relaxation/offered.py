"""What other packages offer a protocol by entry point: optimizers and guards."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import Any

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.schema import nearest

#: A class like ASE's optimizers, ``Class(target, logfile=None, maxstep=0.2)`` with ``irun`` and ``nsteps``.
OPTIMIZERS = "uspex_bridge.optimizers"
#: A function ``guard(atoms, moment, pressure)`` (:mod:`uspex_bridge.relaxation.guards`).
GUARDS = "uspex_bridge.guards"


def check_offered(group: str, name: str, built_in: Iterable[str] = ()) -> None:
    """Check that a package offers something of this name, without importing it.

    Raises:
        ValueError: none does.
    """
    names = [point.name for point in importlib.metadata.entry_points(group=group)]
    if name not in names:
        what = group.rpartition(".")[2].removesuffix("s")
        raise ValueError(f"there is no {what} '{name}'{nearest(name, [*built_in, *names])}")


def load_offered(group: str, name: str) -> Any:
    """Return what a package offers under a name.

    Raises:
        ConfigError: there is nothing of this name, or it cannot be imported.
    """
    try:
        check_offered(group, name)
        (point, *_) = importlib.metadata.entry_points(group=group, name=name)
        return point.load()
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"{group} '{name}': {error}") from error
