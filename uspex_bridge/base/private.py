"""The folder of the user's own on this machine: the service's socket, and turns on a GPU.

Standard library only, and little of it: this is loaded by every call of the executables.
"""

from __future__ import annotations

import os
import socket
import stat
import sys

#: Names the service's socket.
SOCKET = "USPEX_BRIDGE_SOCKET"


def default_folder() -> str:
    """Return the folder of the user's own on this machine."""
    return f"/tmp/uspex_bridge-{os.getuid()}"


def folder() -> str:
    """Return the folder of the service's socket."""
    place = os.environ.get(SOCKET)
    return os.path.dirname(os.path.abspath(place)) if place else default_folder()


def not_private(path: str) -> str:
    """Return what is wrong with a folder or file that only its user may touch, or an empty string.

    Raises:
        OSError: it is not there.
    """
    state = os.lstat(path)  # a link in /tmp may be another user's, wherever it points
    if stat.S_ISLNK(state.st_mode):
        return f"{path} is a link; name what it points to"
    if state.st_uid != os.getuid():
        return f"{path} belongs to another user"
    if stat.S_IMODE(state.st_mode) & 0o077:
        wanted = "700" if stat.S_ISDIR(state.st_mode) else "600"
        return f"{path} must be mode {wanted}, closed to other users: chmod {wanted} {path}"
    return ""


def make_private(folder: str) -> None:
    """Make a folder for this user alone, or check that the one that is there is.

    Raises:
        OSError: it cannot be made; without ``strerror`` and with the whole message, it is open to others.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if problem := not_private(folder):
        raise PermissionError(problem)


def user_of(connected: socket.socket) -> int | None:
    """Return the ID of the user at the other end of a Unix socket, None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)
