"""Passes of a model: how many structures fit into one, by their sizes (``Backend.size_of``), and what passes took."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from uspex_bridge.base.memory import available_mb

#: A GPU's first pass takes structures of this size together; each may take twice the last one's, while there is room.
FIRST = 50_000.0
#: Bytes per atom, pair or angle to expect of a large model (float64, 128 channels, all that a backward pass needs).
_EXPECTED = 100_000.0
#: Share of the free memory that a pass may take.
_SHARE = 0.8
#: A limit that ran out of memory is set to this share of what did not fit, and creeps up again: something else may
#: have been there for a while.
_BACK_OFF, _CREEP = 0.8, 1.001
#: Passes are averaged over the last so many seconds.
_LATELY = 60.0


class Budget:
    """What a pass of one model may hold, learned from the device.

    Args:
        gpu: the GPU that this process has it on; empty for the CPU.

    Attributes:
        now: largest sum of sizes in the next pass.
        limit: what ``now`` may grow to.
        overflows: how often memory ran out.
    """

    def __init__(self, gpu: str) -> None:
        self._gpu = gpu
        self._room = math.inf if gpu else _SHARE * available_mb() * 1e6 / _EXPECTED
        self.limit = self._room
        self.now = FIRST if gpu else self._room
        self.overflows = 0
        self._before = 0

    def fitting(self, sizes: Sequence[float]) -> int:
        """Return how many of the first fit into one pass, at least one."""
        total, number = 0.0, 0
        for size in sizes:
            total += size
            if number and total > self.now:
                break
            number += 1
        return number

    def begin(self) -> None:
        """Look at the device before a pass."""
        if self._gpu:
            cuda = sys.modules["torch"].cuda
            cuda.reset_peak_memory_stats(self._gpu)
            self._before = cuda.memory_allocated(self._gpu)

    def passed(self, size: float) -> None:
        """Learn from a pass that fitted."""
        if self._gpu:
            cuda = sys.modules["torch"].cuda
            each = max(cuda.max_memory_allocated(self._gpu) - self._before, 1) / size
            free = cuda.mem_get_info(self._gpu)[0] + cuda.memory_reserved(self._gpu) - self._before
            self.now = min(max(self.now, 2.0 * size), self.limit, max(size, _SHARE * free / each))
        elif size > 0.5 * self.now:
            self.now = min(2.0 * self.now, self.limit)
        self.limit = min(_CREEP * self.limit, self._room)

    def failed(self, size: float) -> None:
        """Learn from a pass that did not fit: half of it next time."""
        self.overflows += 1
        self.limit = min(self.limit, max(_BACK_OFF * size, 1.0))
        self.now = min(self.now, max(size / 2.0, 1.0))
        if self._gpu:
            sys.modules["torch"].cuda.empty_cache()


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
        while self._recent and now - self._recent[0][0] > _LATELY:
            self._recent.popleft()
        return max(min(_LATELY, now - self._began), 1.0)

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
