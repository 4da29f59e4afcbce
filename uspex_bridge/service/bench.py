"""The batchers, one for each device, as the service sees them: kept running for as long as workers use them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uspex_bridge.service.child import PATIENCE, Child
from uspex_bridge.service.stats import Stats

#: Seconds before a batcher that died before it was ready is started again.
_PAUSE = 1.0


class Batcher(Child):
    """One batcher's process."""

    def __init__(self, seat: Seat, log: logging.Logger) -> None:
        super().__init__("batcher", log)
        self.seat = seat
        self.report: dict[str, Any] = {}

    def heard(self, message: dict[str, Any]) -> None:
        """Keep its last report."""
        self.ready = True
        self.report = {key: value for key, value in message.items() if key != "event"}

    def gone(self, code: int) -> None:
        """Take note that it has ended."""
        self.seat.gone(self, code)


class Seat:
    """A device and the batcher that holds its models, whichever process that is by now.

    Attributes:
        path: of the socket that workers ask at.
        users: workers that do.
        leaving: gets no new ones, and ends after the last.
    """

    def __init__(self, bench: Bench, device: str, path: str) -> None:
        self.bench, self.device, self.path = bench, device, path
        self.users = 0
        self.leaving = self._ended = False
        self.batcher: Batcher | None = None

    def begin(self) -> None:
        """Start the process."""
        if not self._ended:
            self.bench.spawn(self._run())

    async def _run(self) -> None:
        batcher = Batcher(self, self.bench.log)
        try:
            await batcher.start([*self.bench.command, self.path, self.device], self.bench.environment)
        except OSError as error:
            self.bench.log.error("a batcher cannot be started: %s", error)
            self.end()
            return
        self.batcher = batcher
        if self._ended:
            batcher.leave()
        await batcher.listen()

    def gone(self, batcher: Batcher, code: int) -> None:
        """Start another process in place of one that died."""
        self.batcher = None
        if self._ended:
            Path(self.path).unlink(missing_ok=True)
            return
        self.bench.stats.events["batcher_died"] += 1
        self.bench.log.warning("batcher %d %s", batcher.process.pid, batcher.how(code))
        if self.users:
            asyncio.get_running_loop().call_later(0.0 if batcher.ready else _PAUSE, self.begin)
        else:
            self.end()

    def end(self, *, now: bool = False) -> None:
        """Let the process end, or end it by force, and start no other."""
        self.leaving = self._ended = True
        if self in self.bench.seats:
            self.bench.seats.remove(self)
        if self.batcher:
            self.batcher.kill() if now else self.batcher.leave()


class Bench:
    """The batchers of a service.

    Args:
        command: starts a batcher; the socket's path and the device follow.
        devices: what ``auto`` means for each of them; ``""`` leaves that to the models.
        place: what the paths of the sockets begin with.
        environment: the batchers' environment variables.
    """

    def __init__(
        self, command: list[str], devices: Sequence[str], place: str, environment: dict[str, str], log: logging.Logger
    ) -> None:
        self.command, self.devices, self.place = command, devices, place
        self.environment, self.log = environment, log
        self.stats = Stats()
        self.seats: list[Seat] = []
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        for left in Path(place).parent.glob(f"{Path(place).name}[0-9]*"):  # by a service that was killed
            left.unlink(missing_ok=True)

    def take(self) -> Seat:
        """Return the batcher for one more worker: that of the device with the fewest."""
        free = {
            device: next((s for s in self.seats if s.device == device and not s.leaving), None)
            for device in self.devices
        }
        device = min(self.devices, key=lambda name: seat.users if (seat := free[name]) else 0)
        seat = free[device]
        if seat is None:
            seat = Seat(self, device, f"{self.place}{next(self._numbers)}")
            self.seats.append(seat)
            seat.begin()
        seat.users += 1
        return seat

    def give_back(self, seat: Seat) -> None:
        """Take note that a worker has ended."""
        seat.users -= 1
        if seat.leaving and not seat.users:
            seat.end()

    def reload(self) -> None:
        """Let every batcher end after its last worker; new workers get new ones."""
        for seat in list(self.seats):
            seat.leaving = True
            if not seat.users:
                seat.end()

    def describe(self) -> list[dict[str, Any]]:
        """Return what each batcher last reported."""
        return [
            {"pid": seat.batcher.process.pid, "device": seat.device, "workers": seat.users, **seat.batcher.report}
            for seat in self.seats
            if seat.batcher and seat.batcher.ready
        ]

    async def close(self) -> None:
        """End all of them by force."""
        for seat in list(self.seats):
            seat.end(now=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine until it ends."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
