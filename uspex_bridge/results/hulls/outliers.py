"""Entries whose volume or enthalpy is far from what all others of the search lead one to expect.

A model that extrapolates makes collapsed or swollen cells and enthalpies that are too low; both stand out against a
robust fit. What is found is to be looked at, not thrown away: a compound that is deeper than all others is found too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from uspex_bridge.base.data import Array
from uspex_bridge.results.reading.model import Entry

Kind = Literal["small volume", "large volume", "low enthalpy"]
#: Deviations below these are never called large: Å³/atom, eV/atom.
_FLOORS = (0.05, 0.005)
#: Different entries needed for every parameter of the fit.
_PER_PARAMETER = 10


@dataclass(frozen=True)
class Outlier:
    """An entry that stands out.

    Attributes:
        kind: how.
        deviation: from what the fit gives, Å³/atom or eV/atom; spreads: the same in robust standard deviations.
    """

    entry: Entry
    kind: Kind
    deviation: float
    spreads: float

    def __str__(self) -> str:
        unit = "eV/atom" if self.kind == "low enthalpy" else "Å³/atom"
        return (
            f"{self.entry.name} {self.entry.formula}: {self.kind}, {self.deviation:+.3f} {unit} from the others' "
            f"({abs(self.spreads):.0f} σ, robust)"
        )


def find_outliers(entries: Sequence[Entry], spreads: float = 6.0) -> list[Outlier] | None:
    """Find entries that stand out from those of their pressure and level of theory.

    Args:
        entries: with enthalpy and volume.
        spreads: how many robust standard deviations make an outlier.

    Returns:
        the worst first; None where there are nowhere enough different entries to tell.
    """
    groups: dict[tuple[object, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.pressure_gpa, entry.level), []).append(entry)
    found = [outliers for group in groups.values() if (outliers := _of_one_kind(group, spreads)) is not None]
    if not found:
        return None
    return sorted((one for outliers in found for one in outliers), key=lambda one: -abs(one.spreads))


def _of_one_kind(entries: Sequence[Entry], spreads: float) -> list[Outlier] | None:
    """Find entries that stand out among those of one pressure and level of theory.

    Volumes per atom are fitted by composition (x_i, x_i x_j), enthalpies per atom by composition and by how much the
    volume exceeds that fit (at pressure, loose packing costs PV); both with Huber's weights. The spread is
    1.4826 times the median absolute deviation.

    Returns:
        None where there are too few different entries to tell (ten for each parameter).
    """
    used = list({_digits(e): e for e in entries if e.valid and np.isfinite(e.volume)}.values())
    elements = sorted({symbol for entry in used for symbol, _ in entry.composition})
    terms = len(elements) + len(elements) * (len(elements) - 1) // 2
    if len(used) < _PER_PARAMETER * (terms + 1):
        return None
    fractions = np.array([[dict(e.composition).get(s, 0) / e.natoms for s in elements] for e in used])
    mixed = [fractions[:, i] * fractions[:, j] for i, j in combinations(range(len(elements)), 2)]
    design = np.column_stack([fractions, *mixed])
    volumes = np.array([entry.volume_per_atom for entry in used])
    enthalpies = np.array([entry.enthalpy_per_atom for entry in used])
    swollen = _residuals(design, volumes)
    high = _residuals(np.column_stack([design, swollen]), enthalpies)
    scales = [
        max(float(1.4826 * np.median(np.abs(r))), floor) for r, floor in zip((swollen, high), _FLOORS, strict=True)
    ]
    found = []
    for entry, dv, dh in zip(used, swollen, high, strict=True):
        if abs(dv) > spreads * scales[0]:
            kind: Kind = "large volume" if dv > 0 else "small volume"
            found.append(Outlier(entry, kind, float(dv), float(dv / scales[0])))
        if dh < -spreads * scales[1]:
            found.append(Outlier(entry, "low enthalpy", float(dh), float(dh / scales[1])))
    return found


def _digits(entry: Entry) -> tuple[object, ...]:
    """Return what copies that USPEX kept from generation to generation have in common."""
    return entry.reduced, round(entry.enthalpy_per_atom, 4), round(entry.volume_per_atom, 3)


def _residuals(design: Array, values: Array) -> Array:
    """Return what a linear fit with Huber's weights leaves over."""
    weights = np.ones(len(values))
    left = values
    for _ in range(30):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(design * root[:, None], values * root, rcond=None)[0]
        left = values - design @ solution
        scale = max(1.4826 * float(np.median(np.abs(left))), 1e-6)
        new = np.minimum(1.0, 1.345 * scale / np.maximum(np.abs(left), 1e-12))
        if np.abs(new - weights).max() < 1e-3:
            break
        weights = new
    return np.asarray(left)
