"""STOPCAR: how a user of VASP, and custodian, ask a run to end early and leave what it has reached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import regular_bytes
from uspex_bridge.vasp.incar import stop_asked

FILENAME = "STOPCAR"


class Stopcar:
    """Says whether to stop: what ``halter`` says, else whether STOPCAR asks for it."""

    def __init__(self, folder: Path, halter: Callable[[], Literal["time", "signal"] | None]) -> None:
        self._path = folder / FILENAME
        self._halter = halter
        self._obeyed = False

    def __call__(self) -> Literal["time", "signal", "file"] | None:
        """Return why to stop, or None."""
        if why := self._halter():
            return why
        try:
            self._obeyed = stop_asked(regular_bytes(self._path).decode("utf-8", "replace"))
        except InputError:
            return None
        return "file" if self._obeyed else None

    def remove(self) -> None:
        """Remove a STOPCAR that was obeyed, as VASP does, unless it is read-only: then it is for later runs too."""
        with suppress(OSError):
            if self._obeyed and self._path.stat().st_mode & 0o222:
                self._path.unlink()
