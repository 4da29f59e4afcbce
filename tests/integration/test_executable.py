"""uspex-bridge-vasp as a process: what it leaves, what it says, how it ends; on the toy potential, so in seconds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calling import INCAR, OUTPUTS, POSCAR, SLOW, TOY, call, leave_stale_outputs, make_folder, potcar, record
from filelock import FileLock


def has_result(fold: Path) -> bool:
    oszicar = fold / "OSZICAR"
    return oszicar.exists() and " F= " in oszicar.read_text()


def assert_clean_failure(fold: Path, done, code: int, *words: str) -> None:
    """One line on stderr that says it, the same in bridge.log, the documented code, and no result old or new."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("uspex-bridge:")]
    assert lines
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[-1]
    if fold.exists() and os.access(fold / "bridge.log", os.R_OK):
        assert lines[-1].removeprefix("uspex-bridge: ") in (fold / "bridge.log").read_text()
    assert not [name for name in OUTPUTS if (fold / name).exists()]
    assert not list(fold.glob(".*.part"))


def test_a_result(tmp_path):
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    before = {p.name: p.read_text() for p in fold.iterdir() if p.name in ("POSCAR", "INCAR", "POTCAR", "KPOINTS")}
    done = call(fold)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "CaFe2Ni: converged, H = " in done.stdout
    assert has_result(fold)
    for name in OUTPUTS:
        assert "stale" not in (fold / name).read_text()
    for name, text in before.items():
        assert (fold / name).read_text() == text
    assert not [p.name for p in fold.iterdir() if p.name.startswith("USPEX") or p.name.endswith("_old")]
    (entry,) = record(fold)
    assert entry["status"] == "converged"
    assert entry["slot"] == "CalcFold1"
    assert entry["models"]["model"]["kind"] == "toy"
    assert [s["name"] for s in entry["stages"]] == ["robust", "accurate"]


def test_every_argument_is_optional_and_folder_may_be_named(tmp_path):
    fold = make_folder(tmp_path)
    done = call(tmp_path, "CalcFold1", "--time-limit", "100", "--threads", "1", "--stages", "2", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert [s["name"] for s in record(fold)[0]["stages"]] == ["accurate"]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"poscar": None}, 3, ["POSCAR"]),
        ({"poscar": ""}, 3, ["POSCAR", "empty"]),
        ({"poscar": POSCAR.replace("0.520000", "0.52x0")}, 3, ["POSCAR", "line 9"]),
        ({"poscar": POSCAR.replace("0.520000", "nan")}, 3, ["POSCAR", "line 9"]),
        ({"poscar": "\n".join(POSCAR.splitlines()[:9])}, 3, ["POSCAR", "positions"]),
        ({"poscar": POSCAR.replace("0.050000     0.000000     4.100000", "8.400000 0.2 0.0")}, 3, ["POSCAR", "volume"]),
        ({"poscar": POSCAR.replace("   1    2    1", "   1    2")}, 3, ["POTCAR", "3"]),
        ({"poscar": POSCAR.replace("1.0000\n", "20.0\n", 1)}, 6, ["per atom"]),
        ({"symbols": ("Ca", "Fe")}, 3, ["POTCAR"]),
        ({"symbols": None}, 3, ["POTCAR"]),
        ({"symbols": ("Ca", "Fe", "Qq")}, 3, ["POTCAR"]),
        ({"incar": None}, 3, ["INCAR"]),
        ({"incar": INCAR.replace("500", "fifty")}, 3, ["PSTRESS"]),
        ({"incar": INCAR.replace("500", "nan")}, 3, ["PSTRESS"]),
        ({"incar": INCAR.replace("IBRION = 2", "IBRION = 0")}, 3, ["IBRION"]),
        ({"incar": INCAR.replace("ISIF = 3", "ISIF = 9")}, 3, ["ISIF"]),
        ({"settings": "protocl = 'paper'\n"}, 4, ["did you mean 'protocol'"]),
        ({"settings": "stages = 'fast'\n" + TOY}, 4, ["stages 'fast'"]),
        ({"settings": TOY + 'device = "cuda"\n'}, 5, ["CPU only"]),
        ({"settings": '[calculators.model]\nkind = "chgnet"\ndevice = "cuda"\n'}, 5, ["no GPU"]),
        ({"settings": '[calculators.model]\nkind = "chgnet"\nmodel = "/no/such/file"\n'}, 5, ["/no/such/file"]),
        ({"settings": '[calculators.model]\nkind = "mace"\nmodel = "INCAR"\n'}, 5, ["INCAR"]),
        ({"settings": '[calculators.model]\nkind = "chgnte"\n'}, 4, ["did you mean 'chgnet'"]),
        ({"settings": TOY + "[calculators.model.options]\nelements = ['Ca', 'Fe']\n"}, 3, ["Ni"]),
        ({"settings": TOY + "[calculators.model.options]\nnan_after = 5\n"}, 6, ["NaN"]),
        ({"settings": TOY + "[calculators.model.options]\nraise_after = 5\n"}, 7, ["told to raise"]),
        ({"poscar": POSCAR.replace("4.100000", "0.100000")}, 6, ["flat"]),
    ],
)
def test_bad_input_ends_in_one_clear_line(tmp_path, change, code, words):
    fold = make_folder(tmp_path, **change)
    if "mace" in str(change.get("settings")):
        shutil.copy(fold / "INCAR", tmp_path / "INCAR")
    leave_stale_outputs(fold)
    assert_clean_failure(fold, call(fold), code, *words)
    if code in (6, 7):
        (entry,) = record(fold)
        assert entry["exit"] == code
        assert entry["status"] == ("rejected" if code == 6 else "failed")


