"""The outermost layer of a run in a working folder: lock it, remove old results, and let no error pass unsaid.

Standard library only, so that old results are gone before anything heavy is imported or can fail.
"""

from __future__ import annotations

import hashlib
import logging
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from uspex_bridge.base.errors import BridgeError, BusyError, InputError, OutOfMemoryError, OutputError, exhausted
from uspex_bridge.base.files import regular_bytes, remove, writing
from uspex_bridge.base.locks import held
from uspex_bridge.base.logs import folder_log

LOCK = ".bridge.lock"
#: Option of ulimit -> which limit it sets, and what a run takes of it with the smallest of models, bytes.
LEAST_MEMORY = {"-v": (resource.RLIMIT_AS, 380 << 20), "-d": (resource.RLIMIT_DATA, 170 << 20)}


def run_in_slot(folder: Path, outputs: tuple[str, ...], work: Callable[[logging.Logger], None]) -> int:
    """Call ``work`` in ``folder`` after removing ``outputs`` of earlier runs, and return the exit code.

    Whatever goes wrong ends in one line on stderr and in ``bridge.log``, and leaves no old result unless another
    bridge is at work there.
    """
    with folder_log(folder) as log:
        try:
            if not folder.is_dir():
                raise OutputError(f"{folder}: there is no such folder")
            with _cleared(folder, outputs, log):
                _refuse_too_little_memory()
                work(log)
        except BridgeError as error:
            log.error("%s", error)
            return error.exit_code
        except Exception as error:
            if reason := exhausted(error):
                log.error("%s", reason)
                return OutOfMemoryError.exit_code
            if isinstance(error, OSError):
                log.error("%s: cannot be read or written: %s", error.filename or folder, error.strerror or error)
                return OutputError.exit_code
            log.error("unexpected %s: %s; please report it with bridge.log", type(error).__name__, error)
            log.debug("", exc_info=True)
            return BridgeError.exit_code
    return 0


def clear_slot(folder: Path, outputs: tuple[str, ...]) -> None:
    """Remove ``outputs`` of earlier runs where there will be no run, unless another bridge is at work there.

    Raises:
        OutputError: they cannot be removed, or there is no such folder.
    """
    with suppress(BusyError), _cleared(folder, outputs):
        pass


@contextmanager
def _cleared(folder: Path, outputs: tuple[str, ...], log: logging.Logger | None = None) -> Iterator[None]:
    """Hold the lock of a working folder whose old results are gone.

    Raises:
        BusyError: another bridge holds it.
        OutputError: the lock cannot be had, or an old result cannot be removed.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_use(folder, log=log))
        except BusyError:
            raise
        except BaseException:
            remove(folder, outputs)  # a lock that nobody can have is no reason to leave them
            raise
        remove(folder, outputs)
        yield


def sole_use(folder: Path, wait: float = 0.0, log: logging.Logger | None = None) -> AbstractContextManager[object]:
    """Hold the lock of a working folder, waiting for it up to ``wait`` seconds.

    Raises:
        BusyError: another bridge holds it.
        OutputError: the folder cannot be written.
    """
    busy = f"{folder}: another run uses this folder"
    return held(folder / LOCK, busy, wait, log)


def _refuse_too_little_memory() -> None:
    """Refuse a limit of memory under which libraries of linear algebra do not even load, or hang while they do.

    Raises:
        OutOfMemoryError: the limit is that low.
    """
    for option, (kind, least) in LEAST_MEMORY.items():
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and limit < least:
            raise OutOfMemoryError(
                f"not enough memory: the limit of this process is {limit >> 20} MB (see ulimit {option}, or the "
                f"limit of the batch job); a run takes {least >> 20} MB at least, with PyTorch 1500"
            )


class SlotState:
    """What a working folder was when a run began there, and must still be when its result appears.

    USPEX reuses its folders, and once restarted it meets the runs that it had started before. A result must not
    appear in a folder that holds another structure by then.

    Args:
        folder: the working folder, whose lock is held.
        inputs: names of the files that the run reads; make this before reading them.

    Raises:
        OutputError: the folder cannot be opened.
    """

    def __init__(self, folder: Path, inputs: Iterable[str]) -> None:
        self._folder, self._inputs = folder, tuple(inputs)
        with writing(folder):
            self._handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)  # its inode is no other's as long as it is open
        self._places, self._contents = self._look_at_places(), self._look_into_inputs()

    def __enter__(self) -> SlotState:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._handle)

    def check(self) -> None:
        """Compare the folder with what it was.

        Raises:
            OutputError: it, its lock or an input is another one.
        """
        if self._look_at_places() != self._places:
            raise OutputError(f"{self._folder}: was removed or replaced during this run; its result is not written")
        now = self._look_into_inputs()
        changed = [name for name, before in self._contents.items() if now[name] != before]
        if unread := [reason for name in changed if isinstance(reason := now[name], str)]:
            raise OutputError(f"{unread[0]}; it could be read when this run began; its result is not written")
        if changed:
            raise OutputError(
                f"{self._folder}: {', '.join(changed)} changed during this run; its result is for the previous "
                "structure and is not written"
            )

    def _look_at_places(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for path in (self._folder, self._folder / LOCK):
            try:
                state = os.stat(path)
                found.append((state.st_dev, state.st_ino))
            except OSError:
                found.append(None)
        return found

    def _look_into_inputs(self) -> dict[str, bytes | str | None]:
        """Return the digest of each input, why it cannot be read, or None where it is gone."""
        digests: dict[str, bytes | str | None] = {}
        for name in self._inputs:
            try:
                digests[name] = hashlib.sha256(regular_bytes(self._folder / name)).digest()
            except InputError as error:
                digests[name] = str(error) if (self._folder / name).exists() else None
        return digests
