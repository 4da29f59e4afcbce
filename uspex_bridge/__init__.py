"""Foundation-model relaxations in the place where USPEX expects VASP (docs/python.md)."""

TYPE_CHECKING = False  # as typing's, which takes longer to load than all of this
if TYPE_CHECKING:
    from typing import Any

    from uspex_bridge.api import (
        Relaxed,
        Search,
        free_energies,
        load_model,
        open_results,
        read_record,
        relax,
        screen,
        select,
    )

__version__ = "0.1.0"
__all__ = [
    "Relaxed",
    "Search",
    "free_energies",
    "load_model",
    "open_results",
    "read_record",
    "relax",
    "screen",
    "select",
]


def __getattr__(name: str) -> "Any":
    """Load the names of :mod:`uspex_bridge.api` when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module 'uspex_bridge' has no attribute '{name}'")
    from uspex_bridge import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
