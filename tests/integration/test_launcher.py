"""The installed executables: foreign environments, broken installations, several processes in one folder."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from calling import INCAR, OUTPUTS, SLOW, call, leave_stale_outputs, make_folder

from uspex_bridge.call import ranks
from uspex_bridge.cli import external, vasp

BIN = Path(sys.executable).parent
VASP = BIN / "uspex-bridge-vasp"
ROOT = Path(__file__).parents[2]


def environment(**more: object) -> dict[str, str]:
    return {**os.environ, **{name: str(value) for name, value in more.items()}}


def has_result(fold: Path) -> bool:
    return (fold / "OSZICAR").exists() and " F= " in (fold / "OSZICAR").read_text()


@pytest.fixture
def pollution(tmp_path):
    """A folder of modules that break every program which finds them first."""
    folder = tmp_path / "pollution"
    folder.mkdir()
    for name in (
        "sitecustomize",
        "usercustomize",
        "click",
        "filelock",
        "typing_extensions",
        "numpy",
        "json",
        "uspex_bridge",
    ):
        (folder / f"{name}.py").write_text("raise RuntimeError('not this module')\n")
    return folder


def test_as_uspex_26_starts_it(tmp_path, pollution):
    """Its own Python's variables point into its bundle; without the launcher the interpreter does not even start."""
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    foreign = environment(PYTHONHOME="/opt/uspex26/python", PYTHONPATH=pollution, LD_LIBRARY_PATH="/opt/uspex26/lib")
    assert subprocess.run([sys.executable, "-c", "pass"], env=foreign, capture_output=True, check=False).returncode
    done = call(fold, env=foreign)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert has_result(fold)


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONHOME"])
def test_one_foreign_variable(tmp_path, pollution, variable):
    fold = make_folder(tmp_path, incar=INCAR.replace("400", "0"))
    done = call(fold, env=environment(**{variable: pollution}))
    assert done.returncode == 0, done.stderr


def test_the_caller_s_own_library_path_is_kept_unless_a_bundle_set_it(tmp_path):
    """Which interpreter is started, and with what, is shown by one that stands in for it."""
    shown = tmp_path / "bin" / "python"
    shown.parent.mkdir()
    shown.write_text('#!/bin/sh\necho "${LD_LIBRARY_PATH-none} $*"\n')
    shown.chmod(0o755)
    for name in ("uspex-bridge", "uspex-bridge-vasp"):
        shutil.copy(BIN / name, shown.parent)
    (tmp_path / "pyvenv.cfg").touch()

    def started(**variables):
        command = [shown.parent / "uspex-bridge-vasp", "--threads", "2", "a folder"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "PYTHON"))}
        return subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True).stdout.split()

    script = str(shown.parent / "uspex-bridge-vasp")
    assert started() == ["none", "-P", script, "--threads", "2", "a", "folder"]
    assert started(LD_LIBRARY_PATH="/cuda")[0] == "/cuda"
    assert started(LD_LIBRARY_PATH="/bundle", PYTHONHOME="/bundle")[0] == "none"
    assert started(LD_LIBRARY_PATH="/b", PYTHONHOME="/b", LD_LIBRARY_PATH_ORIG="/cuda")[0] == "/cuda"


def test_libraries_that_keep_the_interpreter_from_starting(tmp_path):
    fold = make_folder(tmp_path, incar=INCAR.replace("400", "0"))
    leave_stale_outputs(fold)
    library = tmp_path / "lib"
    library.mkdir()
    (library / "libm.so.6").write_text("no library")
    foreign = environment(LD_LIBRARY_PATH=library)
    if subprocess.run([sys.executable, "--version"], env=foreign, capture_output=True, check=False).returncode == 0:
        pytest.skip("this interpreter needs no libm")
    done = call(fold, env=foreign)
    assert done.returncode == 0, done.stderr
    assert "LD_LIBRARY_PATH" in done.stderr
    assert has_result(fold)


def installed(tmp_path: Path) -> Path:
    """Return an environment of its own whose uspex_bridge is a copy that may be broken."""
    top = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", top], check=True)
    (site,) = top.glob("lib/python*/site-packages")
    own = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    (site / "all.pth").write_text(f"{own}\n")
    shutil.copytree(ROOT / "uspex_bridge", site / "uspex_bridge", symlinks=False)
    shutil.copy(BIN / "uspex-bridge", top / "bin")
    shutil.copy(VASP, top / "bin")
    return top


