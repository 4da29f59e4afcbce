"""The queue and the worker processes: who gets which job, and what becomes of it when a process dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from uspex_bridge.base import errors
from uspex_bridge.service.bench import Bench, Seat
from uspex_bridge.service.child import PATIENCE, Child
from uspex_bridge.service.stats import Stats, resident_mb

#: So many workers in a row that die before they are ready mean that none will start.
_BAD_STARTS = 3
#: After these exit codes something in the process may be broken (a GPU's context, a library): it gets no other job.
_SUSPICIOUS = (errors.BridgeError.exit_code, errors.CalculationError.exit_code)

_numbers = itertools.count(1)


@dataclass(eq=False)
class Job:
    """A folder to relax, and where the caller hears of it.

    Attributes:
        order: what the worker gets.
        place: device and inode of the folder: two paths may name the same.
        tell: sends a message to the caller; after an ``end``, ``failed`` or ``declined`` there are no more.
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


class Hand(Child):
    """One worker process.

    Attributes:
        job: what it is at.
        done: jobs it has done; ``last`` is when the last one ended.
        models: names of the models it holds.
        seat: the batcher that holds its models, where it does not itself.
    """

    def __init__(self, crew: Crew, seat: Seat | None) -> None:
        super().__init__("worker", crew.log)
        self.crew, self.seat = crew, seat
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
        self.crew.heard(self, message)

    def gone(self, code: int) -> None:
        """Pass on that it has ended."""
        self.crew.gone(self, code)


