"""What the service has a Dask worker do: keep processes for it, and pass on what goes through their pipes.

Called through ``Client.run``, thus on the Dask worker's event loop. A process ends with its Dask worker, since its
stdin does, and when the service has not asked about it for a while.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Any

from uspex_bridge.service import wire
from uspex_bridge.service.stats import resident_mb

#: Longest wait for something to tell, and time without a question after which the service is taken for dead, seconds.
_POLL, _LEASE = 5.0, 20.0
#: Most bytes of a pipe in one piece.
_PIECE = 1 << 16


class _Kept:
    """A process and what it has said since the service last asked: pairs of stream and bytes, ``code`` at the end."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.asked = time.monotonic()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._listen())]

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()

    async def _listen(self) -> None:
        await asyncio.gather(self._pass_on("stdout"), self._pass_on("stderr"))
        self.said.put_nowait(("code", await self.process.wait()))
        self._tasks[0].cancel()

    async def _pass_on(self, stream: str) -> None:
        reader: asyncio.StreamReader = getattr(self.process, stream)
        while piece := await reader.read(_PIECE):
            self.said.put_nowait((stream, piece))

    async def _watch(self) -> None:
        while time.monotonic() - self.asked < _LEASE:
            await asyncio.sleep(1.0)
        self.kill()


_kept: dict[int, _Kept] = {}
_numbers = itertools.count(1)


async def start(mine: dict[str, Any], arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Start this Python with ``arguments`` and return the process's number here, its ID and the host's name.

    What the service that greets with ``mine`` cannot work with is returned as ``problem`` instead.
    """
    if problem := wire.mismatch(mine, same_machine=False):
        return {"problem": problem}
    variables = {**os.environ, **environment}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd="/", env=variables
        )
    except OSError as error:
        return {"problem": str(error)}
    number = next(_numbers)
    _kept[number] = _Kept(process)
    return {"number": number, "pid": process.pid, "host": platform.node()}


async def hear(number: int) -> list[tuple[str, Any]]:
    """Wait for what a process says, or a few seconds; return it, with its memory (MB)."""
    if (kept := _kept.get(number)) is None:
        return [("code", -9)]
    kept.asked = time.monotonic()
    said: list[tuple[str, Any]] = []
    with suppress(TimeoutError):
        said.append(await asyncio.wait_for(kept.said.get(), _POLL))
    while not kept.said.empty():
        said.append(kept.said.get_nowait())
    if said and said[-1][0] == "code":
        del _kept[number]
    else:
        said.append(("memory_mb", resident_mb(kept.process.pid)))
    return said


async def tell(number: int, line: bytes, place: tuple[str, int] | None) -> str:
    """Write a line to a process's stdin, an empty one to close it.

    Args:
        number: of the process.
        line: what to write.
        place: a folder and its inode, which must be the same here.

    Returns:
        What is wrong with the folder, then nothing was written; else an empty string.
    """
    kept = _kept.get(number)
    if place is not None:
        folder, inode = place
        try:
            there = os.stat(folder).st_ino == inode
        except OSError:
            there = False
        if not there:
            host = platform.node()
            return (
                f"{folder} is not the same folder on {host}, where a Dask worker runs; its file system must be shared"
            )
    if kept is not None:
        assert kept.process.stdin is not None
        kept.process.stdin.write(line) if line else kept.process.stdin.close()
    return ""


async def kill(number: int) -> None:
    """End a process by force."""
    if kept := _kept.get(number):
        kept.kill()
