"""Structures that chgnet-hp learns from, and the network as a function that can be derived twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols, covalent_radii

from uspex_bridge.base import neighbours
from uspex_bridge.base.units import ev_a3_to_gpa, pressure_of
from uspex_bridge.calculators.chgnet import inputs
from uspex_bridge.learn.data import public_sets

#: Labels of these elements scatter by hundreds of GPa between snapshots at one volume: their DFT did not converge.
SCATTERED = {"Eu", "Gd"}
#: A stress far below zero at an ordinary density is no stress, GPa.
LOWEST = -15.0
#: Atoms, pairs and angles of a pressed cell at most.
LARGEST = 5000
_F_ELEMENTS = {*range(58, 71), *range(89, 104)}
_MAGNETIC = {*range(23, 29)}


def composition(atoms: Atoms) -> np.ndarray:
    """Return the share of each of CHGNet's 94 elements (94,)."""
    return np.bincount(atoms.numbers - 1, minlength=94) / len(atoms)


def frames(splits: Sequence[str], *, tests_only: bool = False) -> list[Atoms]:
    """Return the structures of the public sets in these parts that can be learned from; never the test part.

    Args:
        splits: train, valid.
        tests_only: leave out the set that CHGNet 0.3.0 was trained on.
    """
    assert "test" not in splits
    found = [
        atoms
        for name, one in public_sets.SETS.items()
        if one.tests or not tests_only
        for atoms in public_sets.read_set(name)
        if atoms.info["split"] in splits
    ]
    return [atoms for atoms in found if pressure_of(atoms.get_stress()) > LOWEST and not _scattered(atoms, found)]


def _scattered(atoms: Atoms, among: Sequence[Atoms]) -> bool:
    """Tell whether snapshots of a formula with Eu or Gd at this volume differ by a third of their pressure."""
    if not SCATTERED & set(atoms.symbols):
        return False
    volume = atoms.get_volume() / len(atoms)
    alike = [
        pressure_of(other.get_stress())
        for other in among
        if other.info["family"] == atoms.info["family"] and abs(other.get_volume() / len(other) / volume - 1) < 0.01
    ]
    return bool(np.ptp(alike) > max(25.0, 0.35 * abs(np.median(alike))))


@dataclass(frozen=True)
class Squeezed:
    """A crystal of known pressure.

    Attributes:
        atoms: the crystal.
        pressure: of its equation of state, GPa.
        error: how far that may be trusted, GPa: the Vinet and the Birch-Murnaghan form part where they extrapolate.
    """

    atoms: Atoms
    pressure: float
    error: float


def equations_of_state(folder: Path, seed: int = 0) -> list[Squeezed]:
    """Return crystals of the elements and their oxides along all-electron PBE equations of state, to 400 GPa.

    Args:
        folder: with results-unaries-verification-PBE-v1-AE-average.json and that of the oxides, which lie in
            acwf_paper_plots/code-data of github.com/aiidateam/acwf-verification-scripts (arXiv:2305.17274, MIT).
        seed: of the volumes.
    """
    tests = {a.info["family"] for name in public_sets.SETS for a in public_sets.read_set(name, "test")}
    rng = np.random.default_rng(seed)
    found = []
    for kind in ("unaries", "oxides"):
        stored = json.loads((folder / f"results-{kind}-verification-PBE-v1-AE-average.json").read_text())
        for key, fit in stored["BM_fit_data"].items():
            crystal = _prototype(*key.split("-"))
            if crystal is None or fit is None or stored["num_atoms_in_sim_cell"][key] != len(crystal):
                continue
            if set(crystal.numbers) & _F_ELEMENTS:
                continue
            if crystal.get_chemical_formula(empirical=True) in tests:
                continue
            numbers = fit["min_volume"], fit["bulk_modulus_ev_ang3"], fit["bulk_deriv"]
            for volume in _volumes(numbers, 10 if kind == "unaries" else 6, rng):
                vinet, birch = (ev_a3_to_gpa(form(volume, *numbers)) for form in (_vinet, _birch))
                if vinet > LOWEST and not (set(crystal.numbers) & _MAGNETIC and vinet < 60.0):
                    error = 2.0 + 0.05 * abs(vinet) + 0.5 * abs(vinet - birch)
                    found.append(Squeezed(_scaled(crystal, volume), vinet, error))
    return found


def _volumes(fit: tuple[float, float, float], count: int, rng: np.random.Generator) -> np.ndarray:
    grid = np.linspace(1.06, 0.2, 400) * fit[0]
    over = np.flatnonzero(ev_a3_to_gpa(1.0) * _vinet(grid, *fit) > 400.0)
    lowest = grid[over[0]] if len(over) else grid[-1]
    return grid[0] + (lowest - grid[0]) * (np.arange(count) + rng.random(count)) / count


