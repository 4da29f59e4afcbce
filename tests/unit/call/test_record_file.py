import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from uspex_bridge.base import jsonl
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import InputError, OutputError
from uspex_bridge.call import record_file
from uspex_bridge.cli.main import command
from uspex_bridge.results.reading import lookup


def structure(shift=0.0):
    return Structure(("Ca", "Ni"), 3.0 * np.eye(3), np.array([[0.0, 0, 0], [0.5 + shift, 0.5, 0.5]]))


def _append_many(path, who):
    for k in range(50):
        record_file.append(path, {"who": who, "k": k, "text": "x" * 5000})


def test_many_writers_lose_nothing(tmp_path):
    path = tmp_path / "record.jsonl"
    crew = [multiprocessing.Process(target=_append_many, args=(path, who)) for who in range(4)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    entries = list(jsonl.read(path))
    assert sorted((e["who"], e["k"]) for e in entries) == [(w, k) for w in range(4) for k in range(50)]


def test_a_half_line_costs_only_itself(tmp_path):
    path = tmp_path / "record.jsonl"
    record_file.append(path, {"k": 1})
    with path.open("a") as stream:
        stream.write('{"k": 2, "tex')
    record_file.append(path, {"k": 3})
    assert [e["k"] for e in jsonl.read(path)] == [1, 3]


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_record_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        record_file.append(Path("/dev/full"), {"k": 1})
    (tmp_path / "bridge.record").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="link to another folder"):
        record_file.append(tmp_path / "bridge.record", {"k": 1})


def test_key_depends_on_structure_and_task_but_not_on_noise():
    assert record_file.job_key(structure(), 1) == record_file.job_key(structure(1e-7), 1)
    assert record_file.job_key(structure(), 1) != record_file.job_key(structure(1e-3), 1)
    assert record_file.job_key(structure(), 1) != record_file.job_key(structure(), 2)


def test_whereabouts_of_both_lines(tmp_path):
    (tmp_path / "Specific").mkdir()
    (tmp_path / "results1" / "generation3").mkdir(parents=True)
    (tmp_path / "results1" / "generation12").mkdir(parents=True)
    for n, text in (("1", "ISIF=4\n"), ("2", "ISIF=3\n")):
        (tmp_path / "Specific" / f"INCAR_{n}").write_text(text)
    slot = tmp_path / "CalcFold4"
    slot.mkdir()
    (slot / "INCAR").write_text("ISIF=3\nPSTRESS=500\n")
    where = record_file.whereabouts(slot, "EA0   4.2  4.2  4.2 90 90 90 Sym.group:    0")
    assert where == {"folder": str(slot), "slot": "CalcFold4", "step": "2", "generation": 12}
    named = tmp_path / "CalcFold137_2"
    named.mkdir()
    assert record_file.whereabouts(named, "EA137")["id"] == 137
    assert record_file.whereabouts(named, "EA137")["step"] == "2"
    of_26 = tmp_path / "Calculation" / "Calcfold_7_3"
    where = record_file.whereabouts(of_26, "")
    assert where == {"folder": str(of_26), "slot": "Calcfold_7_3", "id": 7, "step": "3", "generation": 12}


def test_a_record_of_the_old_name_is_gone_on_with(tmp_path):
    assert record_file.in_folder(tmp_path) == tmp_path / "bridge.record"
    (tmp_path / "bridge_record.jsonl").touch()
    assert record_file.in_folder(tmp_path) == tmp_path / "bridge_record.jsonl"
    (tmp_path / "bridge.record").touch()
    assert record_file.in_folder(tmp_path) == tmp_path / "bridge.record"


def test_nothing_lies_beside_a_record(tmp_path):
    record_file.append(tmp_path / "bridge.record", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["bridge.record"]


def test_appending_waits_for_others(tmp_path):
    import fcntl
    import threading

    path = tmp_path / "bridge.record"
    path.write_bytes(b'{"half')
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=record_file.append, args=(path, {"a": 1}))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(10)
    assert path.read_bytes() == b'{"half\n{"schema":1,"a":1}\n'


# --- uspex-bridge log ----------------------------------------------------------------------------------------------


def entry(slot, step, enthalpy, formula="CaNi", **more):
    return {
        "time": "2026-11-21T04:00:00+00:00",
        "slot": slot,
        "step": str(step),
        "formula": formula,
        "input": {"symbols": ["Ca", "Ni"]},
        "pressure_gpa": 50.0,
        "status": "converged",
        "enthalpy": enthalpy,
        "enthalpy_per_atom": enthalpy / 2,
        "volume": 20.0,
        "fmax": 0.009,
        "steps": 12,
        "seconds": 1.0,
        "flags": [],
        "stages": [],
    } | more


@pytest.fixture
def search(tmp_path):
    """Two structures through two slots of the MATLAB line, one of them refused once, and USPEX's Individuals."""
    path = tmp_path / "bridge.record"
    for line in (
        entry("CalcFold1", 1, -5.0),
        entry("CalcFold2", 1, -4.0),
        entry("CalcFold1", 2, -6.0004),
        {k: v for k, v in entry("CalcFold2", 2, 0).items() if k != "enthalpy_per_atom"}
        | {"status": "rejected", "code": "collapse", "reason": "atoms collapsed", "enthalpy": 1e9},
        entry("CalcFold2", 2, -4.5),
        entry("CalcFold1", 1, -5.5),
        entry("CalcFold1", 2, -6.1234),
    ):
        record_file.append(path, line)
    results = tmp_path / "results1"
    results.mkdir()
    (results / "Parameters.txt").write_text("% atomType\nCa Fe Ni\n% EndAtomType\n")
    (results / "Individuals").write_text(
        "Gen   ID    Origin   Composition    Enthalpy   Volume  Density   Fitness   KPOINTS  SYMM\n"
        "                                      (eV)     (A^3)  (g/cm^3)\n"
        "  1    1   Random    [  1  0  1 ]    -6.000   20.000   3.041    -3.000 [ 5  4  3]  63  0.001  2.749  2.753\n"
        "  1  137   Heredity  [  1  0  1 ]    -6.123   20.000   3.041    -3.100 [ 5  4  3]  63  0.001  2.749  2.753\n"
        "  1    2   Random    [  1  0  1 ]    -4.500   20.000   3.041    -2.200 [ 5  4  3]  63  0.001  2.749  2.753\n"
    )
    return tmp_path


