"""``uspex-bridge init``: every template rendered, read back as USPEX reads it, and the scripts run."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from uspex_bridge.base.errors import ConfigError, OutputError
from uspex_bridge.base.templates import TEMPLATES
from uspex_bridge.call.config import read_config
from uspex_bridge.cli.init import command as init
from uspex_bridge.uspex import new_others, new_search
from uspex_bridge.uspex.inputs import InputTxt, InputUspex
from uspex_bridge.vasp.incar import intent_from_incar
from uspex_bridge.vasp.structure import read_potcar_symbols

# Names that USPEX 9.4-10.x looks for in INPUT.txt anywhere in a line, with a number before the colon.
KEYS = re.findall(
    r"\w+",
    """
    runs_left initialPopSize firstGeneMax repeatForStatistics checkConnectivity PhaseDiagram stopFitness
    thicknessS thicknessB whichCluster remoteFolder maxErrors numParallelCalcs numGenerations stopCrit
    populationSize bestFrac AutoFrac fracGene fracRand fracPerm fracLatMut fracAtomsMut fracRotMut fracSecSwitch
    fracShiftBorder fracTrans mutationDegree mutationRate softMutTill howManyTrans howManySwaps manyParents
    numberparents minSlice maxSlice percSliceShift maxDistHeredity keepBestHM dynamicalBestHM reoptOld RmaxFing
    deltaFing sigmaFing toleranceFing toleranceBestHM antiSeedsMax antiSeedsSigma ordering_active
    antiSeedsActivation checkMolecules reconstruct E_AB Mu_A Mu_B doSpaceGroup symmetrize SymTolerance
    constraint_enhancement collectForces fixRandSeed optType calculationType pluginType topologyRandom minAt
    maxAt ExternalPressure minVectorLength mlPeerFilter mlMinPopulation pickUpYN pickUpGen pickUpFolder
    calculationMethod
    """,
)


def search(line="matlab", **fields):
    fields.setdefault("elements", ("Ca", "Fe", "Ni"))
    return new_search.Search(line, bin="/opt/bridge/bin", **fields)


def written(folder, wanted):
    new_search.write(folder, new_search.files(wanted))
    return folder


def run(arguments):
    return CliRunner().invoke(init, [str(word) for word in arguments], catch_exceptions=False)


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    """A folder in front of PATH, for stand-ins of programs that are not here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# ---------------------------------------------------------------------------------------------- INPUT.txt


def test_variable_composition_is_read_as_meant(tmp_path):
    wanted = search(pressure=50.0, atoms=(4, 16), population=40, generations=7, parallel=4, steps=5)
    text = InputTxt.read(written(tmp_path, wanted) / "INPUT.txt")
    expected = {
        "calculationMethod": "USPEX",
        "calculationType": "301",
        "ExternalPressure": "50.0",
        "populationSize": "40",
        "initialPopSize": "40",
        "numGenerations": "7",
        "stopCrit": "7",
        "minAt": "4",
        "maxAt": "16",
        "firstGeneMax": "30",
        "numParallelCalcs": "4",
        "whichCluster": "0",
    }
    assert {key: text.keyword(key).text for key in expected} == expected
    assert [row.text for row in text.block("atomType", "EndAtomType")] == ["Ca Fe Ni"]
    assert [row.text for row in text.block("numSpeci", "EndNumSpeci")] == ["1 0 0", "0 1 0", "0 0 1"]
    assert [row.text for row in text.block("abinitioCode", "ENDabinit")] == ["1 1 1 1 1"]
    assert [row.text for row in text.block("KresolStart", "Kresolend")] == ["0.2 0.2 0.2 0.2 0.2"]
    commands = [row.text for row in text.block("commandExecutable", "EndExecutable")]
    assert commands == ["bash ../Specific/background.sh uspex-bridge-vasp"]


