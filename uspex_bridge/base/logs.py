"""bridge.log in the working folder, and one line on stderr for what a user must know."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILENAME = "bridge.log"
#: A longer log is moved to bridge.log.1 before the next run.
_MOST = 2_000_000
_runs = itertools.count(1)


@contextmanager
def folder_log(folder: Path, level: int = logging.DEBUG) -> Iterator[logging.Logger]:
    """Give a logger that appends to ``bridge.log`` of ``folder`` and prints warnings and errors to stderr.

    A log that cannot be written (disk full, no permission) is no reason to fail: stderr remains.
    """
    log = logging.Logger(f"uspex_bridge.call.run{next(_runs)}", level)
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING)
    screen.setFormatter(logging.Formatter("uspex-bridge: %(message)s"))
    handlers: list[logging.Handler] = [screen]
    path = folder / FILENAME
    try:
        if path.exists() and path.stat().st_size > _MOST:
            os.replace(path, f"{path}.1")
        handlers.append(_Quiet(path, encoding="utf-8", delay=False))
    except OSError:
        pass
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield log
    finally:
        for handler in handlers:
            handler.close()


class _Quiet(logging.FileHandler):
    """A file handler that says nothing more once its file cannot be written."""

    def __init__(self, path: Path, encoding: str, delay: bool) -> None:
        super().__init__(path, encoding=encoding, delay=delay)
        self.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)-7s %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore a full disk."""

    def close(self) -> None:
        """Close; what could not be flushed is lost."""
        with suppress(OSError):
            super().close()
