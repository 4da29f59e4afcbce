"""The models of a worker where they live in the batcher: the worker's end, which survives that the batcher dies.

Messages are JSON lines over a Unix socket in the service's private folder, those of :mod:`uspex_bridge.models.messages`
and: ``load`` (answered with ``model``, a number to ask it by on this connection, and what there is to know of it),
``rest`` (the structure is done, no answer), and the event ``alone`` before the answer to what was asked ``again``.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from uspex_bridge.base.errors import CalculationError
from uspex_bridge.base.lines import LineSocket
from uspex_bridge.models import messages
from uspex_bridge.models.backends import Backend, remote_backend
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.models.warm import ModelSource

#: Seconds to wait for a batcher that is being started.
_START = 60.0
#: Deaths of the batcher in one evaluation, of whatever else it was at, after which there is no point in going on.
_MOST_DEATHS = 64
#: What shows that the batcher ended before it answered.
_LOST = (OSError, EOFError)


class BatchedModels(ModelSource):
    """The connection to a batcher; one structure at a time.

    Raises:
        CalculationError: there is none, even after a minute.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._line: LineSocket | None = None
        self._caller: dict[str, Any] = {}
        self._numbers: dict[_BatchedModel, int] = {}
        self._connect()

    def begin(self, order: dict[str, Any]) -> None:
        """Begin a structure as the caller of an order."""
        self._caller = {key: order[key] for key in ("cwd", "umask", "environment")}

    def end(self) -> None:
        """Give the structure's models back."""
        self._numbers.clear()
        try:
            if self._line is not None:
                self._line.send({"do": "rest"})
        except OSError:
            self._hang_up()

    def get(self, name: str, settings: CalculatorSettings, state: Any) -> Backend:
        """Return the calculator ``name`` as the batcher holds it.

        Raises:
            ModelError: it cannot be loaded.
            CalculationError: the batcher died of it.
        """
        request = {"do": "load", "name": name, "settings": asdict(settings), "state": state, **self._caller}
        return remote_backend(name, _BatchedModel(self, request))

    @property
    def names(self) -> list[str]:
        """None: the batcher holds them."""
        return []

    def load(self, model: _BatchedModel) -> dict[str, Any]:
        """Have a model loaded, or found loaded; return what there is to know of it.

        Raises:
            ModelError: it cannot be loaded.
            CalculationError: the batcher died of it.
        """
        found = self.ask(model.request, "loading its model")
        self._numbers[model] = found["model"]
        return found

    def ask(self, message: dict[str, Any], what: str, model: _BatchedModel | None = None) -> dict[str, Any]:
        """Return the batcher's answer to a message, about a loaded ``model`` where one is given.

        If the batcher dies of it, or beside it, it is asked again, and does that alone; if it dies then, there is no
        doubt what it died of.

        Raises:
            CalculationError: it did.
            InputError, ConfigError, ModelError, CalculationError: what it answered.
        """
        again = alone = False
        for _ in range(_MOST_DEATHS):
            self._connect()
            if model is not None and model not in self._numbers:
                model.load()
            line = self._connect()
            about = {} if model is None else {"model": self._numbers[model]}
            try:
                line.send({**message, **about, "again": again})
                while (answer := line.receive()).get("event") == "alone":
                    alone = True
                return messages.checked(answer)
            except _LOST:
                self._hang_up()
                if alone:
                    break
                again = True
        raise CalculationError(
            f"the process that evaluates died twice {what}; the log of the service has its last output"
        )

    def _connect(self) -> LineSocket:
        end = time.monotonic() + _START
        while self._line is None:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with suppress(FileNotFoundError, ConnectionRefusedError):
                connected.connect(self._path)
                self._line = LineSocket(connected)
                break
            connected.close()
            if time.monotonic() > end:
                raise CalculationError("the process that evaluates does not start; see the service's log")
            time.sleep(0.05)
        return self._line

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None
        self._numbers.clear()


class _BatchedModel:
    """A model in the batcher."""

    def __init__(self, source: BatchedModels, request: dict[str, Any]) -> None:
        self._source, self.request = source, request
        found = source.load(self)
        self.identity: dict[str, Any] = found["identity"]
        self.elements = None if found["elements"] is None else frozenset(found["elements"])
        self.energy_zero: str = found["energy_zero"]

    def load(self) -> None:
        """Load it into a batcher that was started anew.

        Raises:
            CalculationError: it is not the one that this structure began with.
        """
        if self._source.load(self)["identity"] != self.identity:
            raise CalculationError(
                "the weights changed while the process that evaluates was restarted; a structure keeps its model"
            )

    def evaluate(self, atoms: Any) -> dict[str, Any]:
        """Evaluate a structure, as :class:`uspex_bridge.models.evaluate.Evaluator` wants it.

        Raises:
            CalculationError: the model failed, or the batcher died of this structure.
        """
        return messages.results_of(self._source.ask(messages.question(atoms), "on this structure", self))
