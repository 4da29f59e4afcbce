"""The service: takes jobs from callers, hands them to its crew of workers, and computes nothing itself."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from uspex_bridge.base import private
from uspex_bridge.base.errors import BusyError, OutputError, ServiceError
from uspex_bridge.base.files import OUTPUTS, remove
from uspex_bridge.base.words import counted
from uspex_bridge.call.config import ServiceSettings
from uspex_bridge.call.slot import sole_use
from uspex_bridge.service import wire
from uspex_bridge.service.client import keep_alive
from uspex_bridge.service.crew import Crew, Job
from uspex_bridge.service.stats import resident_mb

#: Seconds that a caller may take to say what it wants.
_ASKING = 10.0
#: Seconds between two signs of life to the callers that wait.
_HEARTBEAT = 15.0
#: A caller that does not take this much of what it is told is hung up on, bytes.
_BACKLOG = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a service listens: a Unix socket, and with a secret also ``tcp://HOST:PORT``."""

    socket: Path
    tcp: str | None = None


class Peer:
    """The connection to one caller."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.seal: wire.Seal | None = None

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message; a caller that takes none is hung up on."""
        line = wire.encode(message)
        if self.writer.transport.get_write_buffer_size() > _BACKLOG:
            self.writer.transport.abort()
        elif not self.writer.is_closing():
            self.writer.write(self.seal.close(line) if self.seal else line)

    async def hear(self) -> dict[str, Any] | None:
        """Return the next message, None when the caller is gone.

        Raises:
            WireError: what came is no message.
        """
        try:
            line = await self.reader.readline()
        except ValueError:
            raise wire.WireError(f"a line of more than {wire.MOST_ASKED} bytes") from None
        except OSError:
            return None
        if not line.endswith(b"\n"):
            return None
        return wire.decode(self.seal.open(line) if self.seal else line)

    async def close(self) -> None:
        """Hang up once everything is sent."""
        self.writer.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), _ASKING)


