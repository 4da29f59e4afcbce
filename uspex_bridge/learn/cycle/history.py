"""What the cycles have brought: a row each, from the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uspex_bridge.learn.cycle.loop import read_journal
from uspex_bridge.learn.cycle.promotion import QUANTITIES


@dataclass
class Outcome:
    """A model in a cycle.

    Attributes:
        promoted: whether it was taken.
        reasons: why, or why not.
        held_out, newest: see :class:`uspex_bridge.learn.cycle.promotion.Promotion`.
    """

    promoted: bool
    reasons: list[str]
    held_out: dict[str, float]
    newest: dict[str, float]


@dataclass
class Cycle:
    """One cycle.

    Attributes:
        screened, flagged: structures, and those over a threshold.
        mean_pv: mean |ΔPV| of all that was screened, eV/atom.
        chosen: structures selected.
        labels, refused: filed in the dataset with their copies, and not.
        models: what came out for each.
        seconds: that each step took, in their order; of one that was killed, its last run.
    """

    number: int
    screened: int | None = None
    flagged: int | None = None
    mean_pv: float | None = None
    chosen: int | None = None
    labels: int | None = None
    refused: int | None = None
    models: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def cycles_of(folder: Path) -> list[Cycle]:
    """Return the cycles of a loop in order."""
    found: dict[int, Cycle] = {}
    for entry in read_journal(folder):
        if "cycle" not in entry:
            continue
        cycle = found.setdefault(entry["cycle"], Cycle(entry["cycle"]))
        if entry["event"] == "done":
            _take(cycle, entry["step"], entry["facts"])
            if "seconds" in entry:
                cycle.seconds[entry["step"]] = entry["seconds"]
        elif entry["event"] in ("promoted", "kept"):
            cycle.models[entry["model"]] = Outcome(
                entry["promote"], entry["reasons"], entry["held_out"], entry["newest"]
            )
    return [found[number] for number in sorted(found)]


def _take(cycle: Cycle, step: str, facts: dict[str, Any]) -> None:
    if step == "screen":
        cycle.screened, cycle.flagged = facts.get("structures"), facts.get("to_compute")
        cycle.mean_pv = facts.get("mean", {}).get("delta_pv")
    elif step == "select":
        cycle.chosen = facts.get("chosen")
    elif step == "collect":
        cycle.labels, cycle.refused = sum(facts.get("added", {}).values()), facts.get("refused")


def rows(cycles: list[Cycle]) -> list[dict[str, Any]]:
    """Return a flat row for each model in each cycle; errors are mean absolute ones, eV/atom and eV/Å."""
    flat: list[dict[str, Any]] = []
    for cycle in cycles:
        base: dict[str, Any] = {
            "cycle": cycle.number,
            "screened": cycle.screened,
            "flagged": cycle.flagged,
            "mean_delta_pv": cycle.mean_pv,
            "chosen": cycle.chosen,
            "labels": cycle.labels,
            "refused": cycle.refused,
            "seconds": round(sum(cycle.seconds.values()), 1) if cycle.seconds else None,
        }
        for name, outcome in cycle.models.items():
            errors: dict[str, Any] = {f"held_out_{q}": outcome.held_out[q] for q in QUANTITIES}
            errors |= {f"predicted_{q}": outcome.newest.get(f"old {q}") for q in QUANTITIES}
            flat.append({**base, "model": name, "promoted": outcome.promoted, **errors})
        if not cycle.models:
            flat.append(base)
    return flat


def table(cycles: list[Cycle]) -> str:
    """Return the cycles as text, energies in meV/atom and forces in meV/Å."""
    from uspex_bridge.base.tables import layout

    headings = [
        ("cycle", ""),
        ("flagged", ""),
        ("mean |ΔPV|", "meV/atom"),
        ("chosen", ""),
        ("labels", ""),
        ("model", ""),
        ("taken", ""),
        ("E", "held out"),
        ("F", "held out"),
        ("PV", "held out"),
        ("E", "predicted"),
        ("F", "predicted"),
        ("PV", "predicted"),
    ]
    lines = []
    for row in rows(cycles):
        flagged = "" if row["flagged"] is None else f"{row['flagged']} of {row['screened']}"
        errors = [_milli(row.get(f"{kind}_{q}")) for kind in ("held_out", "predicted") for q in QUANTITIES]
        taken = {True: "yes", False: "no", None: ""}[row.get("promoted")]
        lines.append(
            [
                str(row["cycle"]),
                flagged,
                _milli(row["mean_delta_pv"]),
                *("" if row[key] is None else str(row[key]) for key in ("chosen", "labels")),
                row.get("model", ""),
                taken,
                *errors,
            ]
        )
    return layout(headings, lines)


def _milli(value: float | None) -> str:
    return "" if value is None else f"{1000.0 * value:.1f}"
