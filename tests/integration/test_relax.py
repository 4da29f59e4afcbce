"""uspex-bridge relax, by hand."""

import json

import pytest
from ase.build import bulk
from ase.io import read, write
from calling import POSCAR, TOY, call
from click.testing import CliRunner

from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.cli.main import command

VASP5 = POSCAR.replace("   1    2    1\n", "  Ca   Fe   Ni\n   1    2    1\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "bridge.toml").write_text('protocol = "single"\n' + TOY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def relax(*args):
    return CliRunner().invoke(command, ["relax", *map(str, args)])


def test_many_files_of_many_kinds(folder):
    (folder / "gatheredPOSCARS").write_text(VASP5.replace("EA0", "EA7") + VASP5.replace("EA0", "EA12"))
    write(folder / "fe.cif", bulk("Fe", "bcc", a=3.0, cubic=True))
    write(folder / "set.extxyz", [bulk("Ni", "fcc", a=4.0), bulk("Ca", "fcc", a=5.0)])
    done = relax("gatheredPOSCARS", "fe.cif", "set.extxyz", "--pressure", "50", "--trajectory", "--vasp-files")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["EA7", "EA12", "fe", "set-1", "set-2"]
    assert "CaFe2Ni" in lines[2]
    assert lines[4].split()[:3] == ["fe", "Fe2", "Im-3m"]
    images = read("relaxed/relaxed.extxyz", index=":")
    assert len(images) == 5
    for image in images:
        assert image.get_stress()[:3].mean() * 160.21766208 == pytest.approx(-50, abs=0.15)
        pv = 50 * image.get_volume() / 160.21766208
        assert image.info["enthalpy"] == pytest.approx(image.get_potential_energy() + pv, abs=1e-5)
        assert image.info["level"] == "toy"
    assert len(list((folder / "relaxed").glob("*.trajectory.extxyz"))) == 5
    assert len(list((folder / "relaxed").glob("*/OUTCAR"))) == 5
    again = relax("relaxed/relaxed.POSCARS", "--pressure", "50", "--json", "--out", "second")
    results = json.loads(again.stdout)["structures"]
    assert [r["formula"] for r in results] == ["CaFe2Ni", "CaFe2Ni", "Fe2", "Ni", "Ca"]
    for result, image in zip(results, images, strict=True):
        assert result["enthalpy"] == pytest.approx(image.info["enthalpy"], abs=2e-3)


def test_each_structure_at_each_pressure(folder):
    write(folder / "fe.cif", bulk("Fe", "bcc", a=3.0, cubic=True))
    write(folder / "fcc.cif", bulk("Fe", "fcc", a=3.6))
    done = relax("fe.cif", "fcc.cif", "-p", "50,0")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["fe", "0GPa"],
        ["fe", "50GPa"],
        ["fcc", "0GPa"],
        ["fcc", "50GPa"],
    ]
    assert lines[-1] == "4 results in relaxed/0GPa/, relaxed/50GPa/"
    for at in (0, 50):
        assert [image.info["pressure_GPa"] for image in read(f"relaxed/{at}GPa/relaxed.extxyz", index=":")] == [at, at]
    assert "relaxed/0GPa: contains results" in str(relax("fe.cif", "-p", "0:50:25").exception)
    drawn = CliRunner().invoke(command, ["plot", "pressure", "relaxed/0GPa", "relaxed/50GPa", "-o", "p.png", "--json"])
    assert drawn.exit_code == 0, str(drawn.exception)
    assert "0,20,50" in str(relax("fe.cif", "-p", "high").exception)


def test_a_refused_structure_does_not_stop_the_others(folder):
    flat = VASP5.replace("4.100000", "0.100000")
    (folder / "POSCAR").write_text(flat + VASP5)
    done = relax("POSCAR")
    assert done.exit_code == 6
    assert "flat: the cell is flat" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 result in relaxed/; 1 refused or failed"
    assert len(read("relaxed/relaxed.extxyz", index=":")) == 1
    entries = [json.loads(line) for line in (folder / "relaxed" / "bridge.record").read_text().splitlines()]
    assert [e["status"] for e in entries] == ["rejected", "converged"]


DEADLY = """
import os, signal
from dataclasses import replace
from uspex_bridge.calculators import toy

def build(request):
    calculator = toy.build(replace(request, options={}))
    plain = calculator.evaluate
    def evaluate(structures):
        if any("Ni" in str(atoms.symbols) for atoms in structures):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(structures)
    calculator.evaluate = evaluate
    return calculator

batch = toy.batch
"""


def test_a_structure_that_kills_its_workers_fails_alone_and_is_named(folder, monkeypatch):
    (folder / "deadly.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    (folder / "bridge.toml").write_text('protocol = "single"\n[calculators.model]\nkind = "deadly:build"\n')
    write(folder / "set.extxyz", [bulk("Fe", "bcc", a=3.0), bulk("Ni", "fcc", a=4.0), bulk("Cu", "fcc", a=3.6)])
    done = call(folder, "relax", "set.extxyz", "--workers", "2", executable="uspex-bridge")
    assert done.returncode == 7, done.stderr
    assert "the worker process was ended by signal 9, twice with this structure" in done.stdout
    assert len(read("relaxed/relaxed.extxyz", index=":")) == 2
    entries = [json.loads(line) for line in (folder / "relaxed" / "bridge.record").read_text().splitlines()]
    assert {entry["formula"]: entry["status"] for entry in entries} == {
        "Fe": "converged",
        "Cu": "converged",
        "Ni": "failed",
    }


def test_options_reach_the_plan(folder):
    (folder / "POSCAR").write_text(VASP5)
    single = json.loads(relax("POSCAR", "--nsw", "0", "--json").stdout)["structures"][0]
    assert single["steps"] == 1
    volume = single["volume"]
    refused = relax("POSCAR", "--isif", "4")
    assert isinstance(refused.exception, InputError)
    assert "relaxed: contains results; --resume" in str(refused.exception)
    shape = json.loads(relax("POSCAR", "--isif", "4", "--fmax", "0.05", "--json", "--force").stdout)["structures"][0]
    assert shape["volume"] == pytest.approx(volume, rel=1e-6)
    assert 0.01 < shape["fmax"] < 0.05
    chosen = json.loads(relax("POSCAR", "--model", "toy", "--stages", "accurate", "--json", "--force").stdout)[
        "structures"
    ][0]
    assert [s["calculator"] for s in chosen["stages"]] == ["model"]
    assert chosen["models"]["model"]["kind"] == "toy"


def test_errors_name_the_file_and_the_way_out(folder):
    assert isinstance(relax("nothing.cif").exception, InputError)
    (folder / "bad.cif").write_text("no cif")
    assert "bad.cif: it is not a CIF" in str(relax("bad.cif").exception)
    write(folder / "molecule.xyz", bulk("Fe"), format="xyz")
    assert "no cell in three dimensions" in str(relax("molecule.xyz").exception)
    (folder / "POSCAR").write_text(VASP5)
    assert isinstance(relax("POSCAR", "--protocol", "papper").exception, ConfigError)
    done = call(folder, "relax", "POSCAR", "--protocol", "papper", executable="uspex-bridge")
    assert done.returncode == 4
    assert "did you mean 'paper'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
