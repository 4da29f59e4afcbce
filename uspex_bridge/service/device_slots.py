"""The batchers, one for each device, as the service sees them: kept running for as long as workers use them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uspex_bridge.service.peers import PATIENCE, ChildProcess

#: Seconds before a batcher that died before it was ready is started again.
_PAUSE = 1.0


class DeviceSlot(ChildProcess):
    """A device and the batcher that holds its models, whichever process that is by now.

    Attributes:
        path: of the socket that workers ask at.
        users: workers that do.
        leaving: gets no new ones, and ends after the last.
        report: what the batcher last said of itself.
    """

    def __init__(self, slots: DeviceSlots, device: str, path: str) -> None:
        super().__init__("batcher", slots.log)
        self.slots, self.device, self.path = slots, device, path
        self.users = 0
        self.report: dict[str, Any] = {}
        self._ended = self._running = False

    def heard(self, message: dict[str, Any]) -> None:
        """Keep its last report."""
        self.ready = True
        self.report = {key: value for key, value in message.items() if key != "event"}

    async def run(self) -> None:
        """Keep a process running until the slot ends."""
        while not self._ended:
            try:
                await self.start([*self.slots.command, self.path, self.device], self.slots.environment)
            except OSError as error:
                self.log.error("a batcher cannot be started: %s", error)
                break
            self._running = True
            if self._ended:
                self.leave()
            code = await self.listen()
            self._running = False
            if self._ended:
                break
            self.slots.events["batcher_died"] += 1
            self.log.warning("batcher %d %s", self.process.pid, self.how(code))
            if not self.users:
                break
            if not self.ready:
                await asyncio.sleep(_PAUSE)
        self.end()
        Path(self.path).unlink(missing_ok=True)

    def end(self, *, now: bool = False) -> None:
        """Let the process end, or end it by force, and start no other."""
        self.leaving = self._ended = True
        if self in self.slots.all:
            self.slots.all.remove(self)
        if self._running:
            self.kill() if now else self.leave()


class DeviceSlots:
    """The batchers of a service.

    Args:
        command: starts a batcher; the socket's path and the device follow.
        devices: what ``auto`` means for each of them; ``""`` leaves that to the models.
        place: what the paths of the sockets begin with.
        environment: the batchers' environment variables.

    Attributes:
        events: where deaths are counted.
    """

    def __init__(
        self, command: list[str], devices: Sequence[str], place: str, environment: dict[str, str], log: logging.Logger
    ) -> None:
        self.command, self.devices, self.place = command, devices, place
        self.environment, self.log = environment, log
        self.events: Counter[str] = Counter()
        self.all: list[DeviceSlot] = []
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        for left in Path(place).parent.glob(f"{Path(place).name}[0-9]*"):  # by a service that was killed
            left.unlink(missing_ok=True)

    def take(self) -> DeviceSlot:
        """Return the slot for one more worker: that of the device with the fewest."""
        current = {slot.device: slot for slot in self.all if not slot.leaving}
        device = min(self.devices, key=lambda name: current[name].users if name in current else 0)
        slot = current.get(device)
        if slot is None:
            slot = DeviceSlot(self, device, f"{self.place}{next(self._numbers)}")
            self.all.append(slot)
            task = asyncio.create_task(slot.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        slot.users += 1
        return slot

    def give_back(self, slot: DeviceSlot) -> None:
        """Take note that a worker has ended."""
        slot.users -= 1
        if slot.leaving and not slot.users:
            slot.end()

    def reload(self) -> None:
        """Let every batcher end after its last worker; new workers get new ones."""
        for slot in list(self.all):
            slot.leaving = True
            if not slot.users:
                slot.end()

    def describe(self) -> list[dict[str, Any]]:
        """Return what each batcher last reported."""
        return [
            {"pid": slot.process.pid, "device": slot.device, "workers": slot.users, **slot.report}
            for slot in self.all
            if slot.ready
        ]

    async def close(self) -> None:
        """End all of them by force."""
        for slot in list(self.all):
            slot.end(now=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)
