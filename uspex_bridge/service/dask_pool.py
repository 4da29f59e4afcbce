"""Beyond this machine: each job is a task of a Dask scheduler, one function that any of its workers may call.

The scheduler starts a task again whose worker is lost; one with which worker after worker dies fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, get_worker

from uspex_bridge.base import errors
from uspex_bridge.models.warm import WarmModels
from uspex_bridge.service import wire
from uspex_bridge.service.pool import SUSPICIOUS, Job, WorkerPool
from uspex_bridge.service.worker import JobHalter, Parse, run_job

#: Seconds for the scheduler to answer, and between two looks at who its workers are.
_CONNECT, _LOOK = 10.0, 1.0

#: Of a Dask worker: its models, who may use them (it may have several threads), and what ends its jobs, by their keys.
_models = WarmModels()
_sole_use = threading.Lock()
_halters: dict[str, JobHalter] = {}


class _TaskHalter(JobHalter):
    """Cancels a job also when its service is gone: the scheduler then gives its task up."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._tasks, self._key = get_worker().state.tasks, key

    def check(self) -> None:
        """Raise Interrupted if cancelled."""
        task = self._tasks.get(self._key)
        if task is None or task.state == "cancelled":
            self.cancel()
        super().check()


def do_job(parse: Parse, order: dict[str, Any], place: tuple[str, int], mine: dict[str, Any], topic: str) -> Any:
    """Run a job, as a Dask worker.

    Args:
        parse: reads the arguments of the call.
        order: as :func:`uspex_bridge.service.worker.run_job` takes it.
        place: the folder and its inode, which must be the same here.
        mine: what the service greets with.
        topic: of the events that tell how the job goes on.

    Returns:
        everything that the caller is to be told, at last how the job has ended.
    """
    worker = get_worker()
    key, host = str(worker.get_current_task()), platform.node()
    if problem := wire.mismatch(mine) or _not_there(*place):
        return [{"event": "declined", "message": f"the Dask worker on {host}: {problem}"}]
    said: list[dict[str, Any]] = []

    def tell(message: dict[str, Any]) -> None:
        if message["event"] == "progress":
            worker.log_event(topic, message | {"worker": worker.address, "host": host})
        else:
            said.append(message)

    with _sole_use:
        _halters[key] = _TaskHalter(key)
        try:
            tell({"job": order["job"], "event": "progress"})
            ended = run_job(order, _halters[key], parse, _models, tell)
        finally:
            del _halters[key]
    return [*said, ended]


def _not_there(folder: str, inode: int) -> str:
    """Return why a folder is not the one that the service means, or an empty string."""
    with suppress(OSError):
        if os.stat(folder).st_ino == inode:
            return ""
    return f"{folder} is not the same folder there; its file system must be shared"


def end_job(key: str, what: str) -> None:
    """Let a job halt or cancel it, as the Dask worker that may have it."""
    if halter := _halters.get(key):
        halter.cancel() if what == "cancel" else halter.ask()


def forget_models() -> None:
    """Load models anew from now on, as a Dask worker."""
    with _sole_use:
        _models.clear()


