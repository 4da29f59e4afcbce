"""Stored models: what a folder of trainings holds, and which one needs the fewest new labels for new structures."""

import json

import ase.io
import pytest
from ase.build import bulk
from click.testing import CliRunner

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.call.config import Config
from uspex_bridge.cli import main
from uspex_bridge.learn.training import stored
from uspex_bridge.learn.training.stored import fitness_of, stored_models


def training(folder, elements, data, *, kind="toy", time="2026-11-01", low=0.0, high=60.0):
    folder.mkdir(parents=True)
    errors = {"energy": {"mae": 0.011}, "pv": {"mae": 0.02}}
    card = {
        "kind": kind,
        "model": "model.toy",
        "sha256": None,
        "head": None,
        "elements": elements,
        "data": {"manifest_sha256": data},
        "structures": {"train": 12},
        "trained_on": {"pressure_gpa": [low, high]},
        "errors": errors,
        "time": time,
    }
    (folder / "model.json").write_text(json.dumps(card))


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Two pairs of models and one that knows another element; each model's answer is that of its toy potential."""
    training(tmp_path / "m" / "old-a", ["Ca", "Fe"], "1")
    training(tmp_path / "m" / "old-b", ["Ca", "Fe"], "1", kind="other")
    training(tmp_path / "m" / "new-a", ["Ca", "Fe"], "2", time="2026-11-02")
    training(tmp_path / "m" / "new-b", ["Ca", "Fe"], "2", kind="other", time="2026-11-03")
    training(tmp_path / "m" / "ni", ["Ca", "Ni"], "3", time="2026-11-04")
    (tmp_path / "m" / "current").symlink_to("new-a")
    (tmp_path / "m" / "half").mkdir()
    (tmp_path / "m" / "half" / "model.json").write_text("{")
    said = {"old-a": 0.0, "old-b": 0.3, "new-a": 0.0, "new-b": 0.02, "second": 0.5}

    def pv(name, config, asked, cache):
        import numpy as np

        return np.full(len(asked), said[name.rpartition("/")[2]])

    monkeypatch.setattr(stored, "_pv", pv)
    return tmp_path / "m"


@pytest.fixture
def structures():
    return [to_structure(bulk("CaFe", "cesiumchloride", a=a)) for a in (3.0, 3.1, 3.2)]


def test_a_folder_of_trainings_is_listed_once_each_the_oldest_first(models):
    found = stored_models(models)
    assert [one.folder.name for one in found][-2:] == ["new-b", "ni"]
    assert len(found) == 5
    output = CliRunner().invoke(main.command, ["train", "list", str(models)]).output
    assert "0 to 60" in output
    assert "Ca Ni" in output
    with pytest.raises(InputError, match="no training has ended"):
        stored_models(models / "half")


def test_the_model_that_agrees_with_its_sibling_needs_the_fewest_labels(models, structures, tmp_path):
    found = fitness_of(stored_models(models), structures, Config(), tmp_path)
    assert [fit.model.folder.name for fit in found[:2]] == ["new-a", "new-b"]
    assert (found[0].needed, found[0].beside) == (0, str(models / "new-b"))
    assert [fit.needed for fit in found[2:4]] == [3, 3]
    assert found[-1].unknown == ("Fe",)


def test_a_model_alone_is_held_against_the_second_opinion(models, structures, tmp_path):
    alone = [one for one in stored_models(models) if one.folder.name == "new-a"]
    with pytest.raises(InputError, match="no second opinion"):
        fitness_of(alone, structures, Config(), tmp_path)
    (found,) = fitness_of(alone, structures, Config(), tmp_path, second="second")
    assert (found.needed, found.beside) == (3, "second")


def test_the_command_says_it(models, structures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("new.extxyz", [bulk("CaFe", "cesiumchloride", a=3.0)])
    result = CliRunner().invoke(main.command, ["train", "choose", str(models), "new.extxyz", "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    rows = json.loads(result.stdout)["models"]
    assert rows[0]["new_labels"] == 0
    assert rows[-1]["unknown_elements"] == ["Fe"]
