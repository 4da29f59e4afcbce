"""One call in this process: what it takes from the record, and what it leaves there."""

import logging

import pytest
from calling import INCAR, POSCAR, TOY, make_folder, record

from uspex_bridge.base.halt import Halter
from uspex_bridge.call import record_file
from uspex_bridge.call.config import read_config
from uspex_bridge.call.folders import VaspFolder
from uspex_bridge.call.hopeless import lowest_known
from uspex_bridge.call.run import OneShotModels, run_folder
from uspex_bridge.uspex.readback import read_as_matlab, read_as_python

LOG = logging.getLogger("test")


def test_an_unexpected_failure_is_recorded_as_one(tmp_path):
    fold = make_folder(tmp_path, settings=TOY)
    config = read_config(tmp_path / "bridge.toml")

    def broken(_):
        raise RuntimeError("half an update of a package")

    with pytest.raises(RuntimeError):
        run_folder(VaspFolder(fold), config, LOG, Halter(), models=broken)
    (entry,) = record(fold)
    assert (entry["status"], entry["code"], entry["exit"]) == ("failed", "RuntimeError", 1)
    assert "half an update" in entry["reason"]
    assert not (fold / "OSZICAR").exists()


def run(fold, *, models=OneShotModels):
    run_folder(VaspFolder(fold), read_config(fold.parent / "bridge.toml"), LOG, Halter(), models=models)
    return record(fold)[-1]


def no_model(config):
    raise AssertionError("a model is asked for")


def test_a_start_that_was_relaxed_before_gives_the_same_result_without_a_model(tmp_path):
    """USPEX reads the same; another label is no other start, another target is another job."""
    fold = make_folder(tmp_path, settings='on_repeat = "reuse"\n' + TOY)
    first = run(fold)
    before, contcar = read_as_matlab(fold), (fold / "CONTCAR").read_text()
    (fold / "POSCAR").write_text(POSCAR.replace("EA0 ", "EA7 "))
    again = run(fold, models=no_model)
    assert read_as_matlab(fold) == before
    assert read_as_python(fold, 50.0).enthalpy == pytest.approx(before.enthalpy, abs=1e-6)
    assert (fold / "CONTCAR").read_text().splitlines()[1:] == contcar.splitlines()[1:]
    assert again["repeats"] == first["time"]
    for key in ("status", "enthalpy", "enthalpy_per_atom", "volume", "output", "models", "flags"):
        assert again[key] == first[key]
    assert "the same start was relaxed before" in again["reason"]
    for asked in (INCAR.replace("-0.01", "-0.02"), "ISYM = 2\n" + INCAR):
        (fold / "INCAR").write_text(asked)
        assert "repeats" not in run(fold)


def test_a_start_is_relaxed_again_unless_told_otherwise(tmp_path):
    fold = make_folder(tmp_path, settings=TOY)
    run(fold)
    assert "repeats" not in run(fold)


def test_what_ends_far_above_the_best_known_is_stopped_early_and_never_wins(tmp_path):
    """What USPEX reads is the enthalpy of the geometry that it reads, above that of the best and of its own end."""
    fold = make_folder(tmp_path, incar=INCAR.replace("-0.01", "-0.0001"), settings="stop_above = 0.5\n" + TOY)
    whole = run(fold)
    for far, formula in ((0.4, "CaFe2Ni"), (2.0, "CaFe2Ni2")):  # within the limit; another composition
        record_file.append(tmp_path / "bridge.record", best(whole, far) | {"formula": formula})
    assert run(fold)["steps"] == whole["steps"]
    record_file.append(tmp_path / "bridge.record", best(whole, 1.0))
    entry = run(fold)
    assert (entry["status"], entry["exit"], entry["stages"][-1]["outcome"]) == ("unconverged", 0, "above")
    assert {"unconverged", "stopped-above"} <= set(entry["flags"])
    assert "stop_above" in entry["reason"]
    assert entry["steps"] < whole["steps"]
    assert read_as_matlab(fold).enthalpy == pytest.approx(entry["enthalpy"], abs=1e-6)
    assert read_as_python(fold, 50.0).enthalpy == pytest.approx(entry["enthalpy"], abs=1e-6)
    assert entry["enthalpy_per_atom"] >= whole["enthalpy_per_atom"]


def test_a_student_goes_first_and_its_energy_never_counts(tmp_path):
    alone = run(make_folder(tmp_path / "alone", settings=TOY))
    student = '[calculators.student]\nkind = "toy"\n[calculators.student.options]\nepsilon = 0.45\n'
    fold = make_folder(tmp_path, settings=TOY + student)
    settings = tmp_path / "bridge.toml"
    settings.write_text(settings.read_text().replace("single", "student"))
    entry = run(fold)
    assert [stage["calculator"] for stage in entry["stages"]] == ["student", "student", "model"]
    assert entry["enthalpy"] == pytest.approx(alone["enthalpy"], abs=1e-3)
    assert read_as_matlab(fold).enthalpy == pytest.approx(entry["enthalpy"], abs=1e-6)
    assert entry["stages"][-1]["evaluations"] < sum(stage["evaluations"] for stage in alone["stages"])


def best(whole, far):
    """Return what the record says of a structure that ends so many eV/atom below another one."""
    names = ("formula", "natoms", "pressure_gpa", "flags", "stages", "status")
    return {name: whole[name] for name in names} | {"enthalpy_per_atom": whole["enthalpy_per_atom"] - far}


def test_the_best_known_of_a_composition_is_its_best_decomposition():
    known = {"Ca2": 0.0, "Fe": 0.0, "Ca2Fe2": -1.0, "Ni": -9.0}
    assert lowest_known(known, ["Ca"] * 3 + ["Fe"]) == pytest.approx(-0.5)
    assert lowest_known(known | {"Ca6Fe2": -0.6}, ["Ca"] * 3 + ["Fe"]) == pytest.approx(-0.6)
    assert lowest_known({"Ca3Fe": -0.2}, ["Fe", "Ca", "Ca", "Ca"]) == pytest.approx(-0.2)
    assert lowest_known(known | {"": -99.0, "no formula": -99.0}, ["Ca"] * 3 + ["Fe"]) == pytest.approx(-0.5)
    assert lowest_known(known, ["Ca", "O"]) is None
    assert lowest_known({}, ["Ca"]) is None
