"""Whether a new model takes the old one's place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uspex_bridge.errors import InputError

#: What is compared: mean absolute errors, eV/atom and eV/Å.
QUANTITIES = ("energy", "forces", "pv")


@dataclass(frozen=True)
class Verdict:
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


def judge(held_out: Path, newest: Path, new: str, old: str | None, tolerance: float) -> Verdict:
    """Judge a model: no worse on what is held out, better on the newest labels.

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
        return Verdict(True, ("there is no other yet",), mine, {})
    theirs = _errors(held_out, old)
    fresh, before = _errors(newest, new), _errors(newest, old)
    worse = [
        f"{name} on held-out structures {theirs[name]:.4g} -> {mine[name]:.4g}"
        for name in QUANTITIES
        if not mine[name] <= theirs[name] * (1.0 + tolerance)
    ]
    better = [f"{name} on the newest {before[name]:.4g} -> {fresh[name]:.4g}" for name in QUANTITIES]
    gains = sum(fresh[name] < before[name] for name in QUANTITIES)
    if gains < 2:
        worse.append(f"better on the newest labels in {gains} of {len(QUANTITIES)} quantities only")
    return Verdict(
        not worse,
        tuple(worse or better),
        mine | {f"old {name}": theirs[name] for name in QUANTITIES},
        fresh | {f"old {name}": before[name] for name in QUANTITIES},
    )


def _errors(path: Path, model: str) -> dict[str, float]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        entry = next(entry for entry in document["models"] if entry["name"] == model)
        total = next(row for row in entry["errors"] if row["label"] == "total")
        return {name: float(total[name]["mae"]) for name in QUANTITIES}
    except (OSError, ValueError, KeyError, StopIteration, TypeError) as error:
        raise InputError(f"{path}: no errors of {model} in it ({type(error).__name__}: {error})") from None
