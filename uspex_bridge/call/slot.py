"""The outermost layer of a run in a working folder: lock it, remove old results, and let no error pass unsaid.

Standard library only, so that old results are gone before anything heavy is imported or can fail.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from uspex_bridge.base.errors import BridgeError, OutputError
from uspex_bridge.base.files import remove
from uspex_bridge.base.locks import held
from uspex_bridge.base.logs import folder_log

LOCK = ".bridge.lock"


def run_in_slot(folder: Path, outputs: tuple[str, ...], work: Callable[[logging.Logger], None]) -> int:
    """Call ``work`` in ``folder`` after removing ``outputs`` of earlier runs, and return the exit code.

    Whatever goes wrong ends in one line on stderr and in ``bridge.log``.
    """
    with folder_log(folder) as log:
        try:
            if not folder.is_dir():
                raise OutputError(f"{folder}: there is no such folder")
            with sole_use(folder):
                remove(folder, outputs)
                work(log)
        except BridgeError as error:
            log.error("%s", error)
            return error.exit_code
        except Exception as error:
            log.error("unexpected %s: %s; please report it with bridge.log", type(error).__name__, error)
            log.debug("", exc_info=True)
            return BridgeError.exit_code
    return 0


def sole_use(folder: Path, wait: float = 0.0) -> AbstractContextManager[object]:
    """Hold the lock of a working folder, waiting for it up to ``wait`` seconds.

    Raises:
        BusyError: another bridge holds it.
        OutputError: the folder cannot be written.
    """
    return held(folder / LOCK, f"{folder}: another bridge is at work here; one folder takes one run at a time", wait)
