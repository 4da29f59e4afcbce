"""The service: takes jobs from callers, hands them to its pool of workers, and computes nothing itself."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from uspex_bridge.base import private
from uspex_bridge.base.errors import BusyError, OutputError, ServiceError
from uspex_bridge.base.files import OUTPUTS
from uspex_bridge.base.lines import MessageError
from uspex_bridge.base.locks import Lock
from uspex_bridge.base.memory import resident_mb
from uspex_bridge.base.words import counted
from uspex_bridge.call.config import ServiceSettings
from uspex_bridge.call.slot import clear_slot
from uspex_bridge.service import wire
from uspex_bridge.service.peers import MOST_ASKED, Peer
from uspex_bridge.service.pool import LAST_EVENTS, Job, WorkerPool

#: Seconds that a caller may take to say what it wants.
_ASKING = 10.0
#: Seconds between two signs of life to the callers that wait.
_HEARTBEAT = 15.0


class Daemon:
    """The service.

    Args:
        path: of the socket where it listens.
        settings: of the ``[service]`` table.
        pool: the workers.
        shape: how the pool works, in words.
    """

    def __init__(
        self, path: Path, settings: ServiceSettings, pool: WorkerPool, log: logging.Logger, shape: str = ""
    ) -> None:
        self.path, self.settings, self.pool, self.log = path, settings, pool, log
        self._shape = shape
        self._draining = False
        self._over = asyncio.Event()
        self._peers: set[Peer] = set()
        self._claiming: set[tuple[int, int]] = set()
        self._actions: dict[str, Callable[[Peer, dict[str, Any]], Any]] = {
            "run": self._run,
            "status": self._status,
            "reload": self._reload,
            "stop": self._stop,
        }

    async def serve(self, listening: Callable[[], None]) -> None:
        """Serve until told to stop; ``listening`` is called once callers can connect.

        Raises:
            ServiceError: one runs there already, or the place cannot be used.
        """
        lock = Lock(Path(f"{self.path}.lock"), self.log)
        try:
            private.make_private(str(self.path.parent))
            if not lock.acquire():
                raise ServiceError(f"{self.path}: a service runs there already (uspex-bridge status)")
            self.path.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self._welcome, self.path, limit=MOST_ASKED, backlog=1024)
        except OutputError as error:
            raise ServiceError(str(error)) from None
        except OSError as error:
            raise ServiceError(f"{self.path}: cannot listen there: {error.strerror or error}") from None
        await self._serve(server, listening)
        lock.release()

    async def _serve(self, server: asyncio.Server, listening: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        self.log.info("service %d listens at %s", os.getpid(), self.path)
        listening()
        ticking = asyncio.create_task(self._tick())
        await self._over.wait()
        ticking.cancel()
        server.close()
        self.path.unlink(missing_ok=True)
        if self.pool.students:
            await self.pool.students.close()
        await self.pool.close()
        for peer in list(self._peers):
            peer.writer.transport.abort()
        while self._peers:  # each hears that it was hung up on
            await asyncio.sleep(0.01)
        self.log.info("service %d has ended", os.getpid())

    def drain(self) -> None:
        """Take no new jobs and end after the last one."""
        if not self._draining:
            self._draining = True
            self.log.info("stopping; %s left", counted(len(self.pool.jobs), "job"))
        self._end_if_drained()

    def end(self) -> None:
        """End at once; the callers of the jobs it has go on by themselves."""
        self._over.set()

    def _end_if_drained(self) -> None:
        if self._draining and not self.pool.jobs:
            self._over.set()

    def _signalled(self) -> None:
        if self._draining:
            self._over.set()
        self.drain()

    async def _tick(self) -> None:
        """Look after what no message brings about."""
        beat = busy = time.monotonic()
        while True:
            await asyncio.sleep(0.5)
            if self.pool.jobs:
                busy = time.monotonic()
            elif time.monotonic() - busy > self.settings.idle_timeout:
                self.log.info("nothing to do for %g s", self.settings.idle_timeout)
                self.drain()
            self._end_if_drained()
            if time.monotonic() - beat > _HEARTBEAT:
                beat = time.monotonic()
                for peer in self._peers:
                    peer.tell({"event": "alive"})
                if not self.path.exists():
                    self.log.warning("%s has been removed", self.path)
                    self.drain()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a caller, if it is of this user."""
        peer = Peer(reader, writer)
        if private.user_of(writer.get_extra_info("socket")) not in (None, os.getuid()):
            self.log.warning("a call of another user was refused")
            return await peer.close()
        peer.tell(wire.greeting() | {"pid": os.getpid()})
        return await self._attend(peer)

    async def _attend(self, peer: Peer) -> None:
        """Do what a caller asks for; what is not understood is answered and hung up on."""
        self._peers.add(peer)
        try:
            asked = await asyncio.wait_for(peer.hear(), _ASKING)
            if asked is not None:
                action = self._actions.get(str(asked.get("do")))
                if action is None:
                    raise MessageError(f"there is no request '{asked.get('do')}'")
                await action(peer, asked)
        except (MessageError, TimeoutError) as error:
            self.log.warning("a caller was not understood: %s", error or "it said nothing")
            peer.tell({"event": "declined", "message": f"not understood: {error}"})
        finally:
            self._peers.discard(peer)
            await peer.close()

    async def _run(self, peer: Peer, asked: dict[str, Any]) -> None:
        """Queue a job and stay with its caller until it has ended."""
        order, kind, folder = _order(asked)
        if self._draining:
            return peer.tell({"event": "declined", "message": "it is stopping"})
        over = asyncio.Event()

        def tell(message: dict[str, Any]) -> None:
            peer.tell(message)
            if message["event"] in LAST_EVENTS:
                over.set()

        try:
            place = await self._claim(Path(folder), OUTPUTS[kind], asked.get("inode"))
        except BusyError as error:
            self.pool.stats.failures[BusyError.__name__] += 1
            return peer.tell({"event": "failed", "error": BusyError.__name__, "message": str(error)})
        except OutputError as error:
            return peer.tell({"event": "declined", "message": str(error)})
        job = Job(order, folder, place, tell)
        self.pool.submit(job)
        listening = asyncio.create_task(self._orders(peer, job))
        ending = asyncio.create_task(over.wait())
        await asyncio.wait((listening, ending), return_when=asyncio.FIRST_COMPLETED)
        for task in (listening, ending):
            task.cancel()
        return None

    async def _orders(self, peer: Peer, job: Job) -> None:
        """Act on what a waiting caller says until it is gone."""
        with suppress(MessageError):
            while (asked := await peer.hear()) is not None:
                if asked.get("do") == "halt":
                    self.pool.halt(job)
        if not job.ended:
            self.log.info("job %d in %s: its caller is gone", job.number, job.folder)
            job.tell = lambda message: None
            if self.settings.on_disconnect == "cancel":
                self.pool.abandon(job)

    async def _claim(self, folder: Path, outputs: tuple[str, ...], inode: Any) -> tuple[int, int]:
        """Remove old results from a folder, so that none stands while its job waits; return its device and inode.

        A slow file system holds up nobody else.

        Raises:
            BusyError: a job is at work there.
            OutputError: it is not this user's to write, or not the one that the caller means.
        """
        place = await asyncio.to_thread(_identify, folder, inode)
        busy = self._claiming | {job.place for job in self.pool.jobs if not job.abandoned}
        if place in busy:
            raise BusyError(f"{folder}: another run uses this folder")
        self._claiming.add(place)
        try:
            await asyncio.to_thread(clear_slot, folder, outputs)
        finally:
            self._claiming.discard(place)
        return place

    async def _status(self, peer: Peer, asked: dict[str, Any]) -> None:
        peer.tell(
            {
                **wire.greeting(),
                "pid": os.getpid(),
                "memory_mb": resident_mb("self"),
                "listens": str(self.path),
                "shape": self._shape,
                "stopping": self._draining,
                "callers": len(self._peers),
                **self.pool.stats.summary(),
                **self.pool.describe(),
            }
        )

    async def _reload(self, peer: Peer, asked: dict[str, Any]) -> None:
        peer.tell({"event": "done", "workers": self.pool.reload()})

    async def _stop(self, peer: Peer, asked: dict[str, Any]) -> None:
        """Answer with what is left, and hold the line until the end."""
        peer.tell({"event": "stopping", "jobs": len(self.pool.jobs), "pid": os.getpid()})
        await peer.writer.drain()
        if asked.get("now"):
            self.log.info("immediate stop requested")
            self._over.set()
        self.drain()
        await peer.hear()


