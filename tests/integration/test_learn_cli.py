"""The commands between generations, as they are typed."""

import json
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk
from results_making import DATA, Made, write_matlab


def test_map(run, tmp_path):
    assert run("results", "export", DATA / "301", "some.extxyz")[0] == 0
    ase.io.write("some.extxyz", ase.io.read("some.extxyz", index="3:7"))
    code, out, _ = run("map", DATA / "301", "--colour", "distance", "--chosen", "some.extxyz", "-o", "m.pdf")
    assert code == 0
    assert "without cross terms" in out
    assert "the 4 chosen reach 4 of 13 bins" in out
    assert (tmp_path / "m.pdf").stat().st_size > 1000
    code, out, _ = run("map", DATA / "301", "--json", "--r-cut", 3.5, "--cross", "--scaling", "none")
    found = json.loads(out)
    assert found["descriptor"]["r_cut"] == 3.5
    assert found["descriptor"]["features"] == 144
    assert len(found["structures"]) == 21
    assert (tmp_path / "map.png").exists()
    code, _, err = run("map", DATA / "301")
    assert (code, "map.png: exists; --force overwrites" in err) == (4, True)


def test_map_says_what_is_wrong(run):
    assert run("map", DATA / "301", "-o", "map.bmp")[0] == 4
    assert run("map", "nowhere")[0] == 3
    code, _, err = run("map", DATA / "301", "--colour", "pressure")
    assert code == 4
    assert "pressure" in err


SETTINGS = """
[calculators.one]
kind = "toy"
[calculators.two]
kind = "toy"
options = {epsilon = 0.52}
[calculators.narrow]
kind = "toy"
options = {elements = ["Ni"]}
"""


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "bridge.toml").write_text(SETTINGS)


def test_screen(run, settings, tmp_path):
    code, out, _ = run(
        "screen", DATA / "301", "-m", "one", "-m", "two", "--pv", 0.12, "--training", DATA / "301/gatheredPOSCARS"
    )
    assert code == 0, out
    assert "energy zero of two fitted" in out
    listed = ase.io.read("screened/label.extxyz", index=":")
    summary = json.loads((tmp_path / "screened" / "screen.json").read_text())
    assert 0 < len(listed) == summary["to_compute"] < 21
    assert all("|ΔPV|" in atoms.info["reason"] for atoms in listed)
    assert all(atoms.info["family"] == atoms.info["id"] for atoms in listed)
    names = {line.split(",")[0] for line in (tmp_path / "screened" / "screen.csv").read_text().splitlines()[1:]}
    assert len(names) == 21
    assert {atoms.info["name"] for atoms in listed} <= names
    assert (tmp_path / "screened" / "screen.png").stat().st_size > 10_000
    files = sorted((tmp_path / "screened" / "evaluations").glob("*.jsonl"))
    before = [file.read_bytes() for file in files]
    again = ("screen", DATA / "301", "-m", "one", "-m", "two", "--pv", 0, "--forces", 0.01, "--json")
    code, out, err = run(*again)
    assert (code, out, "screened/label.extxyz" in err, "--force overwrites" in err) == (4, "", True, True)
    code, out, _ = run(*again, "--force")
    assert json.loads(out)["over"].keys() == {"force"}
    assert [file.read_bytes() for file in files] == before


