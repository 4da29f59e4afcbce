"""Whole write-launch-read cycles of both USPEX lines with the real executable."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from emulators import independent
from emulators.candidates import candidate, candidates, ion_distances
from emulators.forkserver import ForkServer
from emulators.independent import assert_sound
from emulators.inputs import demo_weights, embedded_settings, manual_series, paper_settings, single_relaxation
from emulators.matlab_line import MatlabLine
from emulators.python_line import PythonLine

#: The models' packages alone take minutes to import where the machine is busy.
pytestmark = pytest.mark.timeout(900)
EXECUTABLE = str(Path(sys.executable).parent / "uspex-bridge-vasp")
ROOT = Path(__file__).resolve().parents[2]
BACKGROUND = ROOT / "templates" / "matlab" / "background.sh"
WEIGHTS = ROOT / "examples" / "demo_weights"
#: Neither the alphabetical order nor that of the candidates.
SPECIES = ("Ni", "Ca", "Fe")
TOY = 'protocol = "single"\n[calculators.model]\nkind = "toy"\n'
STALE = {
    "OSZICAR": "DAV:   1    -0.1E+02\n   1 F= -.99900000E+03 E0= -.99900000E+03  d E =-.1E+00\n",
    "OUTCAR": "   NELM   =     60;   NELMIN=  2; NELMDL= -5     # of ELM steps\n",
    "CONTCAR": "stale\n1.0\n9.0 0 0\n0 9.0 0\n0 0 9.0\n2\nDirect\n0 0 0\n0.5 0.5 0.5\n",
}


def settings(root, text):
    """Put bridge.toml where USPEX's user would: beside the CalcFolds, or in Specific (here: by turns)."""
    root.mkdir(parents=True, exist_ok=True)
    place = root if len(root.name) % 2 else root / "Specific"
    place.mkdir(exist_ok=True)
    (place / "bridge.toml").write_text(text)
    return root


def leave_stale(folder):
    """Leave a complete, wrong result in a slot, as a structure that failed there does."""
    for name, text in STALE.items():
        (folder / name).write_text(text)


class TestConsoleScript:
    """The real console script through a real shell, on the toy potential."""

    def test_matlab_line_five_steps_in_a_slot_with_stale_files(self, tmp_path):
        line = MatlabLine(settings(tmp_path, TOY), SPECIES, manual_series(), pressure=50.0, commands=[EXECUTABLE])
        leave_stale(line.folder(1))
        report = line.run([candidate(1, 50.0, atoms=(3, 6))])[0]
        assert [call.step for call in report.calls] == [1, 2, 3, 4, 5]
        assert_sound(report, 50.0, independent.calculator("toy"))
        volumes = [step.atoms.get_volume() for step in report.steps]
        assert volumes[4] == pytest.approx(volumes[3], rel=1e-4)
        assert report.enthalpies[4] == pytest.approx(report.enthalpies[3], abs=2e-3)

    def test_parallel_slots_with_the_background_wrapper_that_init_writes(self, tmp_path):
        root = settings(tmp_path, TOY)
        (root / "Specific").mkdir(exist_ok=True)
        shutil.copy(BACKGROUND, root / "Specific")
        line = MatlabLine(
            root,
            SPECIES,
            single_relaxation(),
            pressure=50.0,
            commands=[f"bash ../Specific/background.sh {EXECUTABLE}"],
            parallel=2,
        )
        reports = line.run(candidates(4, 50.0, atoms=(3, 5)))
        reference = independent.calculator("toy")
        for report in reports:
            assert_sound(report, 50.0, reference)
        assert {call.folder.name for report in reports for call in report.calls} == {"CalcFold1", "CalcFold2"}

    def test_calls_that_never_start_or_are_killed_are_repeated(self, tmp_path):
        """Of every three calls one does not start, one is killed while it works and one runs."""
        root = settings(tmp_path, TOY + "options = { sleep = 0.02 }\n")
        wrapper = root / "sometimes.sh"
        wrapper.write_text(
            "n=$(cat ../count 2> /dev/null || echo 0)\necho $((n + 1)) > ../count\n"
            f"case $((n % 3)) in 0) exit 1;; 1) exec timeout -s KILL 0.4 {EXECUTABLE};; *) exec {EXECUTABLE};; esac\n"
        )
        line = MatlabLine(root, SPECIES, single_relaxation(), pressure=50.0, commands=["sh ../sometimes.sh"])
        leave_stale(line.folder(1))
        (line.folder(1) / "OSZICAR").unlink()
        reports = line.run([candidate(index, 50.0, atoms=(4, 6)) for index in (1, 2)])
        for report in reports:
            assert [call.accepted for call in report.calls] == [False, False, True]
            assert report.calls[1].returncode != 0
            assert "ISYM=0" in report.steps[0].incar
            assert_sound(report, 50.0, independent.calculator("toy"))

    def test_python_line_second_attempt(self, tmp_path):
        root = settings(tmp_path, TOY)
        (root / "once.sh").write_text(f'[ -e ../started ] || {{ touch ../started; exit 1; }}; exec "{EXECUTABLE}"\n')
        line = PythonLine(root, SPECIES, single_relaxation(), pressure=50.0, command="sh ../once.sh")
        report = line.run([candidate(1, 50.0, atoms=(4, 6))])[0]
        assert [call.accepted for call in report.calls] == [False, True]
        assert_sound(report, 50.0, independent.calculator("toy"))


