"""A search of USPEX 26: what ``init`` writes, and what the checks of a set-up find in it."""

import pytest
from click.testing import CliRunner

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.call.config import load_config
from uspex_bridge.cli.init import command as init
from uspex_bridge.uspex import new_search
from uspex_bridge.uspex.checks import check_setup
from uspex_bridge.uspex.inputs import InputTxt
from uspex_bridge.uspex.setup import read_matlab
from uspex_bridge.vasp.incar import intent_from_incar

PROTOCOL = '[[stage]]\nname = "only"\ncalculator = "toy"\nfmax = 0.1\n'


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that writes a search with a toy protocol, out of reach of this user's settings."""
    for variable in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.delenv("USPEX_BRIDGE_CONFIG", raising=False)
    executable = tmp_path / "bin" / "uspex-bridge-external"
    executable.parent.mkdir()
    executable.touch(mode=0o755)
    (tmp_path / "toy.toml").write_text(PROTOCOL)

    def write(**fields):
        defaults = {"elements": ("Ca", "Ni"), "pressure": 50.0, "protocol": str(tmp_path / "toy.toml")}
        wanted = new_search.Search("uspex26", **{**defaults, "command": str(executable), **fields})
        new_search.write(tmp_path / "search", new_search.files(wanted))
        return tmp_path / "search"

    return write


