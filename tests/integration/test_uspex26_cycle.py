"""A search of USPEX 26 with the installed executables, and with everything that goes wrong in one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from emulators import independent, uspex26
from emulators.candidates import BAD_KINDS, candidate
from emulators.independent import assert_sound
from emulators.inputs import single_relaxation
from emulators.records import Call, Candidate, Report

from uspex_bridge.base import jsonl
from uspex_bridge.base.files import OUTPUTS

BIN = Path(sys.executable).parent
SPECIES = ("Ni", "Ca", "Fe")
PRESSURE = 50.0
TOY = 'protocol = "single"\n[calculators.model]\nkind = "toy"\n'
SLOW = TOY + "options = { sleep = 0.4 }\n"
EXTERNAL = f'[external]\npressure = {PRESSURE}\ntags = ["ISIF = 3; EDIFFG = -0.01"]\n'
CODES = (20, 99, 1)
#: Faults of a call, by structure and step: it does not start, or it is ended while it works.
FAULTS = {
    (3, 1): "false",
    (5, 2): "timeout -s KILL 2 {} --config ../../slow.toml",
    (9, 3): "timeout -s KILL 2 {} --config ../../slow.toml",
    (10, 1): "timeout -s TERM 2 {} --config ../../slow.toml",
}
#: How they end: USPEX sees the exit code of its command, here that of ``timeout`` after SIGKILL or SIGTERM.
EXITS = {"false": 1, "timeout -s KILL": 137, "timeout -s TERM": 124}
SPOILED = 4  # every fourth structure is one that the guards look at


def structures(count: int) -> list[Candidate]:
    """Candidates in no order of elements, every fourth one spoiled, each kind of spoiling by turns."""
    made = []
    for index in range(1, count + 1):
        kind = BAD_KINDS[index // SPOILED % len(BAD_KINDS)] if index % SPOILED == 0 else False
        one = candidate(index, PRESSURE, seed=26, atoms=(2, 6), spoil=kind)
        atoms = one.atoms[::-2] + one.atoms[-2::-2]
        made.append(Candidate(index, atoms, one.origin))
    return made


class Search(uspex26.Uspex26):
    """A search in ``root``, whose folders hold stale results before each call and whose calls have the faults."""

    def __init__(self, root: Path, codes, settings: str, *, after="", faults=FAULTS, **more) -> None:
        root.mkdir(exist_ok=True)
        (root / "bridge.toml").write_text(settings + EXTERNAL + after)
        (root / "slow.toml").write_text(SLOW + EXTERNAL)
        self.faults = faults
        commands = [str(BIN / f"uspex-bridge-{'vasp' if code == 1 else 'external'}") for code in codes]
        super().__init__(
            root,
            codes,
            commands,
            uspex26.bundle(root.parent / "uspex26"),
            pressure=PRESSURE,
            incars=single_relaxation() * len(codes),
            prepare=leave_stale,
            launch=self.faulty,
            **more,
        )

    def faulty(self, command: str, cwd: Path, *streams) -> int:
        """Start a command, or what goes wrong instead."""
        place = tuple(int(word) for word in cwd.name.split("_")[1:])
        return self._shell(self.faults.get(place, "{}").format(command), cwd, *streams)


def leave_stale(folder: Path) -> None:
    """Leave complete results that are not those of this structure, as in a folder that was used before."""
    stale = {
        "output.xyz": '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 energy=-99\nFe 0 0 0\n',
        "geom.out": "stale\n1\n3 0 0\n0 3 0\n0 0 3\nFe\n1\nDirect\n0 0 0\n",
        "energy.txt": "-99\n",
    }
    names = OUTPUTS["vasp" if (folder / "POSCAR").exists() else "external"]
    for name in names:
        (folder / name).write_text(stale.get(name, "DAV:   1 stale\n   1 F= -.99E+02 E0= -.99E+02  d E =0\n"))


def check_call(call: Call, code: int) -> None:
    """A call changes none of USPEX's files and leaves a result if it ends with 0 and none otherwise."""
    assert not call.changed
    assert not call.strays
    left = {name for name in OUTPUTS["vasp" if code == 1 else "external"] if (call.folder / name).exists()}
    wanted = {20: {"output.xyz"}, 99: {"geom.out", "energy.txt"}, 1: {"OSZICAR", "OUTCAR", "CONTCAR"}}[code]
    if call.returncode == 0:
        assert wanted <= left
    elif call.returncode != 1 or call.folder.joinpath("bridge.log").exists():
        assert not left


