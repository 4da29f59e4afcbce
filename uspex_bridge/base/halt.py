"""When to stop: a wall-clock limit, SIGTERM and SIGINT, and a watchdog for a model that hangs."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from uspex_bridge.base.errors import Interrupted

#: Seconds that a run may take beyond its time limit to finish the evaluation it is in and write its files.
GRACE = 120.0


class Halter:
    """Says whether to stop; call it between evaluations.

    The first SIGTERM or SIGINT asks for a clean end (once :meth:`catch_signals` was called), the second ends at once.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._limit = math.inf
        self._signal = False
        self._watchdog: threading.Timer | None = None
        self._last_words: Callable[[], None] | None = None

    def catch_signals(self) -> None:
        """Take SIGTERM and SIGINT as a request to end cleanly (main thread only)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._caught)

    def _caught(self, number: int, _: Any) -> None:
        if self._signal:
            os._exit(128 + number)
        self._signal = True

    def ask(self) -> None:
        """Ask for a clean end, as the first signal does (from any thread)."""
        self._signal = True

    def start(self, limit: float, last_words: Callable[[], None] | None = None) -> None:
        """Set the limit in seconds, counted from the making of this object, and start the watchdog.

        ``last_words`` is called, in a thread of its own, before an evaluation that hangs beyond the limit and GRACE
        ends this process; without it a line is printed.
        """
        self._limit, self._last_words = limit, last_words
        if math.isfinite(limit):
            self._watchdog = threading.Timer(limit + GRACE, self._give_up)
            self._watchdog.daemon = True
            with suppress(RuntimeError):  # no more threads for this user: the run goes on without it
                self._watchdog.start()

    def close(self) -> None:
        """Call the watchdog off, in a process that lives longer than its run."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _give_up(self) -> None:
        try:
            if self._last_words is not None:
                self._last_words()
            else:
                print("uspex-bridge: one evaluation exceeds the time limit; the run was ended", file=sys.stderr)
            sys.stderr.flush()
        finally:
            os._exit(Interrupted.exit_code)

    def check(self) -> None:
        """Raise Interrupted where nobody wants a result any more; here somebody always does."""

    def __call__(self) -> Literal["time", "signal"] | None:
        """Return why to stop, or None."""
        if self._signal:
            return "signal"
        if time.monotonic() - self._began > self._limit:
            return "time"
        return None