class Daemon:
    """The service.

    Args:
        place: where it listens.
        settings: of the ``[service]`` table.
        crew: the workers.
        secret: shared with callers over TCP.
        shape: how the crew works, in words.
    """

    def __init__(
        self,
        place: Place,
        settings: ServiceSettings,
        crew: Crew,
        log: logging.Logger,
        secret: bytes = b"",
        shape: str = "",
    ) -> None:
        self.place, self.settings, self.crew, self.log = place, settings, crew, log
        self._secret, self._shape = secret, shape
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
        path = self.place.socket
        lock = FileLock(f"{path}.lock", timeout=0)
        try:
            private.make_private(str(path.parent))
            lock.acquire()
            path.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self._welcome, path, limit=wire.MOST_ASKED, backlog=1024)
            servers = [server]
            if self.place.tcp:
                host, port = wire.split_tcp(self.place.tcp) or ("", 0)
                tcp = await asyncio.start_server(self._welcome_tcp, host, port, limit=wire.MOST_ASKED, backlog=1024)
                servers.append(tcp)
        except Timeout:
            raise ServiceError(f"{path}: a service runs there already; see it with: uspex-bridge status") from None
        except OSError as error:
            raise ServiceError(f"{self.place.tcp or path}: cannot listen there: {error.strerror or error}") from None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        self.log.info("service %d listens at %s", os.getpid(), " and ".join(filter(None, (str(path), self.place.tcp))))
        listening()
        ticking = asyncio.create_task(self._tick())
        await self._over.wait()
        ticking.cancel()
        for server in servers:
            server.close()
        path.unlink(missing_ok=True)
        await self.crew.close()
        for peer in list(self._peers):
            peer.writer.transport.abort()
        while self._peers:  # each hears that it was hung up on
            await asyncio.sleep(0.01)
        self.log.info("service %d has ended", os.getpid())
        lock.release()

    def drain(self) -> None:
        """Take no new jobs and end after the last one."""
        if not self._draining:
            self._draining = True
            self.log.info("stopping; %s left", counted(len(self.crew.jobs), "job"))
        self._end_if_drained()

    def end(self) -> None:
        """End at once; the callers of the jobs it has go on by themselves."""
        self._over.set()

    def _end_if_drained(self) -> None:
        if self._draining and not self.crew.jobs:
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
            if self.crew.jobs:
                busy = time.monotonic()
            elif time.monotonic() - busy > self.settings.idle_timeout:
                self.log.info("nothing to do for %g s", self.settings.idle_timeout)
                self.drain()
            self._end_if_drained()
            if time.monotonic() - beat > _HEARTBEAT:
                beat = time.monotonic()
                for peer in self._peers:
                    peer.tell({"event": "alive"})
                if not self.place.socket.exists():
                    self.log.warning("%s has been removed", self.place.socket)
                    self.drain()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a caller on the Unix socket, if it is of this user."""
        peer = Peer(reader, writer)
        if hasattr(socket, "SO_PEERCRED"):
            connection = writer.get_extra_info("socket")
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if int.from_bytes(credentials[4:8], sys.byteorder) != os.getuid():
                self.log.warning("a caller of another user was turned away")
                return await peer.close()
        peer.tell(wire.greeting() | {"pid": os.getpid()})
        return await self._attend(peer)

    async def _welcome_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a caller over TCP, if it proves that it holds the secret."""
        peer = Peer(reader, writer)
        keep_alive(writer.get_extra_info("socket"))
        challenge = os.urandom(32).hex()
        peer.tell(wire.greeting() | {"challenge": challenge})
        try:
            answer = await asyncio.wait_for(peer.hear(), _ASKING) or {}
        except (wire.WireError, TimeoutError):
            answer = {}
        nonce = str(answer.get("nonce"))
        if not wire.equal(answer.get("answer"), wire.digest(self._secret, "client", challenge, nonce)):
            self.log.warning("a caller without the secret was turned away")
            peer.tell({"event": "declined", "message": "it holds another secret"})
            return await peer.close()
        peer.tell({"answer": wire.digest(self._secret, "server", challenge, nonce)})
        peer.seal = wire.Seal(self._secret, challenge, nonce, server=True)
        return await self._attend(peer)

    async def _attend(self, peer: Peer) -> None:
        """Do what a caller asks for; what is not understood is answered and hung up on."""
        self._peers.add(peer)
        try:
            asked = await asyncio.wait_for(peer.hear(), _ASKING)
            if asked is not None:
                action = self._actions.get(str(asked.get("do")))
                if action is None:
                    raise wire.WireError(f"there is no request '{asked.get('do')}'")
                await action(peer, asked)
        except (wire.WireError, TimeoutError) as error:
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
            if message["event"] in ("end", "failed", "declined"):
                over.set()

        try:
            place = await self._claim(Path(folder), OUTPUTS[kind], asked.get("inode"))
        except BusyError as error:
            self.crew.stats.failures[BusyError.__name__] += 1
            return peer.tell({"event": "failed", "error": BusyError.__name__, "message": str(error)})
        except OutputError as error:
            return peer.tell({"event": "declined", "message": str(error)})
        job = Job(order, folder, place, tell)
        self.crew.submit(job)
        listening = asyncio.create_task(self._orders(peer, job))
        ending = asyncio.create_task(over.wait())
        await asyncio.wait((listening, ending), return_when=asyncio.FIRST_COMPLETED)
        for task in (listening, ending):
            task.cancel()
        return None

    async def _orders(self, peer: Peer, job: Job) -> None:
        """Act on what a waiting caller says until it is gone."""
        with suppress(wire.WireError):
            while (asked := await peer.hear()) is not None:
                if asked.get("do") == "halt":
                    self.crew.halt(job)
        if not job.ended:
            self.log.info("job %d in %s: its caller is gone", job.number, job.folder)
            job.tell = lambda message: None
            if self.settings.on_disconnect == "cancel":
                self.crew.abandon(job)

    async def _claim(self, folder: Path, outputs: tuple[str, ...], inode: Any) -> tuple[int, int]:
        """Remove old results from a folder, so that none stands while its job waits; return its device and inode.

        A slow file system holds up nobody else.

        Raises:
            BusyError: a job is at work there.
            OutputError: it is not this user's to write, or not the one that the caller means.
        """
        place = await asyncio.to_thread(_identify, folder, inode)
        busy = self._claiming | {job.place for job in self.crew.jobs if not job.abandoned}
        if place in busy:
            raise BusyError(f"{folder}: another bridge is at work here; one folder takes one run at a time")
        self._claiming.add(place)
        try:
            await asyncio.to_thread(_clear, folder, outputs)
        finally:
            self._claiming.discard(place)
        return place

    async def _status(self, peer: Peer, asked: dict[str, Any]) -> None:
        peer.tell(
            {
                **wire.greeting(),
                "pid": os.getpid(),
                "memory_mb": resident_mb("self"),
                "listens": [str(self.place.socket), *filter(None, [self.place.tcp])],
                "shape": self._shape,
                "stopping": self._draining,
                "callers": len(self._peers),
                **self.crew.stats.summary(),
                **self.crew.describe(),
            }
        )

    async def _reload(self, peer: Peer, asked: dict[str, Any]) -> None:
        peer.tell({"event": "done", "workers": self.crew.reload()})

    async def _stop(self, peer: Peer, asked: dict[str, Any]) -> None:
        """Answer with what is left, and hold the line until the end."""
        peer.tell({"event": "stopping", "jobs": len(self.crew.jobs), "pid": os.getpid()})
        await peer.writer.drain()
        if asked.get("now"):
            self.log.info("told to stop at once")
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
            raise wire.WireError(f"a request to run needs '{key}'")
    words = [*asked["argv"], *asked["environment"], *asked["environment"].values()]
    if (
        asked["kind"] not in OUTPUTS
        or not all(isinstance(word, str) and "\0" not in word for word in (*words, asked["folder"], asked["cwd"]))
        or not os.path.isabs(asked["folder"])
        or not 0 <= asked["umask"] <= 0o777
    ):
        raise wire.WireError("a request to run with impossible parts")
    kept = ("kind", "argv", "cwd", "umask", "environment", "mode")
    return {key: asked.get(key) for key in kept}, asked["kind"], asked["folder"]


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


def _clear(folder: Path, outputs: tuple[str, ...]) -> None:
    with suppress(BusyError), sole_use(folder):  # whoever holds it has removed them, and the run will see to it
        remove(folder, outputs)


def raise_file_limit() -> None:
    """Let this process hold as many connections as the system allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
