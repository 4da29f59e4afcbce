"""A process that the service starts, and the JSON lines between the two."""

from __future__ import annotations

import asyncio
import logging
from asyncio.subprocess import PIPE, Process
from collections import deque
from contextlib import suppress
from typing import Any

from uspex_bridge.service import wire

#: Seconds that a process that was let go may take before it is killed.
PATIENCE = 30.0
#: Longest line of a process, bytes.
_LINE = 1 << 22


class Child:
    """A process of the service.

    Attributes:
        role: what it is, for the log.
        ready: it has said that it is; ``leaving``: it was told to end.
        tail: the last lines that it printed.
    """

    process: Process

    def __init__(self, role: str, log: logging.Logger) -> None:
        self.role, self.log = role, log
        self.ready = self.leaving = False
        self.tail: deque[str] = deque(maxlen=3)

    def heard(self, message: dict[str, Any]) -> None:
        """Hear what it says."""
        raise NotImplementedError

    def gone(self, code: int) -> None:
        """Hear that it has ended."""
        raise NotImplementedError

    async def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Start it.

        Raises:
            OSError: that cannot be done.
        """
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd="/", env=environment, limit=_LINE
        )

    def send(self, order: dict[str, Any]) -> None:
        """Send an order; that the process is dead is heard elsewhere."""
        assert self.process.stdin is not None
        with suppress(OSError, RuntimeError):
            self.process.stdin.write(wire.encode(order))

    def leave(self) -> None:
        """Let the process end; its stdin does."""
        self.leaving = True
        assert self.process.stdin is not None
        self.process.stdin.close()
        asyncio.get_running_loop().call_later(PATIENCE, self.kill)

    def kill(self) -> None:
        """End the process by force."""
        with suppress(ProcessLookupError):
            self.process.kill()

    def how(self, code: int) -> str:
        """Say how it ended, with the last lines it printed."""
        way = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return way + (f"; it last said: {' | '.join(self.tail)}" if self.tail else "")

    async def listen(self) -> None:
        """Hear what it says until it has ended."""
        assert self.process.stdout is not None
        complaints = asyncio.create_task(self._complaints())
        try:
            while line := await self.process.stdout.readline():
                self.heard(wire.decode(line))
        except (ValueError, wire.WireError) as error:  # not our process's words, or endless ones
            self.log.error("%s %d: %s; ended", self.role, self.process.pid, error)
            self.kill()
        code = await self.process.wait()
        await complaints
        self.gone(code)

    async def _complaints(self) -> None:
        """Put what libraries print into the log."""
        assert self.process.stderr is not None
        while True:
            try:
                line = await self.process.stderr.readline()
            except ValueError:  # an endless line
                continue
            if not line:
                return
            if text := line.decode(errors="replace").rstrip():
                self.tail.append(text[:500])
                self.log.info("%s %d says: %s", self.role, self.process.pid, text[:2000])
