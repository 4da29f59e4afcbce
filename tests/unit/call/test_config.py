import os
from dataclasses import replace
from pathlib import Path

import pytest

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.call.choice import choose_protocol
from uspex_bridge.call.config import Config, find_config, load_config, read_config, search_root


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("USPEX_BRIDGE_CONFIG", raising=False)


def test_defaults_without_a_file(tmp_path):
    config = load_config(tmp_path)
    assert config.protocol == "auto"
    assert config.source == ""


def test_search_order(tmp_path, monkeypatch):
    """Explicit file, variable, folder, parent, Specific, user's directory: the first that exists counts."""
    fold = tmp_path / "CalcFold1"
    (tmp_path / "Specific").mkdir()
    fold.mkdir()
    user = tmp_path / "xdg" / "uspex_bridge"
    user.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    places = [user, tmp_path / "Specific", tmp_path, fold]
    for place in places:
        (place / "bridge.toml").write_text('protocol = "paper"\n')
        assert find_config(fold) == place / "bridge.toml"
    named = tmp_path / "named.toml"
    named.write_text("")
    monkeypatch.setenv("USPEX_BRIDGE_CONFIG", str(named))
    assert find_config(fold) == named
    other = tmp_path / "other.toml"
    other.write_text("")
    assert find_config(fold, other) == other


def test_the_look_upwards_ends_at_the_border_of_what_is_the_user_s(tmp_path, monkeypatch):
    fold = tmp_path / "project" / "work" / "0"
    fold.mkdir(parents=True)
    (tmp_path / "bridge.toml").touch()
    assert find_config(fold) == tmp_path / "bridge.toml"
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    assert find_config(fold) is None, "another user's folder does not steer this user's runs"
    (fold.parent / "bridge.toml").touch()
    assert find_config(fold) == fold.parent / "bridge.toml", "the parent always counts"


def test_the_folder_of_uspex_26_counts_whoever_owns_it(tmp_path, monkeypatch):
    fold = tmp_path / "Calculation" / "Calcfold_1_2"
    fold.mkdir(parents=True)
    (tmp_path / "bridge.toml").touch()
    monkeypatch.setattr("os.getuid", lambda: -1)
    assert find_config(fold) == tmp_path / "bridge.toml"


@pytest.mark.parametrize(
    ("fold", "settings", "root"),
    [
        ("search/CalcFold3", "search/Specific/bridge.toml", "search"),
        ("search/CalcFold3", "bridge.toml", "search"),
        ("search/CalcFold12_bridge1", None, "search"),
        ("search/Calculation/Calcfold_1_2", "bridge.toml", "search"),
        ("cryspy/work/0", "cryspy/bridge.toml", "cryspy"),
        ("cryspy/work/0", "cryspy/calc_in/bridge.toml", "cryspy/calc_in"),
        ("run", "run/bridge.toml", "run"),
        ("run", None, "run"),
        ("run", "xdg/uspex_bridge/bridge.toml", "run"),
    ],
)
def test_the_root_of_a_search(tmp_path, monkeypatch, fold, settings, root):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / fold
    folder.mkdir(parents=True)
    if settings:
        (tmp_path / settings).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / settings).touch()
        if "calc_in" in settings:
            monkeypatch.setenv("USPEX_BRIDGE_CONFIG", str(tmp_path / settings))
    assert search_root(folder, load_config(folder)) == tmp_path / root


def test_named_file_must_exist(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="--config"):
        find_config(tmp_path, tmp_path / "no.toml")
    monkeypatch.setenv("USPEX_BRIDGE_CONFIG", str(tmp_path / "no.toml"))
    with pytest.raises(ConfigError, match="USPEX_BRIDGE_CONFIG"):
        find_config(tmp_path)


def test_settings_with_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "bridge.toml").write_text("threads = 3\n", encoding="utf-8-sig")
    assert load_config(tmp_path).threads == 3


@pytest.mark.parametrize("kind", ["link to nothing", "folder", "pipe"])
def test_settings_that_are_there_and_cannot_be_read_are_not_passed_over(tmp_path, kind):
    """Others, or the defaults, would be another model."""
    path = tmp_path / "bridge.toml"
    {"link to nothing": lambda p: p.symlink_to("gone.toml"), "folder": Path.mkdir, "pipe": os.mkfifo}[kind](path)
    with pytest.raises(ConfigError, match=f"{path}: is a "):
        find_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('protocl = "paper"', "did you mean 'protocol'"),
        ("[calculators.mace]\nmodl = 'x'", "did you mean 'model'"),
        ("calculators = 3", "[calculators.NAME]"),
        ("[external]\nenergy = 'free'", "'enthalpy'"),
        ("threads = 0", "at least 1"),
        ("threads = 1.5", "is not a whole number"),
        ("threads = true", "is not a whole number"),
        ("on_reject = 'ignore'", "'fail'"),
        ("penalty = 1e9", "between 0 and 500"),
        ("time_limit = -5", "positive"),
        ("base = 'x'", "unknown key 'base'"),
    ],
)
def test_wrong_settings_are_refused_with_a_hint(tmp_path, text, hint):
    path = tmp_path / "bridge.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r".") as caught:
        read_config(path)
    assert hint in str(caught.value)


def test_calculators_and_relative_models(tmp_path):
    (tmp_path / "weights.model").write_text("x")
    path = tmp_path / "bridge.toml"
    path.write_text(
        'device = "cpu"\ntime_limit = 60\n[calculators.mace]\nmodel = "weights.model"\n'
        '[calculators.other]\nkind = "mace"\nmodel = "medium-mpa-0"\ndevice = "cuda"\n'
        "[calculators.other.options]\nx = 1\n"
    )
    config = read_config(path)
    assert config.time_limit == 60.0
    assert config.settings_of("mace").model == str(tmp_path / "weights.model")
    assert config.settings_of("mace").device == "cpu"
    assert config.settings_of("other").model == "medium-mpa-0"
    assert config.settings_of("other").device == "cuda"
    assert config.settings_of("other").options == {"x": 1}
    assert Config().settings_of("chgnet").device == "auto"


def test_a_wrong_protocol_is_told_with_the_file_that_names_it(tmp_path):
    (tmp_path / "bridge.toml").write_text('protocol = "fats"\n')
    config = load_config(tmp_path)
    with pytest.raises(ConfigError, match=r"bridge\.toml: unknown protocol 'fats'; did you mean 'fast'"):
        choose_protocol(config)
    with pytest.raises(ConfigError, match="^unknown protocol 'papre'"):
        choose_protocol(replace(config, protocol="papre"))
