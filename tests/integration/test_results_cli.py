"""The commands about results, as they are typed."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from results_making import DATA, Made, write_matlab

from uspex_bridge.call import record_file
from uspex_bridge.call.structures import read_structures


@pytest.fixture
def search(tmp_path):
    """The real search of variable composition, copied so that things can be added to it."""
    shutil.copytree(DATA / "301", tmp_path / "run" / "results1")
    (tmp_path / "run" / "INPUT.txt").write_text(
        "% atomType\nCa Ni\n% EndAtomType\n% numSpecies\n1 0\n0 1\n% EndNumSpecies\n50 : ExternalPressure\n"
    )
    return Path("run")


def test_summary(run, search):
    code, out, err = run("results", "summary", search)
    assert (code, err) == (0, "")
    assert "run/results1: MATLAB/Octave line, unfinished, Ca Ni, 50 GPa" in out
    assert "21 structures, 0 without an enthalpy; generations 1 to 3; 9 compositions" in out
    assert "EA5 Ni5 -1.2386 eV/atom (generation 1, Random)" in out
    code, out, _ = run("results", "summary", search, DATA / "300", "--json")
    facts = json.loads(out)["searches"]
    assert [f["structures"] for f in facts] == [21, 16]
    assert facts[1]["origins"] == {"Random": 8, "Heredity": 4, "softmutate": 2, "keptBest": 2}


def test_summary_tells_what_could_not_be_read(run, search):
    path = search / "results1" / "gatheredPOSCARS"
    path.write_text(path.read_text().replace("  0.59633563", "  0.5963x563"))
    code, _, err = run("results", "summary", search, "--notes")
    assert code == 0
    assert "note: run/results1/gatheredPOSCARS, line 9: " in err
    assert "'0.5963x563' is not a number (EA1 is left out)" in err


def test_best_and_hull(run, search):
    code, out, err = run("results", "best", search, "--within", "0.45", "-n", "3")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["hull of Ca, Ni at 50 GPa: 21 entries, level of theory not stated", "2 stable"]
    assert "surroundings within 0.022" in lines[2]
    assert [line.split()[:2] for line in lines[7:10]] == [["EA5", "Ni5"], ["EA14", "Ca4"], ["EA21", "Ca2Ni"]]
    assert lines[7].split()[2:5] == ["Fm-3m", "(225)", "stable"]
    assert lines[10] == "and 4 more within 0.45 eV/atom"
    code, out, _ = run("hull", search, "--within", "0.45", "--json", "--csv", "phases.csv")
    document = json.loads(out)
    assert document["components"] == ["Ca", "Ni"]
    assert document["references"]["Ni"] == pytest.approx(-6.193 / 5)
    assert [(p["id"], p["stable"], p["found"]) for p in document["phases"]][:3] == [
        (5, True, 3),
        (14, True, 1),
        (21, False, 1),
    ]
    assert document["phases"][2]["above_hull"] == pytest.approx(0.1596, abs=2e-4)
    assert len(Path("phases.csv").read_text().splitlines()) == 8


def test_hull_with_references(run, search):
    deep = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.9] * 3, pbc=True)
    deep.calc = SinglePointCalculator(deep, energy=-12.0)
    deep.info |= {"material_id": "mp-1", "pressure_gpa": 50.0, "level": "PBE"}
    ase.io.write("refs.extxyz", [deep])
    code, _, err = run("hull", search, "--reference", "refs.extxyz")
    assert code == 4
    assert "several levels of theory" in err
    assert "PBE (refs.extxyz)" in err
    code, out, err = run("hull", search, "--reference", "refs.extxyz", "--mix-levels")
    assert code == 0
    assert "warning: several levels of theory on one hull" in err
    assert "3 stable" in out
    assert "mp-1" in out
    code, out, err = run("hull", search, "--reference", "refs.extxyz", "--level", "PBE")
    assert (code, err) == (0, "")
    assert "PBE\n3 stable" in out
    code, out, _ = run("hull", search, "--reference", "refs.extxyz", "--per-level")
    assert code == 0
    heads = [line for line in out.splitlines() if line.startswith("hull of")]
    assert [head.split(" at ")[0] for head in heads] == ["hull of Ca, Ni", "hull of CaNi"]


def test_show(run, search):
    code, out, _ = run("results", "show", search, "21", "EA7")
    assert code == 0
    assert "EA21  Ca2Ni, generation 3, Heredity from EA14 EA6" in out
    assert "I4/mmm (139), tetragonal, 6 atoms" in out
    assert "after each step: 48.396  47.138  47.138 eV" in out
    code, out, _ = run("results", "show", search, "1", "--json")
    (document,) = json.loads(out)["structures"]
    assert document["children"] == [7, 8]
    assert document["crystal"]["number"] == 12
    code, out, _ = run("results", "show", search, "5", "--poscar")
    Path("one.vasp").write_text(out)
    assert read_structures(Path("one.vasp"))[0].formula == "Ni5"
    code, _, err = run("results", "show", search, "99")
    assert code == 3
    assert "there is no structure 99" in err


def test_export(run, search):
    code, out, _ = run("results", "export", search, "all.extxyz")
    assert (code, out) == (0, "all.extxyz: 21 structures\n")
    assert len(ase.io.read("all.extxyz", ":")) == 21
    code, out, _ = run("results", "export", search, "near.csv", "--within", "0.2")
    assert out == "near.csv: 3 structures\n"
    with Path("near.csv").open() as stream:
        assert all(0 <= float(row["above_hull"]) <= 0.2 for row in csv.DictReader(stream))
    code, out, _ = run("results", "export", search, "some.vasp", "--ids", "1-3,EA7")
    assert len(read_structures(Path("some.vasp"))) == 4
    code, _, err = run("results", "export", search, "other.vasp", "--ids", "x")
    assert code == 4
    assert "'x' is neither an ID nor a range" in err
    code, _, err = run("results", "export", search, "none.cif", "--ids", "990-999")
    assert (code, "no such structure" in err, Path("none.cif").exists()) == (3, True, False)
    code, _, err = run("results", "export", search, "some.unknown")
    assert code == 4


def test_converged_by_exit_code(run, search):
    code, out, _ = run("converged", search, "--generations", "1", "--csv", "history.csv")
    assert code == 0
    assert "\nconverged: 1 of 1 generations in a row" in out
    assert len(Path("history.csv").read_text().splitlines()) == 4
    code, out, _ = run("converged", search, "--json")
    assert code == 1
    document = json.loads(out)
    assert document["settled_generations"] == 1
    assert [g["stable"] for g in document["generations"]] == [3, 2, 2]
    code, _, err = run("converged", "nothing")
    assert code == 3
    assert "no such file or folder" in err


def test_compare(run, search):
    shutil.copytree(search / "results1", "other")
    (Path("other") / "Parameters.txt").write_text((search / "INPUT.txt").read_text())
    lines = (Path("other") / "Individuals").read_text().splitlines(keepends=True)
    (Path("other") / "Individuals").write_text("".join(line for line in lines if " 21  Heredity" not in line))
    code, out, _ = run("compare", search, "other", "--within", "0.2", "--json")
    assert code == 0
    pairs = json.loads(out)["pairs"]
    assert [(p["status"], p["formula"]) for p in pairs] == [("common", "Ni5"), ("common", "Ca4"), ("lost", "Ca2Ni")]
    code, out, _ = run("compare", search, "other", "--within", "0.2")
    assert "phases within 0.2 eV/atom only in the first: 1" in out
    assert "not found" in out


def test_seeds(run, search):
    Path("next").mkdir()
    Path("next/INPUT.txt").write_text((search / "INPUT.txt").read_text())
    code, out, err = run("seeds", search, "-n", "4", "--within", "0.5", "--into", "next")
    assert (code, err) == (0, "")
    assert out == "next/Seeds/POSCARS: 4 structures, up to 0.3024 eV/atom above the hull\n"
    seeds = read_structures(Path("next/Seeds/POSCARS"))
    assert [s.formula for s in seeds] == ["Ni5", "Ca4", "Ca2Ni", "Ca7Ni"]
    code, _, err = run("seeds", search, "--into", "next")
    assert code == 3
    assert "--force" in err
    code, _, err = run("seeds", search, "--into", "next", "--anti")
    assert code == 3
    assert "anti-seeds have no effect" in err
    Path("fixed").mkdir()
    Path("fixed/INPUT.txt").write_text(
        "300 : calculationType\n% atomType\nCa Ni\n% EndAtomType\n% numSpecies\n2 1\n% EndNumSpecies\n"
    )
    code, _, err = run("seeds", search, "--into", "fixed", "--anti", "--within", "0.5")
    assert code == 0
    assert "add a line such as '1.0 : antiSeedsMax'" in err
    assert [s.formula for s in read_structures(Path("fixed/AntiSeeds/POSCARS"))] == ["Ca2Ni"]
    code, _, err = run("seeds", "run/results1", "--into", "next", "--anti", "--generation", "2")
    assert code == 4
    code, out, _ = run("seeds", search, "--into", "next", "--generation", "3", "--scale-to", "150", "--model", "toy")
    assert code == 0
    scaled = read_structures(Path("next/Seeds/POSCARS_3"))
    assert all(new.volume < 0.95 * old.volume for new, old in zip(scaled, seeds, strict=False))
    code, _, err = run("seeds", search, "--into", "next", "--scale-to", "150")
    assert code == 4


def test_seeds_of_two_pressures_and_references(run, tmp_path):
    ca, ni = bulk("Ca", "fcc", 5.5), bulk("Ni", "fcc", 3.5)
    cani = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3.1] * 3, pbc=True)
    low = [Made(1, ca, -2.0), Made(2, ni, -5.0), Made(3, bulk("Ni", "hcp", 2.5, 4.1), -9.9)]
    write_matlab(tmp_path / "low", low, ("Ca", "Ni"), 0.0)
    write_matlab(tmp_path / "high", [Made(1, ca, -1.0), Made(2, ni, -4.0)], ("Ca", "Ni"), 50.0)
    cani.calc = SinglePointCalculator(cani, energy=-30.0)
    ase.io.write("known.extxyz", [cani])
    code, _, err = run("seeds", "low", "high", "--reference", "known.extxyz", "--out", "POSCARS")
    assert code == 0
    assert "known.extxyz: 1 entry of 0 GPa taken to 50 GPa" in err
    assert [s.formula for s in read_structures(Path("POSCARS"))] == ["CaNi", "Ca", "Ni", "Ca", "Ni", "Ni2"]


def test_rescore_goes_on_where_it_was(run, search):
    words = ("rescore", search, "--model", "toy", "--out", "again", "--near", "0.35", "--within", "0.2")
    code, out, err = run(*words)
    assert code == 0, err
    assert "5 structures at 50 GPa, single points (before: not stated; now: toy)" in out
    record = Path("again") / record_file.FILENAME
    first = record.read_text()
    assert len(first.splitlines()) == 5
    code, out, _ = run(*words, "--json")
    assert record.read_text() == first
    document = json.loads(out)
    assert document["structures"] == 5
    assert document["failed"] == {}
    assert 0 < document["recall"] <= 1
    assert document["changes"][0]["above_hull"][1] == 0.0
    record.write_text("".join(first.splitlines(keepends=True)[:3]))
    code, _, _ = run(*words)
    assert [line["key"] for line in map(json.loads, record.read_text().splitlines())] == [
        line["key"] for line in map(json.loads, first.splitlines())
    ]
    code, out, _ = run("hull", "again", "--json")
    assert code == 0
    assert json.loads(out)["levels"] == ["toy"]
    assert json.loads(out)["pressure_gpa"] == 50.0
    code, out, _ = run(*words, "--force", "--relax", "--pressure", "20", "--json", "-n", "2")
    assert code == 0
    assert len(record.read_text().splitlines()) == 2
    assert json.loads(record.read_text().splitlines()[0])["pressure_gpa"] == 20


def test_surfaces_are_not_rescored_into_a_hull(run, search):
    path = search / "INPUT.txt"
    path.write_text("201 : calculationType\n" + path.read_text())
    code, out, err = run("rescore", search, "--model", "toy", "--out", "again")
    assert (code, out) == (3, "")
    assert "surfaces (calculationType 201)" in err
    assert not Path("again").exists()


def test_rescore_by_several_processes(run, search):
    words = ("rescore", search, "--model", "toy", "--near", "0.35", "--within", "0.2", "--json")
    alone, shared = run(*words, "--out", "alone"), run(*words, "--out", "shared", "--workers", 2)
    assert (alone[0], shared[0]) == (0, 0)
    assert json.loads(shared[1]) == json.loads(alone[1])
    record = Path("shared") / record_file.FILENAME
    first = record.read_text()
    assert run(*words, "--out", "shared", "--workers", 2)[1] == shared[1]
    assert record.read_text() == first
    assert len(ase.io.read("shared/relaxed.extxyz", index=":")) == 5


def test_rescore_needs_a_pressure(run, tmp_path):
    code, _, err = run("rescore", DATA / "301", "--model", "toy")
    assert code == 4
    assert "give --pressure" in err


def test_several_results_folders_share_one_hull(run, tmp_path):
    ca, ni = bulk("Ca", "fcc", 5.5), bulk("Ni", "fcc", 3.5)
    write_matlab(tmp_path / "a" / "results1", [Made(1, ca, -2.0), Made(2, ni, -5.0)], ("Ca", "Ni"), 50.0)
    write_matlab(tmp_path / "a" / "results2", [Made(1, ni, -5.1)], ("Ca", "Ni"), 50.0)
    write_matlab(tmp_path / "b", [Made(1, ni, -5.2)], ("Ca", "Ni"), 60.0)
    code, out, err = run("hull", "a", "--json")
    assert code == 0
    assert "assumed to be the same" in err
    names = [phase["name"] for phase in json.loads(out)["phases"] if phase["stable"]]
    assert names == ["a/results1:EA1", "a/results2:EA1"]
    code, _, err = run("hull", "a", "b")
    assert code == 4
    assert "several pressures (50, 60 GPa)" in err
    code, _, err = run("hull", "a", "b", "--pressure", "60")
    assert code == 0
    assert "upper bound" in err


def test_help_of_every_command_is_quick_and_whole(run):
    for words in ("results", "results best", "results export", "hull", "converged", "compare", "seeds", "rescore"):
        code, out, _ = run(*words.split(), "--help")
        assert code == 0
        assert "Usage:" in out
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, uspex_bridge.cli.hull, uspex_bridge.cli.results; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"numpy", "pymatgen", "ase", "torch"} & set(loaded)
