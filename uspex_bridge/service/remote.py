"""The models of a relaxation's process where they live in the batcher: asks it, and stands it dying.

Messages are JSON lines over a Unix socket in the service's private folder, those of :mod:`uspex_bridge.models.messages`
and: ``load`` (answered with ``model``, a number to ask it by on this connection, and what there is to know of it),
``rest`` (the structure is done, no answer), and the event ``alone`` before the answer to what was asked ``again``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from uspex_bridge.base.errors import CalculationError
from uspex_bridge.models import messages
from uspex_bridge.models.backends import Backend, remote_backend
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.service import wire
from uspex_bridge.service.caller import KEYS
from uspex_bridge.service.warm import Source

#: Seconds to wait for a batcher that is being started.
_START = 60.0
#: Deaths of the batcher in one evaluation, of whatever else it was at, after which there is no point in going on.
_MOST_DEATHS = 64


class _Lost(Exception):
    """The batcher ended before it answered."""


class Remote(Source):
    """The connection to a batcher; one structure at a time.

    Raises:
        CalculationError: there is none, even after a minute.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._caller: dict[str, Any] = {}
        self._alone = False
        self._numbers: dict[_Model, int] = {}
        self._connect()

    def begin(self, order: dict[str, Any]) -> None:
        """Begin a structure as the caller of an order."""
        self._caller = {key: order[key] for key in KEYS}

    def end(self) -> None:
        """Give the structure's models back."""
        self._numbers.clear()
        try:
            self._send({"do": "rest"})
        except _Lost:
            self._hang_up()

    def get(self, name: str, settings: CalculatorSettings, state: Any) -> Backend:
        """Return the calculator ``name`` as the batcher holds it.

        Raises:
            ModelError: it cannot be loaded.
            CalculationError: the batcher died of it.
        """
        request = {"do": "load", "name": name, "settings": asdict(settings), "state": state, **self._caller}
        return remote_backend(name, _Model(self, request))

    @property
    def names(self) -> list[str]:
        """None: the batcher holds them."""
        return []

    def insist(self, what: str, ask: Callable[[bool], dict[str, Any]]) -> dict[str, Any]:
        """Return the answer to what ``ask`` does, which is told whether the batcher died of it, or beside it, before.

        What is asked again the batcher does alone; if it dies then, there is no doubt what it died of.

        Raises:
            CalculationError: it did.
        """
        again = False
        for _ in range(_MOST_DEATHS):
            try:
                return messages.checked(ask(again))
            except _Lost:
                self._hang_up()
                if self._alone:
                    break
                again = True
        raise CalculationError(f"the process that evaluates died twice {what}; the service's log has its last words")

    def number(self, model: _Model) -> int:
        """Return the number of a model on this connection, loading it where it is a new one."""
        self._connect()
        if model not in self._numbers:
            model.load()
        return self._numbers[model]

    def load(self, model: _Model, request: dict[str, Any]) -> dict[str, Any]:
        """Have a model loaded, or found loaded; return what there is to know of it."""
        found = self.insist("loading its model", lambda again: self.exchange({**request, "again": again}))
        self._numbers[model] = found["model"]
        return found

    def exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return its answer.

        Raises:
            _Lost: there is none.
        """
        self._alone = False
        self._connect()
        self._send(message)
        assert self._socket is not None
        while True:
            while b"\n" not in self._buffer:
                try:
                    block = self._socket.recv(1 << 18)
                except OSError:
                    block = b""
                if not block:
                    raise _Lost
                self._buffer += block
            line, _, self._buffer = self._buffer.partition(b"\n")
            answer = wire.decode(line)
            if answer.get("event") != "alone":
                return answer
            self._alone = True

    def _connect(self) -> None:
        end = time.monotonic() + _START
        while self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
                self._socket = connection
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                if time.monotonic() > end:
                    raise CalculationError("the process that evaluates does not start; see the service's log") from None
                time.sleep(0.05)

    def _send(self, message: dict[str, Any]) -> None:
        if self._socket is not None:
            try:
                self._socket.sendall(wire.encode(message))
            except OSError:
                raise _Lost from None

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""
        self._numbers.clear()


class _Model:
    """A model in the batcher."""

    def __init__(self, remote: Remote, request: dict[str, Any]) -> None:
        self._remote, self._request = remote, request
        found = remote.load(self, request)
        self.identity: dict[str, Any] = found["identity"]
        self.elements = None if found["elements"] is None else frozenset(found["elements"])
        self.energy_zero: str = found["energy_zero"]

    def load(self) -> None:
        """Load it into a batcher that was started anew.

        Raises:
            CalculationError: it is not the one that this structure began with.
        """
        if self._remote.load(self, self._request)["identity"] != self.identity:
            raise CalculationError(
                "the weights changed while the process that evaluates was started anew; a structure keeps its model"
            )

    def evaluate(self, atoms: Any) -> dict[str, Any]:
        """Evaluate a structure, as :class:`uspex_bridge.models.evaluate.Evaluator` wants it.

        Raises:
            CalculationError: the model failed, or the batcher died of this structure.
        """
        question = messages.question(atoms)
        answer = self._remote.insist(
            "on this structure",
            lambda again: self._remote.exchange({**question, "model": self._remote.number(self), "again": again}),
        )
        return messages.results_of(answer)
