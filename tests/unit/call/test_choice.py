"""A search runs with one protocol and the same models from start to end, whatever comes and goes on the machine."""

import json
import logging
from dataclasses import replace

import pytest

from uspex_bridge.base.data import Intent
from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.call import choice, record_file
from uspex_bridge.call.config import Config, read_config
from uspex_bridge.call.record_tail import RecordTail
from uspex_bridge.models import backends, inventory, weights
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.relaxation.protocol import load_protocol, make_plan

LOG = logging.getLogger("test")


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    """Let no weights of MACE and MatterSim be found, but for what a test puts into the folder that this returns."""
    place = tmp_path / "weights"
    place.mkdir()
    monkeypatch.setattr(weights, "_folders", lambda card: [place])
    return place


def test_what_auto_decides_once_holds_for_the_whole_search(tmp_path, no_weights, monkeypatch):
    """Weights that come along later change nothing; where what the search began with goes, it stops."""
    protocol, notice = choice.settled_protocol(Config(), tmp_path)
    assert (protocol.name, bool(notice)) == ("embedded", True)
    assert json.loads((tmp_path / choice.FILENAME).read_text())["protocol"] == "embedded"
    there = inventory.available
    monkeypatch.setattr(inventory, "available", lambda name, settings: replace(there("toy", settings), problem=""))
    assert choice.choose_protocol(Config())[0].name == "paper"
    assert choice.settled_protocol(Config(), tmp_path) == (protocol, "")
    begun = tmp_path / "another"
    begun.mkdir()
    assert choice.settled_protocol(Config(), begun)[0].name == "paper"
    monkeypatch.setattr(inventory, "available", there)
    with pytest.raises(ModelError, match="began with protocol 'paper', but mace is missing now: .*looked"):
        choice.settled_protocol(Config(), begun)


def test_a_folder_that_cannot_be_written_and_a_file_that_is_broken_are_no_reason_to_fail(tmp_path):
    assert choice.settled_protocol(Config(), tmp_path / "missing")[0].name == "embedded"
    (tmp_path / choice.FILENAME).write_text("{")
    assert choice.settled_protocol(Config(), tmp_path)[0].name == "embedded"
    assert json.loads((tmp_path / choice.FILENAME).read_text())["protocol"] == "embedded"  # else asked at every call


def test_a_link_in_place_of_what_was_decided_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("{")
    (tmp_path / choice.FILENAME).symlink_to("precious")
    assert choice.settled_protocol(Config(), tmp_path)[0].name == "embedded"
    assert (tmp_path / "precious").read_text() == "{"


@pytest.mark.parametrize(
    ("table", "looked"),
    [
        ('[calculators.mace]\nmodel = "weights/mine.model"\n', "weights/mine.model"),
        ('[calculators.mattersim]\nmodel = "/nowhere/5M.pth"\n', "/nowhere/5M.pth"),
        ('[calculators.mace]\nmodel = "large"\n', "weights"),
        ('[calculators.mace]\npython = "/nowhere/bin/python"\n', "/nowhere/bin/python"),
    ],
)
@pytest.mark.parametrize("protocol", ["auto", "paper"])
def test_a_configured_model_that_is_not_there_is_never_passed_over(tmp_path, protocol, table, looked):
    (tmp_path / "bridge.toml").write_text(f'protocol = "{protocol}"\n{table}')
    config = read_config(tmp_path / "bridge.toml")

    def load() -> None:
        for name in choice.choose_protocol(config)[0].calculators:
            if name in config.calculators:
                backends.load(name, config.settings_of(name))

    with pytest.raises(ModelError) as caught:
        load()
    assert caught.value.exit_code == 5
    assert looked in str(caught.value)


def test_a_relative_path_is_that_of_the_settings_file(tmp_path):
    (tmp_path / "bridge.toml").write_text('[calculators.mace]\nmodel = "weights/mine.model"\n')
    with pytest.raises(ModelError, match=f"there is no file {tmp_path}/weights/mine.model"):
        inventory.find_weights("mace", read_config(tmp_path / "bridge.toml").settings_of("mace"))


