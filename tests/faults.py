"""Fail or end a process at its n-th file operation, so that tests can sweep over all of them.

Python tells audit hooks of opening, renaming, removing and locking before they happen; writes and fsync, of which it
does not, are wrapped. Only what concerns files below a folder counts, so that imports do not.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What may happen at an operation -> the kinds of operation at which it can.
FAULTS = {
    "KILL": ("read", "write", "rename", "remove", "lock"),
    "TERM": ("read", "write", "rename", "remove", "lock"),
    "EIO": ("read", "write", "rename", "remove", "lock"),
    "ESTALE": ("read", "write", "rename", "remove", "lock"),
    "ENOSPC": ("write", "rename"),
    "EDQUOT": ("write", "rename"),
    "EROFS": ("write", "rename", "remove"),
    "ENOLCK": ("lock",),
}
_AUDITED = {
    "os.rename": "rename",
    "os.link": "write",
    "os.symlink": "write",
    "os.mkdir": "write",
    "os.chmod": "write",
    "os.truncate": "write",
    "os.remove": "remove",
    "os.rmdir": "remove",
    "os.listdir": "read",
    "os.scandir": "read",
    "fcntl.flock": "lock",
}


class Faults:
    """Counts the file operations of this process below ``root``, and lets ``what`` happen at the one of number ``at``.

    Args:
        root: the folder.
        what: of FAULTS.
        at: 0 is the first of those at which it can happen; None only keeps in ``seen`` what there is.
        stays: it also happens at every one that follows, as with a full disk.
    """

    def __init__(self, root: Path, what: str, at: int | None, stays: bool = False) -> None:
        self.root, self.what, self.at, self.stays = str(root), what, at, stays
        self.count = 0
        self.seen: list[str] = []
        self.pid = os.getpid()

    def arm(self) -> None:
        """Begin; there is no end but that of the process."""
        sys.addaudithook(self._hear)
        for name in ("write", "pwrite", "fsync"):
            setattr(os, name, self._wrapped(getattr(os, name)))
        builtins.open = io.open = self._open

    def meet(self, kind: str, place: Any) -> None:
        """Hear of an operation that is about to happen."""
        if os.getpid() != self.pid or not self._below(place):
            return
        self.seen.append(kind)
        if kind not in FAULTS[self.what]:
            return
        number, self.count = self.count, self.count + 1
        if self.at is None or number < self.at or (number > self.at and not self.stays):
            return
        if self.what in ("KILL", "TERM"):
            os.kill(os.getpid(), signal.Signals[f"SIG{self.what}"])
            return
        code = getattr(errno, self.what)
        raise OSError(code, os.strerror(code), None if isinstance(place, int) else os.fspath(place))

    def _below(self, place: Any) -> bool:
        if isinstance(place, int):
            try:
                path = os.readlink(f"/proc/self/fd/{place}")
            except OSError:
                return False
        else:
            path = os.path.join(os.getcwd(), os.fsdecode(place))
        return path.startswith(self.root)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if path is not None and not isinstance(path, int):
                writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                self.meet("write" if writes else "read", path)
        elif kind := _AUDITED.get(event):
            self.meet(kind, "." if arguments[0] is None else arguments[0])

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(handle: int, *arguments: Any) -> Any:
            self.meet("write", handle)
            return function(handle, *arguments)

        return wrapper

    def _open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """Open as ``open`` does, into layers of which the lowest is ours."""
        meet = self.meet

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                meet("write", self.fileno())
                return super().write(data)

        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        layer = {"+": io.BufferedRandom, "r": io.BufferedReader}.get("+" if "+" in mode else mode[0], io.BufferedWriter)
        buffer = layer(raw)
        if "b" in mode:
            return buffer
        return io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=buffering == 1)
