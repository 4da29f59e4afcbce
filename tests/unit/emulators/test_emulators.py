"""The emulated USPEX lines themselves: with a scripted executable they react as protocol parts A3 and G say."""

import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.io import read
from emulators import candidates as made
from emulators import fake_vasp, matlab_files
from emulators.forkserver import ForkServer
from emulators.inputs import manual_series, single_relaxation
from emulators.matlab_line import MatlabLine
from emulators.python_line import GPA_A3_PER_EV, PythonLine
from emulators.records import Candidate, SearchDied, SearchHung, SearchStopped, kpoints

SPECIES = ("Ni", "Ca", "Fe")


@pytest.fixture
def fake():
    return f"{sys.executable} -S {fake_vasp.__file__}"


def crystal(index=1):
    """CsCl-like cell whose atoms stand neither in alphabetical nor in INPUT.txt's order."""
    cell = [[5.0, 0, 0], [0.3, 5.2, 0], [0, 0.1, 5.4]]
    scaled = [(0.5, 0.5, 0.5), (0, 0, 0), (0.5, 0, 0), (0, 0.5, 0.2)]
    atoms = Atoms("FeNiCaNi", scaled_positions=scaled, cell=cell, pbc=True)
    return Candidate(index, atoms)


def matlab(tmp_path, fake, plan="", steps=1, **options):
    """A search with that many steps, and the executable's plan for its calls."""
    (tmp_path / "plan").write_text(plan)
    incars = manual_series()[:steps]
    return MatlabLine(tmp_path, SPECIES, incars, commands=[fake], **{"pressure": 50.0, **options})


def python(tmp_path, fake, plan="", steps=1, **options):
    (tmp_path / "plan").write_text(plan)
    incars = manual_series()[:steps]
    return PythonLine(tmp_path, SPECIES, incars, command=fake, **{"pressure": 50.0, **options})


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def expected_enthalpy(atoms, pressure=50.0):
    return fake_vasp.ENERGY * len(atoms) + pressure * atoms.get_volume() / GPA_A3_PER_EV


class TestMatlabWriting:
    def test_poscar_and_the_other_inputs(self, tmp_path, fake):
        line = matlab(tmp_path, fake, "nothing nothing nothing", pressure=12.5)
        report = line.relax([crystal()])[0]
        text = (tmp_path / "CalcFold1/POSCAR").read_text().splitlines()
        assert text[0] == "EA0     5.000  5.209  5.401 88.94 90.00 86.70 Sym.group:    0"
        assert text[1] == "1.0000"
        assert text[3] == "    0.300000     5.200000     0.000000"
        assert text[5] == "   2    1    1 "
        assert text[6] == "Direct"
        assert text[7:9] == ["    0.000000     0.000000     0.000000", "    0.000000     0.500000     0.200000"]
        assert len(text) == 11
        incar = (tmp_path / "CalcFold1/INCAR").read_text()
        assert incar == manual_series()[0] + "PSTRESS=125\nISYM=0\n"
        potcar = (tmp_path / "CalcFold1/POTCAR").read_text()
        assert [s for s in SPECIES if f"VRHFIN ={s}:" in potcar] == list(SPECIES)
        assert potcar.index("TITEL  = PAW_PBE Ni") < potcar.index("TITEL  = PAW_PBE Ca")
        assert (tmp_path / "CalcFold1/KPOINTS").read_text() == "EA\n0\nGamma\n   2    2    2\n"
        assert report.calls[0].folder.name == "CalcFold1"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0, "0"),
            (125.0, "125"),
            (123.456789, "123.4568"),
            (0.001, "0.001"),
            (1234.5678, "1234.5678"),
            (-3.0, "-3"),
        ],
    )
    def test_num2str(self, value, text):
        assert matlab_files.num2str(value) == text

    def test_incar_without_a_last_newline_swallows_pstress(self, tmp_path, fake):
        line = MatlabLine(tmp_path, SPECIES, ["NSW=10"], commands=[fake], pressure=12.5)
        line.relax([crystal()])
        assert (tmp_path / "CalcFold1/INCAR").read_text() == "NSW=10PSTRESS=125\n"

    def test_only_middle_steps_are_perturbed(self, tmp_path, fake):
        line = matlab(tmp_path, fake, steps=5)
        report = line.relax([crystal()])[0]
        cells = [np.sort(step.atoms.cell.lengths()) for step in report.steps]
        starts = [np.sort(crystal().atoms.cell.lengths()), *cells[:-1]]
        shifts = [np.abs(cell / 0.99 - start).max() for cell, start in zip(cells, starts, strict=True)]
        assert [shift > 1e-3 for shift in shifts] == [False, True, True, False, False]
        assert max(shifts) < 0.75

    def test_three_steps_are_never_perturbed(self, tmp_path, fake):
        report = matlab(tmp_path, fake, steps=3).relax([crystal()])[0]
        assert report.final.get_volume() == pytest.approx(0.99**9 * crystal().atoms.get_volume(), rel=1e-5)

    def test_missing_input_stops_the_search(self, tmp_path, fake):
        line = matlab(tmp_path, fake)
        line.specific.joinpath("POTCAR_Ca").unlink()
        with pytest.raises(SearchStopped, match="POTCAR_Ca"):
            line.run([crystal()])

    def test_kpoints_of_a_spoiled_cell_cost_the_structure(self, tmp_path, fake):
        report = matlab(tmp_path, fake).relax([Candidate(1, Atoms("Fe", cell=[0.3, 15, 15], pbc=True))])[0]
        assert (tmp_path / "CalcFold1/KPOINTS").read_text().endswith("   1    1    1\n")
        assert report.status == "dropped"
        assert len(calls(tmp_path)) == 1

    def test_kpoints_follow_plane_distances(self):
        assert kpoints(np.diag([2.0, 5.0, 50.0]), 0.12) == ((5, 2, 1), False)


