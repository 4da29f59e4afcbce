"""Structures of a results folder and their lines in the bridge's record."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from results_making import DATA, Made, write_matlab, write_python

from uspex_bridge.base import jsonl
from uspex_bridge.call import record_file
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.lookup import find

MODEL = {"kind": "mace", "model": "small", "sha256": "0123456789abcdef"}


def line(atoms, enthalpy, step=1, *, slot="CalcFold1", model=None, status="converged", start=None, **more):
    """A line of the record: a step of a structure that began at ``start`` and ended at ``atoms``."""
    given = start or atoms
    symbols = given.get_chemical_symbols()
    fields = {"slot": slot, "step": str(step), "formula": str(given.symbols), "status": status, "pressure_gpa": 50.0}
    fields["input"] = {"symbols": symbols, "cell": given.cell.tolist(), "scaled": given.get_scaled_positions().tolist()}
    if enthalpy is not None:
        fields |= {"enthalpy": enthalpy, "energy": enthalpy - 1.0, "volume": atoms.get_volume(), "flags": ["elongated"]}
        fields |= {"fmax": 0.005, "stress_left_gpa": 0.01, "steps": 12, "seconds": 3.0, "nsw": 300}
        fields |= {"stages": [{"calculator": "main"}], "models": {"main": model or MODEL}}
        fields["output"] = {"symbols": symbols, "forces": [[0.0, 0.0, 0.1]] * len(symbols)}
    return fields | more


def write_record(folder: Path, lines) -> None:
    (folder / record_file.FILENAME).write_text("".join(json.dumps(fields) + "\n" for fields in lines) + "half a li")


def ni(a: float, number: int = 1):
    return bulk("Ni", "fcc", a) * (number, 1, 1)


def test_real_search_through_the_bridge():
    """USPEX 9.4.4, two CalcFolds, five steps, seeds; EA8, EA20 and EA24 all end as fcc Ca5."""
    plain = open_results(DATA / "bridge" / "results1", record=False)
    results = open_results(DATA / "bridge" / "results1")
    assert results.notes == []
    starts = {entry.id: structure for entry, structure in plain.unrelaxed()}
    for entry in results.entries:
        life = find(DATA / "bridge", str(entry.id))
        assert [fields["step"] for fields in life if fields["status"] == "converged"] == ["1", "2", "3", "4", "5"]
        assert [fields["enthalpy"] for fields in life] == pytest.approx(entry.steps, abs=6e-4)
        if entry.origin != "convexHull":
            np.testing.assert_allclose(life[0]["input"]["cell"], starts[entry.id].cell, atol=1e-6)
        assert entry.enthalpy == life[-1]["enthalpy"] == pytest.approx(plain.by_id[entry.id].enthalpy, abs=6e-4)
        assert jsonl.read_at(results.record, entry.record.offset) == life[3]  # the last one that moved atoms
    assert sum(entry.enthalpy != round(entry.enthalpy, 3) for entry in results.entries) >= 20
    assert {results.by_id[number].record for number in (8, 21)} == {results.by_id[8].record}
    assert results.by_id[20].record != results.by_id[8].record != results.by_id[24].record


def search_of(tmp_path, *, writer=write_matlab):
    """Four structures that all end as one fcc crystal, a copy that was kept, and one that is another crystal."""
    end, other = ni(3.40), ni(3.45, 2)
    made = [Made(k, end, -5.5, 1, start=ni(3.5 + 0.05 * k), steps=(-5.4, -5.5), origin="Random") for k in (1, 2, 3, 4)]
    made += [Made(5, end, -5.5, 2, "keptBest", (2,), steps=(-5.4, -5.5)), Made(6, other, -9.0, 2, steps=(-8.0, -9.0))]
    made[5].start = ni(3.8, 2)
    return made, writer(tmp_path / "results1", made, ("Ni",), 50.0)


def test_structures_that_end_alike_are_told_apart_by_their_starts(tmp_path):
    """Enthalpy, composition and volume of all four are the same; the lines come in another order than the IDs."""
    made, folder = search_of(tmp_path)
    lines = []
    for slot, number in (("CalcFold2", 3), ("CalcFold1", 1), ("CalcFold2", 4), ("CalcFold1", 2)):
        one = made[number - 1]
        lines.append(line(one.start, -5.4, 1, slot=slot, seconds=float(number)))
        lines.append(line(one.atoms, -5.5 + 1e-5 * number, 2, slot=slot, start=ni(3.41), seconds=10.0 * number))
    write_record(tmp_path, lines)
    results = open_results(folder)
    assert [results.by_id[k].record.seconds for k in (1, 2, 3, 4, 5)] == [10.0, 20.0, 30.0, 40.0, 20.0]
    assert [results.by_id[k].enthalpy for k in (1, 2, 3, 4, 5)] == [-5.49999, -5.49998, -5.49997, -5.49996, -5.49998]
    assert results.by_id[6].record is None
    assert results.by_id[6].level == "mace small 01234567"  # the record knows one model only
    assert [fields["seconds"] for fields in find(tmp_path, "EA4")] == [4.0, 40.0]
    assert find(tmp_path, "EA5") == find(tmp_path, "EA2")


def test_failed_tries_and_dropped_structures_in_between(tmp_path):
    made, folder = search_of(tmp_path)
    lines = [
        line(made[0].start, None, 1, status="failed", code="CalculationError"),
        line(made[0].start, -5.4, 1),
        line(ni(3.41), None, 2, status="failed", code="CalculationError"),
        line(made[0].atoms, -5.5, 2, start=ni(3.41)),
        line(ni(9.0), None, 1, status="rejected", code="density"),  # USPEX dropped it: no individual began so
        line(ni(9.0), -5.5, 1),
        line(ni(9.1), -5.5, 2),
        line(made[1].start, -5.4, 1),
        line(made[1].atoms, -5.5, 2, start=ni(3.41)),
    ]
    write_record(tmp_path, lines)
    assert [len(find(tmp_path, number)) for number in ("1", "2")] == [4, 2]
    results = open_results(folder)
    assert results.by_id[2].record.offset > results.by_id[1].record.offset


def test_a_refusal_that_is_kept_as_training_data_is_no_result(tmp_path):
    """A hole of the model: refused with its geometry, enthalpy and all, and tried again."""
    made, folder = search_of(tmp_path)
    lines = [
        line(made[0].start, -9.9, 1, status="rejected", code="hole"),
        line(made[0].start, -5.4, 1),
        line(made[0].atoms, -5.5, 2, start=ni(3.41)),
    ]
    write_record(tmp_path, lines)
    assert [fields["status"] for fields in find(tmp_path, "1")] == ["rejected", "converged", "converged"]
    entry = open_results(folder).by_id[1]
    assert (entry.enthalpy, entry.marks) == (-5.5, ())


@pytest.mark.parametrize("told", [{"flags": ["hole"]}, {"code": "hole"}, {"reason": "hole: E falls under compression"}])
def test_a_hole_is_known_by_flag_code_or_reason(tmp_path, told):
    made, folder = search_of(tmp_path)
    write_record(tmp_path, [line(made[0].start, -5.4, 1), line(made[0].atoms, -5.5, 2, start=ni(3.41), **told)])
    assert open_results(folder).by_id[1].marks == ("hole",)
    assert open_results(folder).by_id[2].marks == ()


def test_a_generation_that_was_done_twice_counts_with_its_later_try(tmp_path):
    made, folder = search_of(tmp_path)
    first = [line(made[0].start, -5.4, 1, seconds=1.0), line(made[0].atoms, -5.5, 2, start=ni(3.41), seconds=2.0)]
    again = [line(made[0].start, -5.4, 1, seconds=3.0), line(made[0].atoms, -5.5, 2, start=ni(3.41), seconds=4.0)]
    write_record(tmp_path, [*first, *again])
    assert open_results(folder).by_id[1].record.seconds == 4.0


def test_where_other_codes_relaxed_further_nothing_is_taken_from_the_record(tmp_path):
    made, folder = search_of(tmp_path)
    write_record(tmp_path, [line(made[0].start, -5.4, 1)])  # the second step was another code's
    results = open_results(folder)
    assert results.by_id[1].record is None
    assert results.by_id[1].enthalpy == -5.5
    assert {entry.level for entry in results.entries} == {""}
    assert "of 1 structures the last enthalpy is not that of Individuals (EA1)" in results.notes[-1]
    assert len(find(tmp_path, "1")) == 1


def test_a_record_without_inputs_is_joined_by_what_came_out(tmp_path):
    made, folder = search_of(tmp_path)
    lines = [line(made[5].atoms, -8.0, 1), line(made[5].atoms, -9.0 + 3e-4, 2), line(ni(3.9, 2), -9.0, 1, slot="other")]
    for fields in lines:
        del fields["input"]
    write_record(tmp_path, lines)
    results = open_results(folder)
    assert results.by_id[6].enthalpy == -8.9997
    assert [results.by_id[k].record for k in (1, 2, 3, 4, 5)] == [None] * 5
    assert find(tmp_path, "6") == lines[:2]


def test_ids_of_the_python_line_and_two_searches_with_one_record(tmp_path):
    """Both searches number their structures from 1; the start tells whose line it is."""
    made, folder = search_of(tmp_path, writer=write_python)
    other = [Made(1, ni(3.40), -5.5, 1, start=ni(3.9), steps=(-5.4, -5.5))]
    second = write_python(tmp_path / "results2", other, ("Ni",), 50.0)
    lines = []
    for start, seconds in ((made[0].start, 1.0), (other[0].start, 2.0)):
        lines.append(line(start, -5.4, 1, slot="CalcFold1_1", id=1, seconds=seconds))
        lines.append(line(ni(3.40), -5.5, 2, slot="CalcFold1_2", id=1, start=ni(3.41), seconds=10 * seconds))
    write_record(tmp_path, lines)
    assert open_results(folder).by_id[1].record.seconds == 10.0
    assert open_results(second).by_id[1].record.seconds == 20.0
    assert [fields["seconds"] for fields in find(tmp_path, "1")] == [2.0, 20.0]  # the newest search's


def test_a_record_of_two_models_gives_no_level_to_what_it_lacks(tmp_path):
    made, folder = search_of(tmp_path)
    large = MODEL | {"model": "large"}
    lines = [line(made[0].start, -5.4, 1), line(made[0].atoms, -5.5, 2, start=ni(3.41))]
    lines += [line(made[1].start, -5.4, 1), line(made[1].atoms, -5.5, 2, start=ni(3.41), model=large)]
    write_record(tmp_path, lines)
    results = open_results(folder)
    assert [results.by_id[k].level for k in (1, 2, 3)] == ["mace small 01234567", "mace large 01234567", ""]


def test_the_whole_record_of_a_search_with_a_changed_order(tmp_path):
    """The lines of the real search in another order of slots give every structure the same line."""
    shutil.copytree(DATA / "bridge", tmp_path / "run")
    path = tmp_path / "run" / record_file.FILENAME
    lines = path.read_text().splitlines()
    before = {e.id: jsonl.read_at(path, e.record.offset) for e in open_results(tmp_path / "run/results1").entries}
    path.write_text("\n".join(sorted(lines, key=lambda text: json.loads(text)["slot"])) + "\n")
    after = {e.id: jsonl.read_at(path, e.record.offset) for e in open_results(tmp_path / "run/results1").entries}
    assert after == before
