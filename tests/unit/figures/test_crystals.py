"""What the viewer of the pages is given: the whole cell with its faces, bonds, and text that no page can trip over."""

import json

import numpy as np
import pytest
from ase.build import bulk

from uspex_bridge.base.data import Structure
from uspex_bridge.figures import crystals
from uspex_bridge.results.phases.crystal import describe


def structure(atoms):
    return Structure(tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions(wrap=False))


def test_faces_edges_and_corners_are_shown_whole():
    primitive = structure(bulk("Ni", "fcc", 3.5))
    seen = crystals.viewed(describe(primitive).cell)
    assert len(seen["atoms"]) == 8 + 6
    assert np.abs(np.linalg.det(seen["cell"])) == pytest.approx(3.5**3)
    assert seen["bonds"] == []  # metals
    shifted = Structure(primitive.symbols, primitive.cell, primitive.scaled - 1e-6)
    assert len(crystals.viewed(shifted)["atoms"]) == 8


def test_neighbours_are_bonded():
    salt = crystals.viewed(structure(bulk("NaCl", "rocksalt", 5.64, cubic=True)))
    places = np.array([place for _, *place in salt["atoms"]])
    assert len(salt["atoms"]) == 27
    assert len(salt["bonds"]) == 54
    for i, j in salt["bonds"]:
        assert {salt["atoms"][i][0], salt["atoms"][j][0]} == {"Na", "Cl"}
        assert np.linalg.norm(places[i] - places[j]) == pytest.approx(2.82, abs=2e-3)
    assert salt["looks"]["Na"][1] > salt["looks"]["Cl"][1] > 0.3


def test_names_cannot_end_the_script():
    name = "</script><b>&amp;"
    text = crystals.as_script({name: {}})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {name: {}}
