"""The labelled frames: which structures, how they are labelled, how they are split and stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import FIRE
from labels import closest, disturbed, random_structure, symmetric_structures
from numpy.random import Generator

PRESSURES = (0.0, 50.0, 100.0)
#: Frames beyond these are of no use to a model this small: force (eV/Å), energy over the atoms' (eV/atom), GPa.
LIMIT_FORCE, LIMIT_ENERGY, LIMIT_PRESSURE = 120.0, 25.0, 500.0
SPLITS = {"test": 0.07, "valid": 0.06}


def build(seed: int, share: float, calculator: Calculator) -> list[Atoms]:
    """Return the labelled frames of all families; ``share`` scales their number."""
    rng = np.random.default_rng(seed)
    frames: list[Atoms] = []
    for name, make, count in _families(rng):
        count = max(4, int(count * share))
        with click.progressbar(range(count), label=f"labels: {name}") as bar:
            for number in bar:
                for step, atoms in enumerate(make(calculator)):
                    labelled = label(atoms, calculator)
                    if labelled is not None:
                        labelled.info |= {"family": name, "group": f"{name}-{number}", "step": step}
                        frames.append(labelled)
    return frames


def _families(rng: Generator) -> Iterator[tuple[str, Callable[[Calculator], list[Atoms]], int]]:
    """Yield (name, maker of one group of frames, number of groups)."""
    ideal = symmetric_structures(rng)
    turn = iter(range(10**9))

    def symmetric(_: Calculator) -> list[Atoms]:
        atoms = ideal[next(turn) % len(ideal)]
        bent = disturbed(rng, atoms, rng.uniform(-0.4, 1.1), rng.uniform(0, 0.08), rng.uniform(0, 0.2))
        return [bent, disturbed(rng, atoms, rng.uniform(-0.4, 1.1), 0.0, 0.0)]

    def scattered(_: Calculator) -> list[Atoms]:
        squeeze = rng.uniform(-2.0, -0.5) if rng.random() < 0.1 else rng.uniform(-0.5, 1.0)
        return [random_structure(rng, int(rng.integers(1, 17)), squeeze, rng.uniform(0.6, 0.9))]

    def overlapping(_: Calculator) -> list[Atoms]:
        if rng.random() < 0.3:
            return [random_structure(rng, int(rng.integers(1, 7)), rng.uniform(1.2, 2.2), rng.uniform(0.3, 0.7))]
        atoms = random_structure(rng, int(rng.integers(2, 9)), rng.uniform(-0.3, 0.8), 0.75)
        direction = rng.normal(size=3)
        near = rng.uniform(0.1, 0.7) * 2.6
        atoms.positions[1] = atoms.positions[0] + direction / np.linalg.norm(direction) * near
        return [atoms]

    def relaxed(calculator: Calculator) -> list[Atoms]:
        pressure = PRESSURES[next(turn) % 3] if rng.random() < 0.85 else 150.0
        atoms = random_structure(rng, int(rng.integers(2, 13)), rng.uniform(-0.2, 0.7), rng.uniform(0.5, 0.8))
        return path(atoms, calculator, pressure, steps=70)

    yield "symmetric", symmetric, 312
    yield "scattered", scattered, 600
    yield "overlapping", overlapping, 160
    yield "relaxed", relaxed, 56


def path(atoms: Atoms, calculator: Calculator, pressure: float, steps: int) -> list[Atoms]:
    """Relax and return frames on the way: the first, violent steps closely, the rest every fifth."""
    moving = atoms.copy()
    moving.calc = calculator
    taken: list[Atoms] = []
    optimizer = FIRE(FrechetCellFilter(moving, scalar_pressure=pressure * units.GPa), logfile=None)
    for step, _ in enumerate(optimizer.irun(fmax=0.05, steps=steps)):
        if step in (0, 1, 3, 6, 10) or step % 5 == 0:
            taken.append(moving.copy())
    return taken


def label(atoms: Atoms, calculator: Calculator) -> Atoms | None:
    """Return a copy that holds energy, forces and stress, or None where it lies beyond the limits."""
    frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    frame.calc = calculator
    energy, forces, stress = frame.get_potential_energy(), frame.get_forces(), frame.get_stress()
    if (
        np.abs(forces).max() > LIMIT_FORCE
        or energy / len(frame) > LIMIT_ENERGY
        or np.abs(stress).max() / units.GPa > LIMIT_PRESSURE
    ):
        return None
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces, stress=stress)
    frame.info |= {"REF_energy": energy, "REF_stress": stress, "closest": closest(frame)}
    frame.arrays["REF_forces"] = forces
    return frame


def store(frames: list[Atoms], folder: Path, seed: int) -> dict[str, int]:
    """Write train.xyz, valid.xyz and test.xyz; frames of one group stay together. Return their lengths."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Atoms]] = {"train": [], "valid": [], "test": []}
    where: dict[str, str] = {}
    for frame in frames:
        group = frame.info["group"]
        if group not in where:
            draw = rng.random()
            where[group] = "test" if draw < SPLITS["test"] else "valid" if draw < sum(SPLITS.values()) else "train"
        parts[where[group]].append(frame)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        write(folder / f"{name}.xyz", part, format="extxyz")
    return {name: len(part) for name, part in parts.items()}


def load(path: Path) -> list[Atoms]:
    """Read one of the files of :func:`store`."""
    frames = read(path, ":", format="extxyz")
    assert isinstance(frames, list)
    return frames
