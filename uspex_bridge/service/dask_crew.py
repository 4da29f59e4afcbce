"""Workers beyond this machine: the processes of the crew live with the workers of a Dask scheduler.

A process there looks to the crew like one here (:class:`RemoteProcess`), so queue, reruns and verdicts are its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import Client

from uspex_bridge.base.errors import ServiceError
from uspex_bridge.service import dask_side, wire
from uspex_bridge.service.crew import Crew, Hand

#: Seconds for the scheduler to answer, and between two looks at who its workers are.
_CONNECT, _LOOK = 10.0, 1.0
#: Seconds without an answer after which the scheduler is lost, and to end a process that cannot be heard.
_LOST, _KILL = 30.0, 3.0


class Cluster:
    """The connection to a Dask scheduler.

    Attributes:
        workers: what the scheduler says of each of its workers that can be reached, by address.
    """

    def __init__(self, client: Client, address: str) -> None:
        self.client, self.address = client, address
        self.workers: dict[str, dict[str, Any]] = {}
        self._lost: set[str] = set()

    @classmethod
    async def connect(cls, address: str) -> Cluster:
        """Connect to the scheduler at ``address``, or the one that a scheduler file (``*.json``) names.

        Raises:
            ServiceError: it does not answer.
        """
        if address.endswith(".json") and not Path(address).is_file():
            raise ServiceError(f"{address}: there is no such scheduler file")
        where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        try:
            client = await Client(**where, asynchronous=True, timeout=_CONNECT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ServiceError(f"no Dask scheduler at {address}: {reason or 'it does not answer'}") from None
        cluster = cls(client, address)
        await cluster.look()
        return cluster

    async def look(self) -> None:
        """Ask who the workers are.

        Raises:
            OSError: the scheduler does not answer.
        """
        found = await asyncio.wait_for(self.client.scheduler.identity(n_workers=-1), _CONNECT)
        self._lost &= set(found["workers"])
        self.workers = {address: about for address, about in found["workers"].items() if address not in self._lost}

    async def run(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of :mod:`uspex_bridge.service.dask_side` on a worker.

        Raises:
            OSError: it cannot be reached, and counts as gone.
            Exception: what else the worker or Dask raises.
        """
        try:
            return (await self.client.run(function, *arguments, workers=[worker]))[worker]
        except OSError:
            self._lost.add(worker)  # the scheduler may not have noticed yet
            self.workers.pop(worker, None)
            raise

    async def close(self) -> None:
        """Hang up."""
        await self.client.close()


class RemoteProcess:
    """A process that a Dask worker keeps, as :class:`asyncio.subprocess.Process` shows one.

    Attributes:
        host: name of its machine.
        memory_mb: its resident memory by the last report.
    """

    def __init__(self, cluster: Cluster, worker: str, number: int, pid: int, host: str) -> None:
        self._cluster, self.worker, self._number = cluster, worker, number
        self.pid, self.host = pid, host
        self.memory_mb: float | None = None
        self.stdout, self.stderr = (
            asyncio.StreamReader(limit=wire.MOST_TOLD),
            asyncio.StreamReader(limit=wire.MOST_TOLD),
        )
        self.stdin = self
        self._orders: asyncio.Queue[tuple[bytes, tuple[str, int] | None]] = asyncio.Queue()
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks = {asyncio.create_task(self._hear()), asyncio.create_task(self._tell())}

    async def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return await asyncio.shield(self._code)

    def write(self, line: bytes, place: tuple[str, int] | None = None) -> None:
        """Send a line, unless a folder is not the same there (:func:`dask_side.tell`)."""
        self._orders.put_nowait((line, place))

    def close(self) -> None:
        """Close its stdin."""
        self.write(b"")

    def kill(self) -> None:
        """End it by force."""
        task = asyncio.create_task(self._kill())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lost(self) -> None:
        """Take note that its Dask worker is gone, and it with it."""
        if not self._code.done():
            self.stderr.feed_data(f"the Dask worker {self.worker} on {self.host} is gone\n".encode())
            self._end(-9)

    def _end(self, code: int) -> None:
        if not self._code.done():
            self._code.set_result(code)
            self.stdout.feed_eof()
            self.stderr.feed_eof()
            for task in self._tasks - {asyncio.current_task()}:
                task.cancel()

    async def _hear(self) -> None:
        try:
            while True:
                for what, value in await self._cluster.run(self.worker, dask_side.hear, self._number):
                    if what == "code":
                        return self._end(value)
                    if what == "memory_mb":
                        self.memory_mb = value
                    else:
                        getattr(self, what).feed_data(value)
        except Exception:  # noqa: BLE001 (Dask raises many kinds where a worker is gone)
            with suppress(TimeoutError):  # should only the connection be: its structure is about to run elsewhere
                await asyncio.wait_for(self._kill(), _KILL)
            self.lost()

    async def _tell(self) -> None:
        with suppress(Exception):  # that the worker is gone is heard there
            while True:
                line, place = await self._orders.get()
                problem = await self._cluster.run(self.worker, dask_side.tell, self._number, line, place)
                if problem:
                    answer = {"job": wire.decode(line)["job"], "event": "declined", "message": problem, "models": []}
                    self.stdout.feed_data(wire.encode(answer))

    async def _kill(self) -> None:
        with suppress(Exception):
            await self._cluster.run(self.worker, dask_side.kill, self._number)


