"""``uspex-bridge doctor`` as a process, with its trial relaxation; and its readers against files that are wrong."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calling import TOY, call, make_folder

from uspex_bridge.base.errors import BridgeError, CalculationError, OutputError
from uspex_bridge.call import reach
from uspex_bridge.doctor import checkup
from uspex_bridge.doctor.trial import _read_back, run_trial
from uspex_bridge.uspex import new_search
from uspex_bridge.uspex.readback import read_as_matlab, read_as_python


def run(*words, cwd, **environment):
    """Call ``uspex-bridge doctor``."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "uspex-bridge"), "doctor", *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def settings(tmp_path):
    """Write a bridge.toml with the toy potential, and return the function that writes another one."""

    def write(text=TOY, protocol="single", folder=tmp_path):
        (folder / "bridge.toml").write_text(f'protocol = "{protocol}"\n{text}')
        return folder

    write()
    return write


def test_sound_installation(tmp_path, settings):
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for section in ("machine", "packages", "models", "settings", "trial"):
        assert f"\n{section}\n" in f"\n{done.stdout}"
    assert " !! " not in done.stdout
    assert done.stdout.splitlines()[-1] == "usable"
    assert len(done.stdout.splitlines()) <= 50
    values = re.search(r"by the MATLAB line as (\S+) eV, by the Python line as (\S+) eV", " ".join(done.stdout.split()))
    assert float(values[1]) == pytest.approx(float(values[2]), abs=2e-6)
    # Nothing of the trial stays, and no record is kept of it.
    assert [path.name for path in tmp_path.iterdir()] == ["bridge.toml"]