def test_fixed_composition(tmp_path):
    wanted = search(elements=("Mg", "Al", "O"), counts=(4, 8, 16), scheduler="slurm", parallel=9, pressure=-1.5)
    text = InputTxt.read(written(tmp_path, wanted) / "INPUT.txt")
    assert text.keyword("calculationType").text == "300"
    assert text.keyword("ExternalPressure").text == "-1.5"
    assert text.keyword("whichCluster").text == "1"
    assert text.keyword("minAt") is None
    assert [row.text for row in text.block("numSpeci", "EndNumSpeci")] == ["4 8 16"]
    commands = [row.text for row in text.block("commandExecutable", "EndExecutable")]
    assert commands == ["uspex-bridge-vasp > bridge.out 2>&1"]


@pytest.mark.parametrize("counts", [None, (4, 8, 16)])
def test_no_remark_is_taken_for_a_setting(tmp_path, counts):
    text = InputTxt.read(written(tmp_path, search(counts=counts)) / "INPUT.txt")
    for key in KEYS:
        value = text.keyword(key)
        if value is not None:
            assert text.lines[value.line - 1].split(" : ")[1].strip() == key, (key, value)
    fractions = [float(text.keyword(key).text) for key in KEYS if key.startswith("frac") and text.keyword(key)]
    assert sum(fractions) == pytest.approx(1.0)


def test_a_setting_is_the_first_line_that_holds_its_name(tmp_path):
    path = tmp_path / "INPUT.txt"
    path.write_text("% ExternalPressure is in GPa\n7:EXTERNALPRESSURE (GPa)\n : stopCrit\n")
    text = InputTxt.read(path)
    assert (text.keyword("ExternalPressure").text, text.keyword("ExternalPressure").line) == ("%", 1)
    assert text.keyword("stopCrit").text == ""
    assert text.keyword("maxAt") is None
    path.write_text("      abinitioCode\n1 1\n 1\nendABINIT\n")
    assert [(row.text, row.line) for row in InputTxt.read(path).block("abinitioCode", "ENDabinit")] == [
        ("1 1", 2),
        ("1", 3),
    ]
    path.write_text("ENDabinit\n% abinitioCode\n1\n")
    assert InputTxt.read(path).block("abinitioCode", "ENDabinit") == []


# -------------------------------------------------------------------------------------------- input.uspex


def test_python_line_is_read_as_meant(tmp_path):
    wanted = search("python", pressure=50.0, population=30, generations=6, parallel=3, steps=2, atoms=(2, 24))
    main = InputUspex.read(written(tmp_path, wanted) / "input.uspex").main
    target = main["optimizer"]["target"]
    assert target["conditions"] == {"externalPressure": 50.0}
    assert target["compositionSpace"] == {
        "symbols": ["Ca", "Fe", "Ni"],
        "blocks": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "range": [[0, 24], [0, 24], [0, 24]],
        "minAt": 2,
        "maxAt": 24,
    }
    assert main["optimizer"]["selection"]["popSize"] == 30
    assert main["optimizer"]["selection"]["optType"] == ("aging", "enthalpy")
    assert (main["numParallelCalcs"], main["numGenerations"], main["stopCrit"]) == (3, 6, 6)
    stages = main["stages"]
    assert [stage["name"] for stage in stages] == ["bridge1", "bridge2"]
    for stage in stages:
        assert stage["type"] == "vasp"
        assert stage["commandExecutable"] == "uspex-bridge-vasp"
        assert isinstance(stage["kresol"], float)
        assert "taskManager" not in stage