class RemoteHand(Hand):
    """A worker process of the crew with a Dask worker."""

    crew: DaskCrew
    process: RemoteProcess  # type: ignore[assignment]

    async def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Start it with the Dask worker that has the most threads free.

        Raises:
            OSError: there is none, or it cannot.
        """
        self.process = await self.crew.hire_out(command, environment)

    def send(self, order: dict[str, Any]) -> None:
        """Send an order; that the process is dead is heard elsewhere."""
        job = self.job if order["do"] == "run" else None
        self.process.write(wire.encode(order), (job.folder, job.place[1]) if job else None)


class DaskCrew(Crew):
    """The crew whose processes are spread over the workers of a Dask scheduler, one for each thread of theirs.

    Args:
        cluster: the scheduler.
        arguments: of a Python that is a worker of the service.
        jobs_per_worker: jobs after which a process is let go.
        environment: variables set in the processes over those of the Dask workers.
        lost: called when the scheduler is gone.
    """

    def __init__(
        self,
        cluster: Cluster,
        arguments: list[str],
        jobs_per_worker: int,
        environment: dict[str, str],
        log: logging.Logger,
        lost: Callable[[], None],
    ) -> None:
        super().__init__(arguments, 0, jobs_per_worker, environment, log)
        self._cluster, self._on_lost = cluster, lost
        self._busy: Counter[str] = Counter()
        self._adopt()
        self._spawn(self._follow())

    def new_hand(self, seat: Any) -> Hand:
        """Return a process to be started with a Dask worker."""
        return RemoteHand(self, seat)

    async def hire_out(self, arguments: list[str], environment: dict[str, str]) -> RemoteProcess:
        """Start a process with the Dask worker that has the most threads free.

        Raises:
            OSError: there is none, or it cannot.
        """
        while workers := self._cluster.workers:
            worker = max(workers, key=lambda address: workers[address]["nthreads"] - self._busy[address])
            self._busy[worker] += 1
            try:
                found = await self._cluster.run(worker, dask_side.start, wire.greeting(), arguments, environment)
            except OSError:
                self._busy[worker] -= 1
                continue
            except Exception as error:  # noqa: BLE001 (whatever a worker without this package raises)
                found = {"problem": f"{type(error).__name__}: {error}"}
            if "problem" not in found:
                return RemoteProcess(self._cluster, worker, **found)
            self._busy[worker] -= 1
            raise OSError(f"on the Dask worker {worker}: {found['problem']}")
        raise OSError("no Dask worker is there any more")

    def gone(self, hand: Hand, code: int) -> None:
        """Take note that a process has ended; one that was lost before it could start says nothing about others."""
        assert isinstance(hand, RemoteHand)
        self._busy[hand.process.worker] -= 1
        if hand.process.worker not in self._cluster.workers and not hand.job:
            hand.leaving = True
        super().gone(hand, code)

    def _bad_start(self, reason: str) -> None:
        if self._cluster.workers:  # without any, jobs wait for the first
            super()._bad_start(reason)

    def describe(self) -> dict[str, Any]:
        """Return the queue, the processes and what they are at, and the Dask workers."""
        found = super().describe()
        for about, hand in zip(found["workers"], self.hands, strict=True):
            assert isinstance(hand, RemoteHand)
            about |= {"host": hand.process.host, "dask": hand.process.worker, "memory_mb": hand.process.memory_mb}
        found["dask"] = {
            "scheduler": self._cluster.address,
            "workers": [
                {"address": address, "host": about["host"], "threads": about["nthreads"], "busy": self._busy[address]}
                for address, about in self._cluster.workers.items()
            ],
        }
        return found

    async def close(self) -> None:
        """End all processes by force and hang up."""
        for task in self._tasks:
            if task.get_name() == "follow":
                task.cancel()
        await super().close()
        await self._cluster.close()

    async def _follow(self) -> None:
        """Keep up with who the Dask workers are."""
        if task := asyncio.current_task():
            task.set_name("follow")
        heard = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await self._cluster.look()
            except (OSError, TimeoutError, AttributeError):  # the last is Dask's once its client has closed
                if time.monotonic() - heard > _LOST or self._cluster.client.status == "closed":
                    self.log.error("the Dask scheduler at %s is gone", self._cluster.address)
                    return self._on_lost()
                continue
            heard = time.monotonic()
            self._adopt()

    def _adopt(self) -> None:
        """Make what the scheduler says of its workers so."""
        for hand in list(self.hands):
            if isinstance(hand, RemoteHand) and hand.process.worker not in self._cluster.workers:
                hand.process.lost()
        size = sum(about["nthreads"] for about in self._cluster.workers.values())
        if size != self.size:
            self.log.info("%d Dask workers, %d threads", len(self._cluster.workers), size)
            self.size = size
            self.dispatch()