def test_what_is_found_as_json(tmp_path, settings):
    (tmp_path / "bridge.toml").write_text('protocol = "single"\nrecord = "mine.jsonl"\n' + TOY)
    done = run("--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["usable"] is True
    assert found["packages"]["ase"] == __import__("ase").__version__
    trial = found["trial"]
    assert (trial["formula"], trial["pressure"], trial["problem"]) == ("Ca2FeNi", 50.0, "")
    assert [stage["outcome"] for stage in trial["stages"]] == ["converged", "converged"]
    assert trial["models"]["model"]["kind"] == "toy"
    assert trial["enthalpy"]["matlab"] == pytest.approx(trial["enthalpy"]["python"], abs=1e-6)
    assert {model["kind"] for model in found["models"]} >= {"mace", "mattersim", "chgnet", "sevennet", "deepmd"}
    assert not (tmp_path / "mine.jsonl").exists()


@pytest.fixture
def search(tmp_path, settings):
    """A sound USPEX set-up of Mg-O at 10 GPa with the toy potential."""
    folder = tmp_path / "search"
    executable = str(Path(sys.executable).parent / "uspex-bridge-vasp")
    wanted = new_search.Search("matlab", ("O", "Mg"), pressure=10.0, command=executable, protocol="single")
    new_search.write(folder, new_search.files(wanted))
    with (folder / "Specific" / "bridge.toml").open("a") as stream:
        stream.write(TOY)
    return folder


def test_sound_set_up_with_its_own_elements_and_pressure(tmp_path, search):
    done = run(search, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert (found["trial"]["formula"], found["trial"]["pressure"]) == ("O2Mg2", 10.0)
    assert found["findings"] == []
    assert "no mistake found" in " ".join(run(search, "--no-trial", cwd=tmp_path).stdout.split())


def test_uspex_26_hands_out_its_trial_by_code_20(tmp_path, settings):
    """The trial has the pressure of the settings, and output.xyz is read back; code 99 alone needs --uspex26."""
    folder = tmp_path / "search26"
    executable = str(Path(sys.executable).parent / "uspex-bridge-external")
    wanted = new_search.Search("uspex26", ("O", "Mg"), pressure=10.0, command=executable, protocol="single", steps=2)
    new_search.write(folder, new_search.files(wanted))
    with (folder / "bridge.toml").open("a") as stream:
        stream.write(TOY)
    found = json.loads(run(folder, "--json", cwd=tmp_path).stdout)
    assert found["usable"] is True
    assert list(found["trial"]["enthalpy"]) == ["code20"]
    assert {finding["severity"] for finding in found["findings"]} == {"note"}
    input_txt = folder / "INPUT.txt"
    input_txt.write_text(input_txt.read_text().replace("20 20\n", "99 99\n").replace("1 : numP", "3 : numP"))
    assert run(folder, "--no-trial", cwd=tmp_path).returncode == 1, "USPEX 10 waits for JOB_IS_FINISHED"
    done = run(folder, "--no-trial", "--uspex26", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "energy.txt holds eV per cell" in " ".join(done.stdout.split())


def test_mistake_in_the_set_up(tmp_path, search):
    incar = search / "Specific" / "INCAR_2"
    incar.write_text(incar.read_text().rstrip())
    (search / "Specific" / "POTCAR_Mg").unlink()
    done = run(search, cwd=tmp_path)
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "!! error: Specific/INCAR_2, line 8: no newline at the end" in text
    assert "!! error: Specific/POTCAR_Mg: missing" in text
    assert "not usable" in text
    assert " ok O2Mg2 at 10 GPa" in text


def test_warning_leaves_it_usable(tmp_path, search):
    incar = search / "Specific" / "INCAR_3"
    incar.write_text(incar.read_text().replace("NSW = 1500", "NSW = 3"))
    done = run(search, "--json", "--no-trial", cwd=tmp_path)
    assert done.returncode == 0
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["severity"], finding["file"], finding["line"]) == ("warning", "Specific/INCAR_3", 5)


def test_wrong_settings(tmp_path, settings):
    settings("thread = 2\n" + TOY)
    done = run(cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean 'threads'" in done.stdout
    assert "\ntrial\n" not in done.stdout


def test_model_that_is_not_there(tmp_path, settings):
    settings('[calculators.model]\nkind = "mace"\nmodel = "nowhere/my.model"\n')
    done = run(cwd=tmp_path)
    assert done.returncode == 1
    assert "nowhere/my.model" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


PLUGIN = """
import os, signal
from ase.calculators.lj import LennardJones

class Bad(LennardJones):
    def calculate(self, *args, **kwargs):
        {what}

def make(request):
    return Bad()
"""


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
        ("raise ValueError('no such weather')", "no such weather"),
    ],
)
def test_model_that_breaks_does_not_take_the_doctor_with_it(tmp_path, settings, what, says):
    (tmp_path / "brokenplugin.py").write_text(PLUGIN.format(what=what))
    settings('[calculators.model]\nkind = "brokenplugin:make"\n')
    done = run(cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout
    text = " ".join(done.stdout.split())
    assert says in text.split("!! Ca2FeNi at 50 GPa: ")[1]
    assert "not usable" in text


def test_real_model(tmp_path):
    """The weights that come with CHGNet, by the default protocol of a machine that has no others."""
    trial = run_trial(("Ca", "Fe", "Ni", "Mg", "O"), 20.0, settings_of(tmp_path, "embedded"))
    assert trial.problem == ""
    assert trial.formula == "CaFeNiMg"
    assert trial.models["chgnet"]["device"]
    assert trial.stages[-1]["outcome"] == "converged"
    assert abs(trial.enthalpy["matlab"] - trial.enthalpy["python"]) < 1e-5


def settings_of(folder, protocol):
    (folder / "bridge.toml").write_text(f'protocol = "{protocol}"\n')
    return folder / "CalcFold1"


def test_a_model_that_does_not_hold_to_the_pressure_is_refused_unless_accepted(tmp_path, search, monkeypatch):
    """CHGNet's calcium goes soft at 24 GPa."""
    found = reach.limits_of(("Ca",), 50.0, settings_of(tmp_path, "embedded"))
    assert {limit["packing"] for limit in found["chgnet"]} == {"fcc", "bcc"}
    assert all(limit["pressure"] < 40 for limit in found["chgnet"])
    assert reach.limits_of(("Ca",), 50.0, search / "CalcFold1") == {}  # the toy's elements are invented

    def items(text):
        settings = next(search.rglob("bridge.toml"))
        settings.write_text(text + settings.read_text())
        report = checkup.Checkup()
        return list(checkup._reach(report, search, search / "CalcFold1", None)), report

    monkeypatch.setattr(reach, "limits_of", lambda *_: found)
    refused, report = items("")
    assert report.reach == found
    assert {item.state for item in refused} == {"bad"}
    assert "chgnet fails the compression test to 10 GPa" in refused[-1].text
    assert 'accept_range = ["chgnet"]' in refused[-1].text
    accepted, _ = items('accept_range = ["chgnet"]\n')
    assert {item.state for item in accepted} == {"note"}
    monkeypatch.setattr(reach, "limits_of", lambda *_: {"chgnet": []})
    (sound,) = items("")[0]
    assert sound.state == "ok"


# --------------------------------------------------------------------------------------------- reading back


@pytest.fixture(scope="module")
def relaxed(tmp_path_factory):
    """A CalcFold with a result of the toy potential at 50 GPa."""
    fold = make_folder(tmp_path_factory.mktemp("relaxed"))
    done = call(fold)
    assert done.returncode == 0, done.stderr
    return fold


@pytest.fixture
def copy(relaxed, tmp_path):
    return Path(shutil.copytree(relaxed, tmp_path / "CalcFold1"))


def change(folder, name, pattern, new):
    path = folder / name
    text, number = re.subn(pattern, new, path.read_text())
    assert number
    path.write_text(text)


def test_both_lines_read_the_same(copy):
    matlab, python = read_as_matlab(copy), read_as_python(copy, 50.0)
    assert matlab.natoms == python.natoms == 4
    assert matlab.enthalpy == pytest.approx(python.enthalpy, abs=1e-6)
    assert matlab.volume == pytest.approx(python.volume, abs=1e-3)
    assert _read_back(copy, 4, 50.0) == {"matlab": matlab.enthalpy, "python": python.enthalpy}


def test_pv_counted_twice_or_never_is_seen(copy):
    with pytest.raises(CalculationError, match="different enthalpies"):
        _read_back(copy, 4, 0.0)


def test_lost_atom_is_seen(copy):
    with pytest.raises(CalculationError, match="5 atoms went in"):
        _read_back(copy, 5, 50.0)


@pytest.mark.parametrize(
    ("name", "pattern", "new", "message"),
    [
        ("OSZICAR", " F= ", " G= ", "no line with F="),
        ("OSZICAR", r"F= \S+", "F= **********", "no number"),
        ("OSZICAR", r"F= \S+", "F= NaN", "no number"),
        ("OSZICAR", r"(?m)^ +(\d+ F=)", r"\1", "no number"),
        ("OSZICAR", r"DAV: +\d+", "DAV:  60", "unconverged"),
        ("OSZICAR", r"DAV: ", "DAV ", "unconverged"),
        ("OUTCAR", r" NELM ", " NALM ", "unconverged"),
        ("OUTCAR", r"ions per type", "ions", "ASE cannot read it"),
    ],
)
def test_file_that_uspex_would_stumble_over(copy, name, pattern, new, message):
    change(copy, name, pattern, new)
    with pytest.raises(OutputError, match=message):
        _read_back(copy, 4, 50.0)


@pytest.mark.parametrize("name", ["OSZICAR", "OUTCAR", "CONTCAR"])
def test_missing_file(copy, name):
    (copy / name).unlink()
    with pytest.raises(BridgeError, match=name):
        _read_back(copy, 4, 50.0)


# ------------------------------------------------------------------------------------- packages and machine


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a function that puts a distribution in front of the installed ones."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(name, version, *requires, module="", text=""):
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        if module:
            (folder / module).mkdir()
            (folder / module / "__init__.py").touch()
            (folder / module / "version.py").write_text(text)

    return install


def said(items):
    return [f"{item.state}: {item.text}" for item in items]


def test_versions_that_fit(site):
    site("e3nn", "0.5.1")
    found = checkup.versions()
    assert found["e3nn"] == "0.5.1"
    assert not [line for line in said(checkup._pins(found)) if line.startswith("bad")]


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("e3nn", "0.5.9", "bad: e3nn 0.5.9 cannot load MACE models"),
        ("e3nn", "0.6.0", "bad: e3nn 0.6.0 cannot load MACE models"),
        ("e3nn", "0.4.4", "note: mattersim and sevenn ask for e3nn 0.5"),
        ("numpy", "1.26.4", "note: mattersim asks for numpy 2"),
        ("ase", "3.22.1", "bad: ase 3.22.1 is too old"),
        ("torch", "2.10.0", "note: deepmd-kit was compiled for torch 2.11.0, here is 2.10.0"),
    ],
)
def test_versions_that_disagree(site, tmp_path, name, version, expected):
    for package in ("mace-torch", "mattersim", "sevenn"):
        site(package, "1.2.3")
    site("deepmd-kit", "1.2.3", module="deepmd")
    compiled = tmp_path / "site" / "deepmd" / "lib" / "run_config.ini"
    compiled.parent.mkdir()
    compiled.write_text("[CONFIG]\nPT_VERSIOn = 2.11.0\n")
    site(name, version)
    assert any(expected in line for line in said(checkup._pins(checkup.versions())))


