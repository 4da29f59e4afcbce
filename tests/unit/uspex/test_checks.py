"""Checks of a USPEX set-up: a sound one has nothing to say against it, and each mistake is found."""

# ruff: noqa: E501  the table of mistakes reads better in columns
import os
import re
import time
from pathlib import Path

import pytest

from uspex_bridge.base.errors import InputError
from uspex_bridge.uspex import new_search
from uspex_bridge.uspex.checks import check_setup
from uspex_bridge.uspex.findings import Finding, in_order
from uspex_bridge.uspex.setup import read_matlab, read_python

PROTOCOL = '[[stage]]\nname = "only"\ncalculator = "toy"\nfmax = 0.1\n'


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that writes a sound set-up; no settings or weights of this machine's user are seen."""
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "USPEX_BRIDGE_MODELS"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.delenv("USPEX_BRIDGE_CONFIG", raising=False)
    executable = tmp_path / "bin" / "uspex-bridge-vasp"
    executable.parent.mkdir()
    executable.touch(mode=0o755)
    protocol = tmp_path / "toy.toml"
    protocol.write_text(PROTOCOL)

    def write(line="matlab", **fields):
        defaults = {"elements": ("Ca", "Ni"), "pressure": 50.0, "command": str(executable), "protocol": str(protocol)}
        folder = tmp_path / "search"
        new_search.write(folder, new_search.files(new_search.Search(line, **{**defaults, **fields})))
        return folder

    return write


def replace(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new), newline="")


def found(folder, severity, file, phrase):
    """Return the findings of a kind, and fail with all of them if there is none."""
    findings = check_setup(folder)
    hits = [f for f in findings if f.severity == severity and file in f.file and phrase in f"{f.message}; {f.remedy}"]
    assert hits, "\n".join(map(str, findings)) or "nothing was found"
    return hits


@pytest.mark.parametrize("counts", [None, (1, 3)])
@pytest.mark.parametrize("parallel", [1, 5])
@pytest.mark.parametrize("scheduler", ["local", "slurm", "pbs"])
@pytest.mark.parametrize("line", ["matlab", "python"])
def test_what_init_writes_is_sound(make, line, scheduler, parallel, counts):
    folder = make(line, scheduler=scheduler, parallel=parallel, counts=counts)
    assert check_setup(folder) == []


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("line", ["matlab", "python"])
def test_other_numbers_of_steps_are_sound(make, line, steps):
    assert check_setup(make(line, steps=steps)) == []


def test_a_free_energy_ends_the_last_step_alone(make, tmp_path):
    thermal = tmp_path / "thermal.toml"
    thermal.write_text(PROTOCOL + PROTOCOL.replace("only", "last") + "[free_energy]\ntemperature = 300\n")
    folder = make(protocol=str(thermal), rest="1", steps=4)
    assert check_setup(folder) == []
    replace(folder, "Specific/INCAR_2", "BRIDGE_STAGES = 1", "BRIDGE_STAGES = 1-2")
    replace(folder, "Specific/INCAR_4", "NELM", "BRIDGE_STAGES = 1\nNELM")
    found(folder, "error", "INCAR_2", "scha relaxes no cell at constant volume")
    found(folder, "warning", "INCAR_4", "the last step does not end with it")
    replace(folder, "Specific/INCAR_2", "ISIF = 4", "ISIF = 3")
    found(folder, "warning", "INCAR_2", "computed in this step too")
    replace(folder, "Specific/INCAR_2", "BRIDGE_STAGES = 1-2", "BRIDGE_STAGES = scha")
    (hit,) = found(folder, "error", "INCAR_2", "")
    assert "no stage 'scha'" in hit.message


