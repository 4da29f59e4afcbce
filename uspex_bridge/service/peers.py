"""What the service talks to in JSON lines: its callers, and the processes that it starts."""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio.subprocess import PIPE, Process
from collections import deque
from contextlib import suppress
from typing import Any

from uspex_bridge.base import lines
from uspex_bridge.base.words import ending

#: Seconds that a process that was let go may take before it is killed.
PATIENCE = 30.0
#: Longest line that a caller may send, bytes.
MOST_ASKED = 1 << 16
#: A peer that does not take this much of what it is told is hung up on, bytes.
_BACKLOG = 1 << 20
#: Seconds to hang up.
_CLOSING = 10.0


class Peer:
    """The connection to a caller or a process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message; that the other side is gone shows in :meth:`hear`."""
        if self.writer.transport.get_write_buffer_size() > _BACKLOG:
            self.writer.transport.abort()
        elif not self.writer.is_closing():
            self.writer.write(lines.encode(message))

    async def hear(self) -> dict[str, Any] | None:
        """Return the next message, None when the other side is gone.

        Raises:
            MessageError: what came is no message, or an endless one.
        """
        try:
            line = await self.reader.readline()
        except ValueError:
            raise lines.MessageError("a line that is too long") from None
        except OSError:
            return None
        return lines.decode(line) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Hang up once everything is sent."""
        self.writer.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), _CLOSING)


class ChildProcess:
    """A process of the service.

    Attributes:
        role: what it is, for the log.
        ready: it has said that it is.
        leaving: it was told to end.
        tail: the last lines that it printed.
    """

    process: Process
    peer: Peer

    def __init__(self, role: str, log: logging.Logger) -> None:
        self.role, self.log = role, log
        self.ready = self.leaving = False
        self.tail: deque[str] = deque(maxlen=3)

    def heard(self, message: dict[str, Any]) -> None:
        """Hear what it says."""
        raise NotImplementedError

    async def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Start it, with one end of a socket as its stdin and stdout.

        Raises:
            OSError: that cannot be done.
        """
        self.ready = False
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = await asyncio.create_subprocess_exec(
                    *command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=PIPE, cwd="/", env=environment
                )
        except OSError:
            ours.close()
            raise
        self.peer = Peer(*await asyncio.open_connection(sock=ours, limit=lines.LONGEST))

    def leave(self) -> None:
        """Let the process end: it does when the service hangs up."""
        self.leaving = True
        with suppress(OSError):
            self.peer.writer.write_eof()
        asyncio.get_running_loop().call_later(PATIENCE, self.kill)

    def kill(self) -> None:
        """End the process by force."""
        with suppress(ProcessLookupError):
            self.process.kill()

    async def listen(self) -> int:
        """Hear what it says until it has ended; return its exit code."""
        complaints = asyncio.create_task(self._complaints())
        try:
            while (message := await self.peer.hear()) is not None:
                self.heard(message)
        except (lines.MessageError, LookupError) as error:  # not our process's words
            self.log.error("%s %d was not understood: %s; ended", self.role, self.process.pid, error)
            self.kill()
        code = await self.process.wait()
        await complaints
        await self.peer.close()
        return code

    def how(self, code: int) -> str:
        """Say how it ended, with the last lines that it printed."""
        return ending(code) + (f"; its last output: {' | '.join(self.tail)}" if self.tail else "")

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
