"""Where the service listens, and how both sides make sure that they speak of the same (docs/service.md).

This is loaded by every call of the executables: of the standard library only what a call needs at once.
"""

from __future__ import annotations

import os

import uspex_bridge
from uspex_bridge.base.private import SOCKET, default_folder
from uspex_bridge.base.version import version

TYPE_CHECKING = False  # as typing's, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: Version of the messages; both sides must have the same.
PROTOCOL = 2
#: Names what a call does about services.
MODE = "USPEX_BRIDGE_SERVER"


def address() -> str:
    """Return the path of the socket at which the user's service listens.

    The default lies in /tmp, not in $XDG_RUNTIME_DIR: that one vanishes with the last login, and a search does not.
    """
    return os.environ.get(SOCKET) or f"{default_folder()}/service.sock"


def greeting() -> dict[str, Any]:
    """Return what each side says of itself."""
    return {
        "service": "uspex-bridge",
        "protocol": PROTOCOL,
        "version": version(),
        "host": os.uname().nodename,
        "package": os.path.dirname(os.path.abspath(uspex_bridge.__file__)),
    }


def mismatch(other: dict[str, Any]) -> str:
    """Return why the other side, by its greeting, is not to be worked with; an empty string if it is.

    On another machine the installation may lie elsewhere.
    """
    mine = greeting()
    if other.get("service") != mine["service"]:
        return "the program there is not a service of uspex-bridge"
    for key in ("version", "protocol"):
        if other.get(key) != mine[key]:
            return f"it is of {key} {other.get(key)}, this is {mine[key]}"
    if other.get("host") == mine["host"] and other.get("package") != mine["package"]:
        return f"it runs from another installation, {other.get('package')}"
    return ""
