"""Labels: what is prepared, what becomes of it, what is filed and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.dft.kpoints import mindistance2monkhorstpack
from click.testing import CliRunner
from emulators.vasp_label import SMEARING, frame, leave_outputs, potcar

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import BridgeError, ConfigError, InputError
from uspex_bridge.base.locks import Lock, held
from uspex_bridge.cli import main
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.data.identity import content_id
from uspex_bridge.learn.label import collect as collecting
from uspex_bridge.learn.label import kpoints
from uspex_bridge.learn.label import prepare as preparation
from uspex_bridge.learn.label.collect import LOCK, inspect
from uspex_bridge.learn.label.prepare import Candidate, candidates, prepare
from uspex_bridge.learn.label.settings import JobSettings, LabelSettings, format_settings, read_label_settings
from uspex_bridge.learn.label.tasks import read_task
from uspex_bridge.vasp.incar import parse_incar
from uspex_bridge.vasp.structure import read_poscar, read_potcar_symbols


def cli(*words: object, code: int = 0):
    result = CliRunner().invoke(main.command, ["label", *map(str, words)])
    got = result.exception.exit_code if isinstance(result.exception, BridgeError) else result.exit_code
    assert got == code, (result.output, result.exception)
    return result


def cell(symbols: str, seed: int, **info) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Ni", "fcc", a=3.4) * (len(Atoms(symbols)), 1, 1)
    atoms.symbols[:] = Atoms(symbols).get_chemical_symbols()
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
    atoms.positions += rng.uniform(-0.1, 0.1, (len(atoms), 3))
    atoms.info = {"origin": f"run:EA{seed}", "pressure_gpa": 50.0, "reason": "disagreement", **info}
    return atoms


@pytest.fixture
def chosen(tmp_path) -> Path:
    """Two structures at 50 GPa, one of them with its atoms in USPEX's loose order."""
    path = tmp_path / "chosen.extxyz"
    ase.io.write(path, [cell("CaFeCaNi", 1, family="sfamily"), cell("Fe2Ni", 2)])
    return path


@pytest.fixture
def library(tmp_path) -> Path:
    for flavour in ("Ca_sv", "Fe_sv", "Fe_pv", "Ni_pv"):
        potcar(tmp_path / "paw", flavour)
    return tmp_path / "paw"


@pytest.fixture
def vasp(tmp_path, chosen, library) -> Path:
    """A folder of prepared VASP labels."""
    cli("prepare", tmp_path / "labels", chosen, "--code", "vasp", "--potcars", library, "--generation", 3)
    return tmp_path / "labels"


def folder_of(labels: Path, formula: str) -> Path:
    (found,) = (p.parent for p in labels.glob("*/structure.json") if read_task(p.parent).structure.formula == formula)
    return found


@pytest.mark.parametrize("distance", [9.0, 12.5])
def test_grids_are_the_smallest_that_reach_in_orthogonal_cells_as_ase_has_them(distance):
    rng = np.random.default_rng(1)
    for lengths in rng.uniform(2, 9, (6, 3)):
        box = Atoms("H", cell=np.diag(lengths), pbc=True)
        ours, theirs = (
            kpoints.grid(box.cell.array, distance),
            mindistance2monkhorstpack(box, min_distance=distance, even=False),
        )
        assert np.prod(ours) == np.prod(theirs)


def test_grids_of_skew_cells_reach_and_one_point_less_does_not():
    rng = np.random.default_rng(2)
    for _ in range(20):
        skew = np.eye(3) * 4 + rng.normal(size=(3, 3))
        size = kpoints.grid(skew, 14.0)
        assert kpoints.distance_of(skew, size) >= 14.0
        combinations = np.array(list(np.ndindex(7, 7, 7))) - 3
        vectors = combinations[combinations.any(axis=1)] @ (skew * np.array(size)[:, None])
        assert np.linalg.norm(vectors, axis=1).min() == pytest.approx(kpoints.distance_of(skew, size))
        for axis in range(3):
            less = tuple(n - (k == axis) for k, n in enumerate(size))
            assert min(less) < 1 or kpoints.distance_of(skew, less) < 14.0 or np.ptp(size) == 0


def test_the_papers_grids_have_its_number_of_points_and_keep_the_symmetry():
    """About 3000 points per reciprocal atom at 35 Å; equal axes have equal divisions."""
    for primitive, most in ((bulk("Ni", a=3.3), 3600), (bulk("Fe"), 4400), (bulk("Ni", cubic=True), 4400)):
        size = kpoints.grid(primitive.cell.array, 35.0)
        assert len(set(size)) == 1
        assert 2000 < np.prod(size) * len(primitive) <= most
    a, b, c = kpoints.grid(bulk("Ti").cell.array, 35.0)
    assert a == b
    assert c < a


def test_two_that_prepare_at_once_do_not_share_a_number(vasp, chosen, library, monkeypatch):
    monkeypatch.setattr(preparation, "_WAIT", 0.1)
    with held(vasp / ".preparing", ""):
        cli("prepare", vasp, chosen, "--code", "vasp", "--potcars", library, "--generation", 3, code=9)
    assert [path.name for path in vasp.glob("jobs-*.txt")] == ["jobs-1.txt"]


