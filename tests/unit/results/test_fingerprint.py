import math
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from results_making import DATA, Made, write_matlab

from uspex_bridge.base.data import Structure
from uspex_bridge.results.duplicates import METHODS, Tolerances, find_phases
from uspex_bridge.results.fingerprint import FingerprintSettings, cosine_distance, fingerprint
from uspex_bridge.results.folder import open_results
from uspex_bridge.results.model import Pool


def structure(atoms: Atoms) -> Structure:
    return Structure(tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions())


def distance(one: Atoms, other: Atoms) -> float:
    return float(cosine_distance(fingerprint(structure(one)).vector, fingerprint(structure(other)).vector))


def test_the_order_is_the_one_uspex_printed():
    """S_order of Individuals, for every structure of one element: USPEX's own fingerprint, bins and smearing."""
    compared = 0
    for name in ("300", "301"):
        for entry, found in open_results(DATA / name).structures():
            if len(entry.composition) == 1:
                assert fingerprint(found).order == pytest.approx(entry.structure_order, abs=0.003)
                compared += 1
    assert compared == 27


def cani() -> Atoms:
    cell = [[3.1, 0.2, 0.0], [0.0, 4.0, -0.3], [0.4, 0.0, 5.2]]
    scaled = [[0, 0, 0], [0.5, 0.45, 0.5], [0.1, 0.5, 0.8]]
    return Atoms("CaNi2", scaled_positions=scaled, cell=cell, pbc=True)


def test_every_pair_counts_as_the_definition_says():
    """Against the sum written out pair by pair, with ordered pairs of elements and their weights."""
    settings = FingerprintSettings(rmax=6.0)
    atoms = cani()
    width = settings.sigma / math.sqrt(2 * math.log(2))
    edges = np.arange(settings.bins + 1) * settings.delta
    found = fingerprint(structure(atoms), settings)
    images = [np.array(n) @ atoms.cell.array for n in np.ndindex(9, 9, 9)] - np.array([4, 4, 4]) @ atoms.cell.array
    species = {"Ca": [0], "Ni": [1, 2]}
    order = 0.0
    for a, first in species.items():
        for b, second in species.items():
            total = np.zeros(settings.bins)
            for i in first:
                for j in second:
                    for r in np.linalg.norm(atoms.positions[j] - atoms.positions[i] + images, axis=1):
                        if 0 < r < settings.rmax:
                            parts = [math.erf((edge - r) / (math.sqrt(2) * width)) / 2 for edge in edges]
                            total += np.diff(parts) / r**2
            norm = 4 * math.pi * len(first) * len(second) / atoms.get_volume() * settings.delta
            values = total / norm - 1
            values[0] = -1
            k = {"CaCa": 0, "CaNi": 1, "NiCa": 1, "NiNi": 2}[a + b]
            np.testing.assert_allclose(found.values[k], values, atol=0.02 * np.abs(values).max())
            order += len(first) * len(second) / 9 * (values**2).sum()
    np.testing.assert_allclose(found.weights, [1 / 9, 4 / 9, 4 / 9])
    expected = math.sqrt(order * settings.delta / (atoms.get_volume() / 3) ** (1 / 3))
    assert found.order == pytest.approx(expected, rel=2e-3)


def test_distances():
    ni = bulk("Ni", "fcc", 3.48)
    assert distance(ni, bulk("Ni", "fcc", 3.48, cubic=True)) == pytest.approx(0.0, abs=1e-4)
    assert distance(cani(), cani() * (2, 1, 2)) == pytest.approx(0.0, abs=1e-4)
    turned = cani()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    turned.positions += 0.37
    assert distance(cani(), turned) == pytest.approx(0.0, abs=1e-4)
    assert distance(ni, bulk("Ni", "fcc", 3.32)) > 0.3
    swapped = cani()
    swapped.symbols[:] = ["Ni", "Ca", "Ni"]
    assert distance(cani(), swapped) > 0.05


