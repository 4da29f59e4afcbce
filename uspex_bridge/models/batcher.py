"""The process that evaluates for many relaxations: holds the models of a device, one pass for all who ask.

Relaxations ask over a Unix socket, one structure at a time (:mod:`uspex_bridge.models.batched`). What has been asked
of a model is evaluated together once every relaxation that uses it has asked, or when waiting longer would cost more
than it saves. It ends when the service hangs up, so it never outlives that.
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
from typing import TYPE_CHECKING, Any

from uspex_bridge.base.caller import Acting
from uspex_bridge.base.errors import BridgeError, OutOfMemoryError
from uspex_bridge.base.lines import LineSocket, MessageError, claim_stdin
from uspex_bridge.base.memory import expendable, resident_mb
from uspex_bridge.models import messages
from uspex_bridge.models.backends import Backend
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.models.passes import Budget, Tally
from uspex_bridge.models.warm import WarmModels
from uspex_bridge.models.worker import START_TIMEOUT

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
    """Evaluate until the service hangs up.

    Args:
        path: of the socket to make; its folder is private to the user.
        device: what ``auto`` and ``cuda`` mean here; empty leaves that to the models.
    """
    line = claim_stdin()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the service decides when its processes end
    expendable()
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    Batcher(path, device, line).work()


def gpu_of(backend: Backend) -> str:
    """Return the GPU on which this process holds a model; empty on a CPU, or in a process of its own."""
    device = str(backend.identity.get("device"))
    return device if device.startswith("cuda") and "worker" not in backend.identity else ""


def _end_with(service: LineSocket) -> None:
    with contextlib.suppress(OSError, EOFError):
        service.receive()
    os._exit(0)


@dataclass(eq=False)
class HeldModel:
    """A loaded model and what is asked of it.

    Attributes:
        missing: relaxations that the last pass answered and that have not asked again; ``ended`` is when that was.
    """

    backend: Backend
    budget: Budget
    waiting: deque[Question] = field(default_factory=deque)
    missing: set[Relaxation] = field(default_factory=set)
    ended: float = 0.0
    lasted: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        """Name of the calculator and its model."""
        return " ".join(filter(None, [self.backend.name, self.backend.identity.get("model")]))

    def fitting(self) -> int:
        """Return how many of those that wait are evaluated in one pass."""
        return self.budget.fitting([question.size for question in self.waiting]) if self.backend.batch else 1

    def patience(self, now: float) -> float:
        """Return the seconds that a pass should still wait, for those that will ask again in a moment, to question.

        Who misses a pass is not waited for again: it joins whenever it asks.
        """
        if not self.missing or self.fitting() < len(self.waiting) or any(question.again for question in self.waiting):
            return 0.0
        return self.ended + min(max(min(self.lasted), SHORTEST), LONGEST) - now


@dataclass(eq=False)
class Relaxation:
    """The connection to a worker that relaxes.

    Attributes:
        models: those of its structure.
        sized: what its structure was when its size was last found: model, number of atoms, volume, and that size.
    """

    line: LineSocket
    models: list[HeldModel] = field(default_factory=list)
    sized: tuple[HeldModel | None, int, float, int] = (None, 0, 0.0, 0)

    def size_of(self, atoms: Any, model: HeldModel) -> int:
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
            self.line.send(message)


@dataclass(eq=False)
class Question:
    """A structure to evaluate; ``again`` if this process's predecessor died of it or of one beside it."""

    relaxation: Relaxation
    atoms: Any
    size: float
    again: bool
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """The loop: a pass, then what was said meanwhile; in one thread, so that nothing holds up a GPU's kernels."""

    def __init__(self, path: str, device: str, service: LineSocket) -> None:
        self._device, self._service = device, service
        self._relaxations: set[Relaxation] = set()
        self._models: list[HeldModel] = []
        self._warm = WarmModels()
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
        relaxation = Relaxation(LineSocket(self._server.accept()[0]))
        relaxation.line.socket.settimeout(_TAKING)
        self._relaxations.add(relaxation)
        self._selector.register(relaxation.line.socket, selectors.EVENT_READ, relaxation)

    def _read(self, relaxation: Relaxation) -> None:
        """Take what a relaxation has sent; where it has hung up, forget it."""
        try:
            for message in relaxation.line.arrived():
                self._hear(relaxation, message)
            return
        except EOFError:
            pass
        except (OSError, MessageError, LookupError) as error:
            print(f"a relaxation was not understood: {error}", file=sys.stderr, flush=True)
        self._selector.unregister(relaxation.line.socket)
        relaxation.line.close()
        self._relaxations.discard(relaxation)
        self._part(relaxation)
        for model in self._models:
            model.waiting = deque(question for question in model.waiting if question.relaxation is not relaxation)

    def _hear(self, relaxation: Relaxation, message: dict[str, Any]) -> None:
        """Act on a message."""
        if message["do"] == "load":
            relaxation.tell(self._load(relaxation, message))
        elif message["do"] == "rest":
            relaxation.models = []
            self._part(relaxation)
            self._forget()
        else:
            self._part(relaxation)
            model = relaxation.models[message["model"]]
            atoms = messages.atoms_of(message)
            size = relaxation.size_of(atoms, model)
            model.waiting.append(Question(relaxation, atoms, size, message["again"]))

    def _part(self, relaxation: Relaxation) -> None:
        """Wait for a relaxation no longer."""
        for model in self._models:
            model.missing.discard(relaxation)

    def _load(self, relaxation: Relaxation, message: dict[str, Any]) -> dict[str, Any]:
        """Load a model for a relaxation; return what it must know of it, or the error."""
        if message["again"]:
            relaxation.tell({"event": "alone"})
        settings = CalculatorSettings(**message["settings"])
        if self._device and settings.device in ("auto", "cuda"):
            settings = replace(settings, device=self._device)
        self._loading = message["name"]
        self._report("report")
        try:
            with _watched(START_TIMEOUT), Acting(message):
                backend = self._warm.get(message["name"], settings, message["state"])
        except Exception as error:  # noqa: BLE001 (answered to the one who asked)
            return messages.failure(error)
        finally:
            self._loading = ""
        model = next((m for m in self._models if m.backend is backend), None)
        if model is None:
            model = HeldModel(backend, Budget(gpu_of(backend)))
            self._models.append(model)
        self._forget()
        relaxation.models.append(model)
        return {
            "model": len(relaxation.models) - 1,
            "identity": backend.identity,
            "elements": None if backend.elements is None else sorted(backend.elements),
            "energy_zero": backend.energy_zero,
        }

    def _forget(self) -> None:
        """Let go of models that are neither kept warm nor used."""
        used = [model for relaxation in self._relaxations for model in relaxation.models]
        self._models = [m for m in self._models if m in used or self._warm.holds(m.backend)]

    # ------------------------------------------------------------------------------------------------ evaluating

    def _next(self) -> tuple[HeldModel | None, float]:
        """Return the model whose turn it is, or None and the seconds until one may have its turn."""
        now, patience = time.monotonic(), _REPORT
        asked = sorted((m for m in self._models if m.waiting), key=lambda m: m.waiting[0].arrived)
        for model in asked:
            left = model.patience(now)
            if left <= 0.0:
                return model, 0.0
            patience = min(patience, left)
        return None, patience

    def _serve(self, model: HeldModel) -> None:
        """Evaluate what fits into one pass; one that killed this process's predecessor, or sat beside it, alone."""
        suspect = next((question for question in model.waiting if question.again), None)
        if suspect:
            model.waiting.remove(suspect)
            suspect.relaxation.tell({"event": "alone"})
            batch = [suspect]
        else:
            batch = [model.waiting.popleft() for _ in range(model.fitting())]
        self._evaluate(model, batch)

    def _evaluate(self, model: HeldModel, batch: list[Question]) -> None:
        """Answer a batch, or put it back where it does not fit."""
        size, began = sum(question.size for question in batch), time.monotonic()
        model.budget.begin()
        try:
            with _watched(PASS_TIMEOUT):
                answers: Sequence[Results | BridgeError] = model.backend.evaluate_many(
                    [question.atoms for question in batch]
                )
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
            model.tally.passed(len(batch), sum(len(question.atoms) for question in batch), model.ended - began)
            model.missing = {question.relaxation for question in batch} if model.backend.batch else set()
        for question, found in zip(batch, answers, strict=True):
            if isinstance(found, BridgeError):
                _end_if_broken(found)
                question.relaxation.tell(messages.failure(found))
            else:
                question.relaxation.tell(messages.answer(found))
        return None

    def _report(self, event: str) -> None:
        """Tell the service what has been done."""
        self._reported = time.monotonic()
        self._service.send({"event": event, **self._describe()})

    def _describe(self) -> dict[str, Any]:
        report: dict[str, Any] = {
            "relaxations": sum(bool(relaxation.models) for relaxation in self._relaxations),
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