class TestMatlabReading:
    @pytest.mark.parametrize("kind", ["good", "exit-7", "vasp4", "cartesian", "selective", "velocities", "scaled"])
    def test_accepted(self, tmp_path, fake, kind):
        report = matlab(tmp_path, fake, kind).relax([crystal()])[0]
        assert report.done
        assert len(report.calls) == 1
        assert report.enthalpy == pytest.approx(expected_enthalpy(report.final), abs=1e-5)
        assert report.final.get_chemical_symbols() == ["Ni", "Ni", "Ca", "Fe"]
        assert report.final.get_volume() == pytest.approx(0.99**3 * crystal().atoms.get_volume(), rel=1e-5)
        assert report.calls[0].returncode == (7 if kind == "exit-7" else 0)

    @pytest.mark.parametrize(
        ("kind", "number"),
        [
            ("nothing", 1102),
            ("glued", 1102),
            ("no-outcar", 1103),
            ("no-nelm", 1103),
            ("extra-nelm", 1103),
            ("equal", 1103),
            ("unconverged", 1103),
            ("foreign-line", 1103),
            ("blank-line", 1103),
            ("indented", 1103),
        ],
    )
    def test_failed_step_is_repeated_and_dropped_at_the_third(self, tmp_path, fake, kind, number):
        report = matlab(tmp_path, fake, f"{kind} {kind}").relax([crystal()])[0]
        assert report.done
        assert [call.accepted for call in report.calls] == [False, False, True]
        assert [call.message[:4] for call in report.calls] == [str(number)] * 2 + [""]
        assert (tmp_path / "Warnings").read_text().count(str(number)) == 2

    def test_third_failure_in_a_life_drops_the_structure(self, tmp_path, fake):
        report = matlab(tmp_path, fake, "equal good nothing good good equal", steps=5).relax([crystal()])[0]
        assert report.status == "dropped"
        assert report.enthalpy == 100000.0
        assert [call.step for call in report.calls] == [1, 1, 2, 2, 3, 4]
        errors = sorted(path.name for path in (tmp_path / "CalcFold1").glob("ERROR-OUTCAR*"))
        assert errors == ["ERROR-OUTCAR-Gen1-Ind1-Step1", "ERROR-OUTCAR-Gen1-Ind1-Step4"]

    def test_isym_from_the_third_attempt_on_and_for_later_steps(self, tmp_path, fake):
        matlab(tmp_path, fake, "nothing nothing", steps=2).relax([crystal()])
        assert [line.split()[2] for line in calls(tmp_path)] == ["ISYM=False", "ISYM=False", "ISYM=True", "ISYM=True"]

    @pytest.mark.parametrize("kind", ["no-contcar", "empty-contcar", "no-rows", "stars", "NAN", "inf", "no-blank"])
    def test_uncaught_exception_ends_uspex(self, tmp_path, fake, kind):
        with pytest.raises(SearchDied):
            matlab(tmp_path, fake, kind).relax([crystal()])

    def test_octaves_nan_is_accepted(self, tmp_path, fake):
        report = matlab(tmp_path, fake, "NaN").relax([crystal()])[0]
        assert report.done
        assert math.isnan(report.enthalpy)

    @pytest.mark.parametrize("kind", ["fewer-rows", "labels", "close"])
    def test_bad_geometry_drops_at_once(self, tmp_path, fake, kind):
        report = matlab(tmp_path, fake, kind).relax([crystal()])[0]
        assert report.status == "dropped"
        assert len(report.calls) == 1
        assert "distance constraint" in (tmp_path / "Warnings").read_text()

    def test_swapped_atoms_are_accepted_with_wrong_chemistry(self, tmp_path, fake):
        report = matlab(tmp_path, fake, "swapped").relax([crystal()])[0]
        assert report.done
        assert report.final.get_chemical_symbols()[-1] == "Fe"
        assert np.allclose(report.final.get_scaled_positions()[-1], 0)

    def test_stale_files_are_read_when_nothing_is_written(self, tmp_path, fake):
        line = matlab(tmp_path, fake, "equal nothing nothing")
        first, second = line.relax([crystal(1)])[0], None
        assert first.status == "dropped"
        stale = (tmp_path / "CalcFold1/OUTCAR").read_text().replace("60;", "99;")
        (tmp_path / "CalcFold1/OUTCAR").write_text(stale)
        (tmp_path / "plan").write_text("- - - nothing")
        second = line.relax([crystal(2)])[0]
        assert second.done
        assert second.calls[0].returncode == 1

    def test_success_renames_and_the_next_structure_reuses_the_slot(self, tmp_path, fake):
        line = matlab(tmp_path, fake)
        line.relax([crystal(1), crystal(2)])
        names = {path.name for path in (tmp_path / "CalcFold1").iterdir()}
        assert {"CONTCAR_old", "OUTCAR_old", "OSZICAR_old", "POSCAR_old", "INCAR", "KPOINTS", "getStuff"} <= names
        assert not {"CONTCAR", "OUTCAR", "OSZICAR", "POSCAR"} & names

    def test_too_many_errors_stop_the_search(self, tmp_path, fake):
        line = matlab(tmp_path, fake, "nothing " * 9)
        with pytest.raises(SearchStopped, match="Too many structures"):
            line.run([crystal(index) for index in (1, 2, 3)])
        assert len(calls(tmp_path)) == 9

    def test_a_third_is_enough(self, tmp_path, fake):
        reports = matlab(tmp_path, fake, "nothing " * 6).run([crystal(index) for index in (1, 2, 3)])
        assert [report.done for report in reports] == [False, False, True]

    @pytest.mark.parametrize(
        ("kind", "changed", "strays"), [("extra-input", ("POSCAR",), ()), ("stray", (), ("USPEX.log",))]
    )
    def test_trespassing_is_noted(self, tmp_path, fake, kind, changed, strays):
        call = matlab(tmp_path, fake, kind).relax([crystal()])[0].calls[0]
        assert (call.changed, call.strays) == (changed, strays)

    def test_our_get_stuff_columns_are_those_of_the_perl_script(self, tmp_path, fake):
        matlab(tmp_path, fake).relax([crystal()])
        folder = tmp_path / "CalcFold1"
        for name, pattern, column in (
            ("OSZICAR_old", " F= ", 4),
            ("OUTCAR_old", " NELM ", 4),
            ("OSZICAR_old", ": ", 2),
        ):
            out = subprocess.run(
                ["perl", "getStuff", name, pattern, str(column)], cwd=folder, capture_output=True, text=True
            )
            assert out.stdout == matlab_files.get_stuff(folder / name, pattern, column)
            assert out.stdout.strip()


