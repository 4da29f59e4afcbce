"""Files that one process at a time holds the lock of, also where a file system has no locks.

The lock is the system's (flock): it ends with its holder, however that ends. What stands in the file only says who
holds it. Standard library only, so that old results are gone before anything heavy is imported or can fail.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from uspex_bridge.base.errors import BusyError, OutputError
from uspex_bridge.base.words import duration

#: What a file system says that has no locks, or whose lock server is away.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
#: Seconds between two looks at a lock that another process holds.
_LOOK = 0.05

_warned: set[Path] = set()


class Lock:
    """The lock of a file, which is made where it is missing and stays there.

    Where the file system has no locks every process holds it; that is said once per folder.

    Args:
        path: of the file; a link is not followed.
        log: told that there are no locks.
    """

    def __init__(self, path: Path, log: logging.Logger | None = None) -> None:
        self._handle: int | None = None
        self.path = path
        self._log = log or logging.getLogger("uspex_bridge")

    def acquire(self) -> bool:
        """Take the lock; return False where another process holds it.

        Raises:
            OutputError: the file cannot be made or locked.
        """
        handle = -1
        try:
            handle = self._open()
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        except OSError as error:
            if handle < 0 or error.errno not in NO_LOCKS:
                if handle >= 0:
                    os.close(handle)
                reason = error.strerror or str(error)
                raise OutputError(f"{self.path}: cannot be written: {reason}; it is the lock of its folder") from error
            self._warn(error)
        self._handle = handle
        self._sign(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": round(time.time())}))
        return True

    def release(self) -> None:
        """Give the lock back; the system takes it back where that fails."""
        if self._handle is not None:
            self._sign("")
            with suppress(OSError):
                os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.release()

    def fileno(self) -> int:
        """Return the descriptor that holds the lock; a child that inherits it holds the lock too."""
        assert self._handle is not None
        return self._handle

    def holder(self) -> str:
        """Return who holds the lock, in words; an empty string where the file does not tell."""
        try:
            told = json.loads(self.path.read_text(encoding="utf-8")[:1000])
            age = duration(max(0.0, time.time() - told["since"]))
            return f"process {int(told['pid'])} on {told['host']} has held {self.path} for {age}"
        except (OSError, ValueError, LookupError, TypeError, RecursionError, OverflowError):
            return ""

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(self.path, flags | os.O_RDWR, 0o666)
        except PermissionError:  # another user's file in a folder of both: it can be locked nevertheless
            return os.open(self.path, flags & ~os.O_CREAT | os.O_RDONLY)

    def _sign(self, text: str) -> None:
        """Write who holds the lock; a full disk is no reason to fail."""
        assert self._handle is not None
        with suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, text.encode(), 0)

    def _warn(self, error: OSError) -> None:
        if self.path.parent not in _warned:
            _warned.add(self.path.parent)
            self._log.warning(
                "%s: the file system has no locks (%s): do not start two runs in one folder",
                self.path.parent,
                error.strerror,
            )


@contextmanager
def held(path: Path, busy: str, wait: float = 0.0, log: logging.Logger | None = None) -> Iterator[Lock]:
    """Hold the lock of the file ``path``.

    Args:
        path: of the lock.
        busy: what to say where another process holds it; who that is is added.
        wait: for so many seconds at most.
        log: told where there are no locks.

    Raises:
        BusyError: another process holds it.
        OutputError: the file cannot be made or locked.
    """
    lock, end = Lock(path, log), time.monotonic() + wait
    while not lock.acquire():
        if time.monotonic() >= end:
            raise BusyError("; ".join(filter(None, [busy, lock.holder()])))
        time.sleep(_LOOK)
    try:
        yield lock
    finally:
        lock.release()
