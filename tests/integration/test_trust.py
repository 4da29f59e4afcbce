"""What a call of the executable must not do in silence."""

import os
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from calling import INCAR, OUTPUTS, POSCAR, TOY, call, leave_stale_outputs, make_folder, record
from crystals import known

from uspex_bridge import relax

FLAT = POSCAR.replace("4.100000", "0.100000")
#: With it the toy potential has a hole: pressed together its atoms fall into each other.
HOLE = TOY + "[calculators.model.options]\nhole = true\n"


def leaves_nothing(fold, done, code):
    assert done.returncode == code, done.stderr
    assert not [name for name in OUTPUTS if (fold / name).exists()]
    assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1


@pytest.mark.parametrize("on_reject", ["penalty", "fail"])
def test_a_penalty_stays_one_in_the_steps_that_follow(tmp_path, on_reject):
    """USPEX takes the geometry of the first step to the second and third; relaxed, it would be an ordinary crystal."""
    fold = make_folder(tmp_path, poscar=FLAT)
    assert call(fold, "--on-reject", "penalty").returncode == 0
    first = (fold / "CONTCAR").read_text()
    lines = first.splitlines()
    digits = [" ".join(f"{float(word):.6f}" for word in line.split()) for line in (*lines[2:5], *lines[-4:])]
    reordered = "\n".join(["EA0", "1.0", *digits[:3], lines[6], "Direct", *digits[:2:-1]])
    for text in (first, reordered + "\n"):
        (fold / "POSCAR").write_text(text)
        done = call(fold, "--on-reject", on_reject)
        entry = record(fold)[-1]
        assert entry["code"] == "penalty"
        if on_reject == "fail":
            leaves_nothing(fold, done, 6)
        else:
            assert entry["status"] == "penalty"
            assert entry["enthalpy"] == pytest.approx(400.0, abs=1e-4)
            assert (fold / "CONTCAR").read_text().splitlines()[2:] == first.splitlines()[2:]


def test_a_penalty_that_uspex_has_moved_stays_one(tmp_path):
    """Before all steps but the first and the last two USPEX moves lattice vectors by 0.25 Å and atoms by 0.05 Å."""
    fold = make_folder(tmp_path, poscar=FLAT)
    assert call(fold, "--on-reject", "penalty").returncode == 0
    penalty = ase.io.read(fold / "CONTCAR")
    rng = np.random.default_rng(1)
    for _ in range(3):
        moved = penalty.copy()
        moved.set_cell(moved.cell.array + rng.uniform(-0.25, 0.25, (3, 3)), scale_atoms=True)
        moved.positions += rng.uniform(-0.05, 0.05, (len(moved), 3))
        moved.wrap()
        ase.io.write(fold / "POSCAR", moved, format="vasp", direct=True)
        assert call(fold, "--on-reject", "penalty").returncode == 0
        assert record(fold)[-1]["code"] == "penalty"
        assert record(fold)[-1]["status"] == "penalty"
        assert ase.io.read(fold / "CONTCAR").cell.array == pytest.approx(penalty.cell.array)
    (tmp_path / "bridge.record").unlink()  # nothing says that it follows a penalty: it may be a crystal
    call(fold, "--on-reject", "penalty")
    assert record(fold)[-1].get("code") != "penalty"


@pytest.mark.parametrize(("name", "code"), [("INCAR", 3), ("POSCAR", 3), ("POTCAR", 3), ("bridge.toml", 4)])
def test_a_pipe_in_place_of_a_file_ends_a_call_at_once(tmp_path, name, code):
    fold = make_folder(tmp_path)
    path = fold / name if (fold / name).exists() else tmp_path / name
    path.unlink()
    os.mkfifo(path)
    leave_stale_outputs(fold)
    leaves_nothing(fold, call(fold, "--server", "off"), code)


def test_pipes_that_a_call_does_not_need_do_not_stop_it(tmp_path):
    fold = make_folder(tmp_path)
    for path in (fold / "STOPCAR", tmp_path / "bridge.record"):
        os.mkfifo(path)
    done = call(fold, "--server", "off")
    assert done.returncode == 0, done.stderr
    assert (fold / "OSZICAR").exists()


