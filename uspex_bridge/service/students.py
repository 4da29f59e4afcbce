"""The students of the searches whose jobs the service has: a process at the lowest priority looks after them."""

from __future__ import annotations

import asyncio
import logging
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import Counter
from contextlib import suppress
from typing import Any

#: Jobs of a search after which its student is looked after again.
EVERY = 10


class Students:
    """Starts ``uspex-bridge train student`` now and then, one process at a time.

    Args:
        command: runs uspex-bridge.
        environment: of the process.
        log: gets what it prints.
    """

    def __init__(self, command: list[str], environment: dict[str, str], log: logging.Logger) -> None:
        self._command, self._environment, self._log = command, environment, log
        self._jobs: Counter[tuple[str, str]] = Counter()
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None

    def ended(self, message: dict[str, Any]) -> None:
        """Hear that a job has ended, and of which search it was where that trains a student."""
        if not (search := message.get("trains")):
            return
        key = (str(search[0]), str(search[1]))
        self._jobs[key] += 1
        if self._jobs[key] >= EVERY and (self._task is None or self._task.done()):
            self._jobs[key] = 0
            self._task = asyncio.create_task(self._look_after(*key))

    async def close(self) -> None:
        """End the process that is at it; the next one goes on where it was."""
        with suppress(ProcessLookupError):
            if self._process is not None and self._process.returncode is None:
                self._process.terminate()
        if self._task is not None:
            await self._task

    async def _look_after(self, folder: str, settings: str) -> None:
        words = [*self._command, "train", "student", folder, "--config", settings]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *words, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, cwd="/", env=self._environment
            )
        except OSError as error:
            self._log.error("%s: its student cannot be looked after: %s", folder, error)
            return
        out, _ = await self._process.communicate()
        for line in out.decode(errors="replace").splitlines()[-5:]:
            self._log.info("%s: %s", folder, line)