@pytest.mark.parametrize(("scheduler", "manager"), [("slurm", "SBATCH"), ("pbs", "QSUB")])
def test_python_line_hands_the_header_to_its_task_manager(tmp_path, scheduler, manager):
    wanted = search("python", elements=("Si",), counts=(8,), scheduler=scheduler, threads=4, time_limit=5400)
    main = InputUspex.read(written(tmp_path, wanted) / "input.uspex").main
    assert "range" not in main["optimizer"]["target"]["compositionSpace"]
    for stage in main["stages"]:
        task = stage["taskManager"]
        assert task["type"] == manager
        assert {"slurm": "--cpus-per-task=4\n", "pbs": "ppn=4\n"}[scheduler] in task["header"]
        # A scheduler reads directives, to which USPEX adds some, above the first command only.
        assert all(line.startswith("#") for line in task["header"].splitlines())
        assert "01:40:00" in task["header"]
        # USPEX drops lines with these options, which it sets itself.
        assert not any(option in task["header"].lower() for option in (" -j ", " -i ", " -o ", " -e ", " -n "))
        subprocess.run(["bash", "-n"], input=task["header"], text=True, check=True)


def test_reader_of_the_python_line_takes_both_spellings(tmp_path):
    path = tmp_path / "input.uspex"
    loose = "{a: {b: [x1 y-2 'z w'] /* c: 3 */ c: (0.1 -2 1.5e-3)}\n d: True e: None}\n"
    strict = '{"a": {"b": ["x1", "y-2", "z w"], "c": (0.1, -2, 1.5e-3)}, "d": True, "e": None}'
    trees = []
    for text in (loose, strict):
        path.write_text(text)
        trees.append(InputUspex.read(path).main)
    assert trees[0] == trees[1]
    assert trees[0] == {"a": {"b": ["x1", "y-2", "z w"], "c": (0.1, -2, 0.0015)}, "d": True, "e": None}
    path.write_text("{stages: [one two]}\n\n#define one\n{type: vasp use: two}\n#define two\n{type: gulp}\n")
    read = InputUspex.read(path)
    two = {"type": "gulp", "name": "two"}
    assert read.main == {"stages": [{"type": "vasp", "use": two, "name": "one"}, two]}
    assert read.lines == {"one": 3, "two": 5}


# ------------------------------------------------------------------------------------- Specific, the series


SERIES = {1: "3", 2: "43", 3: "43s", 4: "433s", 5: "4433s", 9: "44443333s"}


@pytest.mark.parametrize("steps", SERIES)
@pytest.mark.parametrize("line", ["matlab", "python"])
def test_incars_with_what_uspex_appends(tmp_path, line, steps):
    folder = written(tmp_path, search(line, steps=steps)) / "Specific"
    assert len(list(folder.glob("INCAR_*"))) == steps
    intents = []
    for number in range(1, steps + 1):
        text = (folder / f"INCAR_{number}").read_text()
        assert text.endswith("\n")
        intent = intent_from_incar(text + "PSTRESS=500\nISYM=0\n", "INCAR")
        assert intent.pressure_gpa == 50
        assert intent.notes == ()
        assert intent.ignored == ()
        assert intent.nelm == 60
        intents.append(intent)
    assert "".join("s" if intent.static else str(intent.isif) for intent in intents) == SERIES[steps]
    relaxing = [intent for intent in intents if not intent.static]
    assert all(intent.nsw >= 300 for intent in relaxing)
    targets = [-intent.ediffg for intent in relaxing]
    assert targets == sorted(targets, reverse=True)
    assert targets[-1] == 0.01


def test_potcar_stubs_name_their_element_alone_and_joined(tmp_path):
    folder = written(tmp_path, search()) / "Specific"
    joined = tmp_path / "POTCAR"
    joined.write_text("".join((folder / f"POTCAR_{symbol}").read_text() for symbol in ("Ca", "Fe", "Ni")))
    assert read_potcar_symbols(joined) == ["Ca", "Fe", "Ni"]
    assert read_potcar_symbols(folder / "POTCAR_Fe") == ["Fe"]
    for words in ("TITEL", "VRHFIN", "not a pseudopotential"):
        assert words in (folder / "POTCAR_Fe").read_text()