class TestMatlabLaunch:
    def test_shell_folder_and_streams(self, tmp_path, fake):
        matlab(tmp_path, f"true && timeout 60 {fake} > output && echo done", "good").relax([crystal()])
        assert (tmp_path / "CalcFold1/output").exists()
        assert calls(tmp_path) == ["good CalcFold1 ISYM=False tty=False"]

    def test_one_command_for_each_step_or_the_first_for_all(self, tmp_path, fake):
        (tmp_path / "plan").write_text("")
        incars = manual_series()[:2]
        MatlabLine(tmp_path / "a", SPECIES, incars, commands=[f"{fake} 1", f"touch second; {fake} 2"]).relax(
            [crystal()]
        )
        MatlabLine(tmp_path / "b", SPECIES, [*incars, "\n"], commands=[f"touch first; {fake}", "false"]).relax(
            [crystal()]
        )
        assert (tmp_path / "a/CalcFold1/second").exists()
        assert (tmp_path / "b/CalcFold1/first").exists()

    def test_parallel_jobs_report_their_end_in_job_log(self, tmp_path, fake):
        command = f"({fake}; echo JOB_IS_FINISHED >> JOB_LOG) > /dev/null 2>&1 &"
        line = matlab(tmp_path, command, steps=2, parallel=2)
        reports = line.run([crystal(index) for index in range(1, 6)])
        assert all(report.done for report in reports)
        assert {call.folder.name for report in reports for call in report.calls} == {"CalcFold1", "CalcFold2"}
        assert all(len({call.folder for call in report.calls}) == 1 for report in reports)
        assert not list(tmp_path.glob("CalcFold*/JOB_LOG"))

    def test_parallel_without_job_log_waits_for_ever(self, tmp_path, fake):
        with pytest.raises(SearchHung, match="JOB_IS_FINISHED"):
            matlab(tmp_path, fake, parallel=2, patience=0.2).relax([crystal()])