PLAN = make_plan(load_protocol("single"), Intent())
KNOWN = {"kind": "toy", "weights": None, "model": None, "sha256": None}


def check(tmp_path, config):
    path = tmp_path / "record.jsonl"
    choice.check_unchanged(PLAN, config, RecordTail(path), "1", LOG)


def unchanged(tmp_path, protocol="single", model=KNOWN, config=None, step="1"):
    toy = config or Config(calculators={"model": CalculatorSettings(kind="toy")})
    line = {"protocol": protocol, "models": {"model": model}, "step": step}
    record_file.append(tmp_path / "record.jsonl", line)
    check(tmp_path, toy)


def test_the_same_protocol_and_models_go_on(tmp_path):
    check(tmp_path, Config())
    unchanged(tmp_path)
    unchanged(tmp_path, protocol="paper", step="2")  # another step of the search may have a protocol of its own
    record_file.append(tmp_path / "record.jsonl", {"protocol": "paper", "status": "failed", "step": "1"})
    unchanged(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "paper"}, "protocol 'paper'"),
        ({"model": KNOWN | {"kind": "chgnet", "model": "0.3.0"}}, "model = chgnet 0.3.0"),
    ],
)
def test_another_protocol_or_model_in_the_record_stops_a_search_that_was_not_told(tmp_path, change, said, caplog):
    with pytest.raises(ConfigError, match=said) as caught:
        unchanged(tmp_path, **change)
    assert "on_change" in str(caught.value)
    accepting = Config(calculators={"model": CalculatorSettings(kind="toy")}, on_change="accept")
    unchanged(tmp_path, config=accepting, **change)
    assert said in caplog.text


def test_other_weights_of_the_same_kind_are_another_model(tmp_path):
    mine = tmp_path / "mine.model"
    mine.write_text("weights")
    config = Config(calculators={"model": CalculatorSettings(kind="mace", model=str(mine))})
    sha = inventory.find_weights("model", config.settings_of("model")).sha256
    unchanged(tmp_path, model=KNOWN | {"kind": "mace", "weights": "mine.model", "sha256": sha}, config=config)
    mine.write_text("retrained")
    with pytest.raises(ConfigError, match=f"model = mace mine.model {sha[:8]}"):
        unchanged(tmp_path, model=KNOWN | {"kind": "mace", "weights": "mine.model", "sha256": sha}, config=config)


def test_a_protocol_of_the_same_name_that_runs_another_calculator_stops_a_search(tmp_path):
    path = tmp_path / "record.jsonl"
    before = KNOWN | {"kind": "chgnet", "weights": "chgnet_0.3.0.pth.tar", "sha256": "d14ab7c0f093"}
    record_file.append(path, {"protocol": "single", "models": {"chgnet": before}, "step": "1"})
    with pytest.raises(ConfigError, match="results of chgnet = chgnet chgnet_0.3.0.pth.tar d14ab7c0, but protocol"):
        check(tmp_path, Config(calculators={"model": CalculatorSettings(kind="toy")}))


def test_a_model_whose_energies_do_not_count_may_change(tmp_path, caplog):
    plan = make_plan(load_protocol("student"), Intent())
    toy = CalculatorSettings(kind="toy")
    config = Config(calculators={"model": toy, "student": CalculatorSettings(kind="chgnet")})
    path = tmp_path / "record.jsonl"
    record_file.append(path, {"protocol": "student", "models": {"student": KNOWN, "model": KNOWN}, "step": "1"})
    choice.check_unchanged(plan, config, RecordTail(path), "1", LOG)
    assert "student = toy before" in caplog.text
    other = replace(config, calculators={"model": CalculatorSettings(kind="chgnet"), "student": toy})
    with pytest.raises(ConfigError, match="model = toy"):
        choice.check_unchanged(plan, other, RecordTail(path), "1", LOG)
