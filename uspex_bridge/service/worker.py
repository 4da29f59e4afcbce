"""A process of the service that relaxes: one structure at a time, as a one-shot call does, with models that stay.

It takes jobs and orders as JSON lines on the stdin it was born with and answers on that stdout. It ends when its
stdin does, at once, so that no job outlives the service that would have answered for it.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from uspex_bridge.base import errors
from uspex_bridge.base.data import VaspRun
from uspex_bridge.base.files import OUTPUTS
from uspex_bridge.base.halt import Halter
from uspex_bridge.call.config import Config
from uspex_bridge.call.folders import ExternalFolder, Folder, Request, VaspFolder
from uspex_bridge.call.run import Models, Watcher, run_folder
from uspex_bridge.call.slot import run_in_slot
from uspex_bridge.models.worker_main import claim_pipe
from uspex_bridge.service import wire
from uspex_bridge.service.caller import as_caller
from uspex_bridge.service.remote import Remote
from uspex_bridge.service.warm import Source, Warm, lend

if TYPE_CHECKING:
    from uspex_bridge.relaxation.engine import IonicStep

#: Makes the folder and the reader of the settings of a call from the executable's name and arguments; what it raises
#: is SystemExit, after printing what is wrong.
Parse = Callable[[str, list[str]], tuple[Path, Callable[[], Config]]]

#: Seconds between two words about the progress of a structure.
_PROGRESS = 0.3
#: Of two kinds of process the system should end this one when memory runs out, not the search.
_EXPENDABLE = "500"


def main(parse: Parse, batcher: str | None = None) -> None:
    """Work until stdin ends, with models in this process, or with those of the batcher at a socket's path."""
    orders, answers = claim_pipe()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the service decides when its workers end
    expendable()
    import uspex_bridge.relaxation.engine  # noqa: F401 (ASE, before the first job waits for it)

    Worker(parse, answers, Remote(batcher) if batcher else Warm()).work(orders)


def expendable() -> None:
    """Let the system end this process first when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)


class Worker:
    """The process: a queue of jobs, and a thread that listens for orders about the one in hand."""

    def __init__(self, parse: Parse, answers: BinaryIO, source: Source) -> None:
        self._parse, self._source = parse, source
        self._answers = answers
        self._writing = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[dict[str, Any], JobHalter]] = queue.SimpleQueue()
        self._halters: dict[int, JobHalter] = {}

    def work(self, orders: BinaryIO) -> None:
        """Do one job after the other."""
        threading.Thread(target=self._listen, args=(orders,), daemon=True).start()
        self.tell({"event": "ready"})
        while True:
            order, halter = self._jobs.get()
            self._source.begin(order)
            answer = self._do(order, halter)
            self._source.end()
            halter.close()
            del self._halters[order["job"]]
            self.tell({"job": order["job"], **answer, "models": self._source.names})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to the service."""
        with self._writing:
            self._answers.write(wire.encode(message))
            self._answers.flush()

    def _listen(self, orders: BinaryIO) -> None:
        for line in orders:
            order = wire.decode(line)
            if order["do"] == "run":
                halter = self._halters[order["job"]] = JobHalter()
                self._jobs.put((order, halter))
            elif halter := self._halters.get(order["job"]):  # type: ignore[assignment]
                halter.cancel() if order["do"] == "cancel" else halter.ask()
        os._exit(0)

    def _do(self, order: dict[str, Any], halter: JobHalter) -> dict[str, Any]:
        """Run a job where and as its caller would, and return how it ended."""
        watcher = Reporter(order["job"], self.tell)
        declined: list[str] = []

        def work(log: logging.Logger) -> None:
            config = read_settings()
            if config.service.mode == "off" and order["mode"] is None:
                declined.append(f"{config.source} says [service] mode = 'off'")
                return
            models = Condemned.factory(order["condemned"]) if order.get("condemned") else self._lend
            run_folder(_Unless(halter, _folder(order["kind"], path)), config, log, halter, models, watcher)

        with self._relayed(order["job"]):
            try:
                with as_caller(order):
                    path, read_settings = self._parse(order["kind"], order["argv"])
                    code = run_in_slot(path, OUTPUTS[order["kind"]], work)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except OSError as error:
                print(f"uspex-bridge: {order['cwd']}: {error.strerror or error}", file=sys.stderr)
                code = errors.OutputError.exit_code
        if declined:
            return {"event": "declined", "message": declined[0]}
        return {"event": "end", "exit": code, "entry": watcher.summary}

    def _lend(self, config: Config) -> Models:
        return lend(config, self._source)

    @contextmanager
    def _relayed(self, job: int) -> Iterator[None]:
        """Send what is printed to the caller."""
        out, err = _Relay("out", job, self.tell), _Relay("err", job, self.tell)
        with closing(out), closing(err), redirect_stdout(out), redirect_stderr(err):
            yield


