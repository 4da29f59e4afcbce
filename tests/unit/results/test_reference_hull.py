"""The prototypes of benchmarks/reference_hull.py are what their names say."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
from ase.formula import Formula
from emulators.candidates import atomic_volume

from uspex_bridge.base.symmetry import space_group

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "reference_hull.py"
GROUPS = {
    "fcc": 225, "bcc": 229, "hcp": 194, "sc": 221, "I4_1/amd": 141, "B2": 221, "L1_0": 123, "L1_2": 221, "B33": 63,
    "B27": 62, "C15": 227, "C14": 194, "CaCu5": 191, "PuNi3": 166, "Gd2Co7": 166, "U3Si2": 127, "C16": 140,
    "D0_11": 62, "L2_1": 225,
}  # fmt: skip


def script():
    spec = importlib.util.spec_from_file_location("reference_hull", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_every_prototype_has_its_name_s_composition_and_space_group():
    module = script()
    made = dict(module.prototypes(50.0))
    assert len(made) == 48
    assert set(module.NOTES) <= set(made)
    for name, atoms in made.items():
        formula, _, kind = name.partition("-")
        assert atoms.symbols.formula.reduce()[0].count() == Formula(formula).count(), name
        found = space_group(atoms.get_chemical_symbols(), atoms.cell.array, atoms.get_scaled_positions(), 0.01)
        assert found.endswith(f"({GROUPS[kind]})"), name
        assert np.isclose(atoms.get_volume(), sum(atomic_volume(s, 50.0) for s in atoms.get_chemical_symbols()))
