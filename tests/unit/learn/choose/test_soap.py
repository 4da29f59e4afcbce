"""Descriptors, the space they span, coverage, and the map in all its formats."""

import gzip
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator
from results_making import DATA

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.figures.structure_map import write_map
from uspex_bridge.learn.choose.soap import SoapSettings, coverage, describe_all, fit_space, minimal_settings
from uspex_bridge.learn.choose.structure_map import make_map
from uspex_bridge.results.reading.sources import open_sources


def as_structure(atoms: Atoms) -> Structure:
    return Structure(tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions(wrap=False))


def vector(atoms: Atoms, settings: SoapSettings | None = None, elements=("Ca", "Fe", "Ni")) -> np.ndarray:
    return next(iter(describe_all([as_structure(atoms)], elements, settings or SoapSettings())))


@pytest.fixture
def triclinic() -> Atoms:
    rng = np.random.default_rng(3)
    cell = [[4.1, 0, 0], [0.7, 3.9, 0], [0.3, -0.6, 5.2]]
    return Atoms("CaFeNi2", scaled_positions=rng.random((4, 3)), cell=cell, pbc=True)


@pytest.mark.parametrize("cross", [False, True])
def test_a_descriptor_does_not_depend_on_how_a_crystal_is_written(triclinic, cross):
    settings = SoapSettings(cross=cross)
    first = vector(triclinic, settings)
    turned = triclinic.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    reordered = triclinic[[2, 0, 3, 1]]
    moved = triclinic.copy()
    moved.positions += (0.3, 1.1, -0.4)
    moved.wrap()
    for other in (
        turned,
        reordered,
        moved,
        triclinic * (1, 2, 1),
        make_supercell(triclinic, [[1, 1, 0], [0, 1, 0], [-1, 0, 2]]),
    ):
        assert vector(other, settings) == pytest.approx(first, rel=1e-6, abs=1e-9)
    strained = triclinic.copy()
    strained.set_cell(0.99 * triclinic.cell.array, scale_atoms=True)
    assert np.abs(vector(strained, settings) - first).max() > 1e-3


def test_numbers_of_features_are_those_of_the_published_descriptor(triclinic):
    assert vector(triclinic).shape == (120,)
    assert vector(triclinic, SoapSettings(cross=True)).shape == (312,)


def test_minimal_settings():
    assert minimal_settings(["Ca", "Fe", "Ni"]) == SoapSettings()
    iron = minimal_settings(["Fe"])
    assert iron.r_cut < 4.2
    assert iron.sigma == pytest.approx(iron.r_cut / 8, abs=0.006)


def test_what_cannot_be_described():
    with pytest.raises(InputError, match="Au"):
        vector(bulk("Au"))
    with pytest.raises(ConfigError, match="r_cut"):
        SoapSettings(r_cut=0.5)
    with pytest.raises(InputError, match="no structure"):
        fit_space(np.zeros((0, 3)))


def test_principal_components():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2)) @ [[1, 2, 0, 1, 0], [0, 1, 1, -1, 0]] + 5
    space = fit_space(plane)
    assert space.explained.sum() == pytest.approx(1)
    assert len(space.axes) == 2
    assert space.place(plane).mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    distances = np.linalg.norm(space.place(plane)[0] - space.place(plane), axis=1)
    assert distances == pytest.approx(np.linalg.norm(space.normalise(plane)[0] - space.normalise(plane), axis=1))
    assert space.normalise(plane)[:, :4].std(axis=0) == pytest.approx(np.ones(4))
    assert space.normalise(plane)[:, 4].std() == 0
    unscaled = fit_space(plane, "none")
    assert unscaled.normalise(plane) == pytest.approx(plane - plane.mean(axis=0))


@pytest.mark.parametrize("count", [1, 2])
def test_few_structures_have_a_map_all_the_same(count):
    features = np.arange(6.0).reshape(2, 3)[:count]
    assert fit_space(features).place(features).shape == (count, 2)


