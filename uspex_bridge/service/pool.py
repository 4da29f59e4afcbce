"""The queue and the pool of workers: which worker gets which job, and what becomes of it when a worker dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from uspex_bridge.base import errors
from uspex_bridge.base.memory import resident_mb
from uspex_bridge.service.device_slots import DeviceSlots
from uspex_bridge.service.peers import PATIENCE, ChildProcess
from uspex_bridge.service.stats import Stats
from uspex_bridge.service.students import Students

#: So many workers in a row that die before they are ready mean that none will start.
_BAD_STARTS = 3
#: After these exit codes something in the process may be broken (a GPU's context, a library): it gets no other job.
SUSPICIOUS = (errors.BridgeError.exit_code, errors.CalculationError.exit_code)
#: Events after which a job has ended.
LAST_EVENTS = ("end", "failed", "declined")

_numbers = itertools.count(1)


@dataclass(eq=False)
class Job:
    """A folder to relax, and where the caller hears of it.

    Attributes:
        order: what the worker gets.
        place: device and inode of the folder: two paths may name the same.
        tell: sends a message to the caller; after one of LAST_EVENTS there are no more.
        deaths: workers that died of it.
        abandoned: its caller is gone, and so should it.
        progress: what is known of the structure and how far it is.
    """

    order: dict[str, Any]
    folder: str
    place: tuple[int, int]
    tell: Callable[[dict[str, Any]], None]
    number: int = field(default_factory=lambda: next(_numbers))
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    deaths: int = 0
    abandoned: bool = False
    ended: bool = False
    progress: dict[str, Any] = field(default_factory=dict)

    def end(self, message: dict[str, Any]) -> None:
        """Tell the caller how it ended, once."""
        if not self.ended:
            self.ended = True
            self.tell(message)

    def fail(self, error: str, message: str) -> None:
        """End without a run; the caller reports the error in the folder."""
        self.end({"event": "failed", "error": error, "message": message})


class WorkerPool(ABC):
    """The jobs that wait, first come, first served, and those that run.

    Attributes:
        size: most jobs that run at once.
        students: looks after the students of the jobs' searches, if anything does.
    """

    size = 0

    def __init__(self, log: logging.Logger) -> None:
        self.log = log
        self.stats = Stats()
        self.queue: deque[Job] = deque()
        self.students: Students | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    @abstractmethod
    def running(self) -> list[Job]:
        """The jobs that run."""

    @property
    def jobs(self) -> list[Job]:
        """Everything queued or running."""
        return [*self.running, *self.queue]

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.queue.append(job)
        self.dispatch()

    def halt(self, job: Job) -> None:
        """End a job as a signal ends a run: with what is reached, without a result where that is nothing."""
        if job in self.queue:
            self.queue.remove(job)
            message = "stopped while waiting in the queue of the service; nothing was written"
            job.fail(errors.Interrupted.__name__, message)
        elif job in self.running:
            self.order(job, "halt")

    def abandon(self, job: Job) -> None:
        """Cancel a job whose caller is gone."""
        job.abandoned = True
        self.stats.events["abandoned"] += 1
        if job in self.queue:
            self.queue.remove(job)
        elif job in self.running:
            self.order(job, "cancel")

    @abstractmethod
    def dispatch(self) -> None:
        """Let waiting jobs run where there is a place for them."""

    @abstractmethod
    def order(self, job: Job, what: str) -> None:
        """Pass on to a running job that it is to ``halt`` or ``cancel``."""

    @abstractmethod
    def reload(self) -> int:
        """Let models be loaded anew, where a job runs after it; return how many workers."""

    @abstractmethod
    async def close(self) -> None:
        """End everything by force; the jobs remain without an answer."""

    def describe(self) -> dict[str, Any]:
        """Return what ``status`` tells of the queue and of what runs."""
        now = time.monotonic()
        return {
            "queued": len(self.queue),
            "longest_wait_s": round(max((now - job.arrived for job in self.queue), default=0.0), 1),
            "running": [
                {"job": job.number, "folder": job.folder, "seconds": round(now - job.started, 1), **job.progress}
                for job in self.running
            ],
            "most_workers": self.size,
        }

    def next_jobs(self) -> Iterator[Job]:
        """Yield the jobs that may run now, each taken from the queue once the next one is asked for."""
        taken = {job.place for job in self.running}
        for job in list(self.queue):
            if job.place not in taken:  # else the cancelled one before it has not ended yet
                taken.add(job.place)
                yield job

    def started(self, job: Job) -> dict[str, Any]:
        """Take a job from the queue; return the order to run it."""
        self.queue.remove(job)
        job.started = time.monotonic()
        job.progress.clear()
        return {**job.order, "do": "run", "job": job.number}

    def ended(self, job: Job, message: dict[str, Any], where: object) -> None:
        """End a job that ran to its end."""
        if message["event"] == "declined":
            job.end({"event": "declined", "message": message["message"]})
            return
        ran = time.monotonic() - job.started
        self.stats.ended(message["exit"], message["entry"], job.started - job.arrived, ran)
        text = "job %d in %s: exit %d after %.2f s, worker %s"
        self.log.info(text, job.number, job.folder, message["exit"], ran, where)
        job.end({"event": "end", "exit": message["exit"]})
        if self.students:
            self.students.ended(message)

    def run_again(self, job: Job, error: type[errors.BridgeError] | None, message: str) -> None:
        """Put a job whose worker died at the queue's head; with a verdict, if there is an ``error``.

        The verdict is for another worker to write down.
        """
        if verdict := job.order.get("verdict"):
            self.stats.ended(getattr(errors, verdict["error"]).exit_code, {}, 0.0, 0.0)
            job.fail(verdict["error"], verdict["message"])
            return
        if error is None:
            self.stats.events["rerun"] += 1
        else:
            job.order["verdict"] = {"error": error.__name__, "message": f"{message}; nothing was written"}
        self.queue.appendleft(job)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Let a coroutine run until it ends or the pool is closed."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Worker(ChildProcess):
    """A process that does one job after the other.

    Attributes:
        job: what it is at.
        done: jobs it has done; ``last`` is when the last one ended.
        models: names of the models it holds.
    """

    def __init__(self, pool: LocalPool) -> None:
        super().__init__("worker", pool.log)
        self.pool = pool
        self.job: Job | None = None
        self.done = 0
        self.last = 0.0
        self.models: list[str] = []

    @property
    def state(self) -> str:
        """``starting``, ``idle``, ``busy`` or ``leaving``."""
        if self.leaving:
            return "leaving"
        return "starting" if not self.ready else "busy" if self.job else "idle"

    def heard(self, message: dict[str, Any]) -> None:
        """Pass on what it says."""
        self.pool.heard(self, message)


class LocalPool(WorkerPool):
    """Worker processes on this machine.

    Args:
        command: starts a worker process.
        size: most workers at once; they are started as jobs need them.
        jobs_per_worker: jobs after which a worker is let go; the batchers are after as many for each worker.
        environment: the workers' environment variables.
        slots: the batchers that hold their models; None where each worker holds its own.
    """

    def __init__(
        self,
        command: list[str],
        size: int,
        jobs_per_worker: int,
        environment: dict[str, str],
        log: logging.Logger,
        slots: DeviceSlots | None = None,
    ) -> None:
        super().__init__(log)
        self.command, self.size, self.jobs_per_worker = command, size, jobs_per_worker
        self.environment, self.slots = environment, slots
        if slots:
            slots.events = self.stats.events
        self.workers: list[Worker] = []
        self._starting = self._bad_starts = self._done_since = 0

    @property
    def running(self) -> list[Job]:
        """The jobs that run."""
        return [worker.job for worker in self.workers if worker.job]

    def order(self, job: Job, what: str) -> None:
        """Pass on to a running job that it is to ``halt`` or ``cancel``; cancelling ends in killing its worker."""
        worker = next(worker for worker in self.workers if worker.job is job)
        worker.peer.tell({"do": what, "job": job.number})
        if what == "cancel":
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE, lambda: worker.kill() if worker.job is job else None)

    def reload(self) -> int:
        """Replace every worker and batcher, busy ones after their job; return how many workers."""
        self._done_since = 0
        if self.slots:
            self.slots.reload()
        workers = [worker for worker in self.workers if not worker.leaving]
        for worker in workers:
            if worker.job:
                worker.done = self.jobs_per_worker
            else:
                worker.leave()
        return len(workers)

    async def close(self) -> None:
        """End all workers by force."""
        self.queue.clear()
        for worker in self.workers:
            worker.job, worker.leaving = None, True
            worker.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)
        if self.slots:
            await self.slots.close()

    def dispatch(self) -> None:
        """Give waiting jobs to idle workers, the last one used first since its models are warm; start missing ones."""
        for job in self.next_jobs():
            idle = [worker for worker in self.workers if worker.state == "idle"]
            if not idle:
                break
            worker = max(idle, key=lambda worker: worker.last)
            worker.job = job
            worker.peer.tell(self.started(job))
        coming = self._starting + sum(worker.state == "starting" for worker in self.workers)
        for _ in range(min(len(self.queue) - coming, self.size - len(self.workers) - self._starting)):
            self._starting += 1
            self.spawn(self._run_worker())

    def heard(self, worker: Worker, message: dict[str, Any]) -> None:
        """Act on what a worker says."""
        job, event = worker.job, message["event"]
        if event == "ready":
            worker.ready = True
            self._bad_starts = 0
        elif job is None or message["job"] != job.number:
            return
        elif event == "progress":
            job.progress |= {k: v for k, v in message.items() if k not in ("job", "event")}
        elif event in ("out", "err"):
            job.tell({"event": event, "text": message["text"]})
        else:
            self._done(worker, job, message)
        if worker.job is None:
            self.dispatch()

    def describe(self) -> dict[str, Any]:
        """Return the queue, the workers and what they are at, and the batchers."""
        found = super().describe()
        at = {worker.job.number: worker.process.pid for worker in self.workers if worker.job}
        return found | {
            "running": [{**job, "worker": at[job["job"]]} for job in found["running"]],
            "workers": [
                {
                    "pid": worker.process.pid,
                    "state": worker.state,
                    "jobs": worker.done,
                    "models": worker.models,
                    "memory_mb": resident_mb(worker.process.pid),
                }
                for worker in self.workers
            ],
            "batchers": self.slots.describe() if self.slots else [],
        }

    def _done(self, worker: Worker, job: Job, message: dict[str, Any]) -> None:
        """End a job that ran to its end, and let its worker go if that is due."""
        worker.job, worker.models, worker.last = None, message["models"], time.monotonic()
        worker.done += 1
        self.ended(job, message, worker.process.pid)
        if worker.done >= self.jobs_per_worker or message.get("exit") in SUSPICIOUS:
            worker.leave()
        self._done_since += 1
        if self.slots and self._done_since >= self.jobs_per_worker * self.size:
            self.reload()

    def _gone(self, worker: Worker, code: int) -> None:
        """Take note that a worker has ended; its job runs once more, then it is the job that ends workers."""
        self.workers.remove(worker)
        job, worker.job = worker.job, None
        how = worker.how(code)
        if not worker.leaving or job:
            self.stats.events["worker_died"] += 1
            self.log.warning("worker %d %s", worker.process.pid, how)
        if not worker.ready and not worker.leaving:
            self._bad_start(f"its workers do not start: one {how}")
        if job and not job.abandoned:
            job.deaths += 1
            self.log.warning("job %d in %s: its worker %s", job.number, job.folder, how)
            if code == errors.Interrupted.exit_code:
                self.run_again(job, errors.Interrupted, "one evaluation exceeded the time limit")
            elif job.deaths > 1:
                self.run_again(job, errors.CalculationError, f"the worker process {how}, twice with this structure")
            else:
                self.run_again(job, None, "")

    def _bad_start(self, reason: str) -> None:
        self._bad_starts += 1
        if self._bad_starts >= _BAD_STARTS:
            while self.queue:
                self.queue.popleft().end({"event": "declined", "message": reason})

    async def _run_worker(self) -> None:
        """Start a worker process and listen to it for as long as it lives."""
        slot = self.slots.take() if self.slots else None
        worker, code = Worker(self), 0
        try:
            await worker.start([*self.command, *([slot.path] if slot else [])], self.environment)
            self.workers.append(worker)
        except OSError as error:
            self.log.error("a worker cannot be started: %s", error)
            self._bad_start(f"its workers cannot be started: {error}")
        self._starting -= 1
        if worker in self.workers:
            code = await worker.listen()
        if self.slots and slot:
            self.slots.give_back(slot)
        if worker in self.workers:
            self._gone(worker, code)
        self.dispatch()
