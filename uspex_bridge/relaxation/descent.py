"""Where the enthalpy of a relaxation ends, by its descent so far."""

from __future__ import annotations

from collections.abc import Sequence

#: Steps before a descent tells anything, and how many times what its later half gained may still be gained.
EARLY, LEFT = 15, 3.0


def extrapolated(enthalpies: Sequence[float]) -> float | None:
    """Return below what a descent does not end, by all experience, in its own unit; None where it is too short.

    An enthalpy that nears its end as 1/step falls on by as much as it fell in the later half of the steps. That is no
    bound by theory: ``benchmarks/early_end.py`` says by how much relaxations fell below it.
    """
    if len(enthalpies) < EARLY:
        return None
    lowest = min(enthalpies)
    return lowest - LEFT * (min(enthalpies[: len(enthalpies) // 2]) - lowest)
