"""What the demo models learn: CHGNet 0.3.0, made repulsive at short range, on all sorts of Ca-Fe-Ni structures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.random import Generator
from numpy.typing import NDArray

ELEMENTS = ("Ca", "Fe", "Ni")
#: Energies of the atoms apart (eV): CHGNet's elements plus the measured cohesive energies, rounded.
ATOM_ENERGIES = {20: -0.2, 26: -4.1, 28: -1.3}
#: Volumes per atom (Å³) of the elements at 0 and about 150 GPa, rounded.
ATOM_VOLUMES = {20: (42.0, 12.5), 26: (11.4, 7.5), 28: (10.9, 7.3)}
#: Every pair is pushed apart below this share of the sum of its covalent radii: strength (eV), onset, softening.
CORE, CORE_ONSET, CORE_SOFT = 200.0, 0.75, 0.3
#: CHGNet's pressure of fcc Ca falls between 22 and 15 Å³ per atom: a second, wider term for Ca-Ca keeps it rising.
CALCIUM, CALCIUM_ONSET = 35.0, 0.95
#: CHGNet is faded out as the closest pair goes from the first to the second share: it attracts below.
FADE_FROM, FADE_TO = 0.50, 0.38


def closest(atoms: Atoms) -> float:
    """Return the shortest distance, images of the same atom included, in units of the sum of covalent radii."""
    radii = covalent_radii[atoms.numbers]
    i, j, d = neighbor_list("ijd", atoms, 4.0)
    return float((d / (radii[i] + radii[j])).min()) if len(d) else 4.0 / (2 * float(radii.max()))


class RepulsiveCHGNet(Calculator):
    """CHGNet 0.3.0 with a pair repulsion below typical distances, and faded out where atoms overlap.

    The energy is ``s (E_CHGNet - E_atoms) + E_atoms + sum over pairs of V(r)``, with ``s`` the product over pairs
    of a switch that is 1 above ``FADE_FROM`` and 0 below ``FADE_TO``; forces and stress are its exact derivatives.
    """

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self) -> None:
        super().__init__()
        from chgnet.model.dynamics import CHGNetCalculator

        self.chgnet = CHGNetCalculator(use_device="cpu", on_isolated_atoms="ignore")

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Compute energy (eV), forces (n, 3) in eV/Å and stress (6,) in eV/Å³."""
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        i, j, d, vectors = neighbor_list("ijdD", atoms, 3.6)
        radii = covalent_radii[atoms.numbers]
        q = d / (radii[i] + radii[j])
        energy, slope = _repulsion(q, (atoms.numbers[i] == 20) & (atoms.numbers[j] == 20))
        fade, fade_slope = _fade(q)
        switch = float(np.sqrt(np.prod(fade)))  # each pair stands twice in the list
        base = sum(ATOM_ENERGIES[int(z)] for z in atoms.numbers)
        total, forces, stress = base, np.zeros((len(atoms), 3)), np.zeros((3, 3))
        if switch > 0:
            frame = atoms.copy()
            frame.calc = self.chgnet
            bare = frame.get_potential_energy() - base
            total += switch * bare
            forces += switch * frame.get_forces()
            stress += switch * frame.get_stress(voigt=False)
            slope = slope + bare * switch * fade_slope / fade
        total += 0.5 * float(energy.sum())
        pull = (slope / (radii[i] + radii[j]) / np.maximum(d, 1e-9))[:, None] * vectors
        np.add.at(forces, i, pull)
        stress += 0.5 * vectors.T @ pull / atoms.get_volume()
        self.results = {"energy": total, "forces": forces, "stress": full_3x3_to_voigt_6_stress(stress)}


