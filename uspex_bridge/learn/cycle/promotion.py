"""Whether a new model takes the old one's place."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from uspex_bridge.base import jsonl
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
        held_out: its mean absolute errors, eV/atom and eV/Å; those of the old one as ``old energy`` and so on.
        newest: the same, of the new one on the newest labels that it was not trained on, of the old one on all of them:
            its predictions.
    """

    promote: bool
    reasons: tuple[str, ...]
    held_out: dict[str, float]
    newest: dict[str, float]


@dataclass(frozen=True)
class _Errors:
    """What an evaluation says of a model: mean errors, those by quantity, family and structure, what was trained on."""

    total: dict[str, float]
    families: dict[str, dict[str, dict[str, float]]]
    trained: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Evidence:
    """The evaluations that a decision rests on.

    Attributes:
        held_out: on structures of families that no model was trained on; with probes, where they are a gate.
        newest: on the labels of this cycle, of which those count that the new model has not been trained on either.
        foreign: on other structures, of the new model and the checkpoint it started from; None for no such gate.
    """

    held_out: Path
    newest: Path
    foreign: Path | None = None


@dataclass(frozen=True)
class Gates:
    """What a new model must keep to.

    Attributes:
        tolerance: part by which an error on the held-out structures may grow.
        forgetting: so many times the error of ``start`` is too much on foreign structures.
        start: the checkpoint that the model started from, as the evaluation names it.
    """

    tolerance: float = 0.05
    forgetting: float = 2.0
    start: str = ""


def decide(evidence: Evidence, new: str, old: str | None, gates: Gates) -> Promotion:
    """Judge a model: no worse on what is held out, better on the newest labels, no new holes, little forgotten.

    Worse is an error whose mean over families (a structure and its perturbed copies, whose errors go together) has
    grown by more than the tolerance, and by more than twice the standard error of that growth: one family of few is
    no evidence. On the newest labels only those count that neither model was trained on.

    Args:
        evidence: the evaluations.
        new: the model's name in them.
        old: that of the model in use; None where there is none yet.
        gates: what it must keep to.

    Raises:
        InputError: an evaluation is missing or cannot be read.
    """
    mine = _errors(evidence.held_out, new)
    against = _forgotten(evidence.foreign, new, gates)
    if old is None:
        return Promotion(True, ("the first model", *against), mine.total, {})
    theirs = _errors(evidence.held_out, old)
    if lost := _lost(mine, theirs):
        against.append(lost)
    else:
        against += [said for name in QUANTITIES if (said := _worse(name, mine, theirs, gates.tolerance))]
    against += _probes(evidence.held_out, new, old)
    predicted, latest = _errors(evidence.newest, old), _errors(evidence.newest, new)
    fresh, before = _unseen(latest), _unseen(latest, predicted)
    better = ["both models were trained on all of the newest labels"]
    if fresh and before:
        gains = sum(fresh[name] < before[name] for name in QUANTITIES)
        if gains < 2:
            against.append(f"better on the newest labels in {gains} of {len(QUANTITIES)} quantities only")
        better = [f"{name} on the newest {before[name]:.4g} -> {fresh[name]:.4g}" for name in QUANTITIES]
    return Promotion(
        not against,
        tuple(against or better),
        mine.total | {f"old {name}": theirs.total[name] for name in QUANTITIES},
        fresh | {f"old {name}": value for name, value in predicted.total.items()},
    )


def _unseen(new: _Errors, of: _Errors | None = None) -> dict[str, float]:
    """Return mean errors over the structures that the new model was not trained on; nothing where there are none.

    Args:
        new: its errors.
        of: the model whose errors are wanted; None is the new one.
    """
    found: dict[str, float] = {}
    for quantity, families in (of or new).families.items():
        values = [value for family in families.values() for name, value in family.items() if name not in new.trained]
        if values:
            found[quantity] = fmean(values)
    return found


def _forgotten(foreign: Path | None, new: str, gates: Gates) -> list[str]:
    """Say in what the new model is too much worse on foreign structures than the checkpoint it started from."""
    if foreign is None:
        return []
    mine, start = _errors(foreign, new).total, _errors(foreign, gates.start).total
    return [
        f"forgets: {name} on foreign structures {start[name]:.4g} -> {mine[name]:.4g}, over {gates.forgetting:g} times"
        for name in QUANTITIES
        if not mine[name] <= gates.forgetting * start[name]
    ]


def _probes(path: Path, new: str, old: str) -> list[str]:
    """Say where the new model breaks more than the old one; nothing where there are no probes."""
    document = jsonl.loads(path.read_text(encoding="utf-8"))
    found = {probe["name"]: probe for probe in document.get("probes", [])}
    if new not in found or old not in found:
        return []
    broken = {name: _broken(found[name]) for name in (new, old)}
    lost = {name: found[name]["survived"][1] - found[name]["survived"][0] for name in (new, old)}
    said = []
    if broken[new] > broken[old]:
        said.append(f"{counted(broken[new], 'curve')} of compression with a hole instead of {broken[old]}")
    if lost[new] > lost[old]:
        said.append(f"{counted(lost[new], 'random structure')} lost instead of {lost[old]}")
    return said


def _broken(probe: dict[str, Any]) -> int:
    return sum(curve["breaks"] is not None for kind in ("compression", "dimers") for curve in probe[kind])


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
        document: dict[str, Any] = jsonl.loads(path.read_text(encoding="utf-8"))
        entry = next(entry for entry in document["models"] if entry["name"] == model)
        total = next(row for row in entry["errors"] if row["label"] == "total")
        families: dict[str, dict[str, dict[str, float]]] = {name: defaultdict(dict) for name in QUANTITIES}
        for structure in entry["by_structure"]:
            for name in QUANTITIES:
                families[name][structure["family"]][structure["name"]] = float(structure[name])
        trained = frozenset(row["name"] for row in entry["by_structure"] if row.get("split") == "train")
        return _Errors({name: float(total[name]["mae"]) for name in QUANTITIES}, families, trained)
    except (OSError, ValueError, KeyError, StopIteration, TypeError) as error:
        raise InputError(f"{path}: no errors of {model} in it ({type(error).__name__}: {error})") from None
