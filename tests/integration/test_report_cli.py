"""The report of a search: well-formed, in need of nothing else, and with every phase, figure and failure."""

import base64
import io
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import ase.io
import numpy as np
import pytest
from results_making import DATA

XHTML = "{http://www.w3.org/1999/xhtml}"


class Page:
    """A report read back."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.root = ElementTree.fromstring(self.text.removeprefix("<!DOCTYPE html>\n"))

    def words(self, element: ElementTree.Element) -> str:
        return " ".join("".join(element.itertext()).split())

    @property
    def phases(self) -> list[dict[str, str]]:
        rows = self.root.findall(f".//{XHTML}table[@id='phase-table']/{XHTML}tbody/{XHTML}tr")
        return [{cell.get("data-label", ""): self.words(cell) for cell in row} for row in rows]

    @property
    def pictures(self) -> dict[str, str]:
        images = self.root.iter(f"{XHTML}img")
        return {i.get("alt", ""): base64.b64decode(i.get("src", "").partition("base64,")[2]).decode() for i in images}


def test_every_phase_of_the_hull_is_in_the_table(run):
    code, out, err = run("report", DATA / "bridge", "--within", "0.1")
    assert (code, out.split(":")[0]) == (0, "report.html"), err
    page = Page(Path("report.html"))
    code, out, _ = run("hull", DATA / "bridge", "--within", "0.1", "--json")
    document = json.loads(out)
    code, out, _ = run("results", "show", DATA / "bridge", *(str(p["id"]) for p in document["phases"]), "--json")
    crystals = {shown["id"]: shown["crystal"] for shown in json.loads(out)["structures"]}
    assert [row["ID"].split()[0] for row in page.phases] == [f"EA{phase['id']}" for phase in document["phases"]]
    for row, phase in zip(page.phases, document["phases"], strict=True):
        crystal = crystals[phase["id"]]
        assert row["space group"].endswith(f"({crystal['number']}){crystal['system']}")
        assert row["lattice"].split()[0] == f"{crystal['lattice'][0]:.3f}"
        assert len([s for s in crystal["sites"] if f"{s['element']} {s['wyckoff']} " in row["Wyckoff sites"]]) == len(
            crystal["sites"]
        )
        assert float(row["formation"]) == pytest.approx(phase["formation_enthalpy"], abs=6e-5)
        assert row["above hull"].startswith("stable" if phase["stable"] else f"{phase['above_hull']:.4f}")
        assert float(row["volume"]) == pytest.approx(phase["volume_per_atom"], abs=6e-4)
    assert document["levels"][0] in page.text
    files = {a.get("download", ""): a.get("href", "") for a in page.root.iter(f"{XHTML}a") if a.get("download")}
    assert len(files) == len(document["phases"])
    for phase in document["phases"]:
        (name,) = [name for name in files if name.startswith(f"EA{phase['id']}_")]
        text = base64.b64decode(files[name].partition("base64,")[2]).decode()
        crystal = crystals[phase["id"]]
        read = ase.io.read(io.StringIO(text), format="cif")
        assert read.info["spacegroup"].no == crystal["number"]
        assert len(read) == crystal["atoms"]
    assert document["same_phase"].removeprefix("same phase: ").replace("<", "&lt;") in page.text
    (held,) = [s for s in page.root.iter(f"{XHTML}script") if s.get("id") == "crystals"]
    viewed = json.loads(held.text)
    buttons = [b.get("data-crystal") for b in page.root.iter(f"{XHTML}button") if b.get("class") == "view"]
    assert buttons == [phase["name"] for phase in document["phases"]]
    for phase in document["phases"]:
        crystal, seen = crystals[phase["id"]], viewed[phase["name"]]
        assert len(seen["atoms"]) >= crystal["atoms"]
        assert np.linalg.norm(seen["cell"], axis=1) == pytest.approx(crystal["lattice"][:3], abs=2e-3)


def test_the_page_needs_nothing_else(run):
    code, _, _ = run("report", DATA / "bridge")
    assert code == 0
    page = Page(Path("report.html"))
    assert set(page.pictures) == {
        "Ternary maps Ca–Fe–Ni",
        "Convex hull Ca–Fe",
        "Convex hull Ca–Ni",
        "Convex hull Fe–Ni",
        "Enthalpy against volume",
        "Composition coverage",
        "Progress",
        "Family tree",
    }
    for picture in page.pictures.values():
        assert ElementTree.fromstring(picture).tag.endswith("svg")
    outside = [a for e in page.root.iter() for n, a in e.attrib.items() if n in ("src", "href")]
    assert all(value.startswith("data:") for value in outside)
    assert "default-src 'none'" in page.text


def test_failures_come_from_the_record(run):
    shutil.copytree(DATA / "bridge", "search")
    record = Path("search/bridge.record")
    line = {"schema": 1, "status": "rejected", "code": "overlap", "reason": "Ca1-Ni2 <1 Å> apart", "formula": "CaNi"}
    with record.open("a") as stream:
        stream.write(json.dumps(line) + "\n" + json.dumps(line | {"formula": "CaNi5"}) + "\n")
    code, _, _ = run("report", "search")
    assert code == 0
    page = Page(Path("report.html"))
    tables = [[page.words(cell) for cell in row] for row in page.root.iter(f"{XHTML}tr")]
    (row,) = [row for row in tables if row[0] == "overlap"]
    assert row[1:3] == ["rejected", "2"]
    assert set(row[3].split(", ")) == {"CaNi", "CaNi5"}
    assert row[4] == "Ca1-Ni2 <1 Å> apart"
    record.unlink()
    run("report", "search", "--force")
    assert "Without a record of the bridge" in Path("report.html").read_text()


def test_known_phases_are_named(run):
    run("results", "export", DATA / "bridge", "known.extxyz", "--within", "0")
    code, _, err = run("report", DATA / "bridge", "--known", "known.extxyz")
    assert code == 0, err
    stable = [row for row in Page(Path("report.html")).phases if row["above hull"] == "stable"]
    assert stable
    assert not [row for row in stable if row["known as"].startswith("new")]


def test_one_composition_and_missing_files(run):
    shutil.copytree(DATA / "300", "search")
    Path("search/origin").unlink()
    code, _, err = run("report", "search", "-o", "pages/si.html")
    assert code == 0, err
    page = Page(Path("pages/si.html"))
    assert set(page.pictures) == {"Enthalpy against volume", "Progress"}
    assert "Composition coverage: a map of compositions shows two or three components" in page.text
    assert "Family tree: search/origin: there is no such file" in page.text
    assert "Not converged" in page.text
    code, _, err = run("report", "nothing")
    assert code == 3
