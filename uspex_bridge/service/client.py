"""The caller's side of the service: hand over a folder, print what the run prints, end as it ends.

This is what every call of the executables goes through, so it loads next to nothing.
"""

from __future__ import annotations

import os
import sys
import time

try:  # what socket.py and signal.py are made of; their enumerations take half as long to load as the interpreter
    import _signal as signal
    import _socket as socket
except ImportError:
    import signal
    import socket  # type: ignore[no-redef]

from uspex_bridge.base import private
from uspex_bridge.service import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that a service may take to answer a connection.
ANSWER = 10.0
#: Seconds without a word (it says that it is alive several times as often) after which a service is lost.
SILENCE = 120.0
#: What decides which settings and weights are found: the service uses the caller's.
ENVIRONMENT = (
    "USPEX_BRIDGE_CONFIG",
    "USPEX_BRIDGE_MODELS",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
)


class Absent(Exception):
    """There is no service."""


class Unusable(Exception):
    """There is a service, which does not take the job; the message says why."""


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
        Unusable: somebody does, but of another version or user, or without the secret.
    """

    def __init__(self, place: str) -> None:
        self._buffer = b""
        self._seal: wire.Seal | None = None
        try:
            remote = wire.split_tcp(place)
            self._socket = _local(place) if remote is None else _remote(*remote)
            self._socket.settimeout(ANSWER)
            self.hello = self.receive()
            if problem := wire.mismatch(self.hello, same_machine=remote is None):
                raise Unusable(problem)
            if remote is not None:
                self._authenticate()
            self._socket.settimeout(SILENCE)
        except Lost:
            raise Absent("it hung up") from None
        except wire.WireError as error:
            raise Unusable(str(error)) from None

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; that the other side is gone shows when receiving."""
        line = wire.encode(message)
        try:  # noqa: SIM105 (contextlib takes long to load)
            self._socket.sendall(self._seal.close(line) if self._seal else line)
        except OSError:
            pass

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            Lost: the connection ended, or nothing came for too long.
            Unusable: what came is no message.
        """
        while (message := self._next()).get("event") == "alive":
            pass
        return message

    def _next(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                block = self._socket.recv(1 << 16)
            except OSError as error:
                raise Lost(str(error) or "no answer") from None
            if not block or len(self._buffer) > wire.MOST_TOLD:
                raise Lost("connection closed")
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return wire.decode(self._seal.open(line) if self._seal else line)
        except wire.WireError as error:
            raise Unusable(str(error)) from None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _authenticate(self) -> None:
        """Prove to each other that both sides hold the secret."""
        secret, challenge, nonce = wire.read_secret(), str(self.hello.get("challenge")), os.urandom(32).hex()
        self.send({"nonce": nonce, "answer": wire.digest(secret, "client", challenge, nonce)})
        answer = self.receive()
        if not wire.equal(answer.get("answer"), wire.digest(secret, "server", challenge, nonce)):
            raise Unusable(str(answer.get("message", "it does not hold the same secret")))
        self._seal = wire.Seal(secret, challenge, nonce, server=False)


def _local(path: str) -> Any:
    """Connect to a Unix socket whose folder and owner are this user's."""
    try:
        if problem := private.not_private(os.path.dirname(path) or "."):
            raise Unusable(problem)
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(ANSWER)
        connected.connect(path)
    except PermissionError:
        raise Unusable(f"{path} cannot be used by this user") from None
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise Absent(error.strerror) from None
    except OSError as error:
        raise Unusable(f"{path}: {error}") from None
    if hasattr(socket, "SO_PEERCRED"):
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if int.from_bytes(credentials[4:8], sys.byteorder) != os.getuid():
            raise Unusable(f"{path}: the service there is another user's")
    return connected


def _remote(host: str, port: int) -> Any:
    """Connect over TCP; who answers has yet to prove itself."""
    import socket as library

    try:
        connected = library.create_connection((host, port), ANSWER)
    except OSError as error:
        raise Unusable(f"tcp://{host}:{port}: {error.strerror or error}") from None
    keep_alive(connected)
    return connected


def keep_alive(connection: Any) -> None:
    """Let the system find out within a minute or two that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
    mask = os.umask(0)
    os.umask(mask)
    folder = os.path.abspath(folder)
    return {
        "do": "run",
        "kind": kind,
        "folder": folder,
        "inode": os.stat(folder).st_ino,
        "argv": argv,
        "cwd": os.getcwd(),
        "umask": mask,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "mode": mode,
    }


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