def _vinet(v: Any, v0: float, b: float, slope: float) -> Any:
    x = (v / v0) ** (1 / 3)
    return 3 * b * (1 - x) / x**2 * np.exp(1.5 * (slope - 1) * (1 - x))


def _birch(v: Any, v0: float, b: float, slope: float) -> Any:
    y = (v0 / v) ** (2 / 3)
    return 1.5 * b * (y**3.5 - y**2.5) * (1 + 0.75 * (slope - 4) * (y - 1))


def _prototype(element: str, name: str) -> Atoms | None:
    """Return a crystal of the verification set, whose volume is set later; None for those with free parameters."""
    fluorite = bulk("CaF2", "fluorite", a=5.0).cell
    quarters = [(0, 0, 0), (0.25,) * 3, (0.75,) * 3]
    made = {
        "X/SC": lambda: bulk(element, "sc", a=4.0),
        "X/BCC": lambda: bulk(element, "bcc", a=4.0),
        "X/FCC": lambda: bulk(element, "fcc", a=4.0),
        "X/Diamond": lambda: bulk(element, "diamond", a=4.0),
        "XO": lambda: bulk(f"{element}O", "rocksalt", a=4.2),
        "XO2": lambda: Atoms([element, "O", "O"], cell=fluorite, scaled_positions=quarters, pbc=True),
        "X2O": lambda: Atoms(["O", element, element], cell=fluorite, scaled_positions=quarters, pbc=True),
        "XO3": lambda: Atoms(
            [element, "O", "O", "O"],
            cell=4 * np.eye(3),
            scaled_positions=[(0, 0, 0), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)],
            pbc=True,
        ),
    }
    return made[name]() if name in made else None


def _scaled(atoms: Atoms, volume: float) -> Atoms:
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    return scaled


def pressed(structures: Sequence[Atoms], count: int = 1500, seed: int = 1) -> list[Atoms]:
    """Return crystals without labels, from half of their density to several times of it, where holes would be.

    Args:
        structures: cells of the training part, each taken at two densities.
        count: of simple crystals of one or two elements.
        seed: of both.
    """
    rng = np.random.default_rng(seed)
    small = [atoms for atoms in structures if len(atoms) <= 16]
    drawn = rng.uniform(0.25, 1.3, (len(small), 2)) + np.array([0.0, 0.9])
    found = [
        _scaled(atoms, atoms.get_volume() * shrink)
        for atoms, filled in zip(small, drawn, strict=True)
        for shrink in _filled(atoms) / filled
        if shrink < 1.15
    ]
    kinds = ["fcc", "bcc", "hcp", "diamond", "sc", "rocksalt", "cesiumchloride", "zincblende", "wurtzite"]
    for _ in range(count):
        first, second = (chemical_symbols[z] for z in rng.integers(1, 84, 2))
        kind = str(rng.choice(kinds))
        axis = {"c": 6.4 * rng.uniform(0.9, 1.1)} if kind in ("hcp", "wurtzite") else {}
        atoms = bulk(first if kinds.index(kind) < 5 else first + second, kind, a=4.0, **axis)
        scale = (_filled(atoms) / rng.uniform(0.25, 2.2)) ** (1 / 3)
        atoms = _scaled(atoms, scale**3 * atoms.get_volume())
        atoms.rattle(0.05 * scale, seed=int(rng.integers(2**31)))
        found.append(atoms)
    return [atoms for atoms in found if neighbours.size(atoms, 6.0, 3.0) <= LARGEST]


def _filled(atoms: Atoms) -> float:
    """Return the volume of the covalent spheres in that of the cell."""
    return float(4 / 3 * np.pi * (covalent_radii[atoms.numbers] ** 3).sum() / atoms.get_volume())


def network(model: Any, structures: Sequence[Atoms], *, derive: bool = True) -> tuple[Any, Any, Any]:
    """Return energies (B,) in eV/atom without the elements' constants, forces (N, 3) and stresses (B, 3, 3).

    Args:
        model: CHGNet.
        structures: computed together.
        derive: whether forces and stresses are wanted; they can be derived once more, by the network's parameters.
    """
    import torch

    graph = neighbours.graph(structures, float(model.graph_converter.atom_graph_cutoff))
    positions, cells = (torch.tensor(v, dtype=torch.float32) for v in (graph.positions, graph.cells))
    positions.requires_grad_(derive)
    strains = torch.zeros_like(cells, requires_grad=derive)
    angle_cutoff = float(model.graph_converter.bond_graph_cutoff)
    energies = model._compute(inputs(model, graph, angle_cutoff, positions, cells, strains))["e"]
    if not derive:
        return energies.detach(), None, None
    total = (energies * torch.tensor(graph.sizes, dtype=torch.float32)).sum()
    slope, virial = torch.autograd.grad(total, (positions, strains), create_graph=True)
    return energies, -slope, virial / torch.tensor(graph.volumes, dtype=torch.float32)[:, None, None]
