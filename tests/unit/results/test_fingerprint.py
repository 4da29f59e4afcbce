import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from results_making import DATA

from uspex_bridge.base.data import Structure
from uspex_bridge.results.phases.fingerprint import FingerprintSettings, cosine_distance, fingerprint
from uspex_bridge.results.reading.folder import open_results


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
