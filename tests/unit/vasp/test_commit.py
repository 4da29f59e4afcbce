"""All of VASP's files or none, whatever happens while they are written."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from uspex_bridge.base.data import Frame, Intent, Structure, VaspRun
from uspex_bridge.base.errors import BridgeError, CalculationError, OutputError
from uspex_bridge.base.files import OUTPUTS, VASP_OUTPUTS
from uspex_bridge.vasp import commit
from uspex_bridge.vasp.structure import read_poscar

INPUTS = ("POSCAR", "INCAR", "KPOINTS", "POTCAR", "getStuff", "pbc", "symbolsOrder")


def make_run(energy: float = -12.5, atoms: int = 2) -> VaspRun:
    rng = np.random.default_rng(0)
    frame = Frame(np.eye(3) * 4, rng.random((atoms, 3)), energy, rng.normal(size=(atoms, 3)), rng.normal(size=6))
    structure = Structure(("Ca",) + ("Fe",) * (atoms - 1), frame.cell, frame.scaled, "EA1")
    return VaspRun(structure, (frame,) * 3, Intent(nsw=3, pressure_gpa=50.0), True, "toy")


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_all_five_and_nothing_else(tmp_path):
    """Items 3, 14: the inputs stay as they are, no file is named USPEX* or *_old, no temporary file stays."""
    for name in INPUTS:
        (tmp_path / name).write_text(f"mine: {name}")
    commit.clear_outputs(tmp_path)
    commit.publish(tmp_path, make_run())
    assert names(tmp_path) == {*INPUTS, *VASP_OUTPUTS}
    assert all((tmp_path / name).read_text() == f"mine: {name}" for name in INPUTS)


def test_further_files_hold_no_bands_and_say_so(tmp_path):
    from pymatgen.io.vasp.outputs import Eigenval

    run = make_run()
    commit.publish(tmp_path, run, ("EIGENVAL", "DOSCAR"))
    assert names(tmp_path) == {*VASP_OUTPUTS, "EIGENVAL", "DOSCAR"}
    for name in ("EIGENVAL", "DOSCAR"):
        assert (tmp_path / name).read_text().splitlines()[4].strip().startswith("no electrons")
    read = Eigenval(tmp_path / "EIGENVAL")
    assert read.eigenvalue_band_properties[0] == 0.0
    states = (tmp_path / "DOSCAR").read_text().splitlines()
    assert int(states[5].split()[2]) == len(states[6:])
    commit.clear_outputs(tmp_path)
    assert not names(tmp_path)


def test_order_of_removal_and_appearance(tmp_path):
    """Items 2, 14: OSZICAR is the first to go, and the last to come when all others are whole and in place."""
    code = f"""
import sys
def hook(event, args):
    if event == "os.remove":
        print("remove", Path(args[0]).name)
    elif event == "os.rename":
        print("rename", Path(args[1]).name)
    elif event == "open" and args[2] & os.O_CREAT:
        print("write", Path(args[0]).name)
sys.addaudithook(hook)
this.commit.clear_outputs(Path({str(tmp_path)!r}))
this.commit.publish(Path({str(tmp_path)!r}), run)
"""
    events = [line.split() for line in child(code).splitlines()]
    removed = [name for what, name in events if what == "remove"]
    assert removed[0] == "OSZICAR"
    assert {name for name in removed if not name.startswith(".")} == set(OUTPUTS["vasp"])
    made = events[len(removed) :]
    assert [what for what, _ in made] == ["write"] * 5 + ["rename"] * 5
    assert [name for _, name in made[5:]] == ["XDATCAR", "vasprun.xml", "CONTCAR", "OUTCAR", "OSZICAR"]


def test_old_results_are_removed(tmp_path):
    """Item 2: with what a killed run left, and no more."""
    commit.publish(tmp_path, make_run())
    (tmp_path / ".OUTCAR.part").write_text("half")
    (tmp_path / "OUTCAR_old").write_text("USPEX's")
    commit.clear_outputs(tmp_path)
    assert names(tmp_path) == {"OUTCAR_old"}
    commit.clear_outputs(tmp_path)


def test_old_result_that_cannot_be_removed(tmp_path):
    """A folder in the way of a file: an error that names it, and OSZICAR is gone first."""
    commit.publish(tmp_path, make_run())
    (tmp_path / "OUTCAR").unlink()
    (tmp_path / "OUTCAR").mkdir()
    with pytest.raises(OutputError, match=r"OUTCAR: cannot be removed"):
        commit.clear_outputs(tmp_path)
    assert "OSZICAR" not in names(tmp_path)


@pytest.mark.parametrize("name", ["OSZICAR", "CONTCAR", "XDATCAR"])
def test_a_rename_that_fails_takes_everything_back(tmp_path, name):
    """A folder stands where a file must go: no other output stays."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "x").touch()
    with pytest.raises(OutputError, match=f"{name}: cannot be written: .*no result was written") as error:
        commit.publish(tmp_path, make_run())
    assert names(tmp_path) == {name}
    assert error.value.exit_code == 8