def search(tmp_path: Path, structures: list[tuple[Atoms, float]], species=("Ca", "Ni")) -> Pool:
    made = [Made(k, atoms, energy) for k, (atoms, energy) in enumerate(structures, 1)]
    return Pool([open_results(write_matlab(tmp_path / "results1", made, species))])


def grouped(pool: Pool, method, **tolerances) -> list[list[int]]:
    phases = find_phases(pool, method=method, tolerances=Tolerances(**tolerances))
    return [[phase.entry.id, *sorted(e.id for e in phase.duplicates)] for phase in phases]


def shaken(atoms: Atoms, size: float, strain: float) -> Atoms:
    moved = atoms.copy()
    moved.set_cell(moved.cell.array * (1 + strain), scale_atoms=True)
    moved.rattle(size, seed=1)
    return moved


def test_the_same_phase_in_other_cells_is_one_phase(tmp_path):
    fcc, hcp = bulk("Ni", "fcc", 3.52), bulk("Ni", "hcp", 2.49, 4.07)
    pool = search(
        tmp_path,
        [
            (hcp, -10.9),
            (fcc, -5.5),
            (fcc * (2, 1, 1), -11.001),
            (bulk("Ni", "fcc", 3.52, cubic=True), -21.99),
            (hcp, -10.91),
        ],
    )
    for method in ("fingerprint", "matcher", "both"):
        assert grouped(pool, method) == [[3, 2, 4], [5, 1]]
    assert grouped(pool, "none") == [[3], [2], [4], [5], [1]]


def test_what_each_method_joins(tmp_path):
    """A copy with 0.5 % of strain is beyond USPEX's tolerance, but StructureMatcher's phase is the same."""
    pool = search(tmp_path, [(cani(), -12.0), (shaken(cani(), 0.02, 0.005), -11.99)])
    assert grouped(pool, "fingerprint") == [[1], [2]]
    assert grouped(pool, "fingerprint", distance=0.1) == [[1, 2]]
    assert grouped(pool, "matcher") == [[1, 2]]
    assert grouped(pool, "both") == [[1, 2]]


def test_energy_and_volume_keep_phases_apart(tmp_path):
    fcc, dense = bulk("Ni", "fcc", 3.52), bulk("Ni", "fcc", 3.32)
    pool = search(tmp_path, [(fcc, -5.5), (fcc, -5.52), (dense, -5.519)])
    assert grouped(pool, "matcher") == [[2], [3], [1]]
    assert grouped(pool, "matcher", energy=0.03) == [[2, 1], [3]]
    assert grouped(pool, "matcher", energy=None, volume=None) == [[2, 1, 3]]
    assert grouped(pool, "fingerprint", energy=None, volume=None) == [[2, 1], [3]]
    assert grouped(pool, "fingerprint", energy=None, volume=None, volume_per_atom=10.0) == [[2, 1, 3]]


def test_real_search_has_the_unique_structures_that_uspex_found():
    results = open_results(DATA / "300")
    phases = find_phases(Pool([results]))
    assert len(phases) == len(results.ranked) == 3
    assert sorted(len(phase.duplicates) for phase in phases) == [0, 0, 13]


def test_a_structure_that_cannot_be_read_stays(tmp_path):
    pool = search(tmp_path, [(bulk("Ni", "fcc", 3.52), -5.5), (bulk("Ni", "fcc", 3.52), -5.5)])
    path = tmp_path / "results1" / "gatheredPOSCARS"
    path.write_text(path.read_text().replace("EA2", "EA7"))
    pool = Pool([open_results(tmp_path / "results1")])
    assert grouped(pool, "fingerprint") == [[1], [2]]


def test_the_thresholds_are_said():
    for method in METHODS:
        text = Tolerances().describe(method)
        assert ("0.008" in text) == (method in ("fingerprint", "both"))
        assert ("ltol 0.2" in text) == (method in ("matcher", "both"))
        assert ("0.015 eV/atom" in text) == (method != "none")