class TestPythonLine:
    def test_inputs(self, tmp_path, fake):
        python(tmp_path, fake, "nothing nothing", pressure=12.5).run([crystal(7)])
        folder = tmp_path / "CalcFold7_1"
        text = (folder / "POSCAR").read_text().splitlines()
        assert text[:3] == ["EA7", " 1.0000000000000000", "    5.000000    0.000000    0.000000"]
        assert text[5:9] == ["  Ca  Fe  Ni", "   1   1   2", "Direct", "  0.500000  0.000000  0.000000"]
        assert (folder / "INCAR").read_text() == manual_series()[0] + "\nPSTRESS=125.000000\n"
        assert read(folder / "POSCAR", format="vasp").get_chemical_symbols() == ["Ca", "Fe", "Ni", "Ni"]
        assert (folder / "input").read_bytes() == b""
        assert {"pbc", "symbolsOrder", "output", "error"} <= {path.name for path in folder.iterdir()}

    def test_no_pstress_at_zero_pressure(self, tmp_path, fake):
        python(tmp_path, fake, "nothing nothing", pressure=0.0).run([crystal()])
        assert "PSTRESS" not in (tmp_path / "CalcFold1_1/INCAR").read_text()

    @pytest.mark.parametrize("kind", ["good", "exit-7", "selective", "velocities"])
    def test_accepted_enthalpy_and_order(self, tmp_path, fake, kind):
        report = python(tmp_path, fake, kind, steps=2).run([crystal()])[0]
        assert report.done
        assert report.enthalpy == pytest.approx(expected_enthalpy(report.final), abs=1e-6)
        assert report.final.get_chemical_symbols() == crystal().atoms.get_chemical_symbols()
        moved = report.final.get_scaled_positions() - crystal().atoms.get_scaled_positions()
        assert np.abs(moved - np.round(moved)).max() < 1e-5
        assert not list(tmp_path.glob("CalcFold*"))

    def test_unconverged_gets_a_second_attempt_without_symmetry_in_a_fresh_folder(self, tmp_path, fake):
        line = python(tmp_path, fake, "equal good")
        line.folder(1, "1").mkdir()
        (line.folder(1, "1") / "CONTCAR").write_text("stale")
        report = line.run([crystal()])[0]
        assert [call.accepted for call in report.calls] == [False, True]
        assert [line.split()[2] for line in calls(tmp_path)] == ["ISYM=False", "ISYM=True"]

    @pytest.mark.parametrize("kind", ["nothing", "no-outcar", "no-contcar"])
    def test_missing_files_are_retried_with_symmetry_and_two_failures_make_it_bad(self, tmp_path, fake, kind):
        reports = python(tmp_path, fake, f"{kind} {kind} good").run([crystal(1), crystal(2)])
        assert [report.status for report in reports] == ["dropped", "done"]
        assert [line.split()[2] for line in calls(tmp_path)] == ["ISYM=False"] * 3
        assert (tmp_path / "CalcFold1_1").exists()

    @pytest.mark.parametrize("kind", ["empty-contcar", "foreign-line", "single-potcar"])
    def test_exception_while_reading_makes_it_bad_at_once(self, tmp_path, fake, kind):
        report = python(tmp_path, fake, kind).run([crystal()])[0]
        assert report.status == "dropped"
        assert report.reason.startswith("reading")
        assert len(calls(tmp_path)) == 1

    def test_too_close_atoms_make_it_bad_at_once(self, tmp_path, fake):
        tight = crystal()
        tight.atoms.set_cell(tight.atoms.cell * 0.1, scale_atoms=True)
        report = python(tmp_path, fake).run([tight])[0]
        assert (report.status, report.reason) == ("dropped", "distance constraint")

    def test_streams_are_files_and_parallel_structures_do_not_mix(self, tmp_path, fake):
        line = python(tmp_path, f"echo hello; echo trouble >&2; {fake}", parallel=2, keep_folders=True)
        reports = line.run([crystal(index) for index in range(1, 5)])
        assert all(report.done for report in reports)
        assert (tmp_path / "CalcFold3_1/output").read_text() == "hello\n"
        assert (tmp_path / "CalcFold3_1/error").read_text() == "trouble\n"