def test_screen_with_a_model_that_fails(run, settings):
    code, out, _ = run("screen", DATA / "301", "-m", "one", "-m", "narrow", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["flags"]["failed"] > 0
    assert any("does not know Ca" in row["reasons"] for row in found["label"])


def test_screen_says_what_is_wrong(run, settings):
    assert run("screen", DATA / "301", "-m", "one")[0] == 4
    code, _, err = run("screen", DATA / "301", "-m", "one", "-m", "toy")
    assert code == 4
    assert "same model" in err
    assert run("screen", DATA / "301", "-m", "one", "-m", "nonsense")[0] == 4
    assert run("screen", DATA / "301", "-m", "one", "-m", "two", "--pv", 0)[0] == 4


def test_from_disagreement_to_structures_to_compute(run, settings, tmp_path):
    assert run("screen", DATA / "301", "-m", "one", "-m", "two", "--pv", 0.1)[0] == 0
    code, out, err = run("select", "screened/label.extxyz", "--reference", DATA / "301", "-n", 6, "--within", 0.5)
    assert code == 0, err
    assert "of them near the hull" in out
    assert "duplicates" in out
    chosen = ase.io.read("selected/selected.extxyz", index=":")
    assert len(chosen) == 6
    assert all("|ΔPV|" in atoms.info["reason"] for atoms in chosen)
    assert any("above the hull" in atoms.info["reason"] for atoms in chosen)
    assert any("farthest" in atoms.info["reason"] for atoms in chosen)
    assert (tmp_path / "selected" / "coverage.png").stat().st_size > 10_000
    summary = json.loads((tmp_path / "selected" / "selected.json").read_text())
    assert summary["coverage"]["after"]["occupied"] > summary["coverage"]["before"]["occupied"] == 0
    screened = {atoms.info["name"]: atoms.info["origin"] for atoms in ase.io.read("screened/label.extxyz", index=":")}
    assert [one["name"] for one in summary["chosen"]] == [atoms.info["name"] for atoms in chosen]
    assert all(atoms.info["origin"] == screened[atoms.info["name"]] for atoms in chosen)
    code, out, _ = run("augment", "selected/selected.extxyz", "--volumes", "0.9,0.8")
    assert code == 0
    frames = ase.io.read("augmented.extxyz", index=":")
    assert len(frames) == 6 * 8
    assert len({atoms.info["family"] for atoms in frames}) == 6
    assert len({atoms.info["id"] for atoms in frames}) == 48


def test_select_takes_nothing_twice_and_nothing_held_out(run):
    def names(*words):
        code, out, _ = run("select", DATA / "301", "--json", "--force", *words)
        assert code == 0
        found = json.loads(out)
        return [one["name"].rpartition(":")[2] for one in found["chosen"]], found["left_out"]

    everything, _ = names("-n", 99)
    first, _ = names("-n", 4, "--out", "one")
    again, left = names("-n", 99, "--have", "one/selected.extxyz")
    assert left["there already"] == 9  # USPEX kept some of the four under further IDs
    assert set(again) == set(everything) - set(first)
    Path("held.txt").write_text(f"301:{first[0]}\n")
    _, left = names("-n", 99, "--holdout", "held.txt")
    assert left["held out"] == 1
    _, left = names("-n", 99, "--holdout", "one/selected.extxyz")
    assert left["held out"] > 4  # the same phases, however often they were found
    small, left = names("-n", 99, "--max-atoms", 4, "--out", "small")
    assert 0 < len(small) < len(everything)
    assert left["too large"] > 0
    assert max(map(len, ase.io.read("small/selected.extxyz", index=":"))) <= 4
    code, _, err = run("select", DATA / "301")
    assert (code, "selected/selected.extxyz" in err, "--force overwrites" in err) == (4, True, True)
    assert run("select", DATA / "301", "--holdout", DATA / "301" / "gatheredPOSCARS", "--force")[0] == 3


def test_select_leaves_out_holes_and_failures_and_shows_distances_to_the_hull(run, tmp_path):
    ca, ni = bulk("Ca", "fcc", 5.0), bulk("Ni", "fcc", 3.3)
    b2 = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.9] * 3, pbc=True)
    b1 = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=bulk("NaCl", "rocksalt", 4.7).cell, pbc=True)
    made = [Made(1, ca, -2.0), Made(2, ni, -5.0), Made(3, b2, -8.0), Made(4, b1, -9.0), Made(5, b1 * (2, 1, 1), 1e5)]
    write_matlab(tmp_path / "results1", made, ("Ca", "Ni"), 50.0)
    line = {
        "status": "converged",
        "flags": ["hole"],
        "enthalpy": -9.0,
        "volume": b1.get_volume(),
        "fmax": 0.0,
        "steps": 3,
    }
    line["input"] = {"symbols": ["Ca", "Ni"], "cell": b1.cell.tolist(), "scaled": b1.get_scaled_positions().tolist()}
    (tmp_path / "bridge.record").write_text(json.dumps(line) + "\n")
    code, out, _ = run("select", "results1", "-n", 9)
    assert code == 0
    assert "left out before: 1 failed or refused, 1 in holes" in out
    assert sorted(text.split()[:3] for text in out.splitlines() if text.startswith("results1:EA")) == [
        ["results1:EA1", "Ca", "0.0000"],
        ["results1:EA2", "Ni", "0.0000"],
        ["results1:EA3", "CaNi", "0.0000"],
    ]
    code, out, _ = run("select", "results1", "-n", 9, "--with-holes", "--json", "--force")
    assert {one["name"]: one["flags"] for one in json.loads(out)["chosen"]}["results1:EA4"] == "hole"
    assert {atoms.info.get("flags") for atoms in ase.io.read("selected/selected.extxyz", index=":")} == {None, "hole"}


def test_augment_reads_what_uspex_gathers(run, tmp_path):
    code, out, _ = run(
        "augment", DATA / "301" / "gatheredPOSCARS", "--copies", 1, "--copies-only", "-o", "a/b.extxyz", "--json"
    )
    assert code == 0
    assert json.loads(out)["structures"] == 21
    frames = ase.io.read(tmp_path / "a" / "b.extxyz", index=":")
    assert frames[0].info["name"] == "EA1-p1"
    assert run("augment", "a/b.extxyz", "-o", "a/b.extxyz")[0] == 4
    assert run("augment", "nowhere.extxyz")[0] == 3
    assert run("augment", DATA / "301" / "gatheredPOSCARS", "--volumes", "small")[0] == 4
