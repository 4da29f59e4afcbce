"""What a caller does where no service does it: start one, wait for a folder, report an error in it.

Slower to load than :mod:`uspex_bridge.service.client`, which comes first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from uspex_bridge.base import errors, private
from uspex_bridge.base.files import OUTPUTS
from uspex_bridge.call.config import ServiceSettings, load_config
from uspex_bridge.call.slot import run_in_slot, sole_use
from uspex_bridge.service import client, wire

#: Seconds that a service may take until it answers (it loads no model before the first job).
START = 60.0
#: Seconds to wait for a folder whose run was cut off with the service.
_RELEASE = 60.0


def fail(kind: str, folder: Path, error: errors.BridgeError) -> int:
    """Report an error as a run would: a line on stderr and in bridge.log, no results; return the exit code."""

    def work(log: Any) -> None:
        raise error

    return run_in_slot(folder, OUTPUTS[kind], work)


def error_of(name: str, message: str) -> errors.BridgeError:
    """Return the error that a service names."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.BridgeError) and kind is not errors.Rejected:
        return kind(message)
    return errors.BridgeError(message)


def service_settings(folder: Path, explicit: str | None) -> tuple[ServiceSettings, str]:
    """Return the ``[service]`` settings of a working folder and their file; the defaults where that is wrong.

    What is wrong with it is for the run itself to say.
    """
    try:
        config = load_config(folder, Path(explicit) if explicit else None)
    except errors.ConfigError:
        return ServiceSettings(), ""
    return config.service, config.source


def wait_for(folder: Path) -> None:
    """Wait until nobody works in a folder; who still does after a minute is for the run to say."""
    with suppress(errors.BridgeError), sole_use(folder, wait=_RELEASE):
        pass


def start(place: str, options: list[str]) -> int:
    """Start a service in the background, unless one answers by now; return its process ID.

    Args:
        place: the path of its socket.
        options: more of ``uspex-bridge serve``.

    Raises:
        ServiceError: it did not start.
    """
    folder, lock = Path(place).absolute().parent, f"{place}.start"
    try:
        private.make_private(str(folder))
        with FileLock(lock, timeout=START):  # of two first callers one starts it
            try:
                return _answering(place) or _spawn(place, options)
            except errors.ServiceError:
                Path(lock).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise errors.ServiceError(f"{folder}: {error.strerror}" if error.strerror else str(error)) from None


def _spawn(place: str, options: list[str]) -> int:
    command = [sys.executable, "-P", "-m", "uspex_bridge.cli.main", "serve", "--socket", place, "--quiet", *options]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
        close_fds=True,
    )
    assert process.stderr is not None
    giving_up = threading.Timer(START, process.kill)
    giving_up.start()
    said = process.stderr.read().decode(errors="replace").strip()  # ends when it listens, or has ended
    giving_up.cancel()
    if answering := _answering(place):
        return answering
    process.kill()
    raise errors.ServiceError(f"the service did not start: {said.splitlines()[-1] if said else 'it said nothing'}")


def _answering(place: str) -> int:
    """Return the process ID of the service that answers, 0 if none does.

    Raises:
        ServiceError: one does that cannot be used.
    """
    try:
        return int(client.ask(place, {"do": "status"})["pid"])
    except (client.Absent, client.Lost):
        return 0
    except client.Unusable as error:
        raise errors.ServiceError(f"{place}: {error}") from None


def reach(place: str | None, message: dict[str, Any]) -> dict[str, Any]:
    """Send one request to the user's service and return its answer, for the commands that are about it.

    Raises:
        ServiceError: there is none.
    """
    return next(converse(place, message))


def stop(place: str | None, *, now: bool) -> Iterator[int]:
    """End the user's service: yield the number of jobs it has left, return when it has ended.

    Raises:
        ServiceError: there is none.
    """
    for answer in converse(place, {"do": "stop", "now": now}):
        yield int(answer["jobs"])


def converse(place: str | None, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Send one request to the user's service and yield what it says until it hangs up.

    Raises:
        ServiceError: there is none.
    """
    place = place or wire.address()
    try:
        connection = client.Connection(place)
        connection.send(message)
        answer = connection.receive()
    except (client.Absent, client.Lost):
        raise errors.ServiceError(f"no service at {place}; start one with: uspex-bridge serve --daemon") from None
    except client.Unusable as error:
        raise errors.ServiceError(f"{place}: {error}") from None
    if answer.get("event") == "declined":
        raise errors.ServiceError(f"{place}: {answer.get('message')}")
    with suppress(client.Lost), closing(connection):
        while True:
            yield answer
            answer = connection.receive()


def inherited_options(source: str) -> list[str]:
    """Return the options that give a service the settings of a caller's file."""
    return ["--config", os.path.abspath(source)] if source else []
