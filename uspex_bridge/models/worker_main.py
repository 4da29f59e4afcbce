"""The child's side of :mod:`uspex_bridge.models.worker`: a process that holds one model and evaluates it on request.

It speaks newline-delimited JSON on the stdin and stdout it was born with; whatever a library prints goes to stderr.
It ends when its stdin does, so it never outlives the bridge that started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from uspex_bridge.models import messages


def main() -> None:
    """Serve requests until stdin ends."""
    requests, answers = claim_pipe()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the bridge decides when its worker ends
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, lines), daemon=True).start()
    _send(answers, {"protocol": messages.PROTOCOL, "python": sys.version.split()[0]})
    session = Session()
    while True:
        _send(answers, session.answer(json.loads(lines.get())))


def claim_pipe() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for the messages and give every library /dev/null and stderr in their place."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, answers


def _listen(requests: BinaryIO, lines: queue.SimpleQueue[bytes]) -> None:
    for line in requests:
        lines.put(line)
    os._exit(0)  # also from the middle of an evaluation that nobody waits for any more


def _send(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


class Session:
    """One model and the requests about it."""

    def __init__(self) -> None:
        self.backend: Any = None
        self.actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "status": self._status,
            "load": self._load,
            "evaluate": self._evaluate,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what ``request["do"]`` says; an error becomes an answer with its class and message."""
        try:
            return self.actions[request["do"]](request)
        except Exception as error:  # noqa: BLE001 (a worker's entry point)
            return messages.failure(error)

    def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        from uspex_bridge.models.backends import available

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
        return {
            "identity": self.backend.identity,
            "elements": sorted(self.backend.elements) if self.backend.elements is not None else None,
            "energy_zero": self.backend.energy_zero,
        }

    def _evaluate(self, request: dict[str, Any]) -> dict[str, Any]:
        calculator = self.backend.calculator
        calculator.calculate(messages.atoms_of(request))
        return messages.answer(calculator.results)


def _settings(request: dict[str, Any]) -> Any:
    from uspex_bridge.models.cards import CalculatorSettings

    return CalculatorSettings(**request["settings"])