def test_settings_are_valid(tmp_path):
    odd = 'pro"to\\col.toml'
    folder = written(tmp_path, search(threads=3, time_limit=77, protocol=odd)) / "Specific"
    config = read_config(folder / "bridge.toml")
    assert (config.protocol, config.threads, config.time_limit, config.on_reject) == (odd, 3, 77, "fail")


def test_the_commented_settings_are_valid_too(tmp_path):
    text = (written(tmp_path, search()) / "Specific" / "bridge.toml").read_text()
    head, _, tail = text.partition("# [calculators.mace]")
    path = tmp_path / "all.toml"
    path.write_text(head + "\n".join(line.removeprefix("# ") for line in ("# [calculators.mace]" + tail).splitlines()))
    assert set(read_config(path).calculators) == {"mace", "mattersim"}


def test_every_template_is_used(tmp_path, monkeypatch):
    used = set()
    real = new_search.render

    def recording(name, values):
        used.add(name)
        return real(name, values)

    monkeypatch.setattr(new_search, "render", recording)
    monkeypatch.setattr(new_others, "render", recording)
    for line, scheduler, counts, parallel in itertools.product(
        ("matlab", "python"), ("local", "slurm", "pbs"), (None, (1, 1, 2)), (1, 4)
    ):
        for item in new_search.files(search(line, scheduler=scheduler, counts=counts, parallel=parallel)):
            assert "@{" not in item.text
            assert item.text.endswith("\n")
    for line in ("uspex26", "cryspy"):
        new_search.files(search(line, counts=(1, 1, 2)))
    others = {"protocols", "training", "labels", "report", "cycle", "environments"}  # not of init
    paths = (path for path in TEMPLATES.rglob("*") if path.is_file() and "__" not in str(path))
    assert used == {str(path.relative_to(TEMPLATES)) for path in paths if path.parent.name not in others}


# ------------------------------------------------------------------------------------- the background wrapper


@pytest.fixture
def slot(tmp_path):
    """A CalcFold of a set-up with several parallel calculations."""
    written(tmp_path, search(parallel=4))
    folder = tmp_path / "CalcFold1"
    folder.mkdir()
    return folder


def start(slot, *command):
    subprocess.run(["bash", "../Specific/background.sh", *command], cwd=slot, check=True, timeout=60)


def log_of(slot):
    path = slot / "JOB_LOG"
    return path.read_text() if path.exists() else ""


def finished(slot):
    return "JOB_IS_FINISHED\n" in log_of(slot)


WAITER = "while [ ! -e go ]; do sleep 0.02; done; echo done > result"


def test_background_returns_before_the_job_ends(slot):
    (slot / "JOB_LOG").write_text("JOB_IS_FINISHED\n")
    start(slot, "bash", "-c", WAITER)
    wait_for(lambda: log_of(slot))
    assert not finished(slot)
    (slot / "go").touch()
    wait_for(lambda: finished(slot))
    assert (slot / "result").read_text() == "done\n"
    assert "exit code 0" in log_of(slot)
    assert not list(slot.glob("USPEX*"))


@pytest.mark.parametrize(
    ("command", "code"),
    [(["bash", "-c", "exit 6"], 6), (["no-such-program"], 127), (["bash", "-c", "kill -9 $$"], 137)],
)
def test_background_reports_the_end_of_a_failing_job(slot, command, code):
    start(slot, *command)
    wait_for(lambda: finished(slot))
    assert f"exit code {code}\n" in log_of(slot)
    assert log_of(slot).endswith("JOB_IS_FINISHED\n")


def wrapper_of(slot):
    wait_for(lambda: "(process " in log_of(slot))
    return int(log_of(slot).split("(process ")[1].split(")")[0])


def test_background_passes_a_signal_on_and_waits_for_the_result(slot):
    job = "trap 'sleep 0.3; echo late > result; exit 0' TERM; touch started; while :; do sleep 0.02; done"
    start(slot, "bash", "-c", job)
    wait_for(lambda: (slot / "started").exists())
    os.kill(wrapper_of(slot), signal.SIGTERM)
    wait_for(lambda: finished(slot))
    assert (slot / "result").read_text() == "late\n"
    assert "exit code 0" in log_of(slot)