def _folder(kind: str, path: Path) -> Folder:
    return VaspFolder(path) if kind == "vasp" else ExternalFolder(path)


class JobHalter(Halter):
    """Also says when nobody wants the result any more."""

    def __init__(self) -> None:
        super().__init__()
        self._cancelled = False

    def cancel(self) -> None:
        """Ask for an end without any result (from any thread)."""
        self._cancelled = True

    def check(self) -> None:
        """Raise Interrupted if cancelled."""
        if self._cancelled:
            raise errors.Interrupted("the caller was killed; nothing was written")

    def __call__(self) -> Any:
        """Return why to stop, or None.

        Raises:
            Interrupted: the job was cancelled.
        """
        self.check()
        return super().__call__()


class _Unless:
    """A folder that takes no result once its job was cancelled."""

    def __init__(self, halter: JobHalter, folder: Folder) -> None:
        self.path = folder.path
        self._halter, self._folder = halter, folder

    def read(self, config: Config) -> Request:
        return self._folder.read(config)

    def publish(self, run: VaspRun, config: Config) -> None:
        self._halter.check()
        self._folder.publish(run, config)


class Condemned(Models):
    """Instead of models: the verdict on a structure that ended the process it was relaxed in."""

    def __init__(self, config: Config, verdict: dict[str, str]) -> None:
        super().__init__(config)
        self._verdict = verdict

    @classmethod
    def factory(cls, verdict: dict[str, str]) -> Callable[[Config], Models]:
        """Return what makes one for a run."""
        return lambda config: cls(config, verdict)

    def __call__(self, name: str) -> Any:
        """Raise the verdict."""
        raise getattr(errors, self._verdict["error"])(self._verdict["message"])


class Reporter(Watcher):
    """Tells the service how a run goes on, a few times a second at most.

    Attributes:
        summary: of the record's entry, what the statistics want.
    """

    def __init__(self, job: int, tell: Callable[[dict[str, Any]], None]) -> None:
        self._job, self._tell = job, tell
        self._last = 0.0
        self.summary: dict[str, Any] = {}

    def began(self, fields: dict[str, Any]) -> None:
        """Tell which structure it is."""
        about = {key: fields.get(key) for key in ("formula", "natoms", "pressure_gpa", "label", "id")}
        self._tell({"job": self._job, "event": "progress", **about})

    def step(self, step: IonicStep) -> None:
        """Tell where it is."""
        if time.monotonic() - self._last > _PROGRESS:
            self._last = time.monotonic()
            about = {"stage": step.stage, "step": step.index, "fmax": step.fmax, "enthalpy": step.enthalpy}
            self._tell({"job": self._job, "event": "progress", **about})

    def ended(self, fields: dict[str, Any]) -> None:
        """Keep what the statistics want."""
        self.summary = {key: fields.get(key) for key in ("status", "code", "steps", "seconds")}
        wanted = ("calculator", "model", "evaluations", "seconds")
        self.summary["stages"] = [{key: stage[key] for key in wanted} for stage in fields.get("stages", [])]


class _Relay(io.TextIOBase):
    """A text stream whose lines go to the caller; any thread may write."""

    def __init__(self, event: str, job: int, tell: Callable[[dict[str, Any]], None]) -> None:
        self._event, self._job, self._tell = event, job, tell
        self._line = ""

    def write(self, text: str) -> int:
        self._line += text
        if "\n" in self._line:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._line = self._line, ""
        if text:
            self._tell({"job": self._job, "event": self._event, "text": text})
