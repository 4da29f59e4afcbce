"""One GPU among runs without a service: at most so many at once, the others wait for a turn.

A turn is a file lock in a folder of the user's own, one file per device and place. The system lets go of the lock of
whoever is killed. Runs on the CPU have no turns and never wait.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from uspex_bridge.base import private
from uspex_bridge.base.errors import Interrupted, OutputError
from uspex_bridge.base.locks import Lock

#: Seconds between two looks for a free place.
_LOOK = 0.25


def take_turn(
    devices: Iterable[str], places: int, log: logging.Logger, halt: Callable[[], object | None]
) -> tuple[ExitStack, float]:
    """Wait for a place on each GPU of ``devices``.

    Args:
        devices: ``cuda:N``, as PyTorch numbers what this process may use; others are passed over.
        places: how many runs may have a turn on one GPU at the same time.
        log: told once, if there is a wait.
        halt: asked while waiting; what is not None ends it.

    Returns:
        what holds the places until it is closed or this process ends, and the seconds that it took.

    Raises:
        Interrupted: ``halt`` said so.
    """
    began, turns = time.monotonic(), ExitStack()
    for device in sorted({_physical(name) for name in devices if name.startswith("cuda")}):  # in one order: no deadlock
        try:
            names = (f"gpu-{socket.gethostname()}-{device}.{place}.lock" for place in range(places))
            turns.callback(_wait([Lock(_folder() / name, log) for name in names], device, log, halt).release)
        except (OSError, OutputError) as error:
            log.warning("no turns on GPU %s among several runs: %s", device, error)
            break
    return turns, time.monotonic() - began


def _wait(locks: list[Lock], device: str, log: logging.Logger, halt: Callable[[], object | None]) -> Lock:
    """Return the first of these locks that can be had, held."""
    told = False
    while True:
        for lock in locks:
            if lock.acquire():
                return lock
        if not told:
            told = True
            log.warning("waiting for a turn on GPU %s (gpu_runs = %d in bridge.toml)", device, len(locks))
        if halt() is not None:
            raise Interrupted(f"stopped while waiting for GPU {device}; nothing was written")
        time.sleep(_LOOK)


def _physical(device: str) -> str:
    """Return the name of a GPU that is the same for processes that see different ones."""
    index = int(device.partition(":")[2] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible[index].strip() if index < len(visible) and visible[index].strip() else str(index)


def _folder() -> Path:
    """Return the private folder of the user's service, which the locks share.

    Raises:
        OSError: it cannot be made, or is not private.
    """
    folder = private.folder()
    private.make_private(folder)
    return Path(folder)