class TestForkServer:
    @pytest.fixture
    def server(self, tmp_path, monkeypatch):
        (tmp_path / "target_under_test.py").write_text(
            "import os, sys, time\nos.environ['SET'] = 'by import'\n"
            "print('imported', file=open(os.environ['TRACE'], 'a'))\n"
            "def main(argv):\n"
            "    if argv[0] == 'code': return int(argv[1])\n"
            "    if argv[0] == 'exit': sys.exit(argv[1])\n"
            "    if argv[0] == 'raise': raise ValueError('broken')\n"
            "    if argv[0] == 'kill': os.kill(os.getpid(), 9)\n"
            "    if argv[0] == 'sleep': time.sleep(float(argv[1]))\n"
            "    if argv[0] == 'meet':\n"
            "        open('here', 'w').close()\n"
            "        while not os.path.exists('../' + argv[1] + '/here'): time.sleep(0.01)\n"
            "    if argv[0] == 'say': print(os.getcwd(), sys.stdin.read(), os.environ.get('TOLD'), os.environ['SET'])\n"
            "    if argv[0] == 'leak': globals()['seen'] = globals().get('seen', 0) + 1; return seen\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
        with ForkServer("target_under_test:main", "tool", preload=()) as server:
            yield server

    def launch(self, server, tmp_path, command):
        (tmp_path / "in").write_text("text")
        with (
            (tmp_path / "in").open() as stdin,
            (tmp_path / "out").open("w") as out,
            (tmp_path / "err").open("w") as err,
        ):
            return server.launch(command, tmp_path, stdin, out, err)

    def test_codes_and_streams(self, server, tmp_path, monkeypatch):
        assert self.launch(server, tmp_path, "tool code 6") == 6
        assert self.launch(server, tmp_path, "tool kill") == -9
        assert self.launch(server, tmp_path, "tool exit message") == 1
        assert (tmp_path / "err").read_text() == "message\n"
        assert self.launch(server, tmp_path, "tool raise") == 1
        assert "ValueError: broken" in (tmp_path / "err").read_text()
        monkeypatch.setenv("TOLD", "now")
        assert self.launch(server, tmp_path, "tool say") == 0
        assert (tmp_path / "out").read_text() == f"{tmp_path} text now by import\n"
        assert (tmp_path / "trace").read_text() == "imported\n"

    def test_calls_share_nothing(self, server, tmp_path):
        assert [self.launch(server, tmp_path, "tool leak") for _ in range(3)] == [1, 1, 1]

    def test_calls_run_side_by_side(self, server, tmp_path):
        for name in "ab":
            (tmp_path / name).mkdir()
        with ThreadPoolExecutor(2) as pool:
            codes = pool.map(lambda pair: self.launch(server, tmp_path / pair[0], f"tool meet {pair[1]}"), ["ab", "ba"])
            assert list(codes) == [0, 0]

    def test_other_commands_are_refused(self, server, tmp_path):
        with pytest.raises(ValueError, match="plain arguments"):
            self.launch(server, tmp_path, "tool code 0 > file")
        with pytest.raises(ValueError, match="'other'"):
            self.launch(server, tmp_path, "other")

    def test_closing_ends_what_runs(self, server, tmp_path):
        done = threading.Event()

        def call():
            with pytest.raises(RuntimeError, match="gone"):
                self.launch(server, tmp_path, "tool sleep 60")
            done.set()

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.3)
        server.close()
        assert done.wait(10)
        thread.join()