def replace(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def findings(folder, *severities, **known):
    return [f for f in check_setup(folder, **known) if f.severity in (severities or ("error", "warning"))]


def test_what_init_writes(make, tmp_path):
    folder = make(steps=3, population=30, parallel=4, atoms=(4, 16))
    assert sorted(path.name for path in folder.iterdir()) == ["INPUT.txt", "bridge.toml"], "Specific is not kept"
    text = InputTxt.read(folder / "INPUT.txt")
    assert [row.text for row in text.block("abinitioCode", "ENDabinit")] == ["20 20 20"]
    expected = {"ExternalPressure": "50.0", "populationSize": "30", "numParallelCalcs": "4", "whichCluster": "0"}
    assert {key: text.keyword(key).text for key in expected} == expected
    (command,) = (row.text for row in text.block("commandExecutable", "EndExecutable"))
    assert command == f"{tmp_path}/bin/uspex-bridge-external > bridge.out 2>&1"
    external = load_config(folder / "Calculation" / "Calcfold_3_1").external
    assert (external.pressure, external.energy, external.code) == (50.0, "enthalpy", "auto")
    asked = [intent_from_incar(tags, "tags") for tags in external.tags]
    assert [intent.isif for intent in asked] == [4, 3, 2]
    assert [intent.static for intent in asked] == [False, False, True]
    assert not any(intent.notes or intent.ignored for intent in asked)


@pytest.mark.parametrize("counts", [None, (4, 8)])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_what_init_writes_is_sound(make, steps, counts):
    folder = make(steps=steps, counts=counts)
    assert read_matlab(folder / "INPUT.txt").line == "uspex26"
    assert findings(folder) == []
    notes = " ".join(f"{f.message} {f.remedy}" for f in findings(folder, "note"))
    assert "USPEX gets H = E + PV; no public text says which of the two it expects under pressure" in notes
    assert 'energy = "energy"' in notes
    assert "exit code 6" in notes


def test_nothing_is_left_open_at_no_pressure_with_penalties(make):
    folder = make(pressure=0.0)
    replace(folder, "bridge.toml", 'on_reject = "fail"', 'on_reject = "penalty"')
    assert check_setup(folder) == []


def only(folder, severity, phrase, **known):
    (finding,) = findings(folder, **known)
    assert finding.severity == severity
    assert phrase in f"{finding.message}; {finding.remedy}"


def test_a_pressure_that_nobody_tells_the_bridge(make):
    folder = make()
    replace(folder, "bridge.toml", "pressure = 50.0\n", "")
    only(folder, "error", "pressure = 50 in [external]")


def test_another_pressure(make):
    folder = make()
    replace(folder, "INPUT.txt", "50.0 : Ext", "20 : Ext")
    only(folder, "error", "pressure = 50 GPa in [external], but ExternalPressure is 20 GPa")


def test_tags_that_are_no_relaxation(make):
    folder = make(steps=1)
    replace(folder, "bridge.toml", "IBRION = 2", "IBRION = 0")
    only(folder, "error", "tags of step 1, line 1: IBRION = 0: molecular dynamics")


def test_fewer_tags_than_steps_are_said(make):
    folder = make(steps=2)
    replace(folder, "INPUT.txt", "20 20", "20 20 20 20")
    assert findings(folder) == []
    assert any("tags for 2 of 4 steps" in f.message for f in findings(folder, "note"))


def test_settings_in_specific(make):
    folder = make()
    (folder / "Specific").mkdir()
    (folder / "bridge.toml").rename(folder / "Specific" / "bridge.toml")
    only(folder, "warning", "put bridge.toml beside INPUT.txt")


def test_molecules_need_code_20(make):
    folder = make(counts=(2, 4), steps=1)
    for number in (1, 2):
        (folder / f"MOL_{number}").touch()
    replace(folder, "INPUT.txt", "300 :", "310 :")
    assert findings(folder) == []
    replace(folder, "INPUT.txt", "% abinitioCode\n20", "% abinitioCode\n99")
    only(folder, "error", "abinitioCode 20 keeps their order", of_26=True)


def test_code_99_is_usable_too_and_its_layout_is_named(make):
    folder = make(steps=1)
    replace(folder, "INPUT.txt", "% abinitioCode\n20", "% abinitioCode\n99")
    assert read_matlab(folder / "INPUT.txt").line == "matlab", "USPEX 10.6 has this code too"
    (folder / "Calculation").mkdir()
    assert read_matlab(folder / "INPUT.txt").line == "uspex26"
    assert findings(folder) == []
    assert any("energy.txt holds eV per cell" in f.message for f in findings(folder, "note"))


def test_the_wrong_executable(make):
    folder = make(steps=1)
    (folder.parent / "bin" / "uspex-bridge-vasp").touch(mode=0o755)
    replace(folder, "INPUT.txt", "uspex-bridge-external", "uspex-bridge-vasp")
    only(folder, "error", "it needs abinitioCode 1")


def test_paths_are_seen_from_two_folders_down(make):
    folder = make(steps=1, parallel=3)
    (folder / "run.sh").write_text("uspex-bridge-external\n")
    command = next(row.text for row in InputTxt.read(folder / "INPUT.txt").block("commandExecutable", "EndExecutable"))
    replace(folder, "INPUT.txt", command, "bash ../../run.sh")
    assert findings(folder) == []
    replace(folder, "INPUT.txt", "../../run.sh", "../run.sh")
    assert any("'../run.sh' is not found" in f.message for f in findings(folder, "error"))


def test_a_command_that_returns_at_once(make):
    folder = make(steps=1, parallel=3)
    replace(folder, "INPUT.txt", "bridge.out 2>&1", "bridge.out 2>&1 &")
    only(folder, "error", "goes to the background")


class TestCryspy:
    def write(self, folder, *more):
        words = ["cryspy", folder, "--composition", "Mg2O2", "--pressure", "12.5", *more]
        return CliRunner().invoke(init, list(map(str, words)), catch_exceptions=False)

    def test_what_it_reads(self, tmp_path):
        import configparser

        assert (
            self.write(tmp_path, "--steps", 2, "--population", 7, "--command", "/opt/b/uspex-bridge-vasp").exit_code
            == 0
        )
        asked = configparser.ConfigParser()
        asked.read(tmp_path / "cryspy.in")
        assert dict(asked["basic"]) == {
            "algo": "RS",
            "calc_code": "VASP",
            "tot_struc": "7",
            "nstage": "2",
            "njob": "1",
            "jobcmd": "bash",
            "jobfile": "job_cryspy",
        }
        assert (asked["structure"]["atype"], asked["structure"]["nat"]) == ("Mg O", "2 2")
        assert len(asked["VASP"]["kppvol"].split()) == 2
        for stage in (1, 2):
            intent = intent_from_incar((tmp_path / "calc_in" / f"INCAR_{stage}").read_text(), "INCAR")
            assert intent.pressure_gpa == pytest.approx(12.5)
        assert intent.isif == 3
        assert "/opt/b/uspex-bridge-vasp > bridge.out 2>&1 || sed" in (tmp_path / "calc_in" / "job_cryspy").read_text()

    def test_its_folders_find_the_settings_and_share_one_record(self, tmp_path):
        from uspex_bridge.call.config import search_root

        self.write(tmp_path)
        work = tmp_path / "work" / "3"
        work.mkdir(parents=True)
        config = load_config(work)
        assert config.source == str(tmp_path / "bridge.toml")
        assert search_root(work, config) == tmp_path

    def test_a_composition_that_varies(self, tmp_path):
        with pytest.raises(ConfigError, match="give --composition"):
            new_search.files(new_search.Search("cryspy", ("Mg", "O")))

    @pytest.mark.parametrize("line", ["cryspy", "uspex26"])
    def test_no_scheduler(self, line):
        with pytest.raises(ConfigError, match="leave --scheduler out"):
            new_search.Search(line, ("Mg", "O"), counts=(1, 1), scheduler="slurm")