def test_a_hole_in_the_potential_is_no_result(tmp_path):
    fold = make_folder(tmp_path, settings=TOY + "[calculators.model.options]\nhole = true\n")
    dense = POSCAR.replace("1.0000\n", "0.72\n", 1)
    (fold / "POSCAR").write_text(dense)
    assert_clean_failure(fold, call(fold), 6)
    assert record(fold)[0]["code"] in ("collapse", "energy", "force", "distance")


def test_a_lasting_refusal_is_not_computed_twice_but_another_model_gets_its_chance(tmp_path):
    slow = TOY + "[calculators.model.options]\nhole = true\n"
    fold = make_folder(tmp_path, poscar=POSCAR.replace("1.0000\n", "0.72\n", 1), settings=slow)
    call(fold)
    (fold / "INCAR").write_text(INCAR + "ISYM=0\n")
    again = call(fold)
    assert again.returncode == 6
    third = call(fold)
    assert third.stderr.count("refused as before") == again.stderr.count("refused as before") == 1
    assert len(record(fold)) == 3
    (tmp_path / "bridge.toml").write_text('protocol = "single"\n' + TOY)
    assert call(fold).returncode == 0


def test_penalty_is_a_valid_result_far_above_any_hull(tmp_path):
    from ase.io.vasp import read_vasp_out

    fold = make_folder(tmp_path, poscar=POSCAR.replace("4.100000", "0.100000"))
    done = call(fold, "--on-reject", "penalty")
    assert done.returncode == 0
    assert "flat" in done.stderr
    assert has_result(fold)
    atoms = read_vasp_out(fold / "OUTCAR")
    enthalpy = atoms.get_potential_energy() + 50 * atoms.get_volume() / 160.21766208
    assert enthalpy == pytest.approx(400.0, abs=1e-4)
    assert atoms.get_all_distances(mic=True)[0, 1:].min() > 3
    assert atoms.get_chemical_symbols() == ["Ca", "Fe", "Fe", "Ni"]
    assert record(fold)[0]["status"] == "penalty"


def test_one_atom_and_300_atoms(tmp_path):
    one = POSCAR.replace("   1    2    1", "   1").splitlines()[:8]
    fold = make_folder(tmp_path / "one", poscar="\n".join(one) + "\n", symbols=("Fe",))
    assert call(fold).returncode == 0
    from ase.build import bulk

    many = bulk("Fe", "bcc", a=2.8, cubic=True) * (5, 5, 6)
    many.rattle(0.05, seed=1)
    rows = "\n".join(f" {x:.6f} {y:.6f} {z:.6f}" for x, y, z in many.get_scaled_positions())
    cell = "\n".join(f" {x:.6f} {y:.6f} {z:.6f}" for x, y, z in many.cell)
    big = make_folder(
        tmp_path / "many",
        poscar=f"EA0\n1.0\n{cell}\n300\nDirect\n{rows}\n",
        symbols=("Fe",),
        incar=INCAR.replace("400", "20").replace("-0.01", "-0.2"),
    )
    done = call(big)
    assert done.returncode == 0, done.stderr
    assert has_result(big)


def test_steps_running_out_is_a_normal_result(tmp_path):
    fold = make_folder(tmp_path, incar=INCAR.replace("400", "6"))
    done = call(fold)
    assert done.returncode == 0
    assert "unconverged" in done.stdout
    assert (fold / "OSZICAR").read_text().count(" F= ") == 6
    assert "reached required accuracy" not in (fold / "OUTCAR").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    fold = make_folder(tmp_path)
    fold.chmod(0o555)
    try:
        done = call(fold)
    finally:
        fold.chmod(0o755)
    assert done.returncode == 8
    assert "cannot be written" in done.stderr