#: What a child process starts with: this very file, for make_run.
THIS = f"""
import os, resource
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
spec = spec_from_file_location("this", {__file__!r})
this = module_from_spec(spec)
spec.loader.exec_module(this)
run = this.make_run(atoms=50)
"""


def child(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", THIS + code], capture_output=True, text=True, timeout=120)
    assert not done.stderr
    return done.stdout


def test_full_disk(tmp_path):
    """A file system that takes no more than 1000 bytes a file: the kernel refuses the write itself."""
    code = f"""
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    this.commit.publish(Path({str(tmp_path)!r}), run)
except this.OutputError as error:
    print(error)
"""
    commit.publish(tmp_path, make_run())
    assert re.search(r"XDATCAR: cannot be written: File too large; no result was written", child(code))
    assert names(tmp_path) == set()


def test_no_permission(tmp_path):
    """A folder that may be read but not written, as an ordinary user."""
    folder = tmp_path / "CalcFold1"
    folder.mkdir()
    folder.chmod(0o555)
    code = f"""
os.chdir({str(folder)!r})
if os.geteuid() == 0:
    os.setgroups([])
    os.setuid(65534)
try:
    this.commit.publish(Path("."), run)
except this.OutputError as error:
    print(error)
"""
    said = child(code)
    folder.chmod(0o755)
    assert "XDATCAR: cannot be written: Permission denied; no result was written" in said
    assert names(folder) == set()


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"gone/XDATCAR: cannot be written: No such file"):
        commit.publish(tmp_path / "gone", make_run())
    commit.clear_outputs(tmp_path / "gone")


def test_numbers_that_are_not_finite_leave_nothing(tmp_path):
    """Item 13."""
    with pytest.raises(CalculationError):
        commit.publish(tmp_path, make_run(energy=float("nan")))
    assert names(tmp_path) == set()


def test_contcar_that_does_not_read_back_is_not_published(tmp_path):
    """An element that is none would kill USPEX's reader; the last check finds it."""
    run = make_run()
    odd = replace(run, structure=replace(run.structure, symbols=("Ca", "Qq")))
    with pytest.raises(BridgeError, match="Qq"):
        commit.publish(tmp_path, odd)
    assert names(tmp_path) == set()


def result_in(folder) -> float | None:
    """The energy of the one result that all five files hold, None where OSZICAR does not say that there is one."""
    if "OSZICAR" not in names(folder):
        return None
    energy = float(re.findall(r"TOTEN  = +(\S+)", (folder / "OUTCAR").read_text())[-1])
    last = (folder / "OSZICAR").read_text().splitlines()[-1]
    assert float(last.split()[2]) == pytest.approx(make_run(energy).frames[-1].enthalpy(50.0), abs=1e-6)
    assert len(read_poscar(folder / "CONTCAR")) == -energy
    assert (folder / "vasprun.xml").read_text().endswith("</modeling>\n")
    assert (folder / "XDATCAR").read_text().count("configuration=") == 3
    return energy


def test_killed_before_each_step(tmp_path):
    """Item 14: SIGKILL before any removal, write or rename leaves the old result, none, or the new one; never a mix."""
    code = f"""
import signal, sys
folder, left = Path({str(tmp_path)!r}), [10**9]
def hook(event, args):
    if event in ("open", "os.remove", "os.rename"):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
old, new = this.make_run(energy=-2.0, atoms=2), this.make_run(energy=-3.0, atoms=3)
for steps in range(40):
    this.commit.clear_outputs(folder)
    this.commit.publish(folder, old)
    if not (pid := os.fork()):
        left[0] = steps
        this.commit.clear_outputs(folder)
        this.commit.publish(folder, new)
        os._exit(0)
    killed = os.waitpid(pid, 0)[1] == signal.SIGKILL
    left[0] = 10**9
    print(killed, this.result_in(folder))
"""
    outcomes = child(code).splitlines()
    assert outcomes[0] == "True -2.0"
    assert outcomes[-1] == "False -3.0"
    killed = [outcome for outcome in outcomes[1:] if outcome.startswith("True")]
    assert len(killed) >= 20
    assert set(killed) <= {"True None", "True -3.0"}
    assert killed.count("True None") >= 19