class TestCandidates:
    def test_seeded_one_by_one(self):
        short, long = list(made.candidates(3, seed=4)), list(made.candidates(5, seed=4))
        for one, other in zip(short, long[:3], strict=True):
            assert one.atoms == other.atoms
        assert long[0].atoms != next(iter(made.candidates(1, seed=5))).atoms

    @pytest.mark.parametrize("pressure", [0.0, 50.0, 100.0])
    def test_sizes_distances_and_volumes(self, pressure):
        distances = made.ion_distances(pressure)
        for candidate in made.candidates(12, pressure, seed=1):
            assert 2 <= len(candidate.atoms) <= 24
            assert made.far_enough(candidate.atoms, distances)
            per_atom = sum(made.atomic_volume(s, pressure) for s in candidate.atoms.symbols)
            assert 0.9 < candidate.atoms.get_volume() / per_atom < 1.35

    def test_half_of_them_are_symmetric(self):
        for candidate in made.candidates(10, seed=2):
            atoms = candidate.atoms
            cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
            found = len(spglib.get_symmetry_dataset(cell, symprec=1e-4).rotations)
            assert (found > 1) == (candidate.index % 2 == 1), candidate.origin

    def test_distances_agree_with_ase(self):
        atoms = made.candidate(2, seed=3).atoms
        ours = made.shortest(atoms.cell.array, atoms.get_scaled_positions()[0], atoms.get_scaled_positions()[1:])
        assert np.allclose(ours, atoms.get_distances(0, range(1, len(atoms)), mic=True))

    @pytest.mark.parametrize("kind", made.BAD_KINDS)
    def test_spoiled(self, kind):
        good, bad = made.candidate(2).atoms, made.candidate(2, spoil=kind).atoms
        factor = bad.get_volume() / good.get_volume()
        nearest = bad.get_all_distances(mic=True)[np.triu_indices(len(bad), 1)].min()
        assert {
            "overlap": nearest < 0.31,
            "dense": abs(factor - 1 / 3) < 1e-9,
            "flat": abs(bad.cell.lengths()[2] - 0.7) < 1e-9,
            "inflated": abs(factor - 20) < 1e-9,
        }[kind]


def test_series_ends_with_a_newline_and_one_single_point():
    series = manual_series()
    assert all(text.endswith("\n") for text in series + single_relaxation())
    assert ["NSW = 0\n" in text for text in series] == [False] * 4 + [True]
    assert os.linesep == "\n"
