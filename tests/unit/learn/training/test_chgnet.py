"""What stands in the interpreter of CHGNet's trainer."""

import json
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.learn.training.trainers import chgnet_launch


@pytest.mark.parametrize("count", [1, 2])
def test_the_atoms_energies_are_moved_to_the_labels_even_to_a_single_one(tmp_path, monkeypatch, count):
    torch = pytest.importorskip("torch")

    class Model:
        composition_model = SimpleNamespace(fc=torch.nn.Linear(94, 1, bias=False))

        def predict_structure(self, structures, task, batch_size):
            found = [{"e": -5.0} for _ in structures]
            return found[0] if len(found) == 1 else found

    frames = []
    for k in range(count):
        atoms = bulk("Ni", "fcc", a=3.5 + 0.01 * k)
        atoms.calc = SinglePointCalculator(atoms, energy=-7.0, forces=np.zeros((1, 3)), stress=np.zeros(6))
        frames.append(atoms)
    (tmp_path / "data").mkdir()
    ase.io.write(tmp_path / "data" / "train.xyz", frames, format="extxyz")
    monkeypatch.chdir(tmp_path)
    model = Model()
    before = model.composition_model.fc.weight[0, 27].item()
    chgnet_launch._refit(model, {})
    assert model.composition_model.fc.weight[0, 27].item() - before == pytest.approx(-2.0, abs=1e-3)
    assert json.loads((tmp_path / chgnet_launch.SHIFTS).read_text()) == {"Ni": pytest.approx(-2.0, abs=1e-3)}