def check_search(line: Search, reports: list[Report], reference) -> None:
    """Every result is the model's own, every fault ended its structure and no other, and all is in the record."""
    entries = {(entry["id"], int(entry["step"])): entry for entry in jsonl.read(line.root / "bridge.record")}
    for report in reports:
        number = report.candidate.index
        faults = [step for (system, step) in line.faults if system == number]
        for call in report.calls:
            check_call(call, line.codes[call.step - 1])
        if faults:
            (step,) = faults
            assert (report.calls[-1].step, report.calls[-1].returncode) == (step, EXITS[line.faults[number, step][:15]])
        elif report.done:
            assert_sound(report, PRESSURE, reference)
        else:
            assert report.calls[-1].returncode == 6, report.reason
            assert entries[number, report.calls[-1].step]["status"] == "rejected"
        for step in report.steps:
            assert step.enthalpy == pytest.approx(entries[number, step.step]["enthalpy"], abs=2e-6)
    sound = [report for report in reports if report.candidate.index % SPOILED]
    assert sum(report.done for report in sound) >= 0.7 * len(sound) - len(line.faults), "the potential refuses some"
    assert sorted(path.name for path in line.root.iterdir() if path.is_file()) == [
        "bridge.record",
        "bridge.toml",
        "slow.toml",
    ]


def check_results(line: Search, reports: list[Report], run) -> None:
    """Results commands read what the search leaves, and find every structure in the record."""
    folder = uspex26.write_results(line.root, reports, SPECIES)
    code, out, err = run("results", "summary", folder, "--json")
    assert code == 0, err
    done = [report for report in reports if report.done]
    (found,) = json.loads(out)["searches"]
    assert (found["line"], found["structures"]) == ("uspex26", len(reports))
    assert found["without_enthalpy"] == len(reports) - len(done)
    assert found["recorded"] == len(done)
    best = min(done, key=lambda report: report.enthalpy / len(report.final))
    lowest = found["lowest"]
    assert (lowest["id"], lowest["pressure_gpa"]) == (best.candidate.index, PRESSURE)
    assert lowest["enthalpy"] == pytest.approx(best.enthalpy, abs=2e-6)
    code, out, err = run("log", best.candidate.index, "--record", line.root)
    assert code == 0, err
    calls = [row for row in out.splitlines() if f"EA{best.candidate.index}" in row.split()]
    assert len(calls) == len(line.codes)


@pytest.mark.timeout(600)
def test_a_search_in_which_things_go_wrong(tmp_path, run):
    line = Search(tmp_path / "search", CODES, TOY, parallel=2)
    reports = line.run(structures(10))
    check_search(line, reports, independent.calculator("toy"))
    check_results(line, reports, run)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("codes", [(20, 20), (99, 99), (1, 1)], ids=str)
def test_thirty_candidates_by_each_code(tmp_path, run, codes):
    faults = {(system, min(step, 2)): fault for (system, step), fault in FAULTS.items()}
    line = Search(tmp_path / "search", codes, TOY, faults=faults, parallel=2)
    reports = line.run(structures(30))
    check_search(line, reports, independent.calculator("toy"))
    check_results(line, reports, run)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thirty_candidates_with_chgnet_in_a_service(tmp_path, run, monkeypatch):
    """The service that the first call starts is as free of USPEX's Python as the call is."""
    monkeypatch.setenv("USPEX_BRIDGE_SOCKET", str(tmp_path / "socket"))
    reference = independent.calculator("chgnet")  # which prints
    settings = 'protocol = "embedded"\n'
    service = '[service]\nmode = "start"\nworkers = 2\n'
    faults = {(3, 1): FAULTS[3, 1], (5, 1): "timeout -s KILL 0.3 {}", (10, 1): "timeout -s TERM 0.3 {}"}
    line = Search(tmp_path / "search", (20,), settings, after=service, faults=faults, parallel=2)
    try:
        reports = line.run(structures(30))
        assert run("status")[0] == 0, "the service that was started still runs"
    finally:
        run("stop")
    check_search(line, reports, reference)
    check_results(line, reports, run)
