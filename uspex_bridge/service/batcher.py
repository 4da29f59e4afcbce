"""The process that evaluates for many relaxations: holds the models of a device, one pass for all who ask.

Relaxations ask over a Unix socket, one structure at a time (:mod:`uspex_bridge.service.remote`). What has been asked
of a model is evaluated together once every relaxation that uses it has asked, or when waiting longer would cost more
than it saves. It ends when its stdin does, so it never outlives the service.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from uspex_bridge.base.errors import BridgeError, OutOfMemoryError
from uspex_bridge.models import messages
from uspex_bridge.models.backends import Backend
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.models.worker import START_TIMEOUT
from uspex_bridge.models.worker_main import claim_pipe
from uspex_bridge.service import wire
from uspex_bridge.service.budget import Budget
from uspex_bridge.service.caller import as_caller
from uspex_bridge.service.stats import Tally, resident_mb
from uspex_bridge.service.warm import Warm
from uspex_bridge.service.worker import expendable

if TYPE_CHECKING:
    from uspex_bridge.models.evaluate import Results

#: Waiting for a straggler may cost as much as another pass: what the shortest one lately took, within these bounds, s.
SHORTEST, LONGEST = 0.002, 0.5
#: Seconds that a pass may take.
PASS_TIMEOUT = 600.0
#: Seconds that a relaxation may take to take an answer.
_TAKING = 10.0
#: Seconds between two reports to the service.
_REPORT = 0.5
#: A device that cannot be used any more: the service starts this process again.
BROKEN = 13


def main(path: str, device: str) -> None:
    """Evaluate until stdin ends.

    Args:
        path: of the socket to make; its folder is private to the user.
        device: what ``auto`` and ``cuda`` mean here; empty leaves that to the models.
    """
    orders, answers = claim_pipe()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the service decides when its processes end
    expendable()
    threading.Thread(target=_end_with, args=(orders,), daemon=True).start()
    Batcher(path, device, answers).work()


def gpu_of(backend: Backend) -> str:
    """Return the GPU on which this process holds a model; empty on a CPU, or in a process of its own."""
    device = str(backend.identity.get("device"))
    return device if device.startswith("cuda") and "worker" not in backend.identity else ""


def _end_with(orders: BinaryIO) -> None:
    orders.read()
    os._exit(0)


@dataclass(eq=False)
class Model:
    """A loaded model and what is asked of it.

    Attributes:
        missing: relaxations that the last pass answered and that have not asked again; ``ended`` is when that was.
    """

    backend: Backend
    budget: Budget
    waiting: deque[Ask] = field(default_factory=deque)
    missing: set[Client] = field(default_factory=set)
    ended: float = 0.0
    lasted: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        """Name of the calculator and its model."""
        return " ".join(filter(None, [self.backend.name, self.backend.identity.get("model")]))

    def fitting(self) -> int:
        """Return how many of those that wait are evaluated in one pass."""
        return self.budget.fitting([ask.size for ask in self.waiting]) if self.backend.batch else 1

    def patience(self, now: float) -> float:
        """Return the seconds that a pass should still wait, for those that will ask again in a moment, to ask.

        Who misses a pass is not waited for again: it joins whenever it asks.
        """
        if not self.missing or self.fitting() < len(self.waiting) or any(ask.again for ask in self.waiting):
            return 0.0
        return self.ended + min(max(min(self.lasted), SHORTEST), LONGEST) - now


@dataclass(eq=False)
class Client:
    """The connection of one relaxation.

    Attributes:
        lent: the models of its structure.
        sized: what its structure was when its size was last found: model, number of atoms, volume, and that size.
    """

    socket: socket.socket
    buffer: bytes = b""
    lent: list[Model] = field(default_factory=list)
    sized: tuple[Model | None, int, float, int] = (None, 0, 0.0, 0)

    def size_of(self, atoms: Any, model: Model) -> int:
        """Return the size of a structure; one that is much as it was before has the size it had."""
        before, number, volume, size = self.sized
        now = abs(float(atoms.cell.volume))
        if before is not model or number != len(atoms) or not 0.9 * volume < now < 1.1 * volume:
            size = model.backend.size_of(atoms)
            self.sized = model, len(atoms), now, size
        return size

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message; that the relaxation is gone is heard elsewhere."""
        with contextlib.suppress(OSError):
            self.socket.sendall(wire.encode(message))


