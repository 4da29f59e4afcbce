"""Relax random candidates by several optimizers and say how many evaluations each took and where it ended.

    python benchmarks/optimizers.py --system cafeni --candidates 100 --model mattersim:WEIGHTS --lines OUT.jsonl
    python benchmarks/optimizers.py --system mgsio --candidates 50 --model chgnet --lines OUT.jsonl
    python benchmarks/optimizers.py --model chgnet --student KIND:WEIGHTS --against "TRQN, TRQN" --lines OUT.jsonl

OUT.jsonl gets one line per relaxation; a second call goes on where the first one ended. Candidate k is relaxed at the
k-th of the pressures, taken in turn, by every method from the same start, with one model throughout and the targets of
`paper`: 0.01 eV/Å and 0.1 GPa. Ends are compared with those of FIRE, FIRE, BFGS, the published stages, or of another
method. "student, TRQN" are the stages of the protocol `student`; a student's evaluations are counted apart.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from ase import Atoms  # noqa: E402
from ase.cell import Cell  # noqa: E402
from emulators.candidates import candidate, far_enough  # noqa: E402

from uspex_bridge.base.data import Intent, Structure  # noqa: E402
from uspex_bridge.base.errors import BridgeError  # noqa: E402
from uspex_bridge.models import backends  # noqa: E402
from uspex_bridge.models.cards import CalculatorSettings  # noqa: E402
from uspex_bridge.relaxation import engine, trqn  # noqa: E402
from uspex_bridge.relaxation.protocol import Plan, Stage, load_protocol  # noqa: E402

FIRST = "FIRE, FIRE, BFGS"
#: Optimizers of the stages to 1, 0.1 and 0.01 eV/Å; an empty place leaves a stage out.
METHODS = {
    FIRST: ("FIRE", "FIRE", "BFGS"),
    "FIRE, BFGS, BFGS": ("FIRE", "BFGS", "BFGS"),
    "FIRE2, FIRE2, BFGS": ("FIRE2", "FIRE2", "BFGS"),
    "BFGS": ("", "", "BFGS"),
    "L-BFGS": ("", "", "LBFGS"),
    "BFGS, line search": ("", "", "BFGSLineSearch"),
    "FIRE, TRQN": ("FIRE", "", "TRQN"),
    "TRQN without springs": ("", "", "TRQN"),
    "TRQN, TRQN": ("TRQN", "", "TRQN"),
}
STUDENT = "student, TRQN"
WITHOUT_SPRINGS = "TRQN without springs"
STEPS = 500
#: GPa at which volumes are given.
GRID = (0.0, 50.0, 100.0)


@dataclass(frozen=True)
class Random:
    """Random atoms of one of some formula units in a random cell, without symmetry.

    Attributes:
        units: formula units.
        volumes: of an atom at the pressures of GRID, Å³; one of an element that is not named has none.
        shortest: distances that pairs keep, Å.
        most: atoms.
    """

    units: tuple[str, ...]
    volumes: dict[str, tuple[float, float, float]]
    shortest: dict[str, float]
    most: int = 24


#: Volumes are about those of the known phases.
SYSTEMS = {
    "mgsio": Random(
        ("MgO", "SiO2", "MgSiO3", "Mg2SiO4", "Mg3Si2O7", "Mg4SiO6"),
        {"O": (17.5, 13.5, 12.0)},
        {"O O": 1.9, "Mg O": 1.5, "O Si": 1.3, "Mg Mg": 2.0, "Mg Si": 2.0, "Si Si": 2.0},
    ),
    "lah": Random(
        ("LaH2", "LaH3", "LaH4", "LaH5", "LaH6", "LaH10"),
        {"La": (34.0, 20.0, 16.0), "H": (5.0, 3.0, 2.4)},
        {"H H": 0.75, "H La": 1.7, "La La": 2.4},
        most=20,
    ),
}


def random_cell(system: str, index: int, pressure: float, most: int | None = None) -> Atoms:
    """Return random atoms of a composition of the system, at most so many, in a random cell."""
    about = SYSTEMS[system]
    rng = np.random.default_rng([7, index])
    unit = Atoms(about.units[int(rng.integers(len(about.units)))])
    symbols = unit.get_chemical_symbols() * int(rng.integers(1, max(1, (most or about.most) // len(unit)) + 1))
    volumes = {symbol: float(np.interp(pressure, GRID, values)) for symbol, values in about.volumes.items()}
    volume = sum(volumes.get(symbol, 0.0) for symbol in symbols) * rng.uniform(1.0, 1.3)
    distances = {frozenset(pair.split()): value for pair, value in about.shortest.items()}
    for attempt in itertools.count():
        if attempt > 1000:  # the pairs do not fit
            volume *= 1.001
        lengths, angles = np.exp(rng.uniform(-0.3, 0.3, 3)), rng.uniform(70.0, 110.0, 3)
        cell = Cell.fromcellpar([*lengths, *angles]).array
        cell *= (volume / abs(np.linalg.det(cell))) ** (1 / 3)
        placed = Atoms(cell=cell, pbc=True)
        for symbol in symbols:
            for _ in range(200):
                trial = placed + Atoms([symbol], positions=[rng.random(3) @ cell])
                if far_enough(trial[[len(placed), *range(len(placed))]], distances):
                    placed = trial
                    break
            else:
                break
        if len(placed) == len(symbols):
            break
    return placed


def start_of(system: str, index: int, pressure: float, most: int | None = None) -> Structure:
    """Return candidate number ``index`` of a system for a pressure, of at most ``most`` atoms where it can."""
    atoms = candidate(index, pressure).atoms if system == "cafeni" else random_cell(system, index, pressure, most)
    return Structure(
        symbols=tuple(atoms.get_chemical_symbols()),
        cell=atoms.cell.array,
        scaled=atoms.get_scaled_positions(wrap=False),
    )


def plan_of(method: str, pressure: float) -> Plan:
    """Return the stages of a method."""
    goals = ({"fmax": 1.0}, {"fmax": 0.1}, {"fmax": 0.01, "stress": 0.1})
    stages = (
        load_protocol("student").stage
        if method == STUDENT
        else tuple(
            Stage(
                f"stage{k}",
                "model",
                optimizer=name,  # type: ignore[arg-type]
                steps=STEPS,
                maxstep=0.35 if name == "TRQN" else 0.2,
                **goal,
            )
            for k, (name, goal) in enumerate(zip(METHODS[method], goals, strict=True), 1)
            if name
        )
    )
    guards = replace(load_protocol("paper").guards, hole="off")  # a scan would be counted, and refuse ends
    return Plan(stages, guards, Intent(pressure_gpa=pressure, nsw=3 * STEPS), method)


def relax(method: str, structure: Structure, pressure: float, models: dict[str, Any]) -> dict[str, Any]:
    """Relax by one method; return evaluations of the model that counts, CPU seconds and where it ended."""
    springs = trqn.spring_hessian
    if method == WITHOUT_SPRINGS:
        trqn.spring_hessian = lambda atoms, *cell: np.eye(3 * len(atoms) + (9 if cell else 0))
    began = time.process_time()
    try:
        result = engine.relax(structure, plan_of(method, pressure), models.__getitem__)
    except BridgeError as error:
        return {"ended": getattr(error, "code", type(error).__name__), "seconds": time.process_time() - began}
    finally:
        trqn.spring_hessian = springs
    return {
        "ended": "converged" if result.converged else "unconverged",
        "seconds": time.process_time() - began,
        "evaluations": sum(stage.evaluations for stage in result.stages if stage.calculator == "model"),
        "student": sum(stage.evaluations for stage in result.stages if stage.calculator == "student"),
        "enthalpy": result.enthalpy / len(structure),
        "volume": result.final.volume / len(structure),
    }


def loaded(model: str) -> Any:
    """Return the model KIND or KIND:WEIGHTS."""
    kind, _, weights = model.partition(":")
    return backends.load(kind, CalculatorSettings(model=weights or None))


def summarise(lines: list[dict[str, Any]], against: str) -> Iterator[dict[str, Any]]:
    """Yield one row per method, over the candidates that it and the method that it is held against were tried on."""
    by = {(line["method"], line["index"]): line for line in lines}
    for method in (m for m in (*METHODS, STUDENT) if any(line["method"] == m for line in lines)):
        rows = {index: line for (name, index), line in by.items() if name == method and (against, index) in by}
        first = {index: by[against, index] for index in rows}
        reference = sum(line.get("evaluations", 0) for line in first.values())
        seconds = sum(line["seconds"] for line in first.values())
        both = [k for k in rows if rows[k]["ended"] == first[k]["ended"] == "converged"]
        change = np.array([rows[k]["enthalpy"] - first[k]["enthalpy"] for k in both])
        used = [row["evaluations"] for row in rows.values() if "evaluations" in row]
        yield {
            "method": method,
            "candidates": len(rows),
            "converged": sum(row["ended"] == "converged" for row in rows.values()),
            "evaluations_median": float(np.median(used)),
            "evaluations_mean": float(np.mean(used)),
            "evaluations_ratio": sum(used) / reference,
            "seconds_ratio": sum(row["seconds"] for row in rows.values()) / seconds,
            "same": float(np.mean(np.abs(change) < 1e-3)),
            "lower": float(np.mean(change < -1e-3)),
            "higher": float(np.mean(change > 1e-3)),
            "median_change_mev": 1e3 * float(np.median(change)),
            "mean_change_mev": 1e3 * float(np.mean(change)),
            "error_of_mean_mev": 1e3 * float(np.std(change) / np.sqrt(len(change))),
        }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    text = [
        "| optimizers | converged | evaluations, median | mean | ratio | CPU | same end | lower | higher "
        "| mean change |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    text += [
        f"| {r['method']} | {r['converged']} of {r['candidates']} | {r['evaluations_median']:.0f} "
        f"| {r['evaluations_mean']:.0f} | {r['evaluations_ratio']:.2f} | {r['seconds_ratio']:.2f} | {r['same']:.0%} "
        f"| {r['lower']:.0%} | {r['higher']:.0%} "
        f"| {r['mean_change_mev']:+.0f} ± {r['error_of_mean_mev']:.0f} meV/atom |"
        for r in rows
    ]
    return "\n".join(text)


@click.command(help=__doc__)
@click.option("--system", type=click.Choice(["cafeni", *SYSTEMS]), default="cafeni", show_default=True)
@click.option("--candidates", default=100, show_default=True)
@click.option("--atoms", type=int, help="Most atoms of a cell; not for cafeni.")
@click.option("--pressures", default="0,50,100", show_default=True, help="GPa, taken in turn.")
@click.option("--model", default="chgnet", show_default=True, help="KIND or KIND:WEIGHTS.")
@click.option("--student", help="KIND:WEIGHTS of the model that goes first in 'student, TRQN'.")
@click.option("--against", default=FIRST, show_default=True, help="Method that ends and evaluations are held against.")
@click.option("--methods", default=",".join(f'"{m}"' for m in METHODS), help="JSON strings, separated by commas.")
@click.option("--lines", type=click.Path(path_type=Path), required=True, help="JSONL of all relaxations; grows.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the table's numbers here.")
def main(
    system: str,
    candidates: int,
    atoms: int | None,
    pressures: str,
    model: str,
    student: str | None,
    against: str,
    methods: str,
    lines: Path,
    json_path: Path | None,
) -> None:
    """Run what is missing and print the table."""
    chosen = json.loads(f"[{methods}]")
    at = [float(p) for p in pressures.split(",")]
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    have = {(line["method"], line["index"]) for line in done}
    models = {"model": loaded(model)} | ({"student": loaded(student)} if student else {})
    with lines.open("a") as out:
        for index in range(1, candidates + 1):
            pressure = at[(index - 1) % len(at)]
            missing = [m for m in chosen if (m, index) not in have]
            structure = start_of(system, index, pressure, atoms) if missing else None
            for method in missing:
                assert structure is not None
                about = {"method": method, "index": index, "pressure": pressure, "formula": structure.formula}
                done.append(about | relax(method, structure, pressure, models))
                print(json.dumps(done[-1]), file=out, flush=True)
    rows = list(summarise(done, against))
    print(table(rows))
    if json_path:
        json_path.write_text(json.dumps({"system": system, "model": model, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
