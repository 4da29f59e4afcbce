"""uspex-bridge-external, the executable for abinitioCode 99."""

import json

import pytest
from ase.io import read
from calling import POSCAR, TOY, call, potcar

from uspex_bridge.base import jsonl

VASP5 = POSCAR.replace("   1    2    1\n", "  Ca   Fe   Ni\n   1    2    1\n")


def make(tmp_path, *, geom=VASP5, user="ISIF = 3\nEDIFFG = -0.02\n", parameters=None, settings=TOY):
    fold = tmp_path / "CalcFold1"
    fold.mkdir(parents=True)
    if geom is not None:
        (fold / "geom.in").write_text(geom)
    if user is not None:
        (fold / "usercode.in").write_text(user)
    if parameters is not None:
        (fold / "parameters.json").write_text(parameters)
    (tmp_path / "bridge.toml").write_text('protocol = "single"\n' + settings)
    return fold


def run(fold, *args):
    return call(fold, *args, executable="uspex-bridge-external")


def outcome(fold):
    (entry,) = jsonl.read(fold.parent / "bridge.record")
    return entry


def test_geometry_and_enthalpy(tmp_path):
    fold = make(tmp_path, parameters=json.dumps({"calculation": {"ExternalPressure": 50}}))
    done = run(fold)
    assert done.returncode == 0, done.stderr
    atoms = read(fold / "geom.out", format="vasp")
    assert atoms.get_chemical_symbols() == ["Ca", "Fe", "Fe", "Ni"]
    entry = outcome(fold)
    assert entry["pressure_gpa"] == 50
    assert float((fold / "energy.txt").read_text()) == pytest.approx(entry["enthalpy"], abs=1e-9)
    assert entry["enthalpy"] - entry["energy"] == pytest.approx(50 * atoms.get_volume() / 160.21766208, abs=1e-6)


def test_what_the_manual_leaves_open_is_a_setting(tmp_path):
    settings = TOY + '[external]\nenergy = "energy"\nper = "atom"\ngeometry = "vasp4"\npressure = 20.0\n'
    fold = make(tmp_path, settings=settings)
    assert run(fold).returncode == 0
    entry = outcome(fold)
    assert entry["pressure_gpa"] == 20
    assert float((fold / "energy.txt").read_text()) == pytest.approx(entry["energy"] / 4, abs=1e-9)
    assert (fold / "geom.out").read_text().splitlines()[5].split() == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("user", "parameters", "args", "pressure"),
    [
        ("PSTRESS = 300\n", '{"externalPressure": 50}', (), 30),
        (None, '{"pressure": 50}', (), 50),
        (None, None, (), 0),
        ("PSTRESS = 300\n", None, ("--pressure", "75"), 75),
    ],
)
def test_where_the_pressure_comes_from(tmp_path, user, parameters, args, pressure):
    fold = make(tmp_path, user=user, parameters=parameters)
    assert run(fold, *args).returncode == 0
    assert outcome(fold)["pressure_gpa"] == pressure


@pytest.mark.parametrize("source", ["potcar", "parameters"])
def test_elements_of_a_geometry_without_element_line(tmp_path, source):
    fold = make(
        tmp_path, geom=POSCAR, parameters='{"atomType": ["Ca", "Fe", "Ni"]}' if source == "parameters" else None
    )
    if source == "potcar":
        (fold / "POTCAR").write_text(potcar("Ca", "Fe", "Ni"))
    assert run(fold).returncode == 0
    assert outcome(fold)["formula"] == "CaFe2Ni"


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"geom": None}, 3, "geom.in"),
        ({"geom": POSCAR}, 3, "element"),
        ({"parameters": "{"}, 3, "parameters.json"),
        ({"user": "PSTRESS = high\n"}, 3, "usercode.in"),
        ({"settings": TOY + "[external]\nper = 'mole'\n"}, 4, "'cell'"),
        ({"settings": TOY + "[calculators.model.options]\nnan_after = 2\n"}, 6, "NaN"),
    ],
)
def test_failures_leave_nothing(tmp_path, change, code, word):
    fold = make(tmp_path, **change)
    for name in ("geom.out", "energy.txt"):
        (fold / name).write_text("stale")
    done = run(fold)
    assert done.returncode == code, done.stderr
    assert word in done.stderr
    assert not (fold / "geom.out").exists()
    assert not (fold / "energy.txt").exists()