def test_another_model_in_the_middle_of_a_search_is_said_and_not_taken(tmp_path):
    fold = make_folder(tmp_path)
    assert call(fold).returncode == 0
    settings = tmp_path / "bridge.toml"
    settings.write_text(settings.read_text().replace('kind = "toy"', 'kind = "chgnet"'))
    leave_stale_outputs(fold)
    done = call(fold)
    leaves_nothing(fold, done, 4)
    assert "holds results of model = toy" in done.stderr
    settings.write_text('on_change = "accept"\n' + settings.read_text())
    assert call(fold).returncode == 0
    assert [entry["models"]["model"]["kind"] for entry in record(fold)] == ["toy", "chgnet"]


def test_a_configured_model_that_is_gone_ends_with_the_path(tmp_path):
    fold = make_folder(tmp_path, settings=None)
    (tmp_path / "bridge.toml").write_text('[calculators.mace]\nmodel = "weights/mine.model"\n')
    done = call(fold)
    leaves_nothing(fold, done, 5)
    assert f"there is no file {tmp_path}/weights/mine.model" in done.stderr


def test_a_calcfold_that_is_a_link_finds_the_settings_of_its_search(tmp_path):
    """Its real place, on a scratch disk, has no settings, and defaults would be another model."""
    scratch = make_folder(tmp_path / "scratch", settings=None, name="run7")
    search = tmp_path / "search"
    search.mkdir()
    (search / "bridge.toml").write_text('protocol = "single"\n' + TOY)
    (search / "CalcFold1").symlink_to(scratch)
    bridge = f"{sys.prefix}/bin/uspex-bridge-vasp"
    for words in (["sh", "-c", f"cd {search}/CalcFold1 && exec {bridge}"], [bridge, f"{search}/CalcFold1"]):
        done = subprocess.run(words, cwd=search, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    assert [entry["models"]["model"]["kind"] for entry in record(search / "CalcFold1")] == ["toy", "toy"]
    assert not list((tmp_path / "scratch").glob("bridge.*"))


def test_an_evaluation_that_hangs_leaves_a_line_in_record_and_log(tmp_path):
    fold = make_folder(tmp_path, settings=TOY + "[calculators.model.options]\nsleep = 100\n")
    code = "from uspex_bridge.base import halt; from uspex_bridge.cli.vasp import main; halt.GRACE = 0.5; "
    code += "main(['--time-limit', '12'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=fold, capture_output=True, text=True, timeout=90, check=False
    )
    leaves_nothing(fold, done, 10)
    assert "exceeds the time limit" in done.stderr
    assert "exceeds the time limit" in (fold / "bridge.log").read_text()
    (entry,) = record(fold)
    assert (entry["status"], entry["exit"], entry["lasting"]) == ("failed", 10, False)


def test_a_hole_is_refused_with_its_geometry_in_the_record(tmp_path):
    """Eight atoms of silicon, the kind of result that once won a search: CHGNet at 150 GPa."""
    cell = "\n".join(" ".join(f"{x:.6f}" for x in row) for row in np.eye(3) * 3.3)
    sites = "0.02 0.01 0.0\n0.5 0.49 0.03\n0.48 0.02 0.52\n0.01 0.5 0.49\n"
    poscar = f"EA0\n1.0\n{cell}\n4\nDirect\n{sites}"
    fold = make_folder(tmp_path, poscar=poscar, symbols=("Ca",), settings=None, incar=INCAR.replace("=500", "=600"))
    (tmp_path / "bridge.toml").write_text('protocol = "embedded"\n')
    done = call(fold)
    leaves_nothing(fold, done, 6)
    (entry,) = record(fold)
    assert (entry["status"], entry["code"]) == ("rejected", "hole")
    assert "of what its elements need" in entry["reason"]
    assert "enthalpy" not in entry
    assert entry["volume"] / 4 < 13
    assert len(entry["output"]["forces"]) == 4
    assert np.isfinite(entry["energy"])


