"""What a disagreement of PV says about the error of PV, learned from labels: a conformal bound.

For labels that the models were not trained on, s = error / (|ΔPV| + floor). The error of a further structure of their
kind is below q (|ΔPV| + floor) with the confidence that q is that quantile of s for (Vovk; J. Chem. Phys. 163, 184110
does the same with a model's own uncertainty).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.units import own_pv
from uspex_bridge.learn.data.predictions import Predictor, predict_frames

#: Two models that agree to this are not right to this, eV/atom.
FLOOR = 0.005


@dataclass(frozen=True)
class Calibration:
    """The bound.

    Attributes:
        factor: q.
        confidence: that the bound holds with.
        labels: that it was learned from.
        correlation: rank correlation of |ΔPV| with the error: 1 where it orders them perfectly.
    """

    factor: float
    confidence: float
    labels: int
    correlation: float

    def bound(self, delta_pv: float) -> float:
        """Return the error of PV that a disagreement means at most, eV/atom."""
        return self.factor * (delta_pv + FLOOR)

    def threshold(self, error: float) -> float:
        """Return the disagreement up to which the error of PV is below ``error``, eV/atom; 0 where none is."""
        return max(0.0, error / self.factor - FLOOR)

    def describe(self, threshold: float | None) -> str:
        """Say in one line what it means."""
        text = (
            f"calibrated on {self.labels} labels: with {100 * self.confidence:g} % confidence PV is wrong by less than "
            f"{self.factor:.2f} x (|ΔPV| + {FLOOR:g} eV/atom)"
        )
        if threshold is not None:
            text += f"; below the threshold by less than {self.bound(threshold):.3f} eV/atom"
        return f"{text}; rank correlation with the error {self.correlation:.2f}"


def calibrate(errors: Array, disagreements: Array, confidence: float = 0.9) -> Calibration:
    """Learn the bound.

    Args:
        errors: true errors of PV, (N,), eV/atom.
        disagreements: |ΔPV|, (N,), eV/atom.
        confidence: between 0 and 1.

    Raises:
        InputError: too few labels for this confidence.
    """
    from uspex_bridge.results.hulls.rescore import rank_correlation

    count = len(errors)
    place = math.ceil((count + 1) * confidence)
    if place > count:
        raise InputError(f"{count} labels are too few to calibrate with {100 * confidence:g} % confidence")
    scores = np.sort(np.asarray(errors) / (np.asarray(disagreements) + FLOOR))
    correlation = rank_correlation(list(map(float, disagreements)), list(map(float, errors)))
    return Calibration(float(scores[place - 1]), confidence, count, correlation)


def calibrate_on(
    frames: Sequence[Atoms],
    models: Sequence[Predictor],
    folder: Path,
    confidence: float = 0.9,
    progress: Callable[[int], None] = lambda count: None,
) -> Calibration:
    """Ask models about labelled structures and learn the bound for the worst of them.

    Args:
        frames: labelled structures that no model was trained on.
        models: those that screen.
        folder: keeps their answers.
        confidence: see :func:`calibrate`.
        progress: called with the number of structures that were just done.

    Raises:
        InputError: too few of them.
        ModelError: a model cannot be loaded.
    """
    answers = [predict_frames(model, frames, folder, progress=progress) for model in models]
    errors, apart = [], []
    for atoms, said in zip(frames, zip(*answers, strict=True), strict=True):
        volume, natoms = atoms.get_volume(), len(atoms)
        found = [answer.pv(volume, natoms) for answer in said]
        if all(map(math.isfinite, found)):
            true = own_pv(atoms.get_stress(), volume) / natoms
            errors.append(max(abs(value - true) for value in found))
            apart.append(max(found) - min(found))
    return calibrate(np.array(errors), np.array(apart), confidence)
