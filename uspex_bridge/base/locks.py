"""Folders that one process at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from uspex_bridge.base.errors import BusyError
from uspex_bridge.base.files import writing


@contextmanager
def held(path: Path, busy: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder: the file ``path`` in it.

    Args:
        path: of the lock.
        busy: what to say where another process holds it.
        wait: for so many seconds at most.

    Raises:
        BusyError: another process holds it.
        OutputError: the folder cannot be written.
    """
    lock = FileLock(path, timeout=wait)
    with writing(path.parent):
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(busy) from None
    try:
        yield
    finally:
        lock.release()