def test_coverage_counts_bins_and_evenness():
    x, y = np.meshgrid(np.arange(10), np.arange(10))
    points = np.array([x.ravel(), y.ravel()]).T.astype(float)
    whole = coverage(points, bins=10)
    assert (whole.occupied, whole.of) == (100, 100)
    assert whole.evenness == pytest.approx(1)
    half = coverage(points, points[:, 0] < 5, bins=10)
    assert half.fraction == pytest.approx(0.5)
    crowd = np.vstack([points[:2], np.repeat(points[:1], 50, axis=0)])
    assert coverage(crowd, bins=10).evenness < 0.2


@pytest.fixture
def search(tmp_path) -> Path:
    """Twelve structures of Ca-Ni with energies at two pressures, in one file."""
    images = []
    for k in range(12):
        symbol = ("Ca", "Ni")[k % 2]
        atoms = bulk(symbol, "fcc", a=3.4 + 0.15 * k) if k < 8 else bulk("CaNi", "cesiumchloride", a=2.7 + 0.1 * k / 4)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - 0.1 * k)
        atoms.info |= {"pressure_gpa": 50.0 * (k % 4 < 2), "name": f"s{k}"}
        images.append(atoms)
    path = tmp_path / "search.extxyz"
    ase.io.write(path, images)
    return path


def test_map_in_every_format(search, tmp_path):
    pool = open_sources([str(search)])
    seen = []
    drawn = make_map(pool, SoapSettings(), progress=lambda: seen.append(1))
    assert len(seen) == len(drawn.entries) == 12
    assert set(drawn.values("composition")) == {"Ca (atomic fraction)", "Ni (atomic fraction)"}
    assert sorted(set(drawn.values("pressure")["pressure (GPa)"])) == [0, 50]
    above = drawn.values("distance")["enthalpy above hull (eV/atom)"]
    assert np.nanmin(above) == 0
    chosen = {drawn.entries[0].name}
    for name in ("a.png", "a.svg", "a.pdf", "a.json", "a.json.gz", "a.html"):
        write_map(drawn, pool, tmp_path / name, "composition", chosen)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    dataset = json.loads((tmp_path / "a.json").read_text())
    assert json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes())) == dataset
    assert dataset["properties"]["PC1"]["values"] == pytest.approx(drawn.coordinates[:, 0])
    assert dataset["properties"]["chosen"]["values"][:2] == ["yes", "no"]
    assert len(dataset["structures"]) == 12
    page = (tmp_path / "a.html").read_text()
    assert "DefaultVisualizer.load" in page
    assert not [line for line in page.splitlines() if line.startswith("<script src")]
    with pytest.raises(ConfigError, match=r"known endings|Known endings"):
        write_map(drawn, pool, tmp_path / "a.bmp", "pressure")


def test_chemiscope_reads_its_dataset(search, tmp_path):
    import chemiscope

    pool = open_sources([str(search)])
    drawn = make_map(pool, SoapSettings())
    write_map(drawn, pool, tmp_path / "map.json.gz", "distance")
    widget = chemiscope.show_input(str(tmp_path / "map.json.gz"))
    assert "PC1" in json.loads(widget.value)["properties"]


def test_nothing_to_colour_by(tmp_path):
    ase.io.write(tmp_path / "bare.extxyz", [bulk("Ca"), bulk("Ni")])
    pool = open_sources([str(tmp_path / "bare.extxyz")])
    drawn = make_map(pool, SoapSettings())
    with pytest.raises(ConfigError, match="energy"):
        write_map(drawn, pool, tmp_path / "a.png", "energy")


def test_a_search_made_with_uspex():
    pool = open_sources([str(DATA / "301")])
    drawn = make_map(pool, SoapSettings())
    assert len(drawn.entries) == 21
    assert drawn.coverage().fraction == 1
    best = {name for name, point in drawn.points.items() if point.vertex}
    assert 0 < drawn.coverage(best).fraction < 1