def test_structure_137_is_found_by_its_enthalpy_and_followed_back_through_its_slot(search):
    assert [e["enthalpy"] for e in lookup.find(search, "137")] == [-5.5, -6.1234]
    assert [e["enthalpy"] for e in lookup.find(search, "EA1")] == [-5.0, -6.0004]
    assert [e["status"] for e in lookup.find(search, "2")] == ["converged", "rejected", "converged"]
    assert lookup.find(search, "999") == []
    assert len(lookup.find(search, "CalcFold2")) == 3
    assert len(lookup.find(search)) == 7


def test_structures_that_end_alike_are_told_apart_by_their_steps(search):
    for line in (entry("CalcFold1", 1, -5.1), entry("CalcFold1", 2, -6.0), entry("CalcFold2", 1, -6.0)):
        record_file.append(search / "bridge.record", line)
    record_file.append(search / "bridge.record", entry("CalcFold2", 2, -6.0))
    (search / "results1" / "enthalpies_complete.dat").write_text("-5.000 -6.000\n-4.000 -4.500\n-5.500 -6.123\n")
    assert [e["enthalpy"] for e in lookup.find(search, "1")] == [-5.0, -6.0004]
    (search / "results1" / "enthalpies_complete.dat").write_text("-5.100 -6.000\n")
    assert [e["enthalpy"] for e in lookup.find(search, "1")] == [-5.1, -6.0]
    (search / "results1" / "enthalpies_complete.dat").write_text("-6.000 -6.000\n")
    assert [e["enthalpy"] for e in lookup.find(search, "1")] == [-6.0, -6.0]


def test_failed_tries_belong_to_the_structure_that_they_began(search):
    other = {"input": {"symbols": ["Ca", "Ni"], "cell": np.eye(3).tolist(), "scaled": np.zeros((2, 3)).tolist()}}
    refused = {"status": "rejected", "code": "overlap", "reason": "too close"}
    bare = {k: v for k, v in entry("CalcFold1", 1, 0).items() if "enthalpy" not in k} | refused
    for line in (bare | other, bare, entry("CalcFold1", 1, -7.0), entry("CalcFold1", 2, -8.0)):
        record_file.append(search / "bridge.record", line)
    with (search / "results1" / "Individuals").open("a") as stream:
        stream.write("  2  140   Random    [  1  0  1 ]    -8.000   20.000   3.041    -3.1 [ 5  4  3]  63\n")
    assert [e["status"] for e in lookup.find(search, "140")] == ["rejected", "converged", "converged"]
    steps = "-5.000 -6.000\n-4.000 -4.500\n-5.500 -6.123\n-7.000 -8.000\n"
    (search / "results1" / "enthalpies_complete.dat").write_text(steps)
    assert [e["status"] for e in lookup.find(search, "140")] == ["rejected", "converged", "converged"]


def test_log_command(search):
    shown = CliRunner().invoke(command, ["log", "137", "--record", str(search)])
    assert shown.exit_code == 0
    calls = [line.split()[2:4] for line in shown.output.splitlines() if line.startswith("2026-11-21 04:00")]
    assert calls == [["CalcFold1", "1"], ["CalcFold1", "2"]]
    assert "-3.0617" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80
    refused = CliRunner().invoke(command, ["log", "--status", "rejected", "--record", str(search)])
    assert "    collapse: atoms collapsed\n" in refused.output
    assert "1 entry: 1 rejected (collapse)" in refused.output
    whole = CliRunner().invoke(command, ["log", "--json", "-n", "2", "--record", str(search)])
    document = json.loads(whole.output)
    assert [entry["enthalpy"] for entry in document["entries"]] == [-5.5, -6.1234]
    assert document["units"]["enthalpy"] == "eV"
    assert CliRunner().invoke(command, ["log", "--status", "rejcted", "--record", str(search)]).exit_code == 2
    missing = CliRunner().invoke(command, ["log", "999", "--record", str(search)])
    assert missing.exit_code == 1
    assert "no entry for 999" in missing.output


def test_log_of_folders_that_another_program_named(tmp_path):
    """CrySPY's folders are work/7, and its POSCARs begin with ID_7; a structure of USPEX's is found by its ID alone."""
    names = [("7", {"label": "ID_7"}), ("8", {"label": "ID_8"}), ("7", {"id": 8, "label": "EA8"})]
    record_file.append(tmp_path / record_file.FILENAME, *({"slot": slot, **more} for slot, more in names))
    for which, found in {"7": ["ID_7"], "ID_7": ["ID_7"], "8": ["ID_8", "EA8"], "EA7": []}.items():
        assert [entry["label"] for entry in lookup.find(tmp_path, which)] == found


def test_log_without_a_record(tmp_path):
    result = CliRunner().invoke(command, ["log", "--record", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert "name one with --record" in str(result.exception)
