"""The figures as they are typed: files of every format, the numbers in them, and what is refused."""

import csv
import json
import re
import shutil
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from results_making import DATA

HEADS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def test_hull_in_every_format_with_the_numbers_of_hull(run):
    outs = [word for end in (*HEADS, ".html") for word in ("-o", f"out/hull{end}")]
    code, out, err = run("plot", "hull", DATA / "301", "--pressure", "50", *outs, "--json", "--csv", "hull.csv")
    assert code == 0, err
    for ending, head in HEADS.items():
        assert Path(f"out/hull{ending}").read_bytes().startswith(head)
    page = Path("out/hull.html").read_text()
    assert "https://cdn.plot.ly" not in page.split("plotly.js v")[0]
    assert "<script src=" not in page
    assert 'on("plotly_click"' in page
    clicked = json.loads(re.search(r"const crystals = (\{.*\});\n", page)[1])
    drawn = json.loads(out)
    assert drawn["structures"] == 21
    code, out, _ = run("hull", DATA / "301", "--pressure", "50", "--within", "5", "--duplicates", "none", "--json")
    told = {phase["name"]: phase for phase in json.loads(out)["phases"]}
    assert {point["name"] for point in drawn["points"]} < set(told) == set(clicked)
    for point in drawn["points"]:
        assert point["above_hull"] == told[point["name"]]["above_hull"]
        assert point["formation_enthalpy"] == told[point["name"]]["formation_enthalpy"]
        assert point["stable"] == told[point["name"]]["stable"]
    with Path("hull.csv").open() as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == [point["name"] for point in drawn["points"]]


def test_an_online_page_is_small(run):
    code, _, _ = run("plot", "volume", DATA / "301", "-o", "volume.html", "--online")
    assert code == 0
    assert Path("volume.html").stat().st_size < 100_000
    assert "<script" in Path("volume.html").read_text()


def test_figures_of_a_search(run):
    for name in ("volume", "coverage", "progress", "family"):
        code, out, err = run("plot", name, DATA / "301")
        assert (code, out) == (0, f"{name}.png\n"), err
        assert Path(f"{name}.png").read_bytes().startswith(HEADS[".png"])
    code, out, _ = run("plot", "family", DATA / "301", "EA21", "-o", "tree.svg", "--json")
    tree = {point["id"]: point["parents"] for point in json.loads(out)["points"]}
    assert tree[21] == [14, 6]
    assert "EA14" in Path("tree.svg").read_text()
    code, out, err = run("plot", "progress", DATA / "301", "--json")
    assert (code, out, "progress.png: exists; --force overwrites" in err) == (4, "", True)
    code, out, _ = run("plot", "progress", DATA / "301", "--json", "--force")
    operators = {one["operator"]: one["made"] for one in json.loads(out)["operators"]}
    assert operators["Random"] == 8
    assert not {"convexHull", "keptBest"} & set(operators)


def test_what_cannot_be_drawn_is_said_in_a_line(run):
    code, _, err = run("plot", "hull", DATA / "300")
    assert code == 4
    assert "a binary hull shows 2 components and here are 1 (Si); all structures have one composition" in err
    code, _, err = run("plot", "ternary", DATA / "301")
    assert (code, "see plot hull" in err) == (4, True)
    four = [Atoms(symbol, cell=[3] * 3, pbc=True) for symbol in ("Ca", "Fe", "Ni", "Al")]
    for atoms in four:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    ase.io.write("four.extxyz", four)
    code, _, err = run("plot", "ternary", "four.extxyz", "-p", "0", "--3d")
    assert (code, "a ternary map shows 3 components and here are 4" in err) == (4, True), err
    assert not Path("ternary.png").exists()
    code, _, err = run("plot", "progress", DATA / "301", "-o", "progress.html")
    assert (code, "no interactive form" in err) == (4, True)
    code, _, err = run("plot", "family", DATA / "301", "EA99")
    assert (code, "no structure EA99" in err) == (3, True)
    shutil.copytree(DATA / "301", "copy")
    Path("copy/origin").unlink()
    code, _, err = run("plot", "family", "copy")
    assert (code, "copy/origin: there is no such file" in err) == (3, True)
    code, _, err = run("plot", "progress", "copy")
    assert code == 0, err
    assert not list(Path().glob("*.html"))


def test_phases_under_pressure_relaxed_and_drawn_again(run):
    for name, atoms in {"fcc": bulk("Cu", "fcc", 3.6), "bcc": bulk("Cu", "bcc", 2.9)}.items():
        ase.io.write(f"{name}.vasp", atoms)
    words = ("plot", "pressure", "fcc.vasp", "bcc.vasp", "-m", "toy", "-p", "0:40:20", "--json")
    code, out, err = run(*words)
    assert code == 0, err
    document = json.loads(out)
    assert document["reference"] == "fcc"
    assert [(p["phase"], p["pressure_gpa"]) for p in document["points"]] == [
        (name, p) for name in ("fcc", "bcc") for p in (0.0, 20.0, 40.0)
    ]
    code, out, _ = run("plot", "pressure", "pressures", "--to", "bcc", "--json", "-o", "again.pdf")
    assert code == 0
    again = {(p["phase"], p["pressure_gpa"]): p["difference"] for p in json.loads(out)["points"]}
    for point in document["points"]:
        assert again["bcc", point["pressure_gpa"]] == 0
        if point["phase"] == "bcc":
            assert again["fcc", point["pressure_gpa"]] == pytest.approx(-point["difference"], abs=2e-6)
    code, _, err = run("plot", "pressure", "fcc.vasp", "bcc.vasp")
    assert (code, "give pressures: -p 0:100:10" in err) == (3, True)
    code, _, err = run("plot", "pressure", "fcc.vasp", "--model", "toy", "--pressure", "40:0:10")
    assert (code, "the range is empty" in err) == (4, True)
    code, _, err = run("plot", "pressure", "pressures", "--model", "toy")
    assert (code, "-p 0:100:10" in err) == (4, True)
