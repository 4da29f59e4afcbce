"""A process of the service that relaxes: one structure at a time, as a one-shot call does, with models that stay.

It takes orders as JSON lines over the socket that it was born with, and answers there. It ends when the service hangs
up, at once, so that no job outlives the service that would have answered for it.
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
from typing import TYPE_CHECKING, Any

from uspex_bridge.base import errors
from uspex_bridge.base.caller import Acting
from uspex_bridge.base.files import OUTPUTS
from uspex_bridge.base.halt import Halter
from uspex_bridge.base.lines import LineSocket, claim_stdin
from uspex_bridge.base.memory import expendable
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.call.config import Config
from uspex_bridge.call.folders import ExternalFolder, VaspFolder
from uspex_bridge.call.run import Models, Watcher, record_of, run_folder
from uspex_bridge.call.slot import run_in_slot
from uspex_bridge.models import backends, inventory
from uspex_bridge.models.batched import BatchedModels
from uspex_bridge.models.warm import ModelSource, WarmModels

if TYPE_CHECKING:
    from uspex_bridge.relaxation.engine import IonicStep

#: Makes the folder and the reader of the settings of a call from the executable's name and arguments; what it raises
#: is SystemExit, after printing what is wrong.
Parse = Callable[[str, list[str]], tuple[Path, Callable[[], Config]]]
#: Sends a message to the service.
Tell = Callable[[dict[str, Any]], None]

#: Seconds between two words about the progress of a structure.
_PROGRESS = 0.3


def main(parse: Parse, batcher: str | None = None) -> None:
    """Work until the service hangs up, with models in this process, or with those of the batcher at a socket's path."""
    line = claim_stdin()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the service decides when its workers end
    expendable()
    import uspex_bridge.relaxation.engine  # noqa: F401 (ASE, before the first job waits for it)

    JobLoop(parse, line, BatchedModels(batcher) if batcher else WarmModels()).work()


class JobLoop:
    """Jobs one after the other, and a thread that listens for orders about the one in hand."""

    def __init__(self, parse: Parse, line: LineSocket, source: ModelSource) -> None:
        self._parse, self._line, self._source = parse, line, source
        self._writing = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[dict[str, Any], JobHalter]] = queue.SimpleQueue()
        self._halters: dict[int, JobHalter] = {}

    def work(self) -> None:
        """Do one job after the other."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._tell({"event": "ready"})
        while True:
            order, halter = self._jobs.get()
            answer = run_job(order, halter, self._parse, self._source, self._tell)
            del self._halters[order["job"]]
            self._tell(answer)

    def _tell(self, message: dict[str, Any]) -> None:
        with self._writing:
            self._line.send(message)

    def _listen(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                order = self._line.receive()
                if order["do"] == "run":
                    halter = self._halters[order["job"]] = JobHalter()
                    self._jobs.put((order, halter))
                elif halter := self._halters.get(order["job"]):  # type: ignore[assignment]
                    halter.cancel() if order["do"] == "cancel" else halter.ask()
        os._exit(0)


def run_job(order: dict[str, Any], halter: JobHalter, parse: Parse, source: ModelSource, tell: Tell) -> dict[str, Any]:
    """Run a job where and as its caller would.

    Args:
        order: what the daemon was asked for, with the number of the job.
        halter: stops or cancels it.
        parse: reads its arguments.
        source: where its models come from.
        tell: is told how it goes on, and what is printed.

    Returns:
        the message that it has ended, and how.
    """
    watcher = Reporter(order["job"], tell)
    declined: list[str] = []
    trains: list[str] = []

    def work(log: logging.Logger) -> None:
        config = read_settings()
        if config.service.mode == "off" and order["mode"] is None:
            declined.append(f"{config.source} says [service] mode = 'off'")
            return
        verdict = order.get("verdict")
        folder = VaspFolder(path) if order["kind"] == "vasp" else ExternalFolder(path)
        models = (lambda config: NoModels(config, verdict)) if verdict else (lambda config: JobModels(config, source))
        if config.student.distill == "auto":
            trains[:] = [str(record_of(folder.path, config).parent), config.source]
        run_folder(folder, config, log, halter, models, watcher)

    source.begin(order)
    with _relayed(order["job"], tell):
        try:
            with Acting(order):
                path, read_settings = parse(order["kind"], order["argv"])
                code = run_in_slot(path, OUTPUTS[order["kind"]], work)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except OSError as error:
            print(f"uspex-bridge: {order['cwd']}: {error.strerror or error}", file=sys.stderr)
            code = errors.OutputError.exit_code
    source.end()
    halter.close()
    ended = {"event": "declined", "message": declined[0]} if declined else {"event": "end", "exit": code}
    return {"job": order["job"], **ended, "entry": watcher.summary, "models": source.names, "trains": trains}


@contextmanager
def _relayed(job: int, tell: Tell) -> Iterator[None]:
    """Send what is printed to the caller."""
    out, err = _Relay("out", job, tell), _Relay("err", job, tell)
    with closing(out), closing(err), redirect_stdout(out), redirect_stderr(err):
        yield


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


class JobModels(Models):
    """The models of one job, from those that stay; which weights they have is settled when the job begins."""

    def __init__(self, config: Config, source: ModelSource) -> None:
        super().__init__(config)
        limit_threads(config.threads)
        self._source = source
        self._states = {name: weights_state(name, config) for name in config.calculators}

    def __call__(self, name: str) -> backends.Backend:
        """Return the loaded calculator ``name``."""
        if name not in self.loaded:
            state = self._states[name] if name in self._states else weights_state(name, self.config)
            self.loaded[name] = self._source.get(name, self.config.settings_of(name), state)
        return self.loaded[name]

    def close(self) -> None:
        """Give them back."""
        self.loaded.clear()


def weights_state(name: str, config: Config) -> list[object] | None:
    """Return what tells, without reading them, which weights a calculator would load: file behind links, size, time."""
    try:
        path = inventory.find_weights(name, config.settings_of(name)).path
        if path is None:
            return None
        path = path.resolve()
        state = path.stat()
    except (errors.BridgeError, OSError):
        return None
    return [str(path), state.st_size, state.st_mtime_ns]


class NoModels(Models):
    """Instead of models: the verdict on a structure that ended the process it was relaxed in."""

    def __init__(self, config: Config, verdict: dict[str, str]) -> None:
        super().__init__(config)
        self._verdict = verdict

    def __call__(self, name: str) -> Any:
        """Raise the verdict."""
        raise getattr(errors, self._verdict["error"])(self._verdict["message"])


class Reporter(Watcher):
    """Tells the service how a run goes on, a few times a second at most.

    Attributes:
        summary: of the record's entry, what the statistics want.
    """

    def __init__(self, job: int, tell: Tell) -> None:
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
        ran = [] if "repeats" in fields else fields.get("stages", [])
        self.summary["stages"] = [{key: stage[key] for key in wanted} for stage in ran]


class _Relay(io.TextIOBase):
    """A text stream whose lines go to the caller; any thread may write."""

    def __init__(self, event: str, job: int, tell: Tell) -> None:
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