class DaskPool(WorkerPool):
    """The workers of a Dask scheduler, each with one job at a time.

    Args:
        client: of the scheduler.
        parse: reads the arguments of calls; a function of a module's top level.
    """

    def __init__(self, client: Client, parse: Parse, log: logging.Logger) -> None:
        super().__init__(log)
        self._client, self._parse = client, parse
        self._scheduler: Any = client.scheduler
        self._tasks_of: dict[Job, Any] = {}
        self._workers: dict[str, dict[str, Any]] = {}
        self._topic = f"uspex-bridge-{client.id}"
        client.subscribe_topic(self._topic, self._heard)

    @classmethod
    async def connect(cls, address: str, parse: Parse, log: logging.Logger) -> DaskPool:
        """Connect to the scheduler at ``address``, or the one that a scheduler file (``*.json``) names.

        Raises:
            ServiceError: it does not answer.
        """
        if address.endswith(".json") and not Path(address).is_file():
            raise errors.ServiceError(f"{address}: there is no such scheduler file")
        where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        try:
            client = await Client(**where, asynchronous=True, timeout=_CONNECT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise errors.ServiceError(f"no Dask scheduler at {address}: {reason or 'it does not answer'}") from None
        return cls(client, parse, log)

    @property
    def running(self) -> list[Job]:
        """The jobs that run."""
        return list(self._tasks_of)

    def dispatch(self) -> None:
        """Hand over as many jobs as there are workers."""
        for job in self.next_jobs():
            if len(self._tasks_of) >= self.size:
                break
            arguments = (self._parse, self.started(job), (job.folder, job.place[1]), wire.greeting(), self._topic)
            key = f"uspex-bridge-{self._client.id}-{job.number}-{job.deaths}"
            self._tasks_of[job] = self._client.submit(do_job, *arguments, key=key, pure=False)
            self.spawn(self._follow(job))

    def order(self, job: Job, what: str) -> None:
        """Pass on to a running job that it is to ``halt`` or ``cancel``."""
        self.spawn(self._ask(end_job, self._tasks_of[job].key, what))

    def reload(self) -> int:
        """Let every worker load its models anew; return how many."""
        self.spawn(self._ask(forget_models))
        return self.size

    async def watch(self) -> None:
        """Keep up with who the Dask workers are; return when the scheduler is gone."""
        while True:
            try:
                found = await asyncio.wait_for(self._scheduler.identity(n_workers=-1), _CONNECT)
            except (OSError, TimeoutError, AttributeError):  # the last is Dask's once its client has closed
                self.log.error("the Dask scheduler has ended")
                return
            self._workers = found["workers"]
            if self.size != len(self._workers):
                self.size = len(self._workers)
                self.log.info("%d Dask workers", self.size)
            self.dispatch()
            await asyncio.sleep(_LOOK)

    async def close(self) -> None:
        """Give up all tasks and hang up."""
        self.queue.clear()
        for task in self._tasks:
            task.cancel()
        with suppress(OSError, TimeoutError):
            await self._client.close(timeout=_CONNECT)

    def describe(self) -> dict[str, Any]:
        """Return the queue, the Dask workers and what they are at."""
        found = super().describe()
        at = {job.get("worker") for job in found["running"]}
        workers = [
            {
                "dask": address,
                "host": about["host"],
                "state": "busy" if address in at else "idle",
                "memory_mb": round(about["metrics"].get("memory", 0) / 1048576, 1),
            }
            for address, about in self._workers.items()
        ]
        return found | {"workers": workers, "batchers": [], "dask": self._scheduler.address}

    def _heard(self, event: tuple[float, dict[str, Any]]) -> None:
        message = event[1]
        for job in self._tasks_of:
            if job.number == message["job"]:
                job.progress |= {k: v for k, v in message.items() if k not in ("job", "event")}

    async def _follow(self, job: Job) -> None:
        """Wait for the end of a job's task."""
        try:
            *said, ended = await self._tasks_of[job]
        except KilledWorker:
            job.deaths += 1
            self.stats.events["worker_died"] += 1
            message = "several workers died with this structure"
            del self._tasks_of[job]
            if not job.abandoned:
                self.run_again(job, errors.CalculationError, message)
        except Exception as error:  # noqa: BLE001 (whatever a worker without this package raises)
            del self._tasks_of[job]
            job.end({"event": "declined", "message": f"a Dask worker failed: {type(error).__name__}: {error}"})
        else:
            del self._tasks_of[job]
            for message in said:
                job.tell({"event": message["event"], "text": message["text"]})
            self.ended(job, ended, where := job.progress.get("worker"))
            if ended.get("exit") in SUSPICIOUS:
                self.spawn(self._restart(str(where)))
        self.dispatch()

    async def _ask(self, function: Any, *arguments: Any) -> None:
        """Have every worker call a function; what a lost one says to that does not matter."""
        with suppress(OSError):
            await self._client.run(function, *arguments, on_error="ignore")

    async def _restart(self, worker: str) -> None:
        """Have a Dask worker's process replaced, which only one with a nanny can."""
        with suppress(Exception):
            await self._client.restart_workers([worker])