class TestToy:
    """The toy potential, each call a fork of a warm server."""

    @pytest.fixture(scope="class")
    def launch(self):
        with ForkServer(preload=("ase.optimize", "ase.filters", "ase.neighborlist", "spglib")) as server:
            yield server.launch

    def test_constant_volume_steps_keep_the_volume_that_was_written(self, tmp_path, launch):
        line = MatlabLine(settings(tmp_path, TOY), SPECIES, manual_series()[:1], pressure=50.0, launch=launch)
        report = line.run([candidate(2, 50.0, atoms=(3, 6))])[0]
        assert report.done
        rows = (line.folder(1) / "POSCAR_old").read_text().splitlines()[2:5]
        written = np.array([[float(x) for x in row.split()] for row in rows])
        relaxed = independent.read_contcar(report.steps[0].contcar)
        assert relaxed.get_volume() == pytest.approx(abs(np.linalg.det(written)), rel=1e-6)
        assert np.abs(relaxed.cell.array - written).max() > 1e-3

    @pytest.mark.parametrize("pressure", [0.0, 12.5])
    def test_python_line_with_perturbation(self, tmp_path, launch, pressure):
        line = PythonLine(
            settings(tmp_path, TOY), SPECIES, manual_series()[2:4], pressure=pressure, launch=launch, perturb=True
        )
        report = line.run([candidate(2, 50.0, atoms=(3, 6))])[0]
        assert len(report.calls) == 2
        assert_sound(report, pressure, independent.calculator("toy"))

    def test_a_failed_run_leaves_nothing_of_an_earlier_structure(self, tmp_path, launch):
        text = TOY + "options = { elements = ['Fe'] }\n"
        line = MatlabLine(settings(tmp_path, text), SPECIES, single_relaxation(), pressure=50.0, launch=launch)
        leave_stale(line.folder(1))
        report = line.relax([candidate(1, 50.0, atoms=(4, 6))])[0]
        assert report.status == "dropped"
        assert [call.message[:4] for call in report.calls] == ["1102"] * 3
        assert {call.returncode for call in report.calls} == {3}
        assert not {"OSZICAR", "OUTCAR", "CONTCAR"} & {path.name for path in line.folder(1).iterdir()}

    def test_steps_running_out_are_accepted(self, tmp_path, launch):
        incar = single_relaxation()[0].replace("NSW = 1500", "NSW = 3")
        line = MatlabLine(settings(tmp_path, TOY), SPECIES, [incar], pressure=50.0, launch=launch)
        report = line.run([candidate(2, 50.0, atoms=(4, 6))])[0]
        assert report.done
        check = independent.check(report.steps[0], 50.0, independent.calculator("toy"))
        assert abs(check.enthalpy_error) < 1e-5
        assert check.fmax > 0.01

    @pytest.mark.parametrize("kind", ["overlap", "dense", "flat", "inflated"])
    def test_a_spoiled_structure_never_ends_the_search(self, tmp_path, launch, kind):
        line = MatlabLine(
            settings(tmp_path, TOY),
            SPECIES,
            manual_series()[2:4],
            pressure=50.0,
            launch=launch,
            distances=ion_distances(50.0, 0.4),
            kresol=1.0,
        )
        bad = candidate(2, 50.0, atoms=(4, 6), spoil=kind)
        spoiled, sound = line.relax([bad, candidate(1, 50.0, atoms=(4, 6))])
        assert sound.done
        if spoiled.done:
            assert_sound(spoiled, 50.0, independent.calculator("toy"))
        else:
            assert spoiled.reason.startswith("1102")
            assert {call.returncode for call in spoiled.calls} == {6}

    def test_penalty_keeps_a_refused_structure_in_the_search(self, tmp_path, launch):
        text = TOY.replace("[calc", 'on_reject = "penalty"\n[calc') + "options = { hole = true }\n"
        line = MatlabLine(
            settings(tmp_path, text), SPECIES, single_relaxation(), pressure=50.0, launch=launch, distances={}
        )
        report = line.run([candidate(2, 50.0, atoms=(4, 6), spoil="dense")])[0]
        assert report.done
        assert len(report.calls) == 1
        assert 50 < report.enthalpy / len(report.candidate.atoms) < 1000


class TestModels:
    """CHGNet, as a fresh installation runs it, and MACE -> MatterSim on the demo weights; each call is a process."""

    @pytest.fixture(scope="class")
    def launch(self):
        with ForkServer() as server:
            yield server.launch

    @pytest.fixture(scope="class", params=["embedded", "paper"])
    def protocol(self, request):
        """Text of bridge.toml, and the calculator that has the last word."""
        if request.param == "embedded":
            return embedded_settings(), independent.calculator("chgnet")
        return paper_settings(WEIGHTS), independent.calculator("mattersim", demo_weights(WEIGHTS)[1])

    @pytest.mark.parametrize("pressure", [0.0, 50.0, 100.0])
    def test_matlab_line(self, tmp_path, launch, protocol, pressure):
        line = MatlabLine(
            settings(tmp_path, protocol[0]),
            SPECIES,
            manual_series(),
            pressure=pressure,
            distances=ion_distances(pressure),
            launch=launch,
        )
        leave_stale(line.folder(1))
        report = line.run([candidate(2, pressure, seed=7, atoms=(2, 4))])[0]
        assert_sound(report, pressure, protocol[1])
        assert len(report.calls) == 5

    @pytest.mark.parametrize("pressure", [0.0, 50.0, 100.0])
    def test_python_line(self, tmp_path, launch, protocol, pressure):
        line = PythonLine(
            settings(tmp_path, protocol[0]),
            SPECIES,
            manual_series()[2:],
            pressure=pressure,
            distances=ion_distances(pressure),
            launch=launch,
        )
        report = line.run([candidate(3, pressure, seed=7, atoms=(2, 4))])[0]
        assert_sound(report, pressure, protocol[1])
