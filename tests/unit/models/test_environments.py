"""Environments: their pins, making one, what one says of itself, and the settings that name it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.call.config import read_config, set_interpreter
from uspex_bridge.cli import env
from uspex_bridge.models import environments, inventory


def test_every_kind_that_lives_in_an_environment_of_its_own_has_pins():
    """Every version is exact, the card's package among them, and nothing belongs to one machine.

    MatterSim's is newer than the card's, which runs on older Pythons.
    """
    assert set(environments.kinds()) >= {"orb", "nequip", "matgl", "fairchem", "upet", "grace", "nep"}
    for kind in environments.kinds():
        text, pins = environments.pins_file(kind).read_text(), environments.pins(kind)
        package, _, version = inventory.cards()[kind].package.partition("==")
        assert pins[package] == ("1.2.5" if kind == "mattersim" else version)
        assert {"ase", "numpy"} <= pins.keys()
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines)
        assert len(lines) == len(pins)


@pytest.mark.parametrize("kind", ["orb", "nequip", "matgl", "fairchem", "upet", "grace", "nep"])
def test_the_cards_say_how_to_get_them(kind):
    assert inventory.cards()[kind].install == f"uspex-bridge env create {kind}"


def test_a_kind_without_pins():
    with pytest.raises(ConfigError, match="no tested versions for an environment 'orbb'; did you mean 'orb'"):
        environments.environment("orbb")


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """Pins of a package of one module, in place of the toy's; no index is asked."""
    wheels, pins = tmp_path / "wheels", tmp_path / "pins"
    wheels.mkdir()
    pins.mkdir()
    for name in ("tiny", "ase", "numpy"):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "")
            info = f"{name}-1.0.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    (pins / "toy.txt").write_text(f"--no-index\n--find-links {wheels}\nase==1.0\nnumpy==1.0\ntiny==1.0\n")
    monkeypatch.setattr(environments, "PINS", pins)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("USPEX_BRIDGE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return pins / "toy.txt"


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(env.command, arguments)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_create_and_check(tiny, tmp_path, monkeypatch):
    """From nothing to an interpreter that the settings name; a second call does nothing."""
    code, said = run("create", "toy")
    python = tmp_path / "data" / "uspex_bridge" / "environments" / "toy" / "bin" / "python"
    assert code == 0
    assert re.search(r"^toy: toy potential can be imported, Python 3\S+; versions as tested$", said, re.MULTILINE)
    own = tmp_path / "config" / "uspex_bridge" / "bridge.toml"
    assert f"{own}: [calculators.toy] runs there" in said
    assert read_config(own).calculators["toy"].python == str(python)
    subprocess.run([python, "-c", "import tiny"], check=True)
    assert "is there already, from today's pins" in run("create", "toy")[1]
    tiny.write_text(tiny.read_text().replace("tiny==1.0", "tiny==1.1"))
    assert environments.environment("toy").outdated
    code, said = run("check")
    assert code == 0
    assert "1 versions are not those tested:\n    tiny 1.0, tested with 1.1\n" in said
    fails = [sys.executable, "-c", "print('ERROR: No matching distribution'); print('hint'); raise SystemExit(1)"]
    monkeypatch.setattr(environments, "_commands", lambda *_: [fails])
    with pytest.raises(ModelError, match="failed: ERROR: No matching distribution$"):
        run("create", "toy")
    assert not environments.environment("toy").made  # half of one is none


def test_check_of_what_is_not_there(tiny):
    code, said = run("check", "toy")
    assert code == 1
    assert "make it with: uspex-bridge env create toy" in said
    folder = environments.home()
    assert run("check") == (0, f"no environment is made in {folder}; make one with: uspex-bridge env create KIND\n")


def test_list(tiny):
    lines = run("list")[1].splitlines()
    assert max(len(line) for line in lines[:-1]) <= 80
    assert [line for line in lines if re.match(r"orb .* no pins", line)]
    assert not [line for line in lines if line.startswith("toy")]


def test_a_folder_with_something_else(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="is not an environment"):
        run("create", "toy", "--folder", "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_an_interpreter_that_is_too_old(tiny):
    tiny.write_text("# python >= 3.99\n" + tiny.read_text())
    with pytest.raises(ModelError, match=r"needs Python 3\.99 or newer, .* is 3\."):
        run("create", "toy")


def test_what_an_interpreter_says(tiny):
    seen = environments.inspect("toy", sys.executable)
    assert seen.ok
    assert seen.differing["tiny"] == ("1.0", "")
    assert seen.differing["numpy"][0] == "1.0"
    with pytest.raises(ModelError, match="cannot be run"):
        environments.inspect("toy", "/nowhere/python")
    with pytest.raises(ModelError, match="does not answer"):
        environments.inspect("toy", "/bin/false")


def test_a_package_that_cannot_be_imported(tiny, monkeypatch):
    card = inventory.cards()["toy"]
    monkeypatch.setattr(environments, "card_of", lambda *_: card.__class__(**{**vars(card), "module": "no_such_thing"}))
    seen = environments.inspect("toy", sys.executable)
    assert not seen.ok
    assert seen.problem == "ModuleNotFoundError: No module named 'no_such_thing'"


# ------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, '[calculators.orb]\npython = "/e/python"\n'),
        ("# mine\nthreads = 2", '# mine\nthreads = 2\n\n[calculators.orb]\npython = "/e/python"\n'),
        (
            '[calculators.orb]  # fast\nmodel = "m"\n\n[service]\nworkers = 2\n',
            '[calculators.orb]  # fast\npython = "/e/python"\nmodel = "m"\n\n[service]\nworkers = 2\n',
        ),
    ],
)
def test_the_interpreter_is_written_and_all_else_stays(tmp_path, before, after):
    path = tmp_path / "new" / "bridge.toml"
    if before is not None:
        path.parent.mkdir()
        path.write_text(before)
    assert set_interpreter(path, "orb", "/e/python")
    assert path.read_text() == after
    assert set_interpreter(path, "orb", "/e/python")
    assert path.read_text() == after


def test_another_interpreter_is_left(tmp_path):
    path = tmp_path / "bridge.toml"
    path.write_text('[calculators.orb]\npython = "/other"\n')
    assert not set_interpreter(path, "orb", "/e/python")
    assert path.read_text() == '[calculators.orb]\npython = "/other"\n'


def test_a_table_that_is_not_written_as_one(tmp_path):
    path = tmp_path / "bridge.toml"
    path.write_text('calculators.orb.model = "m"\n')
    with pytest.raises(ConfigError, match=r"\[calculators.orb\] is not written as a table of its own"):
        set_interpreter(path, "orb", "/e/python")
    assert path.read_text() == 'calculators.orb.model = "m"\n'
