"""What a user may name as a model, or as the start of a training."""

import json

import pytest

from uspex_bridge.base.errors import ModelError
from uspex_bridge.base.words import short_names
from uspex_bridge.call.config import Config
from uspex_bridge.call.model_names import start_of, with_model
from uspex_bridge.models.cards import CalculatorSettings


def test_a_training_starts_from_a_file_or_from_where_another_ended(tmp_path):
    assert start_of("DPA-3.1-3M.pt") == ("DPA-3.1-3M.pt", None)
    card = {"model": "model.pth", "checkpoint": "checkpoint.pt", "head": None}
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert start_of(str(tmp_path)) == (str(tmp_path / "checkpoint.pt"), None)
    (tmp_path / "model.json").write_text(json.dumps(card | {"checkpoint": None, "head": "Default"}))
    assert start_of(str(tmp_path)) == (str(tmp_path / "model.pth"), "Default")


def test_a_folder_where_no_training_has_ended_is_no_start(tmp_path):
    with pytest.raises(ModelError, match="no training has ended there"):
        start_of(str(tmp_path))
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ModelError, match="not a model's card"):
        start_of(str(tmp_path))


def test_weights_that_are_not_there_are_asked_for_under_their_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    elsewhere = Config(calculators={"nep": CalculatorSettings(python="/e/bin/python")})
    for config in (Config(), elsewhere):
        with pytest.raises(ModelError, match=r"nep has no default model; set model under \[calculators.nep\]"):
            with_model(config, "nep")
    with pytest.raises(ModelError, match=r"set model = PATH under \[calculators.orb\]"):
        with_model(Config(), "orb:orb-v3-direct-20-mpa")
    found = with_model(elsewhere, "nep:mine.txt").calculators["model"]
    assert (found.kind, found.model, found.python) == ("nep", "mine.txt", "/e/bin/python")


def test_models_are_called_by_as_much_of_their_path_as_tells_them_apart():
    assert list(short_names(["models/a/current", "models/b/current"]).values()) == ["a/current", "b/current"]
    assert list(short_names(["chgnet", "models/dpa3-01"]).values()) == ["chgnet", "dpa3-01"]
    assert short_names(["models/a"]) == {"models/a": "a"}
    assert list(short_names(["a/x", "x"]).values()) == ["a/x", "x"]
