"""The same function for many jobs: here one after another, in several processes, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from uspex_bridge.base.errors import BridgeError, CalculationError, Interrupted, ModelError, ServiceError
from uspex_bridge.base.words import ending

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Jobs handed out per Dask worker: one at work, one to go on with.
_AHEAD = 2
#: Seconds that a Dask scheduler may take to answer, and to let go.
_CONNECT, _CLOSE = 20, 5
#: Seconds that a process without a job may take to end.
_END = 10.0


def spread(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int = 1, scheduler: str | None = None
) -> Iterator[tuple[Job, Result | BridgeError]]:
    """Yield each job with what ``function`` returns for it, in the order in which they are done.

    A job whose worker process dies runs once more. If that dies too, the job comes back with a CalculationError; with
    Interrupted at once where an evaluation hung beyond the time limit. Worker processes end with this one, however
    that ends.

    Args:
        function: of a module's top level; it, jobs and results go through pickle, unless all is done here.
        jobs: taken as workers become free, so that a long list is never held.
        workers: processes on this machine; with 1 everything is done in this one.
        scheduler: address of a Dask scheduler, or its scheduler file (``*.json``), whose workers are taken instead; it
            decides how often a job runs whose worker dies.

    Raises:
        ModuleNotFoundError: the package distributed is missing.
        ServiceError: the scheduler does not answer, or no longer.
        ModelError: worker processes do not start.
        Exception: what ``function`` raises.
    """
    if scheduler is not None:
        yield from _on_cluster(function, jobs, scheduler)
    elif workers == 1:
        for job in jobs:
            yield job, function(job)
    else:
        yield from _in_processes(function, jobs, workers)


@dataclass
class _Turn(Generic[Job]):
    """A job, and how many worker processes died of it."""

    job: Job
    deaths: int = 0


def _in_processes(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Result | BridgeError]]:
    rest, again = iter(jobs), deque[_Turn[Job]]()
    idle: list[_Process] = []
    busy: dict[Connection, tuple[_Process, _Turn[Job]]] = {}
    try:
        while True:
            while len(busy) < workers and (turn := again.popleft() if again else _next(rest)):
                process = idle.pop() if idle else _Process(function)
                process.begin(turn.job)
                busy[process.pipe] = process, turn
            if not busy:
                return
            for pipe in wait(list(busy)):
                process, turn = busy[pipe]  # type: ignore[index]
                try:
                    kind, value = process.hear()
                except EOFError:
                    del busy[process.pipe]
                    turn.deaths += 1
                    if verdict := process.verdict(turn.deaths):
                        yield turn.job, verdict
                    else:
                        again.append(turn)
                    continue
                if kind == "ready":
                    continue
                del busy[process.pipe]
                idle.append(process)
                if kind == "raised":
                    raise value
                yield turn.job, value
    finally:
        for process in idle:
            process.end()
        for process, _ in busy.values():
            process.kill()


def _next(jobs: Iterator[Job]) -> _Turn[Job] | None:
    for job in jobs:
        return _Turn(job)
    return None


class _Process:
    """A worker process, which does one job after the other."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._ready = False
        self._process = context.Process(target=_work, args=(theirs, function))
        self._process.start()
        theirs.close()

    def begin(self, job: Any) -> None:
        """Hand over a job; that the process is dead is heard later."""
        with suppress(OSError):
            self.pipe.send(job)

    def hear(self) -> tuple[str, Any]:
        """Return what it says: ``ready``, or that a job is ``done`` or has ``raised``, with the result or error.

        Raises:
            EOFError: it has ended.
        """
        try:
            kind, value = self.pipe.recv()
        except OSError:
            raise EOFError from None
        self._ready = True
        return kind, value

    def verdict(self, deaths: int) -> BridgeError | None:
        """Return what to say of the job that it died of; None if that is to be tried again.

        Raises:
            ModelError: it died before it was ready.
        """
        self._process.join()
        code = self._process.exitcode or 0
        how = ending(code)
        if not self._ready:
            raise ModelError(f"worker processes do not start: one {how}")
        if code == Interrupted.exit_code:
            return Interrupted("one evaluation exceeded the time limit")
        return CalculationError(f"the worker process {how}, twice with this structure") if deaths > 1 else None

    def end(self) -> None:
        """Let it end."""
        self.pipe.close()
        self._process.join(_END)
        self.kill()

    def kill(self) -> None:
        """End it by force."""
        self._process.kill()
        self._process.join()


def _work(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Do jobs until the pipe ends, as a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command that started it decides when it ends
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(("ready", None))
    with suppress(EOFError, OSError):
        while True:
            job = pipe.recv()
            try:
                answer = "done", function(job)
            except Exception as error:  # noqa: BLE001 (raised again where the results are awaited)
                answer = "raised", error
            pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _on_cluster(
    function: Callable[[Job], Result], jobs: Iterable[Job], scheduler: str
) -> Iterator[tuple[Job, Result | BridgeError]]:
    import distributed

    where: dict[str, Any] = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    try:
        client = distributed.Client(**where, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ServiceError(f"the Dask scheduler at {scheduler} does not answer: {error}") from None
    rest = iter(jobs)
    pending: dict[Any, Job] = {}
    try:
        finished = distributed.as_completed(loop=client.loop)
        while True:
            places = _AHEAD * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
            for job in islice(rest, max(0, places - len(pending))):
                future = client.submit(function, job, pure=False)
                pending[future] = job
                finished.add(future)
            if not pending:
                return
            done = next(finished)
            try:
                result: Result | BridgeError = done.result()
            except distributed.KilledWorker:
                result = CalculationError("several workers died with this structure")
            yield pending.pop(done), result
    except Exception:
        if client.status == "running":
            raise
        raise ServiceError(f"the Dask scheduler at {scheduler} is gone; what is done is kept (--resume)") from None
    finally:
        with suppress(Exception):  # a scheduler that is gone takes no leave
            client.cancel(list(pending))
            client.close(timeout=_CLOSE)
