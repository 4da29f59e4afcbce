"""Acting as a caller would: its working directory, mask and environment.

This is loaded by every call of the executables, so it imports next to nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What decides which settings and weights are found; PWD names the links on the way to the working directory.
ENVIRONMENT = (
    "USPEX_BRIDGE_CONFIG",
    "USPEX_BRIDGE_MODELS",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "PWD",
)


def whoami() -> dict[str, Any]:
    """Return what tells this process from another: working directory, mask, and what of the environment matters."""
    mask = os.umask(0)
    os.umask(mask)
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {"cwd": os.getcwd(), "umask": mask, "environment": environment}


class Acting:
    """A context in which this process has the working directory, mask and environment of a caller.

    Args:
        caller: what :func:`whoami` told there; more does no harm.

    Raises:
        OSError: the directory cannot be entered.
    """

    def __init__(self, caller: dict[str, Any]) -> None:
        self._caller = caller

    def __enter__(self) -> None:
        self._before = whoami()
        self._become(self._caller)

    def __exit__(self, *exception: object) -> None:
        self._become(self._before)

    def _become(self, who: dict[str, Any]) -> None:
        for name in ENVIRONMENT:
            if name in who["environment"]:
                os.environ[name] = who["environment"][name]
            else:
                os.environ.pop(name, None)
        os.umask(who["umask"])
        os.chdir(who["cwd"])