# Each: the line, the file to change, what to replace by what; the severity, file and words of the finding.
MISTAKES = {
    "no final newline": ("matlab", "Specific/INCAR_2", "NELM = 60\n", "NELM = 60", "error", "INCAR_2", "NELM = 60PSTRESS"),
    "Windows INCAR": ("matlab", "Specific/INCAR_2", "\n", "\r\n", "warning", "INCAR_2", "Windows"),
    "NELM 1": ("matlab", "Specific/INCAR_1", "NELM = 60", "NELM = 1", "warning", "INCAR_1", "NELM = 1"),
    "molecular dynamics": ("python", "Specific/INCAR_3", "IBRION = 2", "IBRION = 0", "error", "INCAR_3", "molecular dynamics"),
    "phonons": ("matlab", "Specific/INCAR_3", "IBRION = 2", "IBRION = 6", "error", "INCAR_3", "phonons"),
    "few steps": ("matlab", "Specific/INCAR_4", "NSW = 1500", "NSW = 5", "warning", "INCAR_4", "NSW = 5"),
    "no steps": ("matlab", "Specific/INCAR_3", "NSW = 1500", "POTIM = 0.1", "note", "INCAR_3", "NSW is absent"),
    "last at constant volume": ("python", "Specific/INCAR_4", "ISIF = 3", "ISIF = 4", "warning", "INCAR_4", "not at the search pressure"),
    "own pressure": ("matlab", "Specific/INCAR_3", "NELM", "PSTRESS = 100\nNELM", "warning", "INCAR_3", "overridden by the PSTRESS=500"),
    "no number": ("matlab", "Specific/INCAR_3", "ISIF = 3", "ISIF = three", "error", "INCAR_3", "ISIF"),
    "two tags on a line": ("matlab", "Specific/INCAR_3", "ISIF = 3\n", "ISIF = 3 ", "warning", "INCAR_3", "IBRION after ISIF is not read"),
    "unknown stage": ("matlab", "Specific/INCAR_3", "NELM", "BRIDGE_STAGES = fine\nNELM", "error", "INCAR_3", "fine"),
    "POTCAR of another": ("matlab", "Specific/POTCAR_Ca", "Ca", "Sr", "error", "POTCAR_Ca", "is of Sr, not of Ca"),
    "POTCAR of none": ("python", "Specific/POTCAR_Ni", "Ni", "", "error", "POTCAR_Ni", "no element"),
    "wrong code": ("matlab", "INPUT.txt", "1 1 1 1 1", "1 1 3 1 1", "error", "INPUT.txt", "step 3 is abinitioCode 3"),
    "wrong type": ("python", "input.uspex", "type: vasp", "type: gulp", "error", "input.uspex", "is type gulp"),
    "int kresol": ("python", "input.uspex", "kresol: 0.2", "kresol: 1", "error", "input.uspex", "not a float"),
    "no kresol": ("python", "input.uspex", "kresol: 0.2", "", "error", "input.uspex", "has no kresol"),
    "no command": ("python", "input.uspex", "commandExecutable", "command", "error", "input.uspex", "no commandExecutable"),
    "undefined stage": ("python", "input.uspex", "#define bridge2", "#define bridge_2", "error", "input.uspex", "'bridge2' is not defined"),
    "Windows input.uspex": ("python", "input.uspex", "\n", "\r\n", "error", "input.uspex", "is not defined"),
    "broken bracket": ("python", "input.uspex", "fractions: {", "fractions: ", "error", "input.uspex", ""),
    "nothing runs the bridge": ("matlab", "INPUT.txt", "uspex-bridge-vasp", "vasp_std", "warning", "INPUT.txt", "no step runs the bridge"),
    "not found": ("matlab", "INPUT.txt", "uspex-bridge-vasp", "other/uspex-bridge-vasp", "error", "INPUT.txt", "is not found on PATH"),
    "several copies": ("matlab", "INPUT.txt", "% commandExecutable\n", "% commandExecutable\nmpirun -np 4 ", "warning", "INPUT.txt", "several copies"),
    "odd quotes": ("matlab", "INPUT.txt", "bridge.out", "'bridge.out", "error", "INPUT.txt", "correct the quotes"),
    "output USPEX removes": ("matlab", "INPUT.txt", "bridge.out", "USPEX.out", "error", "INPUT.txt", "USPEX deletes"),
    "output over OUTCAR": ("matlab", "INPUT.txt", "bridge.out", "OUTCAR", "error", "INPUT.txt", "needs that name"),
    "too few commands": ("matlab", "INPUT.txt", "% EndExecutable", "vasp_std > out\n% EndExecutable", "warning", "INPUT.txt", "2 commands for 5 steps"),
    "nobody says finished": ("matlab", "INPUT.txt", "1 : numParallelCalcs", "4 : numParallelCalcs", "error", "INPUT.txt", "JOB_IS_FINISHED"),
    "returns too early": ("matlab", "INPUT.txt", "2>&1", "2>&1 &", "error", "INPUT.txt", "goes to the background"),
    "returns too early, Python": ("python", "input.uspex", "vasp'", "vasp &'", "error", "input.uspex", "goes to the background"),
    "no submission script": ("matlab", "INPUT.txt", "0 : whichCluster", "1 : whichCluster", "error", "Submission", "submitJob_local.py"),
    "name in a remark": ("matlab", "INPUT.txt", "* USPEX reads", "* numParallelCalcs:", "error", "INPUT.txt", "USPEX reads '*' as numParallelCalcs"),
    "no largest cell": ("matlab", "INPUT.txt", "24 : maxAt", "", "error", "INPUT.txt", "needs maxAt"),
    "blocks and elements": ("matlab", "INPUT.txt", "Ca Ni", "Ca Ni Fe", "error", "INPUT.txt", "for 3 elements"),
    "no element": ("python", "input.uspex", "symbols: [Ca Ni]", "symbols: [Ca Nu]", "error", "input.uspex", "'Nu' is not an element"),
    "unknown key": ("matlab", "Specific/bridge.toml", "time_limit", "time_limt", "error", "bridge.toml", "did you mean 'time_limit'"),
    "no protocol": ("matlab", "Specific/bridge.toml", "toy.toml", "tuy.toml", "error", "bridge.toml", "tuy.toml: cannot be read"),
    "no time limit": ("python", "Specific/bridge.toml", "time_limit = 3600", "time_limit = inf", "warning", "bridge.toml", "without end"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_found(make, mistake):
    line, file, old, new, severity, where, phrase = MISTAKES[mistake]
    folder = make(line)
    replace(folder, file, old, new)
    hit = found(folder, severity, where, phrase)[0]
    if (file := folder / hit.file).is_file() and hit.line is not None:
        assert 1 <= hit.line <= len(file.read_text().splitlines())


def test_lines_point_at_the_mistake(make):
    folder = make()
    replace(folder, "Specific/INCAR_4", "NSW = 1500", "NSW = 5")
    text = (folder / "Specific" / "INCAR_4").read_text().splitlines()
    assert text[found(folder, "warning", "INCAR_4", "NSW")[0].line - 1] == "NSW = 5"
    replace(folder, "INPUT.txt", "uspex-bridge-vasp", "nowhere/uspex-bridge-vasp")
    text = (folder / "INPUT.txt").read_text().splitlines()
    assert "nowhere" in text[found(folder, "error", "INPUT.txt", "not found")[0].line - 1]


@pytest.mark.parametrize("line", ["matlab", "python"])
def test_missing_files(make, line):
    folder = make(line)
    (folder / "Specific" / "INCAR_2").unlink()
    (folder / "Specific" / "POTCAR_Ni").unlink()
    found(folder, "error", "Specific/INCAR_2", "missing")
    found(folder, "error", "Specific/POTCAR_Ni", "TITEL = PAW_PBE Ni")


def test_fixed_composition_may_bring_one_potcar_per_step(make):
    folder = make(counts=(1, 3), steps=1)
    specific = folder / "Specific"
    (specific / "POTCAR_1").write_text((specific / "POTCAR_Ca").read_text() + (specific / "POTCAR_Ni").read_text())
    for symbol in ("Ca", "Ni"):
        (specific / f"POTCAR_{symbol}").unlink()
    assert check_setup(folder) == []
    (specific / "POTCAR_1").write_text("TITEL = PAW_PBE Ni\nTITEL = PAW_PBE Ca\n")
    found(folder, "error", "POTCAR_1", "is of Ni Ca, not of Ca Ni")


def test_pressure_that_uspex_does_not_know(make):
    folder = make("python", pressure=0.0)
    replace(folder, "Specific/INCAR_3", "NELM", "PSTRESS = 500\nNELM")
    found(folder, "error", "INCAR_3", "USPEX adds no PV")


def test_own_pressure_that_agrees_is_fine(make):
    folder = make("python")
    replace(folder, "Specific/INCAR_3", "NELM", "PSTRESS = 5.0D+02\nNELM")
    assert check_setup(folder) == []


def test_cell_that_never_moves(make):
    folder = make()
    for number in range(1, 5):
        path = folder / "Specific" / f"INCAR_{number}"
        path.write_text(path.read_text().replace("ISIF = 4", "ISIF = 2").replace("ISIF = 3", "# none"))
    found(folder, "warning", "Specific", "pressure has no effect")
    for number in range(1, 5):
        path = folder / "Specific" / f"INCAR_{number}"
        path.write_text("NSW = 0\n")
    found(folder, "warning", "Specific", "no step relaxes")


def test_wrapper_where_uspex_waits_for_the_command(make):
    folder = make(parallel=4)
    assert check_setup(folder) == []
    replace(folder, "INPUT.txt", "4 : numParallelCalcs", "1 : numParallelCalcs")
    found(folder, "error", "INPUT.txt", "goes to the background")
    (folder / "Specific" / "background.sh").unlink()
    found(folder, "error", "INPUT.txt", "'../Specific/background.sh' is not found")


def test_mpi_launcher_with_one_process_is_fine(make):
    folder = make()
    replace(folder, "INPUT.txt", "% commandExecutable\n", "% commandExecutable\nenv mpirun -np 1 ")
    assert check_setup(folder) == []


def test_missing_program_is_a_warning_where_a_scheduler_runs_it(make):
    folder = make("python", scheduler="slurm", command="/cluster/bin/uspex-bridge-vasp")
    found(folder, "warning", "input.uspex", "not found on this machine")
    assert not [f for f in check_setup(folder) if f.severity == "error"]


def test_remote_status_script_must_bring_outcar(make):
    folder = make(scheduler="slurm")
    replace(folder, "INPUT.txt", "1 : whichCluster", "2 : whichCluster")
    found(folder, "error", "Submission", "submitJob_remote")
    for name in ("submitJob_remote.py", "checkStatus_remote.py"):
        (folder / "Submission" / name).write_text("copy('OSZICAR'); copy('CONTCAR')\n")
    found(folder, "error", "checkStatus_remote.py", "OUTCAR is not copied back")
    (folder / "Submission" / "checkStatus_remote.py").write_text("copy('OSZICAR', 'CONTCAR', 'OUTCAR')\n")
    assert check_setup(folder) == []


def test_mixed_codes(make):
    """GULP in front, the bridge behind it: only its own steps are looked at."""
    folder = make(steps=2, scheduler="slurm")
    replace(folder, "INPUT.txt", "1 1\n", "3 1\n")
    text = (folder / "INPUT.txt").read_text()
    command = next(line for line in text.splitlines() if "uspex-bridge-vasp" in line)
    replace(folder, "INPUT.txt", command, f"{folder.parent}/bin/gulp < input > output\n{command}")
    (folder.parent / "bin" / "gulp").touch(mode=0o755)
    (folder / "Specific" / "INCAR_1").unlink()
    assert check_setup(folder) == []
    (folder / "Specific" / "USPEX_notes").touch()
    found(folder, "warning", "USPEX_notes", "rename it")


def test_steps_of_vasp_itself_are_left_alone(make):
    """The bridge in front, VASP behind it, for what VASP alone can do."""
    folder = make(steps=2)
    text = (folder / "INPUT.txt").read_text()
    command = next(line for line in text.splitlines() if "uspex-bridge-vasp" in line)
    (folder.parent / "bin" / "vasp_std").touch(mode=0o755)
    replace(folder, "INPUT.txt", command, f"{command}\nmpirun -np 4 {folder.parent}/bin/vasp_std > out")
    replace(folder, "Specific/INCAR_2", "IBRION = 2", "IBRION = 6")
    (folder.parent / "bin" / "mpirun").touch(mode=0o755)
    replace(folder, "INPUT.txt", "mpirun", f"{folder.parent}/bin/mpirun")
    assert [f for f in check_setup(folder) if "INCAR_2" in f.file] == []
    replace(folder, "Specific/INCAR_2", "NELM = 60\n", "NELM = 60")
    found(folder, "error", "INCAR_2", "no newline")


def test_wrapper_around_something_else(make):
    folder = make(parallel=4, command="no-vasp-here")
    found(folder, "warning", "INPUT.txt", "no step runs the bridge")


def test_srun_takes_its_number_from_the_job(make):
    folder = make(scheduler="slurm")
    replace(folder, "INPUT.txt", "% commandExecutable\n", "% commandExecutable\nsrun ")
    assert not [f for f in check_setup(folder) if "copies" in f.message]
    replace(folder, "INPUT.txt", "srun ", "srun -n 4 ")
    found(folder, "warning", "INPUT.txt", "srun starts several copies")


def test_external_code(make):
    folder = make(steps=1)
    external = folder.parent / "bin" / "uspex-bridge-external"
    external.touch(mode=0o755)
    replace(folder, "INPUT.txt", "uspex-bridge-vasp", "uspex-bridge-external")
    found(folder, "error", "INPUT.txt", "needs abinitioCode 20 or 99")
    replace(folder, "INPUT.txt", "% abinitioCode\n1\n", "% abinitioCode\n99\n")
    found(folder, "warning", "userInput_1", "usercode.in")
    (folder / "Specific" / "userInput_1").write_text("ISIF = 3\n")
    assert check_setup(folder) == []


def test_missing_weights_are_named_with_the_way_to_get_them(make):
    folder = make(protocol="paper")
    hits = found(folder, "error", "bridge.toml", "protocol paper needs")
    assert {"mace", "mattersim"} <= {word.strip(":") for hit in hits for word in hit.message.split()}


def test_settings_elsewhere_or_nowhere(make, monkeypatch):
    folder = make()
    (folder / "Specific" / "bridge.toml").rename(folder / "bridge.toml")
    assert check_setup(folder) == []
    (folder / "bridge.toml").unlink()
    found(folder, "note", "bridge.toml", "the defaults apply")
    monkeypatch.setenv("USPEX_BRIDGE_CONFIG", str(folder / "none.toml"))
    found(folder, "error", "", "none.toml")


def test_folders_that_are_no_set_up(tmp_path):
    found(tmp_path, "error", str(tmp_path), "neither INPUT.txt nor input.uspex")
    found(tmp_path / "none", "error", "none", "no such folder")


def test_atomic_numbers_and_parentheses(make):
    folder = make()
    replace(folder, "INPUT.txt", "Ca Ni", "20 28")
    replace(folder, "INPUT.txt", "1 1 1 1 1", "1 1 1 1 (1)")
    setup = read_matlab(folder / "INPUT.txt")
    assert setup.elements == ("Ca", "Ni")
    assert [step.code for step in setup.steps] == ["1"] * 5
    assert check_setup(folder) == []


def test_places_named_by_a_stage(make):
    folder = make("python", steps=1)
    (folder / "Specific").rename(folder / "mine")
    (folder / "bridge.toml").write_text(f'protocol = "{folder.parent}/toy.toml"\ntime_limit = 60\n')
    replace(folder, "input.uspex", "type: vasp", "type: vasp\n    potcarsPath: mine\n    incar: 'mine/INCAR_1'")
    assert check_setup(folder) == []
    replace(folder, "input.uspex", "incar: 'mine/INCAR_1'", "tag: 'first'")
    assert read_python(folder / "input.uspex").steps[0].incar == folder / "Specific" / "INCAR_first"


def test_unreadable_numbers(make):
    folder = make("python")
    replace(folder, "input.uspex", "externalPressure: 50.0", "externalPressure: high")
    with pytest.raises(InputError, match=r"line \d+: externalPressure = 'high'"):
        read_python(folder / "input.uspex")


def test_order_and_text_of_findings():
    note, error = Finding("note", "a", None, "so"), Finding("error", "b", 3, "wrong", "mend it")
    assert in_order([note, error, note]) == [error, note]
    assert str(error) == "error: b, line 3: wrong; mend it"
    assert str(note) == "note: a: so"


def test_readers_name_the_file(tmp_path):
    for reader in (read_matlab, read_python):
        with pytest.raises(InputError, match="nothing"):
            reader(Path(tmp_path / "nothing"))


def poscar(symbols, counts, title="EA1"):
    rows = "".join(f"{0.1 * k:.6f} {0.13 * k:.6f} {0.17 * k:.6f}\n" for k in range(sum(counts)))
    head = f"{title}\n1.0\n4.0 0 0\n0 4.0 0\n0 0 4.0\n"
    return f"{head}{' '.join(symbols)}\n{' '.join(map(str, counts))}\nDirect\n{rows}"


def add(folder, text, file="INPUT.txt"):
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + text)


def distances(*rows):
    return "% IonDistances\n" + "\n".join(rows) + "\n% EndDistances\n"


@pytest.mark.parametrize(
    ("spoil", "severity", "file", "phrase"),
    [
        (lambda f: (f / "still_running").touch(), "error", "still_running", "USPEX exits at once"),
        (
            lambda f: replace(f, "INPUT.txt", "2 : minAt", "40 : minAt"),
            "error",
            "INPUT.txt",
            "minAt 40 is more than maxAt",
        ),
        (
            lambda f: replace(f, "INPUT.txt", "301 :", "300 :"),
            "error",
            "INPUT.txt",
            "2 rows of numSpecies in a search of fixed",
        ),
        (lambda f: replace(f, "INPUT.txt", "50.0 :", "500 kbar :"), "error", "INPUT.txt", "is 500 GPa to USPEX"),
        (lambda f: add(f, "20 or so : numGenerations2\n"), None, "", ""),
        (lambda f: add(f, distances("5.0 5.0", "5.0 5.0")), "error", "INPUT.txt", "no structure satisfies them"),
        (lambda f: add(f, distances("3.6 2.0", "0.0 1.2")), "warning", "INPUT.txt", "few random structures"),
        (lambda f: add(f, distances("2.0 1.5", "0.0 1.2")), None, "", ""),
        (lambda f: add(f, distances("2.0 1.5")), "error", "INPUT.txt", "1 rows of 2 numbers for 2 elements"),
        (lambda f: add(f, distances("2.0 1.5", "a 1")), "error", "INPUT.txt", "not a number"),
        (lambda f: add(f, poscar(("Ca", "Ni"), (1, 2)), "Seeds/POSCARS"), None, "", ""),
        (
            lambda f: add(
                f, poscar(("Ca",), (2,)) + poscar(("Ca", "O"), (1, 1)) + poscar(("Ni",), (1,)), "Seeds/POSCARS_3"
            ),
            "error",
            "Seeds/POSCARS_3",
            "seed 2 holds O: USPEX reads none from there on, 2 are lost",
        ),
        (
            lambda f: add(f, poscar(("Ca", "Ni"), (1, 2)).replace("Ca Ni\n", ""), "Seeds/POSCARS"),
            "error",
            "Seeds/POSCARS",
            "USPEX reads no seed from here on",
        ),
        (
            lambda f: add(f, poscar(("Ca", "Ni"), (1, 2)) + poscar(("Ca", "Ni"), (1, 3), "CaNi5 hP6"), "Seeds/POSCARS"),
            "warning",
            "Seeds/POSCARS",
            "seed 2: it is called CaNi5 and its atoms are CaNi3",
        ),
        (
            lambda f: add(f, poscar(("Ca",), (2,)), "AntiSeeds/POSCARS"),
            "warning",
            "AntiSeeds",
            "anti-seeds have no effect",
        ),
    ],
)
def test_what_ends_a_search_that_relaxes_well(make, spoil, severity, file, phrase):
    folder = make(atoms=(2, 20))
    spoil(folder)
    if severity is None:
        assert check_setup(folder) == []
    else:
        found(folder, severity, file, phrase)


def test_seeds_of_a_fixed_composition_are_whole_blocks(make):
    folder = make(counts=(1, 3))
    add(
        folder,
        poscar(("Ni", "Ca"), (6, 2)) + poscar(("Ca", "Ni"), (1, 2)) + poscar(("Ca", "Ni"), (2, 3)),
        "Seeds/POSCARS",
    )
    found(folder, "warning", "Seeds/POSCARS", "USPEX skips them: seeds 2, 3")
    add(folder, poscar(("Ca", "Ni"), (1, 3)), "AntiSeeds/POSCARS")
    found(folder, "warning", "AntiSeeds/POSCARS", "without antiSeedsMax in INPUT.txt they have no effect")
    add(folder, "1.5 : antiSeedsMax\n")
    assert not [f for f in check_setup(folder) if "AntiSeeds" in f.file]


def test_a_lock_that_uspex_ignores_is_only_noted(make):
    folder = make()
    (folder / "still_running").touch()
    old = time.time() - 10_000
    os.utime(folder / "still_running", (old, old))
    found(folder, "note", "still_running", "USPEX removes it")


def test_windows_line_ends_in_the_input_are_harmless(make):
    folder = make()
    path = folder / "INPUT.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check_setup(folder) == []


def test_molecular_searches_count_molecules(make):
    folder = make(counts=(1, 3))
    replace(folder, "INPUT.txt", "300 :", "310 :")
    replace(folder, "INPUT.txt", "\n1 3\n", "\n4\n")
    (folder / "MOL_1").touch()
    assert check_setup(folder) == []
    (folder / "MOL_1").unlink()
    found(folder, "warning", "MOL_1", "missing")
    assert not [f for f in check_setup(folder) if f.severity == "error"]


def test_metadynamics_takes_its_elements_from_its_first_structure(make):
    folder = make(counts=(1, 3))
    text = (folder / "INPUT.txt").read_text()
    for begin, end in (("% atomType", "% EndAtomType\n"), ("% numSpecies", "% EndNumSpecies\n")):
        start = text.index(begin)
        text = text[:start] + text[text.index(end) + len(end) :]
    (folder / "INPUT.txt").write_text(text.replace("USPEX : calculationMethod", "META : calculationMethod"))
    for path in (folder / "Specific").glob("INCAR_*"):  # its cells are strained by USPEX, and kept by the steps
        path.write_text(re.sub(r"ISIF *= *\d", "ISIF = 2", path.read_text()))
    found(folder, "warning", "POSCAR_1", "missing")
    assert read_matlab(folder / "INPUT.txt").elements == ("Ca", "Ni")  # by the POTCAR files
    (folder / "POSCAR_1").write_text(poscar(("Ni", "Ca"), (6, 2)))
    assert read_matlab(folder / "INPUT.txt").elements == ("Ni", "Ca")
    assert check_setup(folder) == []


@pytest.mark.parametrize("kind", ["200", "201", "-200", "000"])
def test_searches_with_fixed_cells_may_keep_them(make, kind):
    folder = make(counts=(1, 3))
    replace(folder, "INPUT.txt", "300 :", f"{kind} :")
    for path in (folder / "Specific").glob("INCAR_*"):
        path.write_text(re.sub(r"ISIF *= *\d", "ISIF = 2", path.read_text()))
    assert not [f for f in check_setup(folder) if "ISIF" in f.message]
