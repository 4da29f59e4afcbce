"""What a call finds at the end of the record."""

import pytest

from uspex_bridge.base.version import version
from uspex_bridge.call import record_file
from uspex_bridge.call.record_tail import RecordTail, can_stand_again, refused_for_good

OURS = {"uspex_bridge": version()}


def test_the_latest_entry_of_a_job_counts(tmp_path):
    path = tmp_path / "bridge.record"
    assert RecordTail(path).latest("abc") is None
    for reason in ("first", "second"):
        record_file.append(path, {"key": "abc", "reason": reason})
    record_file.append(path, {"key": "xyz", "reason": "another"})
    assert RecordTail(path).latest("abc")["reason"] == "second"
    with path.open("a") as stream:
        stream.write('{"key":"abc","reas')
    assert RecordTail(path).latest("abc") is None, "a half line is no entry"


def test_only_lasting_refusals_of_this_version_count():
    assert refused_for_good({"lasting": True, "versions": OURS})
    assert not refused_for_good({"lasting": False, "versions": OURS})
    assert not refused_for_good({"lasting": True, "versions": {"uspex_bridge": "0.0.1"}})


@pytest.mark.parametrize("change", [{"status": "unconverged"}, {"versions": {}}, {"output": {"cell": []}}])
def test_only_whole_converged_results_of_this_version_stand_again(change):
    output = dict.fromkeys(("cell", "scaled", "forces", "stress"))
    entry = {"status": "converged", "versions": OURS, "energy": 1.0, "enthalpy": 1.0, "stages": [1], "models": {1: 1}}
    assert can_stand_again(entry | {"output": output})
    assert not can_stand_again({**entry, "output": output, **change})


@pytest.mark.parametrize(("formula", "per_atom"), [(b"Ca\xff", b"-1.0"), (b"Ca", b"-Infinity"), (b"Ca", b"-1.2.3")])
def test_damaged_lines_say_nothing_of_a_composition(tmp_path, formula, per_atom):
    path = tmp_path / "bridge.record"
    path.write_bytes(b'{"formula":"' + formula + b'","pressure_gpa":50.0,"enthalpy_per_atom":' + per_atom + b"}\n")
    assert RecordTail(path).lowest(50.0, "b") == {}


def test_what_the_record_knows_of_a_composition_and_of_the_models(tmp_path):
    path = tmp_path / "bridge.record"
    assert RecordTail(path).lowest(50.0, "b") == {}
    assert RecordTail(path).latest_result("2") is None
    line = {"formula": "CaFe", "pressure_gpa": 50.0, "stages": [{"calculator": "b"}], "flags": [], "step": "2"}
    others = ({"formula": "CaFe2"}, {"pressure_gpa": 0.0}, {"stages": [{"calculator": "a"}]}, {"flags": ["hole"]})
    for k, change in enumerate(({}, *others, {"enthalpy_per_atom": 5.0})):
        record_file.append(path, {**line, "enthalpy_per_atom": -1.0 - k, **change})
    assert RecordTail(path).lowest(50.0, "b") == {"CaFe": -1.0, "CaFe2": -2.0}
    assert RecordTail(path).lowest(50.0, "b", "CaFe") == {"CaFe": -1.0}
    at_rest = {"temperature": 300.0, "method": "scha", "enthalpy_at_rest": -6.0}
    record_file.append(path, {**line, "natoms": 2, "enthalpy_per_atom": -2.5, "free_energy": at_rest})
    assert RecordTail(path).lowest(50.0, "b", "CaFe") == {"CaFe": -3.0}
    record_file.append(path, {**line, "models": {"b": {"kind": "toy"}}, "protocol": "fast"})
    record_file.append(path, {**line, "models": {"b": {"kind": "toy"}}, "protocol": "other", "step": "1"})
    assert RecordTail(path).latest_result("2")["protocol"] == "fast"
