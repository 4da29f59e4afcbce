"""Do relaxations with a model end in the minima of its labeller?

    python benchmarks/minima.py PLACES... --labeller chgnet --model cycle-0/mace --model models/mace/current -n 40

The lowest distinct phases of PLACES, which the labeller has relaxed, are disturbed (strain to 3 %, atoms moved by up to
0.15 Å) and relaxed by every model at the pressure they were found at. Counted are relaxations that converge, and those
that end in the same phase (StructureMatcher, volume within 5 %); the excess is the labeller's enthalpy of where they
end above its own minimum. Structures of families in the dataset of --unlike are left out: nothing was trained on them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from ase import Atoms

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.data import Intent, RelaxResult, Structure
from uspex_bridge.base.errors import BridgeError
from uspex_bridge.base.threads import limit_threads
from uspex_bridge.call.config import Config
from uspex_bridge.call.model_names import settings_for
from uspex_bridge.learn.choose.augment import Perturbation, augment
from uspex_bridge.learn.choose.candidates import candidate
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.models import backends
from uspex_bridge.relaxation.engine import relax
from uspex_bridge.relaxation.protocol import Guards, Plan, Stage
from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.phases.definition import Tolerances, same_phase
from uspex_bridge.results.phases.surroundings import Surroundings
from uspex_bridge.results.reading.sources import open_sources


def minima(places: tuple[str, ...], count: int, dataset: Path | None) -> list[tuple[Structure, float]]:
    """Return the labeller's lowest distinct phases that no model was trained on, each with its pressure, GPa."""
    families = {label.family for label in Dataset.open(dataset).labels.values()} if dataset else set()
    found = []
    for place in places:
        pool = open_sources([place])
        answer = assess(pool, Question())
        for phase in answer.phases:
            structure = pool.structure(phase.entry)
            atoms = candidate(phase.entry, structure, phase.entry.name)
            if atoms.info["family"] not in families and phase.entry.pressure_gpa is not None:
                found.append((answer.point(phase).above, structure, float(phase.entry.pressure_gpa)))
    return [(structure, pressure) for _, structure, pressure in sorted(found, key=lambda item: item[0])[:count]]


def disturbed(structure: Structure, seed: int) -> Structure:
    """Return the structure with a random strain and displacements."""
    atoms = Atoms(structure.symbols, scaled_positions=structure.scaled, cell=structure.cell, pbc=True)
    how = Perturbation(copies=1, displace=0.15, strain=0.03, seed=seed)
    copy = [made.atoms for made in augment(atoms, how)][-1]
    assert copy is not None
    return to_structure(copy)


def relaxed(structure: Structure, pressure: float, backend: Any) -> RelaxResult | None:
    """Relax; None where the model broke down or did not converge."""
    stages = (
        Stage("robust", "model", fmax=1.0, optimizer="TRQN", steps=200, maxstep=0.35),
        Stage("accurate", "model", fmax=0.02, stress=0.2, optimizer="TRQN", steps=300, maxstep=0.35),
    )
    try:
        result = relax(structure, Plan(stages, Guards(), Intent(pressure_gpa=pressure)), lambda name: backend)
    except BridgeError:
        return None
    return result if result.converged else None


def try_model(starts: list[tuple[Structure, Structure, float]], model: str, labeller: Any) -> dict[str, Any]:
    """Relax every start by a model and compare where it ends with the labeller's minimum."""
    limit = Tolerances().across().distance
    row: dict[str, Any] = {"model": model, "structures": len(starts), "converged": 0, "found": 0}
    excess = []
    with backends.load("model", settings_for(model, Config())) as backend:
        for minimum, start, pressure in starts:
            result = relaxed(start, pressure, backend)
            if result is None:
                continue
            row["converged"] += 1
            end = Structure(start.symbols, result.final.cell, result.final.scaled)
            ratio = result.final.volume / float(abs(np.linalg.det(minimum.cell)))
            row["found"] += abs(ratio - 1) < 0.05 and same_phase(Surroundings(end), Surroundings(minimum), limit)
            excess.append((_enthalpy(end, pressure, labeller) - _enthalpy(minimum, pressure, labeller)) / len(end))
    row["median_excess_ev"] = float(np.median(excess)) if excess else None
    return row


def _enthalpy(structure: Structure, pressure: float, backend: Any) -> float:
    plan = Plan((Stage("once", "model", fmax=1.0),), Guards(), Intent(nsw=0, pressure_gpa=pressure))
    return relax(structure, plan, lambda name: backend).enthalpy


@click.command(help=__doc__)
@click.argument("places", nargs=-1, required=True)
@click.option("--labeller", default="chgnet", show_default=True)
@click.option("--model", "models", multiple=True, required=True, help="KIND:WEIGHTS, or a training's folder.")
@click.option("--unlike", type=click.Path(path_type=Path), help="Dataset of the models.")
@click.option("-n", "count", default=40, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    places: tuple[str, ...], labeller: str, models: tuple[str, ...], unlike: Path | None, count: int, json_path: Any
) -> None:
    """Print a row per model."""
    limit_threads(1)
    lowest = minima(places, count, unlike)
    starts = [(structure, disturbed(structure, seed), pressure) for seed, (structure, pressure) in enumerate(lowest)]
    rows = []
    with backends.load("model", settings_for(labeller, Config())) as judge:
        print("| model | converged | the labeller's minimum | median excess, meV/atom |\n|---|---|---|---|")
        for model in models:
            row = try_model(starts, model, judge)
            rows.append(row)
            excess = "-" if row["median_excess_ev"] is None else f"{1000 * row['median_excess_ev']:.1f}"
            print(f"| {model} | {row['converged']} of {row['structures']} | {row['found']} | {excess} |", flush=True)
    if json_path:
        json_path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
