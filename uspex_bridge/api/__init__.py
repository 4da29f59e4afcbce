"""The commands as functions, for notebooks and scripts. It knows no option of a command line and prints nothing.

Pressures are in GPa, energies and enthalpies in eV, lengths in Å. All errors are subclasses of
``uspex_bridge.base.errors.BridgeError``.
"""

from uspex_bridge.api.choosing import screen, select
from uspex_bridge.api.free_energy import free_energies
from uspex_bridge.api.models import load_model
from uspex_bridge.api.relaxing import relax
from uspex_bridge.api.searching import Search, open_results, read_record
from uspex_bridge.call.relaxed import Relaxed

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
