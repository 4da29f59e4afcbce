"""Memory of this machine and of its processes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

#: Of two kinds of process the system should end this one when memory runs out, not the search.
_EXPENDABLE = "500"


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


def expendable() -> None:
    """Let the system end this process first when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)
