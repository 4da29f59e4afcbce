"""What the service has done so far, in numbers for ``status``."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

from uspex_bridge.base import errors

#: Throughput is counted over the last so many seconds.
WINDOW = 600.0
#: Exit code -> name of the error.
_NAMES = {
    error.exit_code: error.__name__
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.BridgeError)
}


class Stats:
    """Counts of jobs, reasons of failures and time per model since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.outcomes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.models: dict[str, dict[str, float]] = {}
        self.waited = self.ran = 0.0
        self._ends: deque[float] = deque(maxlen=10_000)

    def ended(self, code: int, entry: dict[str, Any], waited: float, ran: float) -> None:
        """Count a job with its exit code and what its run said of the record's entry."""
        self._ends.append(time.monotonic())
        self.waited += waited
        self.ran += ran
        self.outcomes[str(entry.get("status") or ("failed" if code else "done"))] += 1
        if code:
            self.failures[str(entry.get("code") or _NAMES.get(code, f"exit {code}"))] += 1
        for stage in entry.get("stages", []):
            name = " ".join(word for word in (stage["calculator"], stage["model"]) if word and word != "None")
            counts = self.models.setdefault(name, {"evaluations": 0, "seconds": 0.0})
            counts["evaluations"] += stage["evaluations"]
            counts["seconds"] += stage["seconds"]

    def summary(self) -> dict[str, Any]:
        """Return the numbers."""
        now = time.monotonic()
        span = min(WINDOW, now - self.began)
        recent = sum(1 for end in self._ends if now - end < span)
        return {
            "uptime_s": round(now - self.began, 1),
            "jobs": sum(self.outcomes.values()),
            "outcomes": dict(self.outcomes),
            "failures": dict(self.failures),
            "events": dict(self.events),
            "per_minute": round(60.0 * recent / max(span, 1.0), 2),
            "waiting_s": round(self.waited, 3),
            "running_s": round(self.ran, 3),
            "models": self.models,
        }