def test_two_inputs_of_one_name_leave_two_results(tmp_path):
    """Folder and trajectory of each; with --resume those of the run before stay too."""
    for place, edge in (("a", 3.5), ("b", 3.9), ("c", 4.3)):
        (tmp_path / place).mkdir()
        sites = "0 0 0\n0.48 0.5 0.02\n"
        (tmp_path / place / "POSCAR").write_text(
            f"EA7\n1.0\n{edge} 0 0\n0 {edge} 0\n0 0 {edge}\nFe Ni\n1 1\nDirect\n{sites}"
        )
    command = [
        f"{sys.prefix}/bin/uspex-bridge",
        "relax",
        "--nsw",
        "3",
        "--model",
        "toy",
        "--vasp-files",
        "--trajectory",
    ]
    command += ["-o", "out"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True, "timeout": 240}
    subprocess.run([*command, "a/POSCAR", "b/POSCAR", "a/POSCAR"], **options)
    assert sorted(path.name for path in (tmp_path / "out").glob("*/")) == ["001-EA7", "001-EA7-2", "001-EA7-3"]
    assert len(list((tmp_path / "out").glob("*.trajectory.extxyz"))) == 3
    subprocess.run([*command, "--resume", "b/POSCAR", "c/POSCAR"], **options)
    assert sorted(path.name for path in (tmp_path / "out").glob("*/"))[3:] == ["001-EA7-4"]
    volumes = {(folder / "CONTCAR").read_text() for folder in (tmp_path / "out").glob("*/")}
    assert len(volumes) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fmax", "nan"], "not a finite number"),
        (["--fmax", "inf"], "not a finite number"),
        (["--symprec", "nan"], "not a finite number"),
        (["--time-limit", "nan"], "not a finite number"),
        (["--pressure", "nan"], "pressures nan"),
        (["--pressure", "0,inf"], "pressures 0,inf"),
    ],
)
def test_no_option_takes_nan_for_a_number(tmp_path, words, said):
    (tmp_path / "POSCAR").write_text(POSCAR)
    command = [f"{sys.prefix}/bin/uspex-bridge", "relax", "POSCAR", "--model", "toy", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (2, 4)
    assert said in done.stderr
    assert not (tmp_path / "relaxed").exists()


@pytest.mark.parametrize("limit", ["-v 300000", "-d 110000"])
def test_memory_that_ran_out_is_no_bug_to_report(tmp_path, limit):
    """Under a limit that Python just starts in; whichever import fails or hangs, and however that says so."""
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    limited = f"ulimit {limit}; exec {sys.prefix}/bin/uspex-bridge-vasp"
    done = subprocess.run(["bash", "-c", limited], cwd=fold, capture_output=True, text=True, timeout=60, check=False)
    leaves_nothing(fold, done, 7)
    assert "not enough memory" in done.stderr


def test_weights_that_need_a_module_that_is_not_there_say_which(tmp_path):
    """What was saved by a fork of a package names the fork's module; the package itself imports well."""
    save = "import sys, types, torch\nmodule = sys.modules['mace_old'] = types.ModuleType('mace_old')\n"
    save += "class Model: pass\nModel.__module__ = 'mace_old'\nmodule.Model = Model\ntorch.save(Model(), 'old.model')\n"
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True, timeout=120)
    fold = make_folder(tmp_path, settings='[calculators.model]\nkind = "mace"\nmodel = "old.model"\n')
    done = call(fold)
    leaves_nothing(fold, done, 5)
    assert "old.model: the weights need the Python module 'mace_old', which is not installed" in done.stderr


def test_a_crystal_that_is_a_minimum_keeps_its_symmetry_with_a_real_model(tmp_path):
    """Bi2Te3 is R-3m: what the probe of its saddle point costs is no symmetry."""
    (crystal,) = [one for one in known() if one.name == "Bi2Te3"]
    result = relax(crystal.atoms, protocol="embedded")
    assert result.ok
    assert result.fields["flags"] == []
    assert result.before == result.after == "R-3m (166)"
