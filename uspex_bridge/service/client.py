"""The caller's side of the service: hand over a folder, print what the run prints, end as it ends.

This is what every call of the executables goes through, so it loads next to nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from uspex_bridge.base import private
from uspex_bridge.base.caller import whoami
from uspex_bridge.base.lines import LineSocket, MessageError
from uspex_bridge.service import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that a service may take to answer a connection.
ANSWER = 10.0
#: Seconds without a word (it says that it is alive several times as often) after which a service is lost.
SILENCE = 120.0


class Absent(Exception):
    """There is no service."""


class Unusable(Exception):
    """There is a service, which does not take the job; the message shows the reason."""


class Lost(Exception):
    """The service ended while it had the job."""


class Failed(Exception):
    """The service could not do the job: ``error`` names a class of :mod:`uspex_bridge.base.errors`."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class Connection:
    """A connection to a service that is of this version and this user.

    Attributes:
        hello: what the service said of itself.

    Raises:
        Absent: nobody listens there.
        Unusable: somebody does, but of another version or user.
    """

    def __init__(self, place: str) -> None:
        self._line = LineSocket(_connect(place))
        try:
            self.hello = self.receive()
        except Lost:
            raise Absent("it hung up") from None
        if problem := wire.mismatch(self.hello):
            raise Unusable(problem)
        self._line.socket.settimeout(SILENCE)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; that the other side is gone shows when receiving."""
        try:  # noqa: SIM105 (contextlib takes long to load)
            self._line.send(message)
        except OSError:
            pass

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            Lost: the connection ended, or nothing came for too long.
            Unusable: what came is no message.
        """
        try:
            while (message := self._line.receive()).get("event") == "alive":
                pass
        except (OSError, EOFError) as error:
            raise Lost(str(error)) from None
        except MessageError as error:
            raise Unusable(str(error)) from None
        return message

    def close(self) -> None:
        """Hang up."""
        self._line.close()


def _connect(path: str) -> socket.socket:
    """Connect to a Unix socket whose folder and owner are this user's."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(ANSWER)
    try:
        if problem := private.not_private(os.path.dirname(path) or "."):
            raise Unusable(problem)
        connected.connect(path)
    except PermissionError:
        raise Unusable(f"{path} cannot be used by this user") from None
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise Absent(error.strerror) from None
    except OSError as error:
        raise Unusable(f"{path}: {error}") from None
    if private.user_of(connected) not in (None, os.getuid()):
        raise Unusable(f"{path}: the service there is another user's")
    return connected


def ask(place: str, message: dict[str, Any]) -> dict[str, Any]:
    """Send one request and return its answer.

    Raises:
        Absent, Unusable, Lost: there is none.
    """
    connection = Connection(place)
    try:
        connection.send(message)
        return connection.receive()
    finally:
        connection.close()


def request(kind: str, folder: str, argv: list[str], mode: str | None) -> dict[str, Any]:
    """Return the request to run the executable ``kind`` with the arguments ``argv`` here.

    Raises:
        OSError: the folder is not there.
    """
    folder = os.path.abspath(folder)
    about = {"do": "run", "kind": kind, "folder": folder, "inode": os.stat(folder).st_ino, "argv": argv, "mode": mode}
    return about | whoami()


class Caller:
    """One call: passes on signals, prints, and returns the exit code.

    The first SIGTERM or SIGINT asks for a clean end, the second ends at once, as without a service.

    Attributes:
        halted: a signal has come.
    """

    def __init__(self) -> None:
        self.halted = False
        self._connection: Connection | None = None

    def submit(self, place: str, job: dict[str, Any]) -> int:
        """Have a job done and return the exit code of the run.

        Raises:
            Absent, Unusable, Lost, Failed: it was not.
        """
        connection = Connection(place)
        self._connection = connection
        before = {number: signal.signal(number, self._caught) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            connection.send(job)
            return self._follow(connection)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            connection.close()

    def _follow(self, connection: Connection) -> int:
        """Print what the run prints until it ends."""
        while True:
            message = connection.receive()
            event = message.get("event")
            if event in ("out", "err"):
                _print(1 if event == "out" else 2, str(message.get("text", "")))
            elif event == "end":
                return int(message["exit"])
            elif event == "failed":
                raise Failed(str(message.get("error")), str(message.get("message")))
            elif event == "declined":
                raise Unusable(str(message.get("message")))

    def resubmit(self, place: str, job: dict[str, Any], patience: float) -> int:
        """Submit to a service that is being started again, for ``patience`` seconds.

        Raises:
            Absent, Unusable, Lost, Failed: it was not done.
        """
        end = time.monotonic() + patience
        while True:
            try:
                return self.submit(place, job)
            except Absent:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def _caught(self, number: int, _: Any) -> None:
        if self.halted:
            os._exit(128 + number)
        self.halted = True
        assert self._connection is not None
        self._connection.send({"do": "halt"})


def _print(handle: int, text: str) -> None:
    """Print what the run printed; where nobody can take it, that is no reason to lose the result."""
    try:  # noqa: SIM105 (contextlib takes long to load)
        os.write(handle, text.encode("utf-8", "surrogateescape"))
    except OSError:
        pass
