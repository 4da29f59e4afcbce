"""Whether a new model takes the old one's place."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from uspex_bridge.base.errors import InputError
from uspex_bridge.base.words import counted

#: What is compared: mean absolute errors, eV/atom and eV/Å.
QUANTITIES = ("energy", "forces", "pv")


@dataclass(frozen=True)
class Promotion:
    """What is decided about a model.

    Attributes:
        promote: whether the new one is taken.
        reasons: why, or why not.
        held_out, newest: its mean absolute errors, eV/atom and eV/Å; those of the old one as ``old energy`` and so on.
    """

    promote: bool
    reasons: tuple[str, ...]
    held_out: dict[str, float]
    newest: dict[str, float]


@dataclass(frozen=True)
class _Errors:
    """What an evaluation says of a model: mean errors, and errors by quantity, family and structure."""

    total: dict[str, float]
    families: dict[str, dict[str, dict[str, float]]]


def decide(held_out: Path, newest: Path, new: str, old: str | None, tolerance: float) -> Promotion:
    """Judge a model: no worse on what is held out, better on the newest labels.

    Worse is an error whose mean over families (a structure and its perturbed copies, whose errors go together) has
    grown by more than ``tolerance``, and by more than twice the standard error of that growth: one family of few is
    no evidence.

    Args:
        held_out: evaluation on structures of families that no model was trained on.
        newest: evaluation on the labels of this cycle, which the old model has never seen, so that its errors there are
            those of a prediction (and the new model has seen the training part of).
        new: the model's name in the evaluations.
        old: that of the model in use; None where there is none yet.
        tolerance: part by which an error on the held-out structures may grow.

    Raises:
        InputError: an evaluation is missing or cannot be read.
    """
    mine = _errors(held_out, new)
    if old is None:
        return Promotion(True, ("there is no other yet",), mine.total, {})
    theirs = _errors(held_out, old)
    fresh, before = _errors(newest, new).total, _errors(newest, old).total
    if lost := _lost(mine, theirs):
        against = [lost]
    else:
        against = [said for name in QUANTITIES if (said := _worse(name, mine, theirs, tolerance))]
    gains = sum(fresh[name] < before[name] for name in QUANTITIES)
    if gains < 2:
        against.append(f"better on the newest labels in {gains} of {len(QUANTITIES)} quantities only")
    better = [f"{name} on the newest {before[name]:.4g} -> {fresh[name]:.4g}" for name in QUANTITIES]
    return Promotion(
        not against,
        tuple(against or better),
        mine.total | {f"old {name}": theirs.total[name] for name in QUANTITIES},
        fresh | {f"old {name}": before[name] for name in QUANTITIES},
    )


def _lost(mine: _Errors, theirs: _Errors) -> str:
    """Say which held-out structures only the old model could compute; nothing where there are none."""
    new, old = ({name for family in one.families["energy"].values() for name in family} for one in (mine, theirs))
    if not (lost := sorted(old - new)):
        return ""
    return f"fails on {counted(len(lost), 'held-out structure')} that the old one can compute, such as {lost[0]}"


def _worse(quantity: str, mine: _Errors, theirs: _Errors, tolerance: float) -> str:
    """Say in what the new model is worse on the structures that are held out; nothing where it is not."""
    new, old = mine.families[quantity], theirs.families[quantity]
    before = [fmean(errors.values()) for errors in old.values()]
    after = [fmean(new[family][name] for name in errors) for family, errors in old.items()]
    growth = [b - a for a, b in zip(before, after, strict=True)]
    error = 2.0 * stdev(growth) / sqrt(len(growth)) if len(growth) > 1 else 0.0
    if fmean(growth) <= max(tolerance * fmean(before), error):
        return ""
    families = counted(len(growth), "held-out family")
    return f"{quantity} on {families} {fmean(before):.4g} -> {fmean(after):.4g}, ±{error:.2g}"


def _errors(path: Path, model: str) -> _Errors:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        entry = next(entry for entry in document["models"] if entry["name"] == model)
        total = next(row for row in entry["errors"] if row["label"] == "total")
        families: dict[str, dict[str, dict[str, float]]] = {name: defaultdict(dict) for name in QUANTITIES}
        for structure in entry["by_structure"]:
            for name in QUANTITIES:
                families[name][structure["family"]][structure["name"]] = float(structure[name])
        return _Errors({name: float(total[name]["mae"]) for name in QUANTITIES}, families)
    except (OSError, ValueError, KeyError, StopIteration, TypeError) as error:
        raise InputError(f"{path}: no errors of {model} in it ({type(error).__name__}: {error})") from None