def test_vasp_inputs_are_the_papers(vasp):
    folder = folder_of(vasp, "Ca2FeNi")
    tags = parse_incar((folder / "INCAR").read_text())
    assert tags["ENCUT"] == "550"
    assert float(tags["EDIFF"]) == 1e-6
    assert (tags["PREC"], tags["LASPH"], tags["ISPIN"], tags["GGA"]) == ("Accurate", ".TRUE.", "2", "PE")
    assert (tags["NSW"], tags["IBRION"], tags["ISIF"]) == ("0", "-1", "2")
    assert tags["MAGMOM"] == "2*0.6 1*5 1*2"
    assert "PSTRESS" not in tags
    assert read_potcar_symbols(folder / "POTCAR") == ["Ca", "Fe", "Ni"]
    structure = read_poscar(folder / "POSCAR", ["Ca", "Fe", "Ni"])
    assert structure.symbols == ("Ca", "Ca", "Fe", "Ni")
    assert content_id(structure.symbols, structure.cell, structure.scaled) == folder.name
    grid = tuple(map(int, (folder / "KPOINTS").read_text().splitlines()[3].split()))
    assert kpoints.distance_of(structure.cell, grid) >= 35.0
    assert (folder / "PRECALC").read_text() == "MINDISTANCE=35\n"
    task = read_task(folder)
    assert task.inputs["potentials"]["Fe"] == "PAW_PBE Fe_sv 01Jan2000"
    assert (task.family, task.generation, task.origin, task.reason) == ("sfamily", 3, "run:EA1", "disagreement")


def test_pymatgen_reads_the_inputs(vasp):
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

    folder = folder_of(vasp, "Ca2FeNi")
    assert Incar.from_file(folder / "INCAR")["MAGMOM"] == [0.6, 0.6, 5, 2]
    assert Kpoints.from_file(folder / "KPOINTS").style.name == "Gamma"
    assert Poscar.from_file(folder / "POSCAR").site_symbols == ["Ca", "Fe", "Ni"]