class Crew:
    """The workers and the jobs that wait for one, first come, first served.

    Args:
        command: starts a worker process.
        size: most workers at once; they are started as jobs need them.
        jobs_per_worker: jobs after which a worker is let go; the batchers are after as many for each worker.
        environment: the workers' environment variables.
        bench: the batchers that hold their models; None where each worker holds its own.
    """

    def __init__(
        self,
        command: list[str],
        size: int,
        jobs_per_worker: int,
        environment: dict[str, str],
        log: logging.Logger,
        bench: Bench | None = None,
    ) -> None:
        self.command, self.size, self.jobs_per_worker = command, size, jobs_per_worker
        self.environment, self.log, self.bench = environment, log, bench
        self.stats = bench.stats if bench else Stats()
        self.queue: deque[Job] = deque()
        self.hands: list[Hand] = []
        self._starting = 0
        self._bad_starts = 0
        self._done_since = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def jobs(self) -> list[Job]:
        """Everything queued or running."""
        return [*(hand.job for hand in self.hands if hand.job), *self.queue]

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.queue.append(job)
        self.dispatch()

    def halt(self, job: Job) -> None:
        """End a job as a signal ends a run: with what is reached, without a result where that is nothing."""
        if hand := self._hand_of(job):
            hand.send({"do": "halt", "job": job.number})
        elif job in self.queue:
            self.queue.remove(job)
            job.fail(
                errors.Interrupted.__name__, "told to stop while waiting in the service's queue; nothing was written"
            )

    def abandon(self, job: Job) -> None:
        """Cancel a job whose caller is gone."""
        job.abandoned = True
        self.stats.events["abandoned"] += 1
        if hand := self._hand_of(job):
            hand.send({"do": "cancel", "job": job.number})
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE, lambda: hand.kill() if hand.job is job else None)
        elif job in self.queue:
            self.queue.remove(job)

    def new_hand(self, seat: Seat | None) -> Hand:
        """Return a worker process to be started."""
        return Hand(self, seat)

    def reload(self) -> int:
        """Replace every worker and batcher, busy ones after their job; return how many workers."""
        self._done_since = 0
        if self.bench:
            self.bench.reload()
        hands = [hand for hand in self.hands if not hand.leaving]
        for hand in hands:
            if hand.job:
                hand.done = self.jobs_per_worker
            else:
                hand.leave()
        return len(hands)

    async def close(self) -> None:
        """End all workers by force; their jobs remain without an answer."""
        self.queue.clear()
        for hand in self.hands:
            hand.job, hand.leaving = None, True
            hand.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)
        if self.bench:
            await self.bench.close()

    def dispatch(self) -> None:
        """Give waiting jobs to idle workers, the last one used first since its models are warm; start missing ones."""
        taken = {hand.job.place for hand in self.hands if hand.job}
        for job in list(self.queue):
            if job.place in taken:  # the cancelled one before it has not ended yet
                continue
            idle = [hand for hand in self.hands if hand.state == "idle"]
            if not idle:
                break
            taken.add(job.place)
            self.queue.remove(job)
            self._give(max(idle, key=lambda hand: hand.last), job)
        coming = self._starting + sum(hand.state == "starting" for hand in self.hands)
        wanted = min(len(self.queue) - coming, self.size - len(self.hands) - self._starting)
        for _ in range(wanted):
            self._starting += 1
            self._spawn(self._hire())

    def heard(self, hand: Hand, message: dict[str, Any]) -> None:
        """Act on what a worker says."""
        job, event = hand.job, message["event"]
        if event == "ready":
            hand.ready = True
            self._bad_starts = 0
        elif job is None or message["job"] != job.number:
            return
        elif event == "progress":
            job.progress.update({k: v for k, v in message.items() if k not in ("job", "event")})
        elif event in ("out", "err"):
            job.tell({"event": event, "text": message["text"]})
        else:
            self._done(hand, job, message)
        if hand.job is None:
            self.dispatch()

    def gone(self, hand: Hand, code: int) -> None:
        """Take note that a worker has ended."""
        self.hands.remove(hand)
        if self.bench and hand.seat:
            self.bench.give_back(hand.seat)
        job, hand.job = hand.job, None
        how = hand.how(code)
        if not hand.leaving or job:
            self.stats.events["worker_died"] += 1
            self.log.warning("worker %d %s", hand.process.pid, how)
        if not hand.ready and not hand.leaving:
            self._bad_start(f"its workers do not start: one {how}")
        if job and not job.abandoned:
            self._bereaved(job, code, how)
        self.dispatch()

    def describe(self) -> dict[str, Any]:
        """Return the queue, the workers and what they are at."""
        now = time.monotonic()
        return {
            "queued": len(self.queue),
            "longest_wait_s": round(max((now - job.arrived for job in self.queue), default=0.0), 1),
            "running": [
                {
                    "job": hand.job.number,
                    "folder": hand.job.folder,
                    "worker": hand.process.pid,
                    "seconds": round(now - hand.job.started, 1),
                    **hand.job.progress,
                }
                for hand in self.hands
                if hand.job
            ],
            "workers": [
                {
                    "pid": hand.process.pid,
                    "state": hand.state,
                    "jobs": hand.done,
                    "models": hand.models,
                    "memory_mb": resident_mb(hand.process.pid),
                }
                for hand in self.hands
            ],
            "most_workers": self.size,
            "batchers": self.bench.describe() if self.bench else [],
        }

    def _hand_of(self, job: Job) -> Hand | None:
        return next((hand for hand in self.hands if hand.job is job), None)

    def _give(self, hand: Hand, job: Job) -> None:
        job.started = time.monotonic()
        job.progress.clear()
        hand.job = job
        hand.send({**job.order, "do": "run", "job": job.number})

    def _done(self, hand: Hand, job: Job, message: dict[str, Any]) -> None:
        """End a job that ran to its end, and let its worker go if that is due."""
        now = time.monotonic()
        hand.job, hand.models = None, message["models"]
        hand.done += 1
        hand.last = now
        if message["event"] == "declined":
            job.end({"event": "declined", "message": message["message"]})
        else:
            code = message["exit"]
            ran = now - job.started
            self.stats.ended(code, message["entry"], job.started - job.arrived, ran)
            self.log.info(
                "job %d in %s: exit %d after %.2f s, worker %d", job.number, job.folder, code, ran, hand.process.pid
            )
            job.end({"event": "end", "exit": code})
            if code in _SUSPICIOUS:
                hand.done = self.jobs_per_worker
        if hand.done >= self.jobs_per_worker:
            hand.leave()
        self._done_since += 1
        if self.bench and self._done_since >= self.jobs_per_worker * self.size:
            self.reload()

    def _bereaved(self, job: Job, code: int, how: str) -> None:
        """Decide on a job whose worker died: once more, then a verdict, which another worker writes down."""
        job.deaths += 1
        verdict: dict[str, str] = job.order.get("condemned") or {}
        if verdict:
            job.fail(verdict["error"], verdict["message"])
            self.stats.ended(getattr(errors, verdict["error"]).exit_code, {}, 0.0, 0.0)
            return
        if code == errors.Interrupted.exit_code:
            message = "one evaluation hung beyond the time limit; nothing was written"
            job.order["condemned"] = {"error": errors.Interrupted.__name__, "message": message}
        elif job.deaths > 1:
            message = f"the worker process {how}, twice with this structure; nothing was written"
            job.order["condemned"] = {"error": errors.CalculationError.__name__, "message": message}
        else:
            self.stats.events["rerun"] += 1
        self.log.warning("job %d in %s: its worker %s", job.number, job.folder, how)
        self.queue.appendleft(job)

    def _bad_start(self, reason: str) -> None:
        self._bad_starts += 1
        if self._bad_starts >= _BAD_STARTS:
            while self.queue:
                self.queue.popleft().end({"event": "declined", "message": reason})

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hire(self) -> None:
        """Start a worker and listen to it for as long as it lives."""
        seat = self.bench.take() if self.bench else None
        hand = self.new_hand(seat)
        try:
            await hand.start([*self.command, *([seat.path] if seat else [])], self.environment)
        except OSError as error:
            self.log.error("a worker cannot be started: %s", error)
            self._starting -= 1
            if self.bench and seat:
                self.bench.give_back(seat)
            self._bad_start(f"its workers cannot be started: {error}")
            self.dispatch()
            return
        self._starting -= 1
        self.hands.append(hand)
        await hand.listen()
