"""What is looked at before a loop starts: everything that is missing at once, and nothing that is there."""

import ase.io
import learning
import pytest
from click.testing import CliRunner

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.cli.main import command
from uspex_bridge.learn.cycle.checks import check
from uspex_bridge.learn.cycle.loop import JOURNAL, Loop

SOUND = """
[search]
places = ["search.extxyz"]
[models.sea]
trainer = "deepmd-sea"
settings = "sea.toml"
[models.mace]
trainer = "mace"
start = "old.model"
later = "current"
[label]
code = "model"
model = "chgnet"
how = "run"
"""


@pytest.fixture
def loop(tmp_path):
    ase.io.write(tmp_path / "search.extxyz", learning.label(learning.structures(2, seed=1)))
    (tmp_path / "cycle.toml").write_text(SOUND)
    (tmp_path / "sea.toml").write_text(learning.SEA)
    (tmp_path / "old.model").write_bytes(b"weights")
    return tmp_path


def change(loop, old, new):
    text = (loop / "cycle.toml").read_text()
    assert old in text
    (loop / "cycle.toml").write_text(text.replace(old, new))


def missing(loop, *, promoted=False) -> str:
    with pytest.raises(ConfigError) as caught:
        check(loop, Loop(loop).settings, promoted=promoted)
    return str(caught.value)


def test_a_loop_that_has_everything_may_start(loop, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    result = CliRunner().invoke(command, ["cycle", "run", str(loop), "--dry-run"])
    assert (result.exit_code, result.exception) == (0, None)
    assert "cycle 0: uspex-bridge select search.extxyz" in result.output


def test_all_that_is_missing_is_named_before_anything_starts(loop):
    (loop / "sea.toml").unlink()
    (loop / "old.model").unlink()
    (loop / "bridge.toml").write_text('[calculators.deepmd]\npython = "/nowhere/bin/python"\n')
    change(loop, '"search.extxyz"', '"search.extxyz", "results1"')
    change(loop, 'later = "current"', 'replay = "mp.xyz"')
    change(loop, '"chgnet"', '"chgnot"')
    for words in (["cycle", "run", str(loop)], ["cycle", "run", str(loop), "--dry-run"]):
        result = CliRunner().invoke(command, words)
        assert result.exception.exit_code == 4
        said = str(result.exception).splitlines()
        places, sea, sea_settings, mace, replay, model = said[1:]
        assert "[search] places: there is no results1" in places
        assert "[models.sea] trainer: python = '/nowhere/bin/python': no such interpreter" in sea
        assert "[models.sea] settings: sea.toml: cannot be read" in sea_settings
        assert "[models.mace] start: mace: 'old.model'" in mace
        assert "[models.mace] replay: there is no file mp.xyz" in replay
        assert "[label] model:" in model
    assert not (loop / JOURNAL).exists()
    assert "cycle 0: uspex-bridge select" in result.output


def test_a_checkpoint_that_is_not_needed_any_more_may_be_gone(loop):
    (loop / "old.model").unlink()
    assert "[models.mace] start" in missing(loop)
    check(loop, Loop(loop).settings, promoted=True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"mace"\nstart = "old.model"', '"mattersim"', "[models.mace] start: MatterSim trains from a checkpoint only"),
        ('"deepmd-sea"', '"deepmd-sae"', "did you mean 'deepmd-sea'"),
        ('"sea.toml"', '"sea.toml"\nreplay = "search.extxyz"', "[models.sea] replay: is an option of MACE"),
        ("[label]", "[seeds]\ncount = 5\ninto = 'next'\n[label]", "[seeds] into: "),
        ('"search.extxyz"', '"."', "[search] places: .: neither a results folder"),
    ],
)
def test_one_thing_wrong(loop, old, new, words):
    change(loop, old, new)
    said = missing(loop).splitlines()
    assert len(said) == 2
    assert words in said[1]


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("sbotch slurm-1.sh", False),
        ("N=2 sbotch slurm-1.sh", False),
        ("N=2 sh slurm-1.sh; echo", True),
        ("cd . && sh slurm-1.sh", True),
        ("(sh slurm-1.sh)", True),
        ("for i in 1 2; do sh slurm-1.sh; done", True),
        ("../../submit", True),
        ("../submit", False),
        ("./slurm-1.sh", True),
        ("sh 'slurm-1.sh", False),
    ],
)
def test_the_program_of_a_command(loop, line, good):
    (loop / "submit").touch(mode=0o755)
    change(loop, 'how = "run"', f'how = "submit"\ncommand = "{line}"')
    change(loop, 'code = "model"\nmodel = "chgnet"', 'code = "gpaw"')
    if good:
        check(loop, Loop(loop).settings, promoted=False)
    else:
        assert "[label] command: " in missing(loop)


def test_potcars(loop, monkeypatch):
    from pymatgen.core import SETTINGS

    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)
    change(loop, 'code = "model"\nmodel = "chgnet"\nhow = "run"', 'code = "vasp"\nhow = "submit"\ncommand = "true"')
    assert "[label] potcars: no POTCAR library is named" in missing(loop)
    change(loop, '"true"', '"true"\npotcars = "potpaw"')
    assert "there is no folder potpaw" in missing(loop)
    (loop / "potpaw").mkdir()
    check(loop, Loop(loop).settings, promoted=False)
    change(loop, 'how = "submit"\ncommand = "true"\npotcars = "potpaw"', "")
    check(loop, Loop(loop).settings, promoted=False)


def test_the_python_for_gpaw(loop):
    change(loop, 'code = "model"\nmodel = "chgnet"', 'code = "gpaw"\ncommand = "sh -c true ../run_gpaw.py"')
    check(loop, Loop(loop).settings, promoted=False)
    change(loop, "sh -c true ../run_gpaw.py", "python ../run_gpaw.py")
    assert "No module named 'gpaw'" in missing(loop)