@pytest.mark.parametrize("broken", ["click.py", "uspex_bridge/cli/entry.py", "uspex_bridge/cli/vasp.py", "numpy.py"])
def test_a_broken_installation_is_one_line_and_leaves_nothing_old(tmp_path, broken):
    """Whether the folder's one process is told so by a launcher of many or not."""
    top = installed(tmp_path)
    (site,) = top.glob("lib/python*/site-packages")
    kinds = ("ImportError",) if broken == "numpy.py" else ("ImportError", "ValueError")
    ranks = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}
    for case, (kind, launcher) in enumerate(itertools.product(kinds, ({}, ranks))):
        (site / broken).write_text(f"raise {kind}('half of it is missing')\n")
        fold = make_folder(tmp_path, name=f"CalcFold{case}")
        leave_stale_outputs(fold)
        done = subprocess.run(
            [top / "bin" / "uspex-bridge-vasp"],
            cwd=fold,
            env=environment(**launcher),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 5, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("uspex-bridge: the installation is broken")
        assert "half of it is missing" in line
        assert not [name for name in OUTPUTS if (fold / name).exists()]


def test_an_interpreter_that_is_gone(tmp_path):
    top = installed(tmp_path)
    (top / "bin" / "python").unlink()
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    (fold / "EIGENVAL").touch()
    done = subprocess.run([top / "bin" / "uspex-bridge-vasp"], cwd=fold, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "there is no interpreter" in done.stderr
    assert not [name for name in (*OUTPUTS, "EIGENVAL") if (fold / name).exists()]


def test_a_working_folder_that_is_gone(tmp_path):
    fold = make_folder(tmp_path)
    script = f"rm -r {fold}; exec {VASP}"
    done = subprocess.run(["bash", "-c", script], cwd=fold, capture_output=True, text=True, check=False)
    assert done.returncode == 8
    assert done.stderr.endswith("uspex-bridge: the working folder was removed\n")


@pytest.mark.parametrize(
    "words", [["--nope"], ["--nope", "CalcFold1"], ["--threads", "two"], ["--nope=1", "-x"], ["a", "b"]]
)
def test_a_wrong_option_is_one_line_and_leaves_nothing_old(tmp_path, words):
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    inside = "CalcFold1" not in words
    done = subprocess.run([VASP, *words], cwd=fold if inside else tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not [name for name in OUTPUTS if (fold / name).exists()]
    assert not (tmp_path / ".bridge.lock").exists()


@pytest.mark.parametrize("word", ["--help", "-h", "--version"])
def test_a_question_removes_nothing(tmp_path, word):
    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    assert call(fold, word).returncode == 0
    assert all((fold / name).exists() for name in OUTPUTS)


def test_old_results_stay_while_another_bridge_is_at_work(tmp_path):
    import fcntl

    fold = make_folder(tmp_path)
    leave_stale_outputs(fold)
    with (fold / ".bridge.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call(fold).returncode == 9
    assert all((fold / name).exists() for name in OUTPUTS)


def test_the_launcher_knows_every_option_that_takes_a_value():
    text = VASP.read_text()
    assert text == (ROOT / "uspex_bridge" / "cli" / "launchers" / "uspex-bridge-vasp").read_text()
    (line,) = (line for line in text.splitlines() if line.strip().startswith("--config |"))
    known = set(line.strip().rstrip(")").split(" | "))
    options = [p for command in (vasp.command, external.command) for p in command.params if isinstance(p, click.Option)]
    assert known == {name for p in options if p.name not in ("help", "version") for name in p.opts}


@pytest.mark.parametrize("how", ["link", "link of another name", "named to sh"])
def test_other_ways_to_call_it(tmp_path, how):
    fold = make_folder(tmp_path, incar=INCAR.replace("400", "0"))
    if how == "named to sh":
        command = ["sh", str(VASP)]
    else:
        link = tmp_path / ("uspex-bridge-vasp" if how == "link" else "vasp_std")
        link.symlink_to(VASP)
        command = [str(link)]
    done = subprocess.run(command, cwd=fold, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert has_result(fold)


VARIABLES = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", {"PMIX_NAMESPACE": "1234"}),
    "MPICH": ("PMI_RANK", "PMI_SIZE", {}),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}),
}


def launch(fold: Path, kind: str, size: int, settings: dict[str, str] | None = None, **more) -> list[subprocess.Popen]:
    rank, number, shared = VARIABLES[kind]
    variables = shared | (settings or {})
    return [
        subprocess.Popen(
            [VASP],
            cwd=fold,
            env=environment(**variables, **{rank: k, number: size}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(size)
    ]


@pytest.mark.parametrize("kind", VARIABLES)
def test_three_processes_in_one_folder_give_the_result_of_one(tmp_path, kind):
    alone = make_folder(tmp_path / "alone")
    assert call(alone).returncode == 0
    fold = make_folder(tmp_path / "three")
    leave_stale_outputs(fold)
    crew = launch(fold, kind, 3)
    told = [process.communicate(timeout=120) for process in crew]
    assert [process.returncode for process in crew] == [0, 0, 0], told
    assert sorted(bool(out) for out, _ in told) == [False, False, True]
    notes = [err for out, err in told if not out]
    assert all("started 3 processes here" in note and len(note.splitlines()) == 1 for note in notes)
    assert (fold / "OSZICAR").read_text() == (alone / "OSZICAR").read_text()
    assert (fold / "CONTCAR").read_text() == (alone / "CONTCAR").read_text()
    (line,) = (tmp_path / "three" / "bridge.record").read_text().splitlines()
    assert json.loads(line)["status"] == "converged"


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun")
def test_a_real_mpirun_gives_the_result_of_one(tmp_path):
    alone = make_folder(tmp_path / "alone")
    assert call(alone).returncode == 0
    fold = make_folder(tmp_path / "three")
    leave_stale_outputs(fold)
    # Open MPI 4 and 5 by turns: more processes than cores, and a container in which everyone is root.
    wanted = {
        "OMPI_MCA_rmaps_base_oversubscribe": 1,
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_ALLOW_RUN_AS_ROOT": 1,
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": 1,
    }
    command = ["mpirun", "-np", "3", VASP]
    done = subprocess.run(
        command, cwd=fold, env=environment(**wanted), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("start one process") == 2
    for name in ("OSZICAR", "CONTCAR"):
        assert (fold / name).read_text() == (alone / name).read_text()
    assert len((tmp_path / "three" / "bridge.record").read_text().splitlines()) == 1


def test_the_others_end_with_the_exit_code_of_the_one_that_works(tmp_path):
    fold = make_folder(tmp_path, incar="IBRION = 0\nNSW = 5\n")
    crew = launch(fold, "Open MPI", 3)
    assert [process.wait(60) for process in crew] == [3, 3, 3]
    again = launch(fold, "Open MPI", 3, {"PMIX_NAMESPACE": "1235"})
    assert [process.wait(60) for process in again] == [3, 3, 3]
    told = [process.communicate()[1] for process in again]
    assert sum("molecular dynamics" in text for text in told) == 1


def test_a_launcher_that_kills(tmp_path):
    """mpirun sends SIGTERM to all processes when one leaves with an error or the user presses Ctrl-C."""
    fold = make_folder(tmp_path, settings=SLOW)
    leave_stale_outputs(fold)
    crew = launch(fold, "Open MPI", 3)
    log = fold / "bridge.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "robust " in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in crew:
        process.terminate()
    codes = sorted(process.wait(60) for process in crew)
    assert codes == [-15, -15, 10]
    assert not [name for name in OUTPUTS if (fold / name).exists()]


def test_the_worker_is_killed_and_another_does_the_work(tmp_path):
    fold = make_folder(tmp_path, settings=SLOW)
    first, second = launch(fold, "Open MPI", 2)
    board = fold / ranks.FILENAME
    deadline = time.monotonic() + 60
    while not (board.exists() and board.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    worker = json.loads(board.read_text())["rank"]
    (first, second)[worker].kill()
    left = (first, second)[1 - worker]
    out, err = left.communicate(timeout=120)
    assert left.returncode == 0, err
    assert "converged" in out
    assert has_result(fold)


def test_a_parallel_driver_of_searches_is_no_launch_of_the_bridge(tmp_path):
    """Each of its processes calls the bridge, in folders of its own and several times in the same."""
    rank, size, shared = VARIABLES["Open MPI"]
    fold = make_folder(tmp_path, incar=INCAR.replace("400", "2"))
    inherited = environment(**shared, **{rank: 3, size: 4})
    for expected in (1, 2):
        assert call(fold, env=inherited).returncode == 0
        assert len((tmp_path / "bridge.record").read_text().splitlines()) == expected
    # a second stage in the same folder, by another process of the driver
    (fold / "INCAR").write_text(INCAR.replace("400", "3"))
    assert call(fold, env=environment(**shared, **{rank: 1, size: 4})).returncode == 0
    assert (fold / "OSZICAR").read_text().count(" F= ") == 3


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
def test_under_mpirun_itself(tmp_path):
    fold = make_folder(tmp_path)
    names = ("ALLOW_RUN_AS_ROOT", "ALLOW_RUN_AS_ROOT_CONFIRM", "MCA_rmaps_base_oversubscribe")
    done = subprocess.run(
        ["mpirun", "-np", "3", VASP],
        cwd=fold,
        env=environment(**{f"OMPI_{name}": 1 for name in names}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("converged, H") == 1
    assert has_result(fold)
