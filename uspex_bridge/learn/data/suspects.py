"""Labels from elsewhere that are not what they are said to be: energies that hold PV, stresses of the wrong sign."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from ase import Atoms

from uspex_bridge.base.data import Array
from uspex_bridge.base.units import own_pv, pressure_of, pv_energy
from uspex_bridge.base.words import counted
from uspex_bridge.learn.data.labels import Label

#: An energy is suspect so many robust standard deviations off, but never below this, eV/atom ...
_DEVIATIONS, _LEAST = 8.0, 1.0
#: ... nor where it is off by a smaller part of its PV: compression itself costs energy.
_PART_OF_PV = 0.5
#: Labels per number that is fitted, below which nothing is said.
_PER_NUMBER = 3
#: Two structures of one composition differ in volume, relatively, by more than this to tell the sign of a stress ...
_DENSER = 0.02
#: ... and so many pairs must say the same, in this part of all.
_PAIRS, _WRONG = 6, 0.8


@dataclass(frozen=True)
class _Point:
    """What counts of a label, per atom: shares of elements, energy E0 in eV, its own PV in eV."""

    shares: Mapping[str, float]
    energy: float
    pv: float


def suspects(frames: Sequence[Atoms], labels: Iterable[Label] = ()) -> tuple[dict[int, str], str]:
    """Find energies far from what the others suggest.

    Energies are fitted by one constant per element and a curve in each label's own PV (least absolute deviations), over
    the frames and what a dataset has already.

    Args:
        frames: labelled structures.
        labels: of the dataset that they are for.

    Returns:
        place of a frame -> what is wrong with it; and what to know where there are too few labels to say.
    """
    own = [_point(atoms) for atoms in frames]
    points = [*own, *(point for label in labels if (point := _known(label)) is not None)]
    elements = sorted({symbol for point in points for symbol in point.shares})
    if len(points) < _PER_NUMBER * (len(elements) + 2):
        return {}, f"{counted(len(points), 'label')} of {len(elements)} elements: too few to look for outliers"
    matrix = np.array([[*(p.shares.get(e, 0.0) for e in elements), *_curve(p.pv)] for p in points])
    energies = np.array([point.energy for point in points])
    left = energies - matrix @ fit(matrix, energies)
    limit = max(_LEAST, _DEVIATIONS * 1.4826 * float(np.median(np.abs(left))))
    found = {}
    for k, (point, off) in enumerate(zip(own, left[: len(own)].tolist(), strict=True)):
        if abs(off) > max(limit, _PART_OF_PV * abs(point.pv)):
            found[k] = f"its energy is {off:+.2f} eV/atom from what the other labels suggest"
            if 0.5 * point.pv < off < 1.5 * point.pv:
                found[k] += f"; its PV is {point.pv:.2f}: is it an enthalpy?"
    return found, ""


def fit(matrix: Array, values: Array) -> Array:
    """Return the coefficients (K,) of least absolute deviations of ``matrix`` (N, K) from values (N,).

    By reweighted least squares, so that a few wild values do not decide.
    """
    weights: Array = np.ones(len(values))
    found: Array = np.zeros(matrix.shape[1])
    for _ in range(100):
        root = np.sqrt(weights)
        before, found = found, np.asarray(np.linalg.lstsq(matrix * root[:, None], values * root, rcond=None)[0])
        if np.abs(found - before).max() < 1e-9:
            break
        weights = 1.0 / np.maximum(np.abs(values - matrix @ found), 1e-6)
    return found


def wrong_sign(frames: Sequence[Atoms]) -> str:
    """Say that stresses are positive in compression, empty where they are not or nothing tells.

    Of two structures of one composition the denser one has the higher pressure, nearly always.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for atoms in frames:
        pressure = pressure_of(atoms.calc.results["stress"])
        formula = atoms.get_chemical_formula(empirical=True)
        groups.setdefault(formula, []).append((atoms.get_volume() / len(atoms), pressure))
    pairs = [
        (one, other)
        for group in groups.values()
        for one, other in combinations(group, 2)
        if abs(one[0] - other[0]) > _DENSER * max(one[0], other[0])
    ]
    wrong = sum((one[0] - other[0]) * (one[1] - other[1]) > 0 for one, other in pairs)
    if len(pairs) < _PAIRS or wrong < _WRONG * len(pairs):
        return ""
    return (
        f"in {wrong} of {len(pairs)} pairs of one composition the denser structure has the lower pressure: stresses "
        "have the wrong sign (ASE's is positive in tension)"
    )


def _curve(pv: float) -> tuple[float, float]:
    """Return what the energy of compression is a sum of: about quadratic in a small PV, linear in a large one."""
    return pv, pv * pv / (1.0 + abs(pv))


def _point(atoms: Atoms) -> _Point:
    results, n = atoms.calc.results, len(atoms)
    symbols = list(atoms.symbols)
    e0 = float(atoms.info.get("e0", results["energy"]))
    pv = own_pv(results["stress"], atoms.get_volume()) / n
    return _Point({symbol: symbols.count(symbol) / n for symbol in set(symbols)}, e0 / n, pv)


def _known(label: Label) -> _Point | None:
    if label.volume is None:
        return None
    counts, n = label.counts, label.natoms
    pv = pv_energy(label.own_pressure_gpa, label.volume) / n
    return _Point({symbol: count / n for symbol, count in counts.items()}, label.e0 / n, pv)