def test_disk_full_leaves_nothing(tmp_path):
    """Writes fail as on a full disk: every file is limited to 4 kB, less than an OUTCAR needs."""
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    script = "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\nimport signal\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nfrom uspex_bridge.cli.vasp import main\nmain([])\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=fold, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 8, done.stderr
    assert "cannot be written" in done.stderr
    assert not [name for name in OUTPUTS if (fold / name).exists()]
    assert not list(fold.glob(".*.part"))


def test_another_bridge_in_the_folder(tmp_path):
    fold = make_folder(tmp_path)
    with FileLock(fold / ".bridge.lock"):
        done = call(fold)
    assert done.returncode == 9
    assert "another run uses this folder" in done.stderr
    assert call(fold).returncode == 0


def test_two_folders_at_once_do_not_interfere(tmp_path):
    folds = [make_folder(tmp_path, name=f"CalcFold{k}") for k in (1, 2, 3)]
    executable = Path(sys.executable).parent / "uspex-bridge-vasp"
    crew = [subprocess.Popen([executable], cwd=fold, stdout=subprocess.DEVNULL) for fold in folds]
    assert [p.wait(120) for p in crew] == [0, 0, 0]
    texts = {(fold / "OSZICAR").read_text() for fold in folds}
    assert len(texts) == 1
    assert sorted(e["slot"] for e in record(folds[0])) == ["CalcFold1", "CalcFold2", "CalcFold3"]


def start(fold: Path, *args: str) -> subprocess.Popen:
    executable = Path(sys.executable).parent / "uspex-bridge-vasp"
    process = subprocess.Popen([executable, *args], cwd=fold, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    log = fold / "bridge.log"
    while not (log.exists() and "robust " in log.read_text()):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_half_way_geometry(tmp_path, number):
    fold = make_folder(tmp_path, settings=SLOW)
    process = start(fold)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 10, err
    assert out == ""
    assert "stopped by a signal" in err
    assert not [name for name in OUTPUTS if (fold / name).exists()]
    assert record(fold)[0]["code"] == "Interrupted"


@pytest.mark.parametrize("text", ["LSTOP = .TRUE.\n", " labort = T ! now\n"])
def test_stopcar_ends_with_what_is_reached(tmp_path, text):
    fold = make_folder(tmp_path, settings=SLOW)
    process = start(fold)
    (fold / "STOPCAR").write_text("LSTOP = .FALSE.\n")
    time.sleep(0.5)
    assert process.poll() is None
    (fold / "STOPCAR").write_text(text)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "unconverged" in out
    assert has_result(fold)
    assert record(fold)[0]["reason"] == "stopped by STOPCAR in stage 'robust'"
    assert not (fold / "STOPCAR").exists()


def test_a_read_only_stopcar_stays_for_the_next_run(tmp_path):
    """As custodian leaves it, so that jobs which follow end too."""
    fold = make_folder(tmp_path, incar=INCAR)
    (fold / "STOPCAR").write_text("LABORT = .TRUE.\n")
    (fold / "STOPCAR").chmod(0o444)
    assert call(fold).returncode == 10
    assert (fold / "STOPCAR").exists()
    assert not has_result(fold)


def test_time_limit_ends_with_what_is_reached(tmp_path):
    fold = make_folder(tmp_path, settings=SLOW.replace("0.4", "1.0"))
    done = call(fold, "--time-limit", "10")
    assert done.returncode == 0, done.stderr
    assert has_result(fold)
    assert record(fold)[0]["reason"].startswith("time limit reached in stage")


def test_time_limit_before_the_first_step(tmp_path):
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    assert_clean_failure(fold, call(fold, "--time-limit", "0.001"), 10, "before the end of the first step")


def test_a_record_that_cannot_be_written_does_not_cost_the_result(tmp_path):
    fold = make_folder(tmp_path, settings='record = "/dev/full"\n' + TOY)
    done = call(fold)
    assert done.returncode == 0
    assert "/dev/full: cannot be written" in done.stderr
    assert has_result(fold)


def test_incar_merged_by_a_missing_newline(tmp_path):
    """USPEX appends PSTRESS to an INCAR_n without final newline: NSW=400PSTRESS=500 (protocol A1)."""
    fold = make_folder(tmp_path, incar="IBRION=2\nISIF=3\nEDIFFG=-0.01\nNSW=400PSTRESS=500\n")
    done = call(fold)
    assert done.returncode == 0
    assert record(fold)[0]["pressure_gpa"] == 50.0
    assert record(fold)[0]["nsw"] == 400


def test_potcar_alone_names_the_elements(tmp_path):
    fold = make_folder(tmp_path, symbols=("Ni", "Ca", "Fe"))
    call(fold)
    assert json.loads((tmp_path / "bridge.record").read_text())["formula"] == "Ca2FeNi"
    assert potcar("Ni") in (fold / "POTCAR").read_text()