def test_torchvision_beside_another_torch(site):
    torch, cuda = checkup.built_for("torch")
    site("torchaudio", "2.11.0", f"torch=={torch.split('+')[0]}", module="torchaudio", text=f"cuda = {cuda!r}\n")
    assert not [line for line in said(checkup._pins(checkup.versions())) if "torchaudio" in line]
    site("torchvision", "0.29.2", "torch==2.15.0", module="torchvision", text="__version__ = '0.29.2'\ncuda = '13.0'\n")
    (line,) = [line for line in said(checkup._pins(checkup.versions())) if "torchvision" in line]
    assert line.startswith("bad: torchvision 0.29.2 (CUDA 13.0) does not fit torch")
    assert line.endswith("pip uninstall -y torchvision")


def test_gpu_and_its_memory(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 142000 MiB, 143771 MiB'\necho 'Other, Inc. X1, 1 MiB, 2 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lines = said(checkup._gpus())
    assert lines[:2] == [
        "ok: GPU 0: NVIDIA H200, 142000 MiB of 143771 MiB free",
        "ok: GPU 1: Other, Inc. X1, 1 MiB of 2 MiB free",
    ]
    assert any("CPU build" in line for line in lines) == (checkup.built_for("torch")[1] is None)
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert said(checkup._gpus()) == ["note: no GPU found: models run on the CPU"]


# ---------------------------------------------------------------------------------------------------- models


def test_models_and_where_they_are_looked_for(tmp_path, settings):
    said = json.loads(run("--models", "--json", cwd=tmp_path, USPEX_BRIDGE_MODELS=str(tmp_path / "mine")).stdout)
    listed, kinds = said["models"], {kind["kind"]: kind for kind in said["kinds"]}
    assert kinds["chgnet"]["installed"] == "0.4.2"
    assert kinds["chgnet"]["verified"] == "published"
    assert kinds["orb"]["get"] == "uspex-bridge env create orb"
    assert kinds["orb"]["verified"] == "made"
    mace = next(model for model in listed if model["kind"] == "mace")
    assert mace["path"] is None
    assert mace["get"] == f"uspex-bridge doctor --fetch mace:{mace['model']}"
    assert mace["looked_in"][0] == str(tmp_path / "mine" / "mace")
    assert mace["licence"]
    assert next(model for model in listed if model["kind"] == "chgnet")["path"]
    text = run("--models", cwd=tmp_path).stdout
    assert all(kind["title"] in text for kind in kinds.values())
    assert all(f"{model['kind']}:{model['model']}" in text for model in listed)


def test_fetch(tmp_path, settings):
    weights = tmp_path / "published" / "small.model"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    mine = tmp_path / "mine"
    digest = hashlib.sha256(b"weights").hexdigest()
    wanted = f"mace:{weights.as_uri()}#sha256="
    wrong = run("--fetch", wanted + "0" * 64, cwd=tmp_path, USPEX_BRIDGE_MODELS=str(mine))
    assert wrong.returncode == 5
    assert f"sha256 is {digest}, not 000" in wrong.stderr
    done = run("--fetch", wanted + digest, cwd=tmp_path, USPEX_BRIDGE_MODELS=str(mine))
    assert done.returncode == 0, done.stderr
    assert (mine / "mace" / "small.model").read_bytes() == b"weights"
    assert str(mine / "mace" / "small.model") in done.stdout


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [
        ("mace", 2, "KIND:MODEL"),
        ("moce:small", 4, "mace"),
        ("mace:no-such-model", 5, "neither a URL nor a model"),
        ("mace:file:///nowhere/x.model", 5, "could not fetch"),
        ("mace:http://127.0.0.1:9/x.model", 5, "plain HTTP is not secure"),
        ("chgnet:0.3.0", 5, "nothing to fetch"),
    ],
)
def test_fetch_of_what_is_not_there(tmp_path, wanted, code, says):
    done = run("--fetch", wanted, cwd=tmp_path, USPEX_BRIDGE_MODELS=str(tmp_path))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