def test_background_survives_the_end_of_its_session(slot):
    """USPEX leaves after submitting, and its terminal may go: the job must not."""
    session = subprocess.Popen(
        ["bash", "-c", f"bash ../Specific/background.sh bash -c '{WAITER}'; kill -HUP 0"],
        cwd=slot,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # under nohup it would be ignored
        stdout=subprocess.PIPE,
    )
    session.communicate(timeout=60)
    assert session.returncode == -signal.SIGHUP
    os.kill(wrapper_of(slot), signal.SIGINT)
    (slot / "go").touch()
    wait_for(lambda: finished(slot))
    assert "exit code 0" in log_of(slot)


def test_background_needs_a_command(slot):
    done = subprocess.run(["bash", "../Specific/background.sh"], cwd=slot, capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr


# ----------------------------------------------------------------------------------------- the search's loop


def run_search(folder, **environment):
    return subprocess.run(
        ["bash", str(folder / "run-search.sh")],
        env={**os.environ, "PAUSE": "0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_search_is_called_until_it_is_done(tmp_path, bin_folder):
    folder = written(tmp_path / "search", search(parallel=4))
    program(
        bin_folder,
        "USPEX",
        'echo "$@" >> calls; [ $(wc -l < calls) -lt 3 ] || { mkdir -p results1; touch USPEX_IS_DONE; }',
    )
    done = run_search(folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "calls").read_text() == "-r\n" * 3
    assert "results1" in done.stdout
    assert run_search(folder, USPEX="USPEX -r -o").returncode == 0
    assert (folder / "calls").read_text() == "-r\n" * 3


GAVE_UP = "mkdir -p results1; echo 'Too many structures have errors or failed' > results1/OUTPUT.txt"


@pytest.mark.parametrize(
    ("does", "says"),
    [(f"touch still_running; {GAVE_UP}", "USPEX stopped"), ("touch still_running; exit 1", "ended with an error")],
)
def test_search_ends_where_uspex_does(tmp_path, bin_folder, does, says):
    folder = written(tmp_path / "search", search())
    program(bin_folder, "USPEX", does)
    done = run_search(folder)
    assert done.returncode == 1
    assert says in done.stderr
    again = run_search(folder)
    assert again.returncode == 1
    assert "still_running exists" in again.stderr


def test_search_without_uspex(tmp_path):
    folder = written(tmp_path / "search", search())
    missing = run_search(folder, USPEX="no-such-uspex -r")
    assert missing.returncode == 127
    assert "no-such-uspex" in missing.stderr


# ---------------------------------------------------------------------------------------- Submission/*.py


@pytest.fixture(params=["slurm", "pbs"])
def queue(request, tmp_path):
    """A set-up for a scheduler, and one of its CalcFolds."""
    folder = written(tmp_path / "search", search(scheduler=request.param, parallel=4))
    slot = folder / "CalcFold2"
    slot.mkdir()
    return request.param, folder, slot


def call(folder, slot, script, *arguments):
    """Call a script as USPEX 10.x does and return what it reads: the line after <CALLRESULT>."""
    done = subprocess.run(
        [sys.executable, str(folder / "Submission" / script), *arguments], cwd=slot, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return int(lines[lines.index("<CALLRESULT>") + 1])


def test_submitted_script_runs_the_command_in_the_slot(queue, bin_folder):
    scheduler, folder, slot = queue
    name, answer = {"slurm": ("sbatch", "4711;cluster"), "pbs": ("qsub", "4711.host.domain")}[scheduler]
    program(bin_folder, name, f'echo "$@" > options; cd /; bash "$OLDPWD/${{@: -1}}" && echo "{answer}"')
    job = call(folder, slot, "submitJob_local.py", "-i", "3", "-c", "pwd > where; echo $OMP_NUM_THREADS >> where")
    assert job == 4711
    assert (slot / "where").read_text().splitlines() == [str(slot), "1"]
    assert "bridge-3" in (slot / "options").read_text()
    script = (slot / "myrun").read_text()
    assert script.startswith("#!/bin/bash\n#" + {"slurm": "SBATCH", "pbs": "PBS"}[scheduler])
    assert 'PATH="/opt/bridge/bin:' in script
    assert not list(slot.glob("USPEX*"))


@pytest.mark.parametrize("answer", ["exit 1", "echo error: no such queue"])
def test_job_that_was_not_taken_is_zero(queue, bin_folder, answer):
    scheduler, folder, slot = queue
    program(bin_folder, {"slurm": "sbatch", "pbs": "qsub"}[scheduler], answer)
    assert call(folder, slot, "submitJob_local.py", "-i", "1", "-c", "true") == 0


ANSWERS = {
    "slurm": [
        ("echo RUNNING", 0),
        ("echo PENDING", 0),
        ("echo COMPLETING", 0),
        ("echo COMPLETED", 1),
        ("echo 'CANCELLED by 17'", 1),
        ("echo TIMEOUT", 1),
        ("true", 1),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", 1),
        ("echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1", 0),
    ],
    "pbs": [
        ("printf 'Job Id: 7.host\\n    Job_Name = x\\n    job_state = R\\n'", 0),
        ("echo '    job_state = Q'", 0),
        ("echo '    job_state = E'", 0),
        ("echo '    job_state = C'", 1),
        ("echo 'qstat: Unknown Job Id 7.host' >&2; exit 153", 1),
        ("echo 'qstat: 7.host Job has finished, use -x' >&2; exit 35", 1),
        ("echo 'qstat: cannot connect to server host (errno=111)' >&2; exit 111", 0),
    ],
}


def test_job_has_ended_only_when_the_scheduler_says_so(queue, bin_folder):
    scheduler, folder, slot = queue
    name = {"slurm": "squeue", "pbs": "qstat"}[scheduler]
    for answer, ended in ANSWERS[scheduler]:
        program(bin_folder, name, answer)
        assert call(folder, slot, "checkStatus_local.py", "-j", "7") == ended, answer


def test_missing_scheduler_is_no_end(queue, tmp_path, monkeypatch):
    _, folder, slot = queue
    monkeypatch.setenv("PATH", str(tmp_path))
    assert call(folder, slot, "checkStatus_local.py", "-j", "7") == 0
    assert call(folder, slot, "submitJob_local.py", "-i", "1", "-c", "true") == 0


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("scheduler", ["local", "slurm", "pbs"])
def test_shell_scripts_are_shell(tmp_path, scheduler, parallel):
    written(tmp_path, search(scheduler=scheduler, parallel=parallel))
    scripts = list(tmp_path.rglob("*.sh"))
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)


# ------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize("line", ["matlab", "python"])
def test_command_writes_and_says_what_next(tmp_path, line):
    folder = tmp_path / "new" / "search"
    done = run([line, folder, "--elements", "Ca,Fe,Ni", "--pressure", 50, "--parallel", 2])
    assert done.exit_code == 0
    for number in (1, 2, 3):
        assert f"  {number}. " in done.output
    assert f"uspex-bridge doctor {folder}" in done.output
    assert "stubs" in done.output
    assert (folder / {"matlab": "INPUT.txt", "python": "input.uspex"}[line]).is_file()


def test_command_names_an_executable_that_exists(tmp_path, monkeypatch):
    (tmp_path / "python").touch()
    (tmp_path / "uspex-bridge-vasp").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    run(["matlab", tmp_path / "a", "--composition", "Si8"])
    assert f"\n{tmp_path}/uspex-bridge-vasp > bridge.out" in (tmp_path / "a" / "INPUT.txt").read_text()
    monkeypatch.setenv("PATH", str(tmp_path))
    run(["matlab", tmp_path / "b", "--composition", "Si8"])
    assert "\nuspex-bridge-vasp > bridge.out" in (tmp_path / "b" / "INPUT.txt").read_text()


def test_nothing_is_overwritten_unasked(tmp_path):
    run(["matlab", tmp_path, "--composition", "Si8"])
    mine = tmp_path / "Specific" / "INCAR_3"
    mine.write_text("NSW = 5\n")
    (tmp_path / "INPUT.txt").unlink()
    with pytest.raises(ConfigError, match=r"Specific/INCAR_3.*--force"):
        run(["matlab", tmp_path, "--composition", "Ge8"])
    assert mine.read_text() == "NSW = 5\n"
    assert not (tmp_path / "INPUT.txt").exists()
    run(["matlab", tmp_path, "--composition", "Ge8", "--force"])
    assert "Ge" in (tmp_path / "INPUT.txt").read_text()
    assert mine.read_text() != "NSW = 5\n"


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        run(["matlab", tmp_path / "file", "--composition", "Si8"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no elements"),
        (["--elements", "Ca,Xx"], "'Xx' is not an element"),
        (["--elements", "Ca,Ca"], "named twice"),
        (["--elements", "Si"], "--composition Si8"),
        (["--composition", "si8"], "not a formula"),
        (["--composition", "Si0O2"], "none of an element"),
        (["--composition", "Si8", "--atoms", "2-4"], "leave --atoms out"),
        (["--composition", "SiO2", "--elements", "Si,Ge"], "different elements"),
        (["--elements", "Ca,Ni", "--atoms", "9-2"], "smaller number comes first"),
        (["--elements", "Ca,Ni", "--atoms", "many"], "not a range"),
        (["--elements", "Ca,Ni", "--protocol", "papper"], "did you mean 'paper'"),
        (["--elements", "Ca,Ni", "--command", "a 'b"], "quotes"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run(["matlab", tmp_path, *options])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_pressure_is_a_finite_number(tmp_path, word):
    result = run(["matlab", tmp_path, "--composition", "Si8", "--pressure", word])
    assert result.exit_code == 2
    assert "not a finite number" in result.output
    assert not any(tmp_path.iterdir())


def test_order_of_elements_is_the_users(tmp_path):
    run(["python", tmp_path, "--composition", "Mg4Al8O16", "--elements", "O,Mg,Al"])
    space = InputUspex.read(tmp_path / "input.uspex").main["optimizer"]["target"]["compositionSpace"]
    assert (space["symbols"], space["blocks"]) == (["O", "Mg", "Al"], [[16, 4, 8]])


def test_protocol_file_is_found_from_the_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('[[stage]]\nname = "a"\ncalculator = "toy"\nfmax = 0.1\n')
    run(["matlab", "search", "--composition", "Si8", "--protocol", "mine.toml"])
    assert read_config(Path("search/Specific/bridge.toml")).protocol == str(tmp_path / "mine.toml")


@pytest.mark.parametrize("line", ["matlab", "python", "uspex26"])
def test_compounds_are_building_blocks(tmp_path, line):
    from uspex_bridge.results.reading.settings import settings_of_input

    done = run([line, tmp_path, "--elements", "MgO,SiO2", "-p", 25])
    assert done.exit_code == 0
    found = settings_of_input(tmp_path)
    assert found.species == ("Mg", "O", "Si")
    assert [tuple(block) for block in found.blocks] == [(1, 1, 0), (0, 2, 1)]


def test_compounds_that_span_nothing_are_refused(tmp_path):
    for words, said in (
        (["--elements", "MgO,Mg2O2"], "none of them a mixture"),
        (["--elements", "MgO,SiO2,MgSiO3"], "none of them a mixture"),
        (["--elements", "MgSiO3"], "two or more"),
        (["--elements", "MgO,Mg20Si20O60"], "raise --atoms"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(["matlab", tmp_path, *words])
