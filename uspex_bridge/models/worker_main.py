"""The child's side of :mod:`uspex_bridge.models.worker`: a process that holds one model and evaluates it on request.

It speaks JSON lines over the socket that it was born with; whatever a library prints goes to stderr. It ends when the
other side hangs up, so it never outlives the bridge that started it.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from uspex_bridge.base.lines import LineSocket, claim_stdin
from uspex_bridge.models import messages


def main() -> None:
    """Serve requests until the other side hangs up."""
    line = claim_stdin()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the bridge decides when its worker ends
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, requests), daemon=True).start()
    line.send({"protocol": messages.PROTOCOL, "python": sys.version.split()[0]})
    session = Session()
    while True:
        line.send(session.answer(requests.get()))


def _listen(line: LineSocket, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    try:
        while True:
            requests.put(line.receive())
    finally:
        os._exit(0)  # also from the middle of an evaluation that nobody waits for any more


class Session:
    """One model and the requests about it."""

    def __init__(self) -> None:
        self.backend: Any = None
        self.actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "status": self._status,
            "load": self._load,
            "evaluate": self._evaluate,
            "evaluate many": self._evaluate_many,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what ``request["do"]`` says; an error becomes an answer with its class and message."""
        try:
            return self.actions[request["do"]](request)
        except Exception as error:  # noqa: BLE001 (a worker's entry point)
            return messages.failure(error)

    def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        from uspex_bridge.models.inventory import available

        status = available(request["name"], _settings(request))
        weights = status.weights
        return {
            "version": status.version,
            "problem": status.problem,
            "model": weights.model if weights else None,
            "path": str(weights.path) if weights and weights.path else None,
        }

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        from uspex_bridge.models.backends import load

        self.backend = load(request["name"], _settings(request))
        batch = self.backend.batch
        return {
            "batch": None if batch is None else {"cutoff": batch.cutoff, "angle_cutoff": batch.angle_cutoff},
            "identity": self.backend.identity,
            "elements": sorted(self.backend.elements) if self.backend.elements is not None else None,
            "energy_zero": self.backend.energy_zero,
        }

    def _evaluate(self, request: dict[str, Any]) -> dict[str, Any]:
        calculator = self.backend.calculator
        calculator.calculate(messages.atoms_of(request))
        return messages.answer(calculator.results)

    def _evaluate_many(self, request: dict[str, Any]) -> dict[str, Any]:
        structures = [messages.atoms_of(one) for one in request["structures"]]
        return messages.answer_to_many(self.backend.evaluate_many(structures))


def _settings(request: dict[str, Any]) -> Any:
    from uspex_bridge.models.cards import CalculatorSettings

    return CalculatorSettings(**request["settings"])
