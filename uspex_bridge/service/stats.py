"""What the service has done so far, and how it tells: numbers for ``status``, text for Prometheus."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from uspex_bridge.base import errors

#: Throughput is counted over the last so many seconds.
WINDOW = 600.0
#: What a batcher does is averaged over the last so many seconds.
LATELY = 60.0
#: What is counted of the passes of batchers.
_BATCHED = {
    "passes": "Passes of a model in batchers.",
    "evaluations": "Structures in these passes.",
    "atoms": "Atoms in these passes.",
    "seconds": "Time in these passes.",
    "overflows": "Passes for which memory did not suffice.",
}
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


class Tally:
    """The passes of one model: structures evaluated together, since the start and lately."""

    def __init__(self) -> None:
        self.passes = self.evaluations = self.atoms = 0
        self.seconds = 0.0
        self._began = time.monotonic()
        self._recent: deque[tuple[float, int, int, float]] = deque()

    def passed(self, structures: int, atoms: int, seconds: float) -> None:
        """Count a pass."""
        self.passes += 1
        self.evaluations += structures
        self.atoms += atoms
        self.seconds += seconds
        self._recent.append((time.monotonic(), structures, atoms, seconds))
        self._drop_old()

    def _drop_old(self) -> float:
        """Forget what is not lately; return the seconds that lately means."""
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > LATELY:
            self._recent.popleft()
        return max(min(LATELY, now - self._began), 1.0)

    def summary(self) -> dict[str, Any]:
        """Return the counts, and of the last minute: evaluations per second, mean pass, share of time in passes."""
        span, passes = self._drop_old(), max(len(self._recent), 1)
        _, structures, atoms, seconds = map(sum, zip(*self._recent, strict=True)) if self._recent else (0, 0, 0, 0.0)
        return {
            "passes": self.passes,
            "evaluations": self.evaluations,
            "atoms": self.atoms,
            "seconds": round(self.seconds, 3),
            "per_second": round(structures / span, 2),
            "structures_per_pass": round(structures / passes, 2),
            "atoms_per_pass": round(atoms / passes, 1),
            "busy": round(min(seconds / span, 1.0), 3),
        }


def resident_mb(process: int | str) -> float | None:
    """Return the memory of a process, MB, or None where the system does not tell."""
    with suppress(OSError, ValueError, IndexError), open(f"/proc/{process}/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    return None


def available_mb() -> float:
    """Return the memory that this machine could still give out, MB; a cautious guess where the system does not tell."""
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    return 2048.0


def metrics(status: dict[str, Any]) -> str:
    """Return a service's status in Prometheus' text format."""
    return "\n".join(_lines(status)) + "\n"


def _lines(status: dict[str, Any]) -> Iterator[str]:
    models, batchers = status["models"], status["batchers"]
    memory = {each["pid"]: each["memory_mb"] for each in (*status["workers"], *batchers, status)}
    known = {str(pid): round(mb * 1048576) for pid, mb in memory.items() if mb is not None}
    states = {state: sum(w["state"] == state for w in status["workers"]) for state in ("starting", "idle", "busy")}
    yield from _family("uptime_seconds", "gauge", "Time since the service started.", {"": status["uptime_s"]})
    yield from _family("queue_length", "gauge", "Jobs that wait for a worker.", {"": status["queued"]})
    yield from _family("running", "gauge", "Structures being relaxed.", {"": len(status["running"])})
    yield from _family("workers", "gauge", "Worker processes.", _by("state", states))
    yield from _family("jobs_total", "counter", "Jobs that have ended.", _by("outcome", status["outcomes"]))
    yield from _family("failures_total", "counter", "Jobs without a result.", _by("reason", status["failures"]))
    yield from _family("events_total", "counter", "What happened besides.", _by("event", status["events"]))
    yield from _family("waiting_seconds_total", "counter", "Time jobs waited in the queue.", {"": status["waiting_s"]})
    yield from _family("running_seconds_total", "counter", "Time jobs ran.", {"": status["running_s"]})
    seconds = {name: counts["seconds"] for name, counts in models.items()}
    evaluations = {name: counts["evaluations"] for name, counts in models.items()}
    yield from _family("model_seconds_total", "counter", "Time spent in stages of a model.", _by("model", seconds))
    yield from _family("model_evaluations_total", "counter", "Evaluations of a model.", _by("model", evaluations))
    for key, text in _BATCHED.items():
        sums: Counter[str] = Counter()
        for batcher in batchers:
            sums.update({name: model[key] for name, model in batcher["models"].items()})
        yield from _family(f"batch_{key}_total", "counter", text, _by("model", sums))
    gpus = {name: round(mb * 1048576) for batcher in batchers for name, mb in batcher.get("gpu_mb", {}).items()}
    yield from _family("gpu_bytes", "gauge", "Memory that batchers hold of a GPU.", _by("device", gpus))
    yield from _family("resident_bytes", "gauge", "Memory of the processes.", _by("pid", known))


def _family(name: str, kind: str, text: str, samples: dict[str, Any]) -> Iterator[str]:
    yield f"# HELP uspex_bridge_{name} {text}"
    yield f"# TYPE uspex_bridge_{name} {kind}"
    for labels, value in samples.items():
        yield f"uspex_bridge_{name}{labels} {value}"


def _by(label: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f'{{{label}="{_escaped(key)}"}}': value for key, value in values.items()}


def _escaped(text: str) -> str:
    return str(text).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
