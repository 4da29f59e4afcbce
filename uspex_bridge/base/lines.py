"""Messages between processes: JSON objects, one a line, over a socket.

Little of the standard library, since every call of the executables loads this, and nothing newer than Python 3.10,
since the interpreters of other environments do.
"""

from __future__ import annotations

import json
import os
import socket
import time

TYPE_CHECKING = False  # as typing's, which takes long to load
if TYPE_CHECKING:
    from typing import Any

#: Longest line that is taken, bytes.
LONGEST = 1 << 24
_BLOCK = 1 << 18


class MessageError(Exception):
    """What came is no message."""


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Return the message of a line.

    Raises:
        MessageError: it is not one JSON object.
    """
    try:
        message = json.loads(line.decode())
    except (ValueError, RecursionError):
        raise MessageError("not JSON") from None
    if not isinstance(message, dict):
        raise MessageError("not a JSON object")
    return message


class LineSocket:
    """One end of a connected socket that carries messages."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._buffer = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone.
        """
        self.socket.sendall(encode(message))

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message; wait for it as long as the socket does, or ``timeout`` seconds.

        Raises:
            EOFError: the other side has hung up.
            OSError: the connection is lost; TimeoutError: nothing came in time.
            MessageError: what came is no message.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if end is not None:
                self.socket.settimeout(max(end - time.monotonic(), 0.001))
            self._read()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return decode(line)

    def arrived(self) -> list[dict[str, Any]]:
        """Return the messages that are whole after one more read of what has come.

        Raises:
            EOFError, OSError, MessageError: as :meth:`receive`.
        """
        self._read()
        *lines, self._buffer = self._buffer.split(b"\n")
        return [decode(line) for line in lines]

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def _read(self) -> None:
        block = self.socket.recv(_BLOCK)
        if not block:
            raise EOFError("connection closed")
        self._buffer += block
        if len(self._buffer) > LONGEST:
            raise MessageError(f"more than {LONGEST} bytes without a line's end")


def claim_stdin() -> LineSocket:
    """Take the socket that this process was born with as stdin and stdout.

    Every library gets /dev/null and stderr in their place.
    """
    connected = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return LineSocket(connected)
