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
    """Return the cycles as text: what was chosen, then errors of the models in meV/atom (E, PV) and meV/Å (F)."""
    from uspex_bridge.base.tables import layout, wrapped

    lines = [
        [
            str(cycle.number),
            "" if cycle.flagged is None else f"{cycle.flagged} of {cycle.screened}",
            _milli(cycle.mean_pv),
            *("" if count is None else str(count) for count in (cycle.chosen, cycle.labels)),
        ]
        for cycle in cycles
    ]
    chosen = layout([("cycle", ""), ("flagged", ""), ("mean |ΔPV|", "meV/atom"), ("chosen", ""), ("labels", "")], lines)
    judged = [
        [
            str(row["cycle"]),
            row["model"],
            {True: "yes", False: "no", None: ""}[row["promoted"]],
            *(_milli(row[f"{kind}_{q}"]) for kind in ("held_out", "predicted") for q in QUANTITIES),
        ]
        for row in rows(cycles)
        if "model" in row
    ]
    if not judged:
        return chosen
    names = [("E", "meV/atom"), ("F", "meV/Å"), ("PV", "meV/atom")]
    errors = layout([("cycle", ""), ("model", ""), ("taken", ""), *names, *names], judged)
    said = "mean absolute errors on held-out labels, then of the models in use on the labels that came next:"
    return "\n\n".join([chosen, f"{wrapped(said)}\n{errors}"])


def _milli(value: float | None) -> str:
    return "" if value is None else f"{1000.0 * value:.1f}"
