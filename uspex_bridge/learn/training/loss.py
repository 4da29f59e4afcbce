"""The loss curve of a training, as a table and in a few words."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from uspex_bridge.learn.training.watch import CurvePoint

#: Quantity -> unit and factor that it is shown with.
SHOWN = {
    "energy": ("meV/atom", 1000.0),
    "forces": ("meV/Å", 1000.0),
    "virial": ("meV/atom", 1000.0),
    "stress": ("GPa", 1.0),
}


def as_csv(points: Sequence[CurvePoint], unit: str) -> str:
    """Return the curve as CSV: energy and virial eV/atom, forces eV/Å, stress GPa."""
    columns = list(dict.fromkeys(name for point in points for name in point.values))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([unit, *columns])
    for point in points:
        writer.writerow([point.step, *(point.values.get(name, "") for name in columns)])
    return stream.getvalue()


def summary(point: CurvePoint) -> str:
    """Return the errors of a point in a few words: ``E 12.3 meV/atom  F 80 meV/Å``."""
    letters = {"energy": "E", "forces": "F", "virial": "W", "stress": "σ"}
    return "  ".join(
        f"{letters[name]} {value * SHOWN[name][1]:.3g} {SHOWN[name][0]}" for name, value in point.errors.items()
    )
