"""Labelled structures and tiny settings for the tests of training."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.models.backends import load
from uspex_bridge.models.cards import CalculatorSettings

ROOT = Path(__file__).parents[1]
DEMO_MACE = ROOT / "examples" / "demo_weights" / "mace-demo-cafeni.model"
DEMO_MATTERSIM = ROOT / "examples" / "demo_weights" / "mattersim-demo-cafeni.pth"
_CELLS = (("Ca", "Fe", "Fe", "Ni"), ("Ca", "Ca", "Fe", "Ni"), ("Ca", "Fe", "Ni"), ("Fe", "Ni"))
_SITES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])

SEA = """
[input.model.descriptor]
rcut = 4.5
rcut_smth = 3.0
neuron = [4, 8]
axis_neuron = 4
[input.model.fitting_net]
neuron = [16, 16]
[input.training.training_data]
batch_size = 4
"""
DPA3 = """
[scratch.model.descriptor]
precision = "float64"
[scratch.model.descriptor.repflow]
n_dim = 8
e_dim = 6
a_dim = 4
nlayers = 2
e_rcut = 4.5
e_rcut_smth = 3.0
a_rcut = 3.2
a_rcut_smth = 2.5
axis_neuron = 2
[scratch.model.fitting_net]
neuron = [8, 8]
[input.training.training_data]
batch_size = 2
"""
MACE = """
[input]
batch_size = 8
[scratch]
r_max = 4.5
num_radial_basis = 6
hidden_irreps = "8x0e"
max_ell = 1
correlation = 2
"""


def structures(count: int, seed: int) -> list[Atoms]:
    """Perturbed cells of Ca, Fe and Ni between about 9 and 17 Å³/atom."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(count):
        symbols = _CELLS[k % len(_CELLS)]
        n = len(symbols)
        edge = (n * (9 + 8 * rng.random())) ** (1 / 3)
        cell = edge * (np.eye(3) + rng.normal(0, 0.03, (3, 3)))
        sites = _SITES[:n] if n > 2 else np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
        atoms = Atoms(symbols, scaled_positions=sites, cell=cell, pbc=True)
        atoms.positions += rng.normal(0, 0.08, (n, 3))
        atoms.info["pressure_gpa"] = (0.0, 50.0)[k // len(_CELLS) % 2]
        made.append(atoms)
    return made


def label(frames: list[Atoms], kind: str = "chgnet") -> list[Atoms]:
    """Give structures the energy, forces and stress of a model."""
    with load(kind, CalculatorSettings(device="cpu")) as model:
        for atoms in frames:
            model.calculator.calculate(atoms)
            results = {key: model.calculator.results[key] for key in ("energy", "forces", "stress")}
            atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


def labelled(count: int, seed: int) -> list[Atoms]:
    """Perturbed cells with CHGNet's labels."""
    return label(structures(count, seed))


def write_labelled(folder: Path) -> tuple[Path, Path]:
    """Write train.xyz and valid.xyz with CHGNet's labels."""
    for name, count, seed in (("train", 24, 3), ("valid", 8, 4)):
        ase.io.write(folder / f"{name}.xyz", labelled(count, seed), format="extxyz")
    return folder / "train.xyz", folder / "valid.xyz"
