"""bridge.log in the working folder, one line on stderr for what a user must know, and one on stdout in the end."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from uspex_bridge.base.words import one_line

FILENAME = "bridge.log"
#: A longer log is moved to bridge.log.1, bytes.
_MOST = 2_000_000
_runs = itertools.count(1)


@contextmanager
def folder_log(folder: Path, level: int = logging.DEBUG) -> Iterator[logging.Logger]:
    """Give a logger that appends to ``bridge.log`` of ``folder`` and prints warnings and errors to stderr.

    A log that cannot be written (disk full, no permission), or that is a link, is no reason to fail: stderr remains.
    """
    log = logging.Logger(f"uspex_bridge.call.run{next(_runs)}", level)
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING)
    screen.setFormatter(_OneLine("uspex-bridge: %(message)s"))
    handlers: list[logging.Handler] = [screen]
    with suppress(OSError):
        handlers.append(_LogFile(folder / FILENAME))
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield log
    finally:
        for handler in handlers:
            handler.close()


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = one_line(record.message)
        return super().formatMessage(record)


class _LogFile(RotatingFileHandler):
    """A file that is rotated, is no link, and of which nothing more is heard once it cannot be written.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_MOST, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(_OneLine("%(asctime)s %(process)d %(levelname)-7s %(message)s"))

    def _open(self) -> TextIOWrapper:
        def plain(path: str, flags: int) -> int:  # no link; of a pipe that nobody reads, an error instead of waiting
            return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=plain)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore a full disk."""

    def close(self) -> None:
        """Close; what could not be flushed is lost."""
        with suppress(OSError):
            super().close()


def say(text: str) -> None:
    """Print a line on stdout, as far as whoever reads it can take it; that it cannot is no reason to fail."""
    stream = sys.stdout
    if stream is None:
        return
    try:
        encoding = stream.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # what is left in its buffer would fail again when this process ends
            hush(stream.fileno())


def hush(descriptor: int) -> None:
    """Let an open file lead nowhere from now on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