@dataclass(eq=False)
class Ask:
    """A structure to evaluate; ``again`` if this process's predecessor died of it or of one beside it."""

    client: Client
    atoms: Any
    size: float
    again: bool
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """The loop: a pass, then what was said meanwhile; in one thread, so that nothing holds up a GPU's kernels."""

    def __init__(self, path: str, device: str, reports: BinaryIO) -> None:
        self._device, self._reports = device, reports
        self._clients: set[Client] = set()
        self._models: list[Model] = []
        self._warm = Warm()
        self._loading = ""
        self._reported = 0.0
        Path(path).unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(path)
        os.chmod(path, 0o600)
        self._server.listen(1024)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)

    def work(self) -> None:
        """Evaluate as long as this process lives."""
        self._report("ready")
        while True:
            model, patience = self._next()
            if model is not None:
                self._serve(model)
            if time.monotonic() - self._reported > _REPORT:
                self._report("report")
            for key, _ in self._selector.select(patience):
                if key.data is None:
                    self._welcome()
                else:
                    self._read(key.data)

    # ------------------------------------------------------------------------------------------------ listening

    def _welcome(self) -> None:
        client = Client(self._server.accept()[0])
        client.socket.settimeout(_TAKING)
        self._clients.add(client)
        self._selector.register(client.socket, selectors.EVENT_READ, client)

    def _read(self, client: Client) -> None:
        """Take what a relaxation has sent; where it has hung up, forget it."""
        try:
            block = client.socket.recv(1 << 18)
            *lines, client.buffer = (client.buffer + block).split(b"\n")
            for line in lines:
                self._hear(client, wire.decode(line))
        except (OSError, wire.WireError, LookupError) as error:
            print(f"a relaxation was not understood: {error}", file=sys.stderr, flush=True)
            block = b""
        if not block:
            self._selector.unregister(client.socket)
            client.socket.close()
            self._clients.discard(client)
            self._part(client)
            for model in self._models:
                model.waiting = deque(ask for ask in model.waiting if ask.client is not client)

    def _hear(self, client: Client, message: dict[str, Any]) -> None:
        """Act on a message."""
        if message["do"] == "load":
            client.tell(self._load(client, message))
        elif message["do"] == "rest":
            client.lent = []
            self._part(client)
            self._forget()
        else:
            self._part(client)
            model = client.lent[message["model"]]
            atoms = messages.atoms_of(message)
            model.waiting.append(Ask(client, atoms, client.size_of(atoms, model), message["again"]))

    def _part(self, client: Client) -> None:
        """Wait for a relaxation no longer."""
        for model in self._models:
            model.missing.discard(client)

    def _load(self, client: Client, message: dict[str, Any]) -> dict[str, Any]:
        """Lend a model to a relaxation; return what it must know of it, or the error."""
        if message["again"]:
            client.tell({"event": "alone"})
        settings = CalculatorSettings(**message["settings"])
        if self._device and settings.device in ("auto", "cuda"):
            settings = replace(settings, device=self._device)
        self._loading = message["name"]
        self._report("report")
        try:
            with _watched(START_TIMEOUT), as_caller(message):
                backend = self._warm.get(message["name"], settings, message["state"])
        except Exception as error:  # noqa: BLE001 (answered to the one who asked)
            return messages.failure(error)
        finally:
            self._loading = ""
        model = next((m for m in self._models if m.backend is backend), None)
        if model is None:
            model = Model(backend, Budget(gpu_of(backend)))
            self._models.append(model)
        self._forget()
        client.lent.append(model)
        return {
            "model": len(client.lent) - 1,
            "identity": backend.identity,
            "elements": None if backend.elements is None else sorted(backend.elements),
            "energy_zero": backend.energy_zero,
        }

    def _forget(self) -> None:
        """Let go of models that are neither kept warm nor lent."""
        used = [model for client in self._clients for model in client.lent]
        self._models = [m for m in self._models if m in used or self._warm.holds(m.backend)]

    # ------------------------------------------------------------------------------------------------ evaluating

    def _next(self) -> tuple[Model | None, float]:
        """Return the model whose turn it is, or None and the seconds until one may have its turn."""
        now, patience = time.monotonic(), _REPORT
        asked = sorted((m for m in self._models if m.waiting), key=lambda m: m.waiting[0].arrived)
        for model in asked:
            left = model.patience(now)
            if left <= 0.0:
                return model, 0.0
            patience = min(patience, left)
        return None, patience

    def _serve(self, model: Model) -> None:
        """Evaluate what fits into one pass; one that killed this process's predecessor, or sat beside it, alone."""
        suspect = next((ask for ask in model.waiting if ask.again), None)
        if suspect:
            model.waiting.remove(suspect)
            suspect.client.tell({"event": "alone"})
            batch = [suspect]
        else:
            batch = [model.waiting.popleft() for _ in range(model.fitting())]
        self._evaluate(model, batch)

    def _evaluate(self, model: Model, batch: list[Ask]) -> None:
        """Answer a batch, or put it back where it does not fit."""
        size, began = sum(ask.size for ask in batch), time.monotonic()
        model.budget.begin()
        try:
            with _watched(PASS_TIMEOUT):
                answers: Sequence[Results | BridgeError] = model.backend.evaluate_many([ask.atoms for ask in batch])
        except OutOfMemoryError as error:
            model.budget.failed(size)
            if len(batch) > 1:
                return model.waiting.extendleft(reversed(batch))
            answers = [error]
        except BridgeError as error:
            answers = [error] * len(batch)
        else:
            model.ended = time.monotonic()
            model.lasted.append(model.ended - began)
            model.budget.passed(size)
            model.tally.passed(len(batch), sum(len(ask.atoms) for ask in batch), model.ended - began)
            model.missing = {ask.client for ask in batch} if model.backend.batch else set()
        for ask, found in zip(batch, answers, strict=True):
            if isinstance(found, BridgeError):
                _end_if_broken(found)
                ask.client.tell(messages.failure(found))
            else:
                ask.client.tell(messages.answer(found))
        return None

    def _report(self, event: str) -> None:
        """Tell the service what has been done."""
        self._reported = time.monotonic()
        self._reports.write(wire.encode({"event": event, **self._describe()}))
        self._reports.flush()

    def _describe(self) -> dict[str, Any]:
        report: dict[str, Any] = {
            "relaxations": sum(bool(client.lent) for client in self._clients),
            "waiting": sum(len(model.waiting) for model in self._models),
            "loading": self._loading,
            "memory_mb": resident_mb("self"),
            "models": {
                model.name: model.tally.summary()
                | {"overflows": model.budget.overflows, "device": model.backend.identity.get("device")}
                for model in self._models
            },
        }
        if gpus := sorted({gpu_of(model.backend) for model in self._models} - {""}):
            cuda = sys.modules["torch"].cuda
            report["gpu_mb"] = {name: round(cuda.memory_reserved(name) / 1048576, 1) for name in gpus}
            report["gpu_total_mb"] = {name: round(cuda.mem_get_info(name)[1] / 1048576, 1) for name in gpus}
        return report


def _end_if_broken(error: BridgeError) -> None:
    """End this process where a GPU's context is lost: whatever it did next would fail too; its successor asks again."""
    if "CUDA error" in str(error):
        print(f"the device cannot be used any more: {error}", file=sys.stderr, flush=True)
        os._exit(BROKEN)


@contextlib.contextmanager
def _watched(seconds: float) -> Iterator[None]:
    """End this process, with a traceback in the log, if what is done inside hangs, in C code too."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