QUEUES = [("slurm", "SLURM_SUBMIT_DIR", "SLURM_ARRAY_TASK_ID"), ("pbs", "PBS_O_WORKDIR", "PBS_ARRAY_INDEX")]


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Return what a queue does: ``task(queue, folder it was submitted in, number)`` runs a task of its array there.

    In the place of VASP ``srun`` writes down where it ran, or does what ``SRUN`` says.
    """
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(f'#!/bin/bash\neval "${{SRUN:-basename $PWD >> {tmp_path}/ran}}"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def run(queue: str, labels: Path, number: int = 1, srun: str = "", script: Path | None = None):
        where, index = {name: names for name, *names in QUEUES}[queue]
        variables = {**os.environ, where: str(labels), index: str(number), "SRUN": srun}
        words = ["bash", str(script or labels / f"{queue}-1.sh")]
        return subprocess.run(words, cwd=labels, env=variables, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("queue", ["slurm", "pbs"])
def test_job_arrays_run_every_structure_and_pass_over_what_is_done(vasp, tmp_path, task, queue):
    names = (vasp / "jobs-1.txt").read_text().split()
    assert len(names) == 2
    assert {"slurm": "--array=1-2%50\n", "pbs": "-J 1-2%50\n"}[queue] in (vasp / f"{queue}-1.sh").read_text()
    (vasp / names[1] / "OUTCAR").write_text(" General timing and accounting informations for this job:\n")
    assert [task(queue, vasp, number).returncode for number in (1, 2)] == [0, 0]
    assert (tmp_path / "ran").read_text() == f"{names[0]}\n"


@pytest.mark.parametrize("queue", ["slurm", "pbs"])
def test_with_more_structures_than_a_queue_takes_each_task_does_several(tmp_path, library, task, queue):
    frames = [cell("FeNi", seed) for seed in range(5)]
    ase.io.write(tmp_path / "five.extxyz", frames)
    text = cli("settings", "vasp").stdout.replace("tasks = 1000", "tasks = 2").replace("hours = 12.0", "hours = 1.5")
    (tmp_path / "my.toml").write_text(text)
    words = ("--settings", tmp_path / "my.toml", "--potcars", library, "--generation", 0)
    cli("prepare", tmp_path / "labels", tmp_path / "five.extxyz", *words)
    script = (tmp_path / "labels" / f"{queue}-1.sh").read_text()
    assert "1-2%50\n" in script
    assert "time=04:30:00\n" in script
    for number in (1, 2):
        assert task(queue, tmp_path / "labels", number).returncode == 0
    names = (tmp_path / "labels" / "jobs-1.txt").read_text().split()
    assert (tmp_path / "ran").read_text().split() == [*names[::2], *names[1::2]]


def test_a_script_submitted_from_another_folder_runs_nothing(vasp, tmp_path, task):
    done = task("slurm", tmp_path, script=vasp / "slurm-1.sh")
    assert (done.returncode, "submit this script from its own folder" in done.stderr) == (1, True)
    assert not (tmp_path / "ran").exists()


def test_a_command_that_fails_in_a_job_is_a_failed_label_until_it_runs_again(vasp, task):
    folder = vasp / (vasp / "jobs-1.txt").read_text().split()[0]
    assert task("slurm", vasp, srun="echo 'severe (174): SIGSEGV' >&2; echo 'srun: error'; exit 174").returncode == 1
    job = inspect(folder)
    assert (job.state, job.reason) == ("failed", "no result, exit code 174 (run.log): severe (174): SIGSEGV")
    assert task("slurm", vasp, srun="echo begun; kill -9 $(ps -o ppid= -p $PPID) $PPID").returncode == 1
    assert inspect(folder).state == "running"
    assert inspect(folder, stale=0.0).state == "failed"
    write = f"{sys.executable} -c 'import sys; sys.path.insert(0, sys.argv[1])\nfrom emulators import vasp_label\n"
    write += f"vasp_label.leave_outputs(vasp_label.Path.cwd())' {Path(__file__).parents[3]}"
    assert task("slurm", vasp, srun=write).returncode == 0
    assert inspect(folder).state == "done"


def test_no_two_jobs_work_in_the_same_folder(vasp, tmp_path, task):
    import fcntl

    folder = vasp / (vasp / "jobs-1.txt").read_text().split()[0]
    for name in ("run.log", ".running"):
        with (folder / name).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            assert task("slurm", vasp).returncode == 0
            assert not (tmp_path / "ran").exists()
    assert task("slurm", vasp).returncode == 0
    assert (tmp_path / "ran").exists()
    assert not (folder / ".running").exists()


def test_an_array_of_one_is_none_for_pbs(tmp_path, library, task):
    ase.io.write(tmp_path / "one.extxyz", cell("FeNi", 1))
    words = ("--code", "vasp", "--potcars", library, "--generation", 0)
    cli("prepare", tmp_path / "labels", tmp_path / "one.extxyz", *words)
    assert "#PBS -J" not in (tmp_path / "labels" / "pbs-1.sh").read_text()
    assert "--array=1-1%50" in (tmp_path / "labels" / "slurm-1.sh").read_text()
    assert task("pbs", tmp_path / "labels").returncode == 0
    assert (tmp_path / "ran").exists()


def test_preparing_again_adds_only_what_is_new(vasp, tmp_path, chosen, library):
    before = {path: path.read_bytes() for path in vasp.rglob("*") if path.is_file()}
    more = tmp_path / "more.extxyz"
    ase.io.write(more, [*ase.io.read(chosen, ":"), cell("CaNi", 5)])
    words = ("prepare", vasp, more, "--code", "vasp", "--potcars", library, "--generation", 4)
    facts = json.loads(cli(*words, "--json").stdout)
    assert (len(facts["made"]), len(facts["there"])) == (1, 2)
    assert (vasp / "jobs-2.txt").read_text().split() == facts["made"]
    assert {path: path.read_bytes() for path in before} == before
    assert len(json.loads(cli(*words, "--json").stdout)["there"]) == 3


def test_a_preparation_that_was_killed_before_its_job_scripts_is_made_whole(vasp, chosen, library):
    names = (vasp / "jobs-1.txt").read_text()
    for path in vasp.glob("*-1.*"):
        path.unlink()
    words = ("prepare", vasp, chosen, "--code", "vasp", "--potcars", library, "--generation", 4)
    assert "sbatch slurm-1.sh" in cli(*words).output
    assert sorted((vasp / "jobs-1.txt").read_text().split()) == sorted(names.split())


def test_without_a_library_the_data_sets_are_named_and_filled_in_later(tmp_path, chosen, library, monkeypatch):
    from pymatgen.core import SETTINGS

    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)
    labels = tmp_path / "labels"
    words = ("prepare", labels, chosen, "--code", "vasp", "--generation", 0)
    output = cli(*words).output
    assert f"2 of the structures in {labels} have no POTCAR, and VASP cannot start" in output
    assert "--potcars DIR" in output
    assert "sbatch" not in output
    folder = folder_of(labels, "Ca2FeNi")
    assert (folder / "POTCAR.spec").read_text() == "Ca_sv\nFe_sv\nNi_pv\n"
    assert not (folder / "POTCAR").exists()
    assert f"in {labels}: sbatch slurm-1.sh, or qsub pbs-1.sh" in cli(*words, "--potcars", library).output
    assert not (labels / "slurm-2.sh").exists()
    assert read_potcar_symbols(folder / "POTCAR") == ["Ca", "Fe", "Ni"]
    assert not (folder / "POTCAR.spec").exists()


def test_a_library_may_have_pymatgens_layout_and_be_compressed(tmp_path, chosen):
    import gzip

    for flavour in ("Ca_sv", "Fe_sv", "Ni_pv"):
        potcar(tmp_path / "raw", flavour)
        place = tmp_path / "psp" / "POT_GGA_PAW_PBE"
        place.mkdir(parents=True, exist_ok=True)
        data = (tmp_path / "raw" / "potpaw_PBE" / flavour / "POTCAR").read_bytes()
        (place / f"POTCAR.{flavour}.gz").write_bytes(gzip.compress(data))
    cli("prepare", tmp_path / "l", chosen, "--code", "vasp", "--potcars", tmp_path / "psp", "--generation", 0)
    assert read_potcar_symbols(folder_of(tmp_path / "l", "Fe2Ni") / "POTCAR") == ["Fe", "Ni"]


@pytest.mark.parametrize(
    ("title", "message"),
    [("PAW Fe_sv 01Jan2000", "a PBE data set of Fe"), ("PAW_PBE Co_sv 01Jan2000", "a PBE data set of Fe")],
)
def test_a_data_set_of_another_functional_or_element_is_refused(tmp_path, chosen, library, title, message):
    potcar(library, "Fe_sv", title)
    words = ("prepare", tmp_path / "labels", chosen, "--code", "vasp", "--potcars", library, "--generation", 0)
    assert message in str(cli(*words, code=3).exception)


def test_a_data_set_that_is_missing_is_named(tmp_path, chosen, library):
    settings = tmp_path / "mine.toml"
    settings.write_text('code = "vasp"\n[potcars]\nFe = "Fe_GW"\n')
    words = ("prepare", tmp_path / "labels", chosen, "--settings", settings, "--potcars", library, "--generation", 0)
    assert "no POTCAR Fe_GW" in str(cli(*words, code=3).exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('code = "vasp"\nencutt = 500.0', "did you mean 'encut'"),
        ('code = "castep"', "not one of 'vasp', 'gpaw', 'model'"),
        ('code = "vasp"\n[incar]\nPSTRESS = 500', "single point without pressure"),
        ('code = "vasp"\n[incar]\nnsw = 50', "single point without pressure"),
        ('code = "vasp"\n[incar]\nMETAGGA = "R2SCAN"', "name it with functional"),
        ('code = "vasp"\n[job]\ncores = 0', "at least 1"),
        ('code = "gpaw"\nkpoint_distance = 0', "must be positive"),
    ],
)
def test_settings_are_closed(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_label_settings(tmp_path / "s.toml", None)


@pytest.mark.parametrize("code", ["vasp", "gpaw", "model"])
def test_settings_are_read_back_as_written(tmp_path, code):
    settings = read_label_settings(None, code)
    (tmp_path / "s.toml").write_text(format_settings(settings))
    assert read_label_settings(tmp_path / "s.toml", code) == settings
    (tmp_path / "t.toml").write_text(cli("settings", code).output)
    assert read_label_settings(tmp_path / "t.toml", code) == settings


def test_how_jobs_run_is_no_matter_of_theory_but_everything_else_is(tmp_path):
    def level(text: str):
        (tmp_path / "s.toml").write_text('code = "vasp"\n' + text)
        return read_label_settings(tmp_path / "s.toml", None).level

    plain = level("")
    assert level("[job]\ncores = 64") == plain
    others = ["encut = 520.0", "encut_per_gpa = 0.0", "kpoint_distance = 30.0", "[magmom]\nFe = 3.0"]
    others += ['[potcars]\nFe = "Fe_pv"', "[incar]\nSIGMA = 0.2", 'functional = "R2SCAN"\n[incar]\nMETAGGA = "R2SCAN"']
    assert len({level(text) for text in others} | {plain}) == len(others) + 1


def test_a_folder_of_labels_has_one_level_of_theory(vasp, chosen, tmp_path):
    (tmp_path / "s.toml").write_text('code = "vasp"\nencut = 400.0\n')
    words = ("prepare", vasp, chosen, "--settings", tmp_path / "s.toml", "--generation", 3)
    assert "prepared with other settings" in str(cli(*words, code=4).exception)


def test_a_pressure_must_be_known(tmp_path):
    atoms = cell("Fe2Ni", 2)
    del atoms.info["pressure_gpa"]
    ase.io.write(tmp_path / "p.extxyz", atoms)
    words = ("prepare", tmp_path / "l", tmp_path / "p.extxyz", "--code", "gpaw", "--generation", 0)
    assert "give --pressure" in str(cli(*words, code=4).exception)
    cli(*words, "--pressure", 20)
    assert read_task(folder_of(tmp_path / "l", "Fe2Ni")).inputs["encut"] == 620.0


def test_a_good_run_becomes_a_label_with_f_and_e0_and_all_that_is_known(vasp, tmp_path):
    folder = folder_of(vasp, "Ca2FeNi")
    leave_outputs(folder)
    true, data = frame(read_task(folder)), tmp_path / "data"
    result = cli("collect", vasp, data)
    assert "1 label added" in result.output
    assert "1 prepared, 1 done" in result.output
    (label,) = Dataset.open(data).labels.values()
    (atoms,) = Dataset.open(data).frames()
    assert label.id == folder.name
    assert label.energy == pytest.approx(true.energy - SMEARING, abs=1e-7)
    assert label.e0 == pytest.approx(true.energy, abs=1e-7)
    assert label.magmom == pytest.approx(10.0)
    np.testing.assert_allclose(atoms.get_stress(), true.stress, atol=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), true.forces, atol=1e-8)
    assert label.own_pressure_gpa == pytest.approx(-160.21766 * true.stress[:3].mean(), abs=1e-4)
    assert (label.family, label.generation, label.pressure_gpa) == ("sfamily", 3, 50.0)
    assert label.provenance["potentials"]["Ca"] == "PAW_PBE Ca_sv 01Jan2000"
    assert label.provenance["version"] == "vasp 6.4.2"
    assert label.provenance["encut"] == 550.0
    again = cli("collect", vasp, data)
    assert "0 labels added" in again.output
    assert "refused" not in again.output


@pytest.mark.parametrize("spoil", ["harmless", "finer"])
def test_what_does_not_change_the_result_is_no_reason_to_refuse(vasp, spoil):
    folder = folder_of(vasp, "Ca2FeNi")
    leave_outputs(folder, spoil)
    assert (inspect(folder).reason, inspect(folder).state) == ("", "done")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("nelm", "convergence not reached in NELM = 120 steps"),
        ("pstress", "PSTRESS = 500"),
        ("ediff", "EDIFF is 0.0001, prepared was 1e-06"),
        ("encut", "ENCUT is 400"),
        ("metagga", "METAGGA is"),
        ("no spin", "ISPIN is 1"),
        ("moments", "MAGMOM is"),
        ("order", "POSCAR and POTCAR disagree"),
        ("flavour", "POTCAR of Fe is Fe_pv, prepared was Fe_sv"),
        ("lda", "not PBE"),
        ("coarse", "coarser"),
        ("no k-points", "no automatic grid"),
        ("k-point list", "no automatic grid"),
        ("truncated xml", "vasprun.xml is incomplete"),
        ("no forces", "no forces"),
        ("no stress", "no stress"),
        ("nan", "not finite"),
        ("sign", "wrong sign"),
        ("other run", "files of two runs"),
        ("moved", "differ from the prepared ones"),
        ("two steps", "2 ionic steps"),
    ],
)
def test_what_is_wrong_with_a_run_is_said_and_it_is_not_filed(vasp, tmp_path, spoil, reason):
    folder = folder_of(vasp, "Ca2FeNi")
    leave_outputs(folder, spoil)
    job = inspect(folder)
    assert job.state == "failed"
    assert reason in job.reason
    result = cli("collect", vasp, tmp_path / "data")
    assert "0 labels added" in result.output
    assert f"refused: {folder.name}: " in result.output


def test_pv_in_an_energy_is_found_where_no_tag_tells_of_it(vasp):
    folder = folder_of(vasp, "Ca2FeNi")
    leave_outputs(folder, "pstress")
    xml = (folder / "vasprun.xml").read_text()
    (folder / "vasprun.xml").write_text(xml.replace('  <i type="string" name="PSTRESS">500</i>\n', ""))
    assert "E + PV under PSTRESS" in inspect(folder).reason


def test_a_run_in_the_middle_is_running_then_stopped(vasp, tmp_path):
    folder = folder_of(vasp, "Ca2FeNi")
    leave_outputs(folder, "truncated outcar")
    assert inspect(folder).state == "running"
    os.utime(folder / "OUTCAR", (1e9, 1e9))
    job = inspect(folder)
    assert (job.state, job.reason[:23]) == ("failed", "stopped before its end;")


def test_status_shows_every_state(vasp, tmp_path):
    leave_outputs(folder_of(vasp, "Ca2FeNi"))
    leave_outputs(folder_of(vasp, "Fe2Ni"), "nelm")
    output = cli("status", vasp).output
    assert "1 done, 1 failed" in output
    assert "convergence not reached" in " ".join(output.split())
    rows = {row["formula"]: row for row in json.loads(cli("status", vasp, "--json").stdout)["labels"]}
    assert rows["Ca2FeNi"]["state"] == "done"
    assert rows["Ca2FeNi"]["magmom"] == pytest.approx(10.0)
    assert rows["Fe2Ni"]["reason"].startswith("electronic convergence")


def test_what_is_damaged_or_packed_is_said_and_keeps_no_other_label_back(vasp, tmp_path):
    folder = folder_of(vasp, "Ca2FeNi")
    leave_outputs(folder)
    leave_outputs(folder_of(vasp, "Fe2Ni"))
    path = folder / "structure.json"
    sound = path.read_text()
    for text in (sound[: len(sound) // 2], "[1]", json.dumps(json.loads(sound) | {"symbols": 3})):
        path.write_text(text)
        assert "prepare the structure again" in inspect(folder).reason
    path.write_text(sound)
    (folder / "OUTCAR").rename(folder / "OUTCAR.gz")
    output = cli("collect", vasp, tmp_path / "data").output
    assert "1 label added" in output
    assert f"refused: {folder.name}: OUTCAR is compressed" in output


def test_an_edited_structure_is_refused(vasp):
    folder = folder_of(vasp, "Ca2FeNi")
    path = folder / "structure.json"
    path.write_text(
        path.read_text().replace('"pressure_gpa": 50.0', '"pressure_gpa": 60.0').replace("sfamily", "other")
    )
    assert inspect(folder).state == "prepared"
    path.write_text(path.read_text().replace('"encut": 550.0', '"encut": 500.0'))
    assert "was edited" in inspect(folder).reason


def test_labels_of_two_levels_do_not_go_into_one_dataset(vasp, tmp_path, chosen):
    leave_outputs(folder_of(vasp, "Ca2FeNi"))
    cli("collect", vasp, tmp_path / "data")
    (tmp_path / "bridge.toml").write_text('[calculators.toy]\nkind = "toy"\n')
    other = tmp_path / "other"
    cli("prepare", other, chosen, "--code", "model", "--model", "toy", "--generation", 3)
    cli("run", other, "--config", tmp_path / "bridge.toml")
    assert "two levels of theory" in str(cli("collect", other, tmp_path / "data", code=3).exception)


def test_a_model_stands_in(tmp_path, chosen):
    labels, data = tmp_path / "labels", tmp_path / "data"
    cli("prepare", labels, chosen, "--code", "model", "--model", "chgnet", "--generation", 1)
    assert "2 computed: 2 done" in cli("run", labels).output
    assert "0 computed" in cli("run", labels).output
    assert "2 labels added" in cli("collect", labels, data).output
    for label in Dataset.open(data).labels.values():
        assert str(label.level).startswith("model chgnet")
        assert label.provenance["version"].startswith("chgnet 0.")
        assert label.provenance["potentials"]["Fe"].startswith("chgnet 0.3.0")
        assert label.energy == label.e0
        assert -10 < label.energy / label.natoms < 0
    more = ("prepare", labels, chosen, "--code", "model", "--generation", 2, "--dataset", data, "--json")
    assert len(json.loads(cli(*more).stdout)["labelled"]) == 2


def test_a_model_that_fails_on_a_structure_says_so_and_goes_on(tmp_path, chosen):
    (tmp_path / "bridge.toml").write_text('[calculators.toy.options]\nelements = ["Fe", "Ni"]\n')
    labels = tmp_path / "labels"
    cli("prepare", labels, chosen, "--code", "model", "--model", "toy", "--generation", 1)
    output = cli("run", labels, "--config", tmp_path / "bridge.toml").output
    assert "1 done, 1 failed" in output
    assert "does not know Ca" in output
    assert "0 computed" in cli("run", labels).output
    assert "2 done" in cli("run", labels, "--retry").output.replace("1 computed: 1 done", "2 done")


def test_a_result_of_other_input_is_refused(tmp_path, chosen):
    labels = tmp_path / "labels"
    cli("prepare", labels, chosen, "--code", "model", "--model", "toy", "--generation", 1)
    cli("run", labels)
    one, other = (folder_of(labels, formula) for formula in ("Ca2FeNi", "Fe2Ni"))
    (one / "label.json").write_bytes((other / "label.json").read_bytes())
    assert "computed from other input" in inspect(one).reason


def test_whoever_asks_for_the_status_makes_no_run_pass_over_a_structure(tmp_path, chosen, monkeypatch):
    monkeypatch.setattr(collecting, "MOMENT", 60.0)
    labels, config = tmp_path / "labels", tmp_path / "settings.toml"
    config.write_text('[calculators.one]\nkind = "toy"\n')
    options = ("--code", "model", "--model", "one", "--config", config)
    cli("prepare", labels, chosen, *options[:4], "--generation", 0, "--config", config)
    asked = Lock(next(labels.glob("*/structure.json")).parent / LOCK)
    assert asked.acquire()
    threading.Timer(0.2, asked.release).start()
    said = cli("run", labels, "--config", config).output
    assert "2 computed: 2 done" in said


def test_labels_killed_in_the_middle_are_computed_by_the_next_run(tmp_path, chosen):
    labels = tmp_path / "labels"
    cli("prepare", labels, chosen, "--code", "gpaw", "--generation", 1)
    command = f"echo started >> ../{tmp_path.name}; sleep 60"
    words = [sys.executable, "-m", "uspex_bridge.cli.main", "label", "run", str(labels), "--command", command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        while not (labels / tmp_path.name).exists():
            assert process.poll() is None
        states = sorted(inspect(p.parent).state for p in labels.glob("*/structure.json"))
        assert states == ["prepared", "running"]
        os.killpg(process.pid, 9)
    assert sorted(inspect(p.parent).reason for p in labels.glob("*/structure.json")) == ["", "interrupted"]
    output = cli("run", labels, "--command", "echo out of memory; exit 3", code=7).output
    assert "2 computed: 2 failed" in output
    assert "no result, exit code 3 (run.log): out of memory" in output
    assert "0 computed" in cli("run", labels, "--command", "true").output
    assert "cannot be run" in str(cli("run", labels, "--command", "no-such-gpaw", "--retry", code=4).exception)


def test_a_python_without_gpaw_is_told_before_any_structure_is_begun(tmp_path, chosen):
    labels = tmp_path / "labels"
    cli("prepare", labels, chosen, "--code", "gpaw", "--generation", 1)
    error = str(cli("run", labels, "--python", sys.executable, code=5).exception)
    assert "No module named 'gpaw'; name a Python that has gpaw with --python" in error
    assert not list(labels.glob("*/run.log"))


def test_no_labels_there(tmp_path):
    with pytest.raises(InputError, match="no labels were prepared"):
        raise cli("status", tmp_path, code=3).exception


def test_settings_of_ones_own_hold_only_what_differs(tmp_path):
    (tmp_path / "s.toml").write_text('code = "vasp"\n[incar]\nNCORE = 4\n[magmom]\nFe = 3.5\n')
    settings, template = read_label_settings(tmp_path / "s.toml", None), read_label_settings(None, "vasp")
    assert settings.magmom == {**template.magmom, "Fe": 3.5}
    assert settings.potcars == {"Fe": "Fe_sv"}
    assert settings.job.command == "srun vasp_std"
    (tmp_path / "n.toml").write_text('code = "vasp"\n[incar]\nNCORE = 4\nALGO = "All"\n[second]\nNELM = 500\n')
    assert read_label_settings(tmp_path / "n.toml", None).level == template.level, "how, not what"


def test_gga_leaves_when_a_metagga_comes_and_a_tag_can_be_left_out(tmp_path):
    (tmp_path / "s.toml").write_text('code = "vasp"\nfunctional = "R2SCAN"\n[incar]\nMETAGGA = "R2SCAN"\nLORBIT = ""\n')
    tags = read_label_settings(tmp_path / "s.toml", None).incar_tags("s1", 500.0, "1*5")
    assert tags["METAGGA"] == "R2SCAN"
    assert not {"GGA", "LORBIT"} & set(tags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('functional = "x"\n[incar]\nMETAGGA = "R2SCAN"\nGGA = "PE"', "two functionals"),
        ('[job]\ncommand = " "', "command is empty"),
        ("[second]\nENCUT = 400", "ENCUT would be another level of theory"),
        ("[relax]\nruns = 0", "at least 1"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(f'code = "vasp"\n{text}\n')
    with pytest.raises(ConfigError, match=message):
        read_label_settings(tmp_path / "s.toml", None)


def test_iron_without_a_moment_is_told_of(tmp_path, chosen, library):
    (tmp_path / "s.toml").write_text('code = "vasp"\n[magmom]\nFe = 0.0\n')
    words = ("--settings", tmp_path / "s.toml", "--potcars", library, "--generation", 0)
    output = cli("prepare", tmp_path / "labels", chosen, *words).output
    assert "Fe starts without a magnetic moment in 2 structures" in output


def test_cores_are_shared_as_small_cells_with_many_k_points_want_it(vasp):
    tags = parse_incar((folder_of(vasp, "Ca2FeNi") / "INCAR").read_text())
    assert (tags["KPAR"], tags["NCORE"]) == ("4", "4")
    job = read_label_settings(None, "vasp").job
    assert job.parallel(1) == {"KPAR": 1, "NCORE": 4}
    assert type(job)(command="vasp", cores=6).parallel(1000) == {"KPAR": 2, "NCORE": 1}
    assert type(job)(command="vasp", cores=1).parallel(1000) == {"KPAR": 1, "NCORE": 1}


def test_a_cutoff_follows_the_structures_own_pressure_where_that_is_higher(tmp_path, library):
    frames = [cell("CaFeCaNi", 1, own_pressure_gpa=180.0), cell("Fe2Ni", 2, own_pressure_gpa=-5.0)]
    ase.io.write(tmp_path / "c.extxyz", frames)
    words = ("--code", "vasp", "--potcars", library, "--generation", 0)
    cli("prepare", tmp_path / "labels", tmp_path / "c.extxyz", *words)
    encut = {f: read_task(folder_of(tmp_path / "labels", f)).inputs["encut"] for f in ("Ca2FeNi", "Fe2Ni")}
    assert encut == {"Ca2FeNi": 680.0, "Fe2Ni": 550.0}
    squeezed = cell("Fe2Ni", 2)
    squeezed.set_cell(0.85 * squeezed.cell, scale_atoms=True)
    ase.io.write(tmp_path / "d.extxyz", squeezed)
    cli("prepare", tmp_path / "more", tmp_path / "d.extxyz", *words, "--estimate", "chgnet")
    assert read_task(folder_of(tmp_path / "more", "Fe2Ni")).inputs["encut"] > 560.0


def test_data_sets_say_what_cutoff_and_which_distances_they_are_for(tmp_path, chosen, library):
    for flavour, enmax in (("Ca_sv", 266.6), ("Fe_sv", 390.6), ("Ni_pv", 368.0)):
        path = library / "potpaw_PBE" / flavour / "POTCAR"
        lines = f"   ENMAX  =  {enmax}; ENMIN  =  200.0 eV\n   RCORE  =    2.900    outmost cutoff radius\n"
        path.write_text(path.read_text().replace("   End of Dataset", f"{lines}   End of Dataset"))
    words = ("prepare", tmp_path / "labels", chosen, "--code", "vasp", "--potcars", library, "--generation", 0)
    output = cli(*words).output
    assert "PAW spheres overlap by more than 20 % in" in output
    inputs = read_task(folder_of(tmp_path / "labels", "Ca2FeNi")).inputs
    assert inputs["enmax"] == 390.6
    assert 0.2 < inputs["sphere_overlap"] < 0.5
    (tmp_path / "s.toml").write_text('code = "vasp"\nencut = 300.0\nencut_per_gpa = 0.0\n')
    low = ("prepare", tmp_path / "low", chosen, "--settings", tmp_path / "s.toml", "--potcars", library)
    assert "below ENMAX = 390.6 eV of Fe" in str(cli(*low, "--generation", 0, code=4).exception)
    (tmp_path / "s.toml").write_text('code = "vasp"\nencut = 400.0\nencut_per_gpa = 0.0\n')
    tight = ("prepare", tmp_path / "tight", *low[2:], "--generation", 0)
    assert "less than 1.3 x ENMAX" in cli(*tight).output


def test_a_run_has_ended_when_the_whole_outcar_says_so(vasp):
    folder = folder_of(vasp, "Ca2FeNi")
    leave_outputs(folder)
    with (folder / "OUTCAR").open("a") as stream:
        stream.writelines(f"   routine_{k}    {k}.00 s\n" for k in range(3000))
    assert (folder / "OUTCAR").stat().st_size > 60_000
    assert inspect(folder).state == "done"


TESTS = Path(__file__).parents[3]
STAND_IN = f"PYTHONPATH={TESTS} {sys.executable} {TESTS / 'emulators' / 'vasp_stand_in.py'}"


def test_electrons_that_do_not_converge_get_a_second_attempt_with_other_mixing(vasp):
    leave_outputs(folder_of(vasp, "Fe2Ni"))
    output = cli("run", vasp, "--command", f"STAND_IN=unconverged {STAND_IN}").output
    assert "1 computed: 1 done" in output
    folder = folder_of(vasp, "Ca2FeNi")
    assert parse_incar((folder / "INCAR").read_text())["AMIX"] == "0.1"
    assert "AMIX" not in parse_incar((folder / "INCAR.first").read_text())
    assert "EDIFF was not reached" in (folder / "OUTCAR.first").read_text()
    assert "second attempt" in (folder / "run.log").read_text()


def test_a_command_that_fails_gets_no_second_attempt(vasp):
    output = cli("run", vasp, "--command", "echo tried >> tried; exit 3", code=7).output
    assert "2 failed" in output
    assert (folder_of(vasp, "Ca2FeNi") / "tried").read_text() == "tried\n"


@pytest.fixture
def to_relax(tmp_path, chosen, library) -> Path:
    ase.io.write(tmp_path / "one.extxyz", ase.io.read(chosen, 0))
    words = ("--code", "vasp", "--potcars", library, "--generation", 5, "--relax")
    cli("prepare", tmp_path / "labels", tmp_path / "one.extxyz", *words)
    return tmp_path / "labels"


def test_near_the_hull_dft_relaxes_and_both_ends_are_labels(to_relax, tmp_path):
    folder = folder_of(to_relax, "Ca2FeNi")
    tags = parse_incar((folder / "INCAR.relax").read_text())
    assert (tags["ISIF"], tags["IBRION"], tags["PSTRESS"], tags["ENCUT"]) == ("3", "2", "500", "550")
    assert parse_incar((folder / "INCAR").read_text())["NSW"] == "0"
    assert "1 computed: 1 done" in cli("run", to_relax, "--command", STAND_IN).output
    assert (folder / "relax" / "OUTCAR.2").is_file(), "more than one run"
    assert "relaxation by DFT lowered the enthalpy of 1 structure" in cli("collect", to_relax, tmp_path / "data").output
    labels = Dataset.open(tmp_path / "data").labels.values()
    assert len(labels) == 2
    assert len({label.family for label in labels}) == 1
    for before, after in [sorted(labels, key=lambda one: "relaxed" in one.origin)]:
        assert after.provenance["relaxed_from"] == before.id
        assert after.own_pressure_gpa == pytest.approx(50.0, abs=0.5)
        assert after.fmax < 0.02 < before.fmax
        gain = (before.e0 - after.e0 + 50 / 160.21766 * (before.volume - after.volume)) / before.natoms
        assert after.provenance["gain_ev_per_atom"] == pytest.approx(gain, abs=1e-4)
        assert gain > 0.01
    assert "0 labels added" in cli("collect", to_relax, tmp_path / "data").output


def test_a_relaxation_that_was_killed_goes_on(to_relax):
    output = cli("run", to_relax, "--command", f"STAND_IN=killed {STAND_IN}", code=7).output
    assert "1 failed" in output
    folder = folder_of(to_relax, "Ca2FeNi")
    assert (folder / "relax" / "CONTCAR").is_file()
    reached = read_poscar(folder / "relax" / "CONTCAR", ["Ca", "Fe", "Ni"]).volume
    first = (folder / "relax" / "OUTCAR.0").read_text()
    assert "1 done" in cli("run", to_relax, "--retry", "--command", STAND_IN).output
    assert (folder / "relax" / "OUTCAR.0").read_text() == first, "the structure as it came is not computed again"
    began = float((folder / "relax" / "OUTCAR.1").read_text().partition("volume of cell :")[2].split()[0])
    assert began == pytest.approx(reached, abs=0.01)


def test_a_relaxation_that_does_not_converge_is_no_label(tmp_path, chosen, library):
    (tmp_path / "s.toml").write_text('code = "vasp"\n[relax]\nruns = 2\n')
    ase.io.write(tmp_path / "one.extxyz", ase.io.read(chosen, 0))
    words = ("--settings", tmp_path / "s.toml", "--potcars", library, "--generation", 5, "--relax")
    cli("prepare", tmp_path / "labels", tmp_path / "one.extxyz", *words)
    output = cli("run", tmp_path / "labels", "--command", f"STAND_IN=endless {STAND_IN}", code=7).output
    assert "not relaxed after 2 runs" in output


def test_only_vasp_relaxes(tmp_path, chosen):
    words = ("prepare", tmp_path / "l", chosen, "--code", "gpaw", "--generation", 0, "--relax")
    assert "--relax is for VASP" in str(cli(*words, code=4).exception)


def test_frames_that_are_no_crystals_are_not_prepared(tmp_path):
    atoms = cell("CaNi", 1)
    atoms.pbc = (True, True, False)
    ase.io.write(tmp_path / "x.extxyz", atoms)
    with pytest.raises(InputError, match="frame 1: not periodic in three dimensions"):
        list(candidates([str(tmp_path / "x.extxyz")]))


def test_a_formula_that_the_atoms_contradict_is_said_when_they_are_prepared(tmp_path):
    structure = Structure(("Ca", "Ni"), np.eye(3) * 4, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), contradicted="it is not")
    settings = LabelSettings(code="gpaw", job=JobSettings(command="gpaw"))
    found = prepare([Candidate(structure, "x")], tmp_path / "labels", settings, generation=0, pressure_gpa=0.0)
    assert "x: it is not" in found.notes
