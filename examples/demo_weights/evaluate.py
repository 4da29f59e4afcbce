"""Errors on held-out frames, and relaxations of random structures as the ``paper`` protocol runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE
from dataset import PRESSURES
from labels import closest, pressure_gpa, random_structure

#: Classes of the error table: name, lowest and highest pressure of the label (GPa).
CLASSES = (
    ("stretched", -50.0, -5.0),
    ("-5 to 25 GPa", -5.0, 25.0),
    ("25 to 75 GPa", 25.0, 75.0),
    ("75 to 125 GPa", 75.0, 125.0),
    ("above 125 GPa", 125.0, 1e4),
)
#: Below this share of the covalent radii, or outside these volumes (Å³ per atom), a cell has collapsed or flown apart.
SANE_GAP, SANE_VOLUME = 0.60, (5.0, 80.0)
#: Frames with a closer pair are counted in a class of their own.
OVERLAP = 0.65
STAGES = (("mace", FIRE, 1.0), ("mattersim", FIRE, 0.1), ("mattersim", BFGS, 0.01))
STEPS = 500


def calculators(mace_file: Path, mattersim_file: Path) -> dict[str, Calculator]:
    """Load both models as their users do."""
    from mace.calculators import MACECalculator
    from mattersim.forcefield import MatterSimCalculator

    return {
        "mace": MACECalculator(model_paths=str(mace_file), device="cpu", default_dtype="float64"),
        "mattersim": MatterSimCalculator(load_path=str(mattersim_file), device="cpu"),
    }


def errors(frames: list[Atoms], calculator: Calculator) -> dict[str, dict[str, float]]:
    """Return mean absolute errors per class: energy (eV/atom), force component (eV/Å), stress component (GPa)."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for frame in frames:
        trial = frame.copy()
        trial.calc = calculator
        rows.setdefault(_class_of(frame), []).append(
            (
                abs(trial.get_potential_energy() - frame.get_potential_energy()) / len(frame),
                float(np.abs(trial.get_forces() - frame.get_forces()).mean()),
                float(np.abs(trial.get_stress() - frame.get_stress()).mean()) / units.GPa,
            )
        )
    names = [name for name, *_ in CLASSES] + ["overlapping"]
    table = {}
    for name in (name for name in names if name in rows):
        energy, force, stress = (round(float(value), 4) for value in np.mean(rows[name], axis=0))
        table[name] = {"frames": len(rows[name]), "energy": energy, "force": force, "stress": stress}
    return table


def _class_of(frame: Atoms) -> str:
    if closest(frame) < OVERLAP:
        return "overlapping"
    pressure = pressure_gpa(frame)
    return next((name for name, low, high in CLASSES if low <= pressure < high), CLASSES[0][0])


def relaxations(calcs: dict[str, Calculator], count: int, seed: int, judge: Calculator | None) -> list[dict[str, Any]]:
    """Relax ``count`` random structures at each pressure through the three stages.

    ``judge`` is the labelling calculator; where given, each end point is relaxed further with it to compare volumes.
    """
    rng = np.random.default_rng(seed)
    records = []
    with click.progressbar(range(count), label="relaxations") as bar:
        for _ in bar:
            start = random_structure(rng, int(rng.integers(2, 25)), rng.uniform(-0.2, 0.5), rng.uniform(0.6, 0.8))
            records.extend(relax(start, calcs, pressure, judge) for pressure in PRESSURES)
    return records


def relax(start: Atoms, calcs: dict[str, Calculator], pressure: float, judge: Calculator | None) -> dict[str, Any]:
    """Run the stages on one structure and say where it ended."""
    atoms = start.copy()
    stages, began = [], time.process_time()
    for name, optimizer, fmax in STAGES:
        atoms.calc = calcs[name]
        stages.append(_stage(atoms, optimizer, fmax, pressure))
        if not _sane(atoms):
            break
    seconds = time.process_time() - began
    record = {
        "formula": str(start.symbols.formula),
        "atoms": len(atoms),
        "pressure": pressure,
        "steps": stages,
        "cpu_ms_per_step": 1000 * seconds / max(1, sum(stages)),
        "sane": _sane(atoms),
        "force": float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
        "stress_off": float(np.abs(atoms.get_stress() / units.GPa + pressure * np.array([1, 1, 1, 0, 0, 0])).max()),
        "closest": closest(atoms),
        "volume": atoms.get_volume() / len(atoms),
    }
    record["converged"] = bool(record["force"] <= 0.01 + 1e-6 and stages[-1] < STEPS and len(stages) == len(STAGES))
    if judge is not None and record["sane"]:
        atoms.calc = judge
        _stage(atoms, FIRE, 0.1, pressure)
        record["judge_volume"] = atoms.get_volume() / len(atoms)
    return record


def _stage(atoms: Atoms, optimizer: Callable[..., Any], fmax: float, pressure: float) -> int:
    run = optimizer(FrechetCellFilter(atoms, scalar_pressure=pressure * units.GPa), logfile=None)
    for _ in run.irun(fmax=fmax, steps=STEPS):
        if not _sane(atoms, gap=0.2):
            break
    return int(run.nsteps)


def _sane(atoms: Atoms, gap: float = SANE_GAP) -> bool:
    low, high = SANE_VOLUME if gap == SANE_GAP else (1.0, 200.0)
    volume = atoms.get_volume() / len(atoms)
    return bool(low < volume < high and closest(atoms) > gap and np.isfinite(atoms.positions).all())


def summary(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return shares, steps, seconds and volume deviations per pressure."""
    table = {}
    for pressure in PRESSURES:
        rows = [row for row in records if row["pressure"] == pressure]
        shifts = [row["volume"] / row["judge_volume"] - 1 for row in rows if "judge_volume" in row]
        table[f"{pressure:g} GPa"] = {
            "structures": len(rows),
            "converged": sum(row["converged"] and row["sane"] for row in rows) / len(rows),
            "collapsed": sum(not row["sane"] for row in rows) / len(rows),
            "median_steps": float(np.median([sum(row["steps"]) for row in rows])),
            "cpu_ms_per_step": round(float(np.median([row["cpu_ms_per_step"] for row in rows])), 1),
            "worst_stress_off_gpa": round(max((row["stress_off"] for row in rows if row["converged"]), default=0), 3),
        }
        if shifts:
            table[f"{pressure:g} GPa"]["median_volume_shift"] = round(float(np.median(np.abs(shifts))), 4)
    return table
