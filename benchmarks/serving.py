"""A service of one's own to measure, and calls to it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from overhead import BIN

from uspex_bridge.base import private
from uspex_bridge.service import client, wire

_TICKS = os.sysconf("SC_CLK_TCK")


class Service:
    """A running ``uspex-bridge serve`` with a socket in a folder of its own, which goes with it.

    Attributes:
        top: the folder.
        environment: in which calls find it.
        listening: seconds until it did.
    """

    def __init__(self, *options: str, settings: str = "") -> None:
        self.top = Path(tempfile.mkdtemp(prefix="serving-", dir="/tmp"))
        self.socket = str(self.top / "service.sock")
        self.environment = {**os.environ, private.SOCKET: self.socket, wire.MODE: "require"}
        (self.top / "service.toml").write_text(settings)
        command = [BIN / "uspex-bridge", "serve", "--config", self.top / "service.toml", *options]
        began = time.perf_counter()
        self.process = subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL)
        while not self._answers():
            time.sleep(0.005)
        self.listening = time.perf_counter() - began

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.top)

    def call(self, folder: Path) -> float:
        """Call as USPEX does; return the seconds.

        Raises:
            RuntimeError: it failed.
        """
        began = time.perf_counter()
        done = subprocess.run(
            [BIN / "uspex-bridge-vasp"], cwd=folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{folder}: exit {done.returncode}: {done.stderr}")
        return time.perf_counter() - began

    def submit(self, folder: Path) -> int:
        """Hand over a folder as a call does, from this process; return the exit code."""
        with closing(client.Connection(self.socket)) as connection:
            connection.send({**client.request("vasp", str(folder), [], "require"), "cwd": str(folder)})
            while (message := connection.receive()).get("event") in ("out", "err"):
                pass
        return int(message["exit"])

    def status(self) -> dict[str, Any]:
        """Return what the service says of itself."""
        return client.ask(self.socket, {"do": "status"})

    def memory(self) -> float:
        """Return the resident memory of service and workers, MB."""
        status = self.status()
        return sum(each["memory_mb"] or 0.0 for each in (status, *status["workers"]))

    def cpu(self) -> float:
        """Return the CPU seconds of service, workers and the calls that have ended."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        pids = [self.process.pid, *(worker["pid"] for worker in self.status()["workers"])]
        return usage.ru_utime + usage.ru_stime + sum(_cpu_of(pid) for pid in pids)

    def _answers(self) -> bool:
        try:
            self.status()
        except (client.Absent, client.Lost):
            if self.process.poll() is not None:
                raise RuntimeError("the service has ended") from None
            return False
        return True


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