def _order(asked: dict[str, Any]) -> tuple[dict[str, Any], str, str]:
    """Return what a worker needs of a request, the executable's name and the folder.

    Raises:
        WireError: a part is missing or wrong.
    """
    types = {"kind": str, "folder": str, "argv": list, "cwd": str, "umask": int, "environment": dict}
    for key, type_ in types.items():
        if not isinstance(asked.get(key), type_):
            raise MessageError(f"a request to run needs '{key}'")
    words = [*asked["argv"], *asked["environment"], *asked["environment"].values()]
    if (
        asked["kind"] not in OUTPUTS
        or not all(map(_is_name, (*words, asked["folder"], asked["cwd"])))
        or not os.path.isabs(asked["folder"])
        or not 0 <= asked["umask"] <= 0o777
    ):
        raise MessageError("a request to run with impossible parts")
    kept = ("kind", "argv", "cwd", "umask", "environment", "mode")
    return {key: asked.get(key) for key in kept}, asked["kind"], asked["folder"]


def _is_name(word: Any) -> bool:
    """Tell whether the system can take something for a path or an argument."""
    try:
        return isinstance(word, str) and b"\0" not in os.fsencode(word)
    except ValueError:
        return False


def _identify(folder: Path, inode: Any) -> tuple[int, int]:
    """Return device and inode of a folder that is the caller's and may be written.

    Raises:
        OutputError: it is not.
    """
    try:
        state = folder.stat()
    except OSError as error:
        raise OutputError(f"{folder}: the service cannot see it: {error.strerror}") from None
    if inode != state.st_ino:
        raise OutputError(f"{folder}: is another folder where the service runs; it must lie on a shared file system")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: the service may not write there")
    return state.st_dev, state.st_ino


def raise_file_limit() -> None:
    """Let this process hold as many connections as the system allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