def _repulsion(q: NDArray[Any], calcium: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return V(q) of each pair in eV and dV/dq."""
    x = np.maximum(1 - q / CORE_ONSET, 0.0)
    energy = CORE * x**3 / (x + CORE_SOFT)
    slope = -CORE * x**2 * (2 * x + 3 * CORE_SOFT) / (x + CORE_SOFT) ** 2 / CORE_ONSET
    y = np.where(calcium, np.maximum(1 - q / CALCIUM_ONSET, 0.0), 0.0)
    return energy + CALCIUM * y**3, slope - 3 * CALCIUM * y**2 / CALCIUM_ONSET


def _fade(q: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the switch of each pair, between 0 and 1, and its derivative by q."""
    t = np.clip((q - FADE_TO) / (FADE_FROM - FADE_TO), 0.0, 1.0)
    inside = 6 * t * (1 - t) / (FADE_FROM - FADE_TO)
    return t * t * (3 - 2 * t), inside


def usual_volume(numbers: NDArray[Any], squeeze: float) -> float:
    """Return a cell volume (Å³): 0 GPa at ``squeeze`` 0, some 150 GPa at 1, geometric between and beyond."""
    ends = np.array([ATOM_VOLUMES[int(z)] for z in numbers])
    return float((ends[:, 0] ** (1 - squeeze) * ends[:, 1] ** squeeze).sum())


def random_structure(rng: Generator, size: int, squeeze: float, gap: float) -> Atoms:
    """Return ``size`` atoms of one to three elements in a random triclinic cell.

    ``squeeze`` is that of :func:`usual_volume`; ``gap`` the shortest distance aimed at, over the sum of the
    covalent radii: it is lowered where the atoms do not fit.
    """
    chosen = rng.choice(ELEMENTS, size=rng.integers(1, 4), replace=False)
    symbols = list(rng.choice(chosen, size=size))
    while True:
        a, b, c = rng.uniform(0.6, 1.4, 3)
        alpha, beta, gamma = rng.uniform(60, 120, 3)
        if abs(alpha - beta) < gamma < min(alpha + beta, 355 - alpha - beta):
            break
    atoms = Atoms(symbols[:1], cell=[a, b, c, alpha, beta, gamma], pbc=True)
    numbers = Atoms(symbols).numbers
    atoms.set_cell(atoms.cell * (usual_volume(numbers, squeeze) / atoms.get_volume()) ** (1 / 3))
    for symbol in symbols[1:]:
        wanted = gap
        while True:
            trial = atoms + Atoms([symbol], positions=[rng.random(3) @ atoms.cell.array])
            if closest(trial) >= wanted:
                break
            wanted *= 0.985
        atoms = trial
    return atoms


def prototypes() -> Iterator[tuple[str, int, list[tuple[float, float, float]], list[float]]]:
    """Yield (name, space group, sites, cell shape) of common metallic structure types."""
    third = (1 / 3, 2 / 3, 0.25)
    cube = [1.0, 1.0, 1.0, 90.0, 90.0, 90.0]
    origin = (0.0, 0.0, 0.0)
    half = (0.5, 0.5, 0.5)
    quarter = (0.25, 0.25, 0.25)
    yield "fcc", 225, [origin], cube
    yield "bcc", 229, [origin], cube
    yield "sc", 221, [origin], cube
    yield "hcp", 194, [third], [1, 1, 1.62, 90, 90, 120]
    yield "B2", 221, [origin, half], cube
    yield "B1", 225, [origin, half], cube
    yield "L1_0", 123, [origin, half], [1, 1, 1.4, 90, 90, 90]
    yield "L1_2", 221, [origin, (0.0, 0.5, 0.5)], cube
    yield "C15", 227, [quarter, (0.625, 0.625, 0.625)], cube
    yield "C1", 225, [origin, quarter], cube
    yield "Heusler", 225, [origin, half, quarter], cube
    yield "half-Heusler", 216, [origin, half, quarter], cube
    yield "omega", 191, [origin, (1 / 3, 2 / 3, 0.5)], [1, 1, 0.61, 90, 90, 120]
    yield "CaCu5", 191, [origin, (1 / 3, 2 / 3, 0.0), (0.5, 0.0, 0.5)], [1, 1, 0.8, 90, 90, 120]


def symmetric_structures(rng: Generator) -> list[Atoms]:
    """Return every prototype with every decoration of its sites, as primitive cells of any volume."""
    frames = []
    for _name, group, sites, shape in prototypes():
        for symbols in itertools.product(ELEMENTS, repeat=len(sites)):
            atoms = crystal(symbols, sites, spacegroup=group, cellpar=shape, primitive_cell=True)
            frames.append(
                Atoms(atoms.numbers, scaled_positions=atoms.get_scaled_positions(), cell=atoms.cell, pbc=True)
            )
    return [frames[k] for k in rng.permutation(len(frames))]


def disturbed(rng: Generator, atoms: Atoms, squeeze: float, strain: float, rattle: float) -> Atoms:
    """Return a copy at the volume of ``squeeze``, with random strain (a share) and displacements (Å)."""
    bent = atoms.copy()
    change = rng.normal(0, strain, (3, 3))
    bent.set_cell(bent.cell.array @ (np.eye(3) + (change + change.T) / 2), scale_atoms=True)
    scale = (usual_volume(bent.numbers, squeeze) / bent.get_volume()) ** (1 / 3)
    bent.set_cell(bent.cell * scale, scale_atoms=True)
    bent.positions += rng.normal(0, rattle, bent.positions.shape)
    return bent


def pressure_gpa(atoms: Atoms) -> float:
    """Return the pressure in GPa of a frame that has a calculator or stored results."""
    return -float(atoms.get_stress()[:3].mean()) / units.GPa
