"""What callers and the service say to each other: versioned JSON, one message a line (docs/service.md).

Of the standard library only what a call needs at once: this is loaded by every call of the executables.
"""

from __future__ import annotations

import os

import uspex_bridge
from uspex_bridge.base.private import SOCKET, default_folder, not_private

TYPE_CHECKING = False  # as typing's, which takes longer to load than all of this
if TYPE_CHECKING:
    from typing import Any

#: Version of the messages; both sides must have the same.
PROTOCOL = 1
#: Longest line that the service takes from a caller, and a caller from the service, bytes.
MOST_ASKED, MOST_TOLD = 1 << 16, 1 << 22
#: Name the secret's file, and what a call does about services.
SECRET, MODE = "USPEX_BRIDGE_SECRET", "USPEX_BRIDGE_SERVER"
#: Fewest bytes of a secret.
SHORTEST_SECRET = 16


class WireError(Exception):
    """What came is not a message, or not one of the other side's."""


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is not of JSON")


class _Plain:
    """How the scanner of :mod:`json` reads by default."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


try:  # the C half of json; the other one brings re and enum, half as long to load as the interpreter
    import _json

    _scan: Any = _json.make_scanner(_Plain)  # type: ignore[arg-type]
    _chunks = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True)

    def _dumps(message: dict[str, Any]) -> str:
        return "".join(_chunks(message, 0))

    def _loads(text: str) -> Any:
        found, end = _scan(text, 0)
        if text[end:].strip():
            raise ValueError("more than one value")
        return found

except (ImportError, AttributeError, TypeError):  # another Python's
    import json

    def _dumps(message: dict[str, Any]) -> str:
        return json.dumps(message, separators=(",", ":"))

    def _loads(text: str) -> Any:
        return json.loads(text)


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as a line."""
    return _dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Return the message of a line.

    Raises:
        WireError: it is not one JSON object.
    """
    try:
        message = _loads(line.decode().strip())
    except (ValueError, StopIteration, RecursionError):
        raise WireError("not JSON") from None
    if not isinstance(message, dict):
        raise WireError("not a JSON object")
    return message


def address() -> str:
    """Return where the user's service listens: a socket's path or ``tcp://HOST:PORT``.

    The default lies in /tmp, not in $XDG_RUNTIME_DIR: that one vanishes with the last login, and a search does not.
    """
    return os.environ.get(SOCKET) or f"{default_folder()}/service.sock"


def split_tcp(place: str) -> tuple[str, int] | None:
    """Return host and port of ``tcp://HOST:PORT``, None for a path.

    Raises:
        WireError: it begins so and does not go on so.
    """
    if not place.startswith("tcp://"):
        return None
    host, _, port = place.removeprefix("tcp://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise WireError(f"'{place}' is not tcp://HOST:PORT")
    return host.strip("[]"), int(port)


def greeting() -> dict[str, Any]:
    """Return what each side says of itself."""
    return {
        "service": "uspex-bridge",
        "protocol": PROTOCOL,
        "version": uspex_bridge.__version__,
        "package": os.path.dirname(os.path.abspath(uspex_bridge.__file__)),
    }


def mismatch(other: dict[str, Any], *, same_machine: bool) -> str:
    """Return why the other side, by its greeting, is not to be worked with; an empty string if it is.

    Across machines an installation may lie elsewhere.
    """
    mine = greeting()
    if other.get("service") != mine["service"]:
        return "what answers there is no service of uspex-bridge"
    for key in ("version", "protocol"):
        if other.get(key) != mine[key]:
            return f"it is of {key} {other.get(key)}, this is {mine[key]}"
    if same_machine and other.get("package") != mine["package"]:
        return f"it runs from another installation, {other.get('package')}"
    return ""


def read_secret() -> bytes:
    """Return the secret that both ends of a TCP connection share.

    Raises:
        WireError: there is none, it is open to other users or too short.
    """
    configured = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = os.environ.get(SECRET) or os.path.join(configured, "uspex_bridge", "secret")
    try:
        if problem := not_private(path):
            raise WireError(f"the secret: {problem}")
        with open(path, "rb") as file:
            secret = file.read().strip()
    except OSError as error:
        how = f"(umask 077; head -c 32 /dev/urandom | base64 > {path})"
        raise WireError(f"the secret: {path}: {error.strerror}; TCP needs one, make it with: {how}") from None
    if len(secret) < SHORTEST_SECRET:
        raise WireError(f"the secret: {path}: fewer than {SHORTEST_SECRET} characters")
    return secret


def digest(secret: bytes, *parts: str) -> str:
    """Return the HMAC-SHA256 of some words under a secret, as 64 hexadecimal digits."""
    import hmac

    return hmac.new(secret, "|".join(parts).encode(), "sha256").hexdigest()


def equal(one: Any, other: str) -> bool:
    """Compare a received digest with the right one in constant time."""
    import hmac

    return isinstance(one, str) and one.isascii() and hmac.compare_digest(one, other)


class Seal:
    """Marks the lines of one authenticated TCP connection: an HMAC of direction, number and text before each.

    Nobody without the secret can add, change, repeat or leave out a line; the text itself is not encrypted.
    """

    def __init__(self, secret: bytes, challenge: str, nonce: str, *, server: bool) -> None:
        self._key = bytes.fromhex(digest(secret, "session", challenge, nonce))
        self._out, self._in = ("server", "client") if server else ("client", "server")
        self._sent = self._received = 0

    def close(self, line: bytes) -> bytes:
        """Return an outgoing line with its mark."""
        self._sent += 1
        return f"{self._mark(self._out, self._sent, line)} ".encode() + line

    def open(self, line: bytes) -> bytes:
        """Return an incoming line without its mark.

        Raises:
            WireError: the mark is not right.
        """
        self._received += 1
        mark, _, text = line.partition(b" ")
        if not equal(mark.decode("ascii", "replace"), self._mark(self._in, self._received, text)):
            raise WireError("a line without the right mark")
        return text

    def _mark(self, direction: str, number: int, line: bytes) -> str:
        return digest(self._key, direction, str(number), line.rstrip(b"\n").decode("utf-8", "surrogateescape"))
