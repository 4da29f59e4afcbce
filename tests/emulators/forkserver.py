"""Start the executable in a fresh process without importing its packages each time.

A server process imports the heavy modules once and stays single-threaded; every call is a fork of it that enters
the folder, takes over the caller's standard streams and runs the executable's ``main(argv)``. What a call does to
its memory, files and exit code is what a real start would do; only the imports are shared.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import json
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

#: What CHGNet, MACE and MatterSim relaxations import.
HEAVY = ("chgnet.model.dynamics", "mace.calculators", "mattersim.forcefield", "ase.optimize", "ase.filters", "spglib")
_SHELL_CHARACTERS = set("|&;<>()$`\\\"'*?[]#~=%\n")
_LIMIT = 1 << 18


class ForkServer:
    """A warm server; ``launch`` has the signature that the emulated USPEX lines call.

    Args:
        target: ``module:function`` of the executable's entry point.
        name: the command that stands for it; any other command is refused.
        preload: modules that the server imports first; those that are not installed are left out.
    """

    def __init__(
        self,
        target: str = "uspex_bridge.cli.vasp:main",
        name: str = "uspex-bridge-vasp",
        preload: Sequence[str] = HEAVY,
    ) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = dict(os.environ)
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            env[variable] = "1"
        env["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pandas loads pyarrow, whose allocator starts a thread
        command = [sys.executable, str(Path(__file__).resolve()), str(theirs.fileno()), target, *preload]
        with theirs:
            self._process = subprocess.Popen(command, env=env, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        if self._socket.recv(64) != b"ready":
            raise RuntimeError(f"the fork server did not start (exit code {self._process.wait()})")

    def launch(self, command: str, cwd: Path, stdin: IO[Any], stdout: IO[Any], stderr: IO[Any]) -> int:
        """Run ``command`` (the executable's name and plain arguments) in ``cwd`` and return its exit code.

        Raises:
            ValueError: the command is not the executable, or needs a shell.
        """
        argv = shlex.split(command)
        if argv[:1] != [self.name] or _SHELL_CHARACTERS & set(command):
            raise ValueError(f"the fork server runs {self.name!r} with plain arguments only, not {command!r}")
        request = json.dumps({"argv": argv[1:], "cwd": str(cwd), "env": dict(os.environ)}).encode()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                files = array.array("i", [theirs.fileno(), stdin.fileno(), stdout.fileno(), stderr.fileno()])
                with self._lock:
                    self._socket.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            answer = ours.recv(64)
        if not answer:
            raise RuntimeError("the fork server has gone")
        return int(answer)

    def close(self) -> None:
        """End the server and what it still runs."""
        self._socket.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(channel: socket.socket, main: Callable[[list[str]], object], imported: dict[str, str]) -> None:
    """Fork one child per request until the other side closes ``channel``, then end those still running.

    ``imported`` holds the environment variables that the imports themselves set, as they would in a real start.
    """
    selector = selectors.DefaultSelector()
    selector.register(channel, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is channel:
                request, files, _, _ = socket.recv_fds(channel, _LIMIT, 4)
                if not request:
                    for pid, _ in running.values():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    return
                pid = os.fork()
                if pid == 0:
                    private = [channel.fileno(), files[0], *running, *(reply.fileno() for _, reply in running.values())]
                    for descriptor in private:
                        os.close(descriptor)
                    _child(json.loads(request), files[1:], main, imported)
                for descriptor in files[1:]:
                    os.close(descriptor)
                handle = os.pidfd_open(pid)
                running[handle] = (pid, socket.socket(fileno=files[0]))
                selector.register(handle, selectors.EVENT_READ)
            else:
                handle = key.fd
                pid, reply = running.pop(handle)
                selector.unregister(handle)
                os.close(handle)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with reply, contextlib.suppress(OSError):
                    reply.sendall(str(code).encode())


def _child(
    request: dict[str, Any], streams: Sequence[int], main: Callable[[list[str]], object], imported: dict[str, str]
) -> None:
    """Become the executable; never returns."""
    code: object = 1
    try:
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"] | imported)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        sys.argv = ["executable", *request["argv"]]
        try:
            code = main(request["argv"])
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
    except BaseException:  # noqa: BLE001 as the interpreter does at the end of a real start
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 0)


def _start() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    module, _, function = sys.argv[2].partition(":")
    before = dict(os.environ)
    for name in sys.argv[3:]:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    main = getattr(importlib.import_module(module), function)
    if loguru := sys.modules.get("loguru"):
        loguru.logger.remove()  # MatterSim's import starts a thread that writes its messages
    for _ in range(100):  # a thread that was joined may take a moment to go
        threads = len(os.listdir("/proc/self/task"))
        if threads == 1:
            break
        time.sleep(0.05)
    else:
        raise SystemExit(f"fork server: {threads} threads after the imports; a fork of them would not be safe")
    channel.sendall(b"ready")
    _serve(channel, main, {name: value for name, value in os.environ.items() if before.get(name) != value})
    os._exit(0)  # PyTorch takes seconds to take itself down in order


if __name__ == "__main__":
    _start()
