"""Pairs and angles against ASE's own list, whichever package has compiled them, and against a plain loop."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from uspex_bridge.base import neighbours
from uspex_bridge.base.errors import CalculationError

CUTOFF = 5.0


def random_cell(atoms: int, shear: float) -> Atoms:
    """A triclinic cell, some of whose atoms lie far outside it."""
    rng = np.random.default_rng(atoms)
    cell = np.eye(3) * (atoms * 12.0) ** (1 / 3)
    cell[1, 0], cell[2, 0], cell[2, 1] = shear * np.array([1.9, -2.3, 1.4])
    scaled = rng.random((atoms, 3)) + rng.integers(-2, 3, (atoms, 3))
    return Atoms("Fe" * atoms, scaled_positions=scaled, cell=cell, pbc=True)


STRUCTURES = [
    random_cell(1, 0.0),
    random_cell(2, 1.0),
    random_cell(7, 2.0),
    random_cell(40, 0.3),
    bulk("Fe"),
    Atoms("FeNi", positions=[[0, 0, 0], [20, 20, 20]], cell=[40.0, 41.0, 42.0], pbc=True),
    Atoms("Ca", cell=[[2.0, 0, 0], [9.0, 2.1, 0], [-7.0, 8.0, 2.2]], pbc=True),
]


def listed(first, second, cells) -> set[tuple[int, ...]]:
    rows = [tuple(map(int, row)) for row in np.column_stack([first, second, cells])]
    assert len(rows) == len(set(rows))
    return set(rows)


@pytest.mark.parametrize("compiled", ["pymatgen", "matscipy", "none"])
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda atoms: str(atoms.symbols))
def test_same_pairs_as_ase(structure, compiled, monkeypatch, request):
    neighbours.lister.cache_clear()
    request.addfinalizer(neighbours.lister.cache_clear)
    if compiled != "pymatgen":
        monkeypatch.setitem(sys.modules, "pymatgen.optimization.neighbors", None)
    if compiled == "none":
        monkeypatch.setitem(sys.modules, "matscipy.neighbours", None)
    first, second, cells = neighbours.pairs(structure, CUTOFF)
    assert first.dtype == second.dtype == cells.dtype == np.int64
    assert cells.shape == (len(first), 3)
    assert (np.diff(first) >= 0).all()
    expected = neighbor_list("ijS", structure, CUTOFF)
    assert listed(first, second, cells) == listed(*expected)


def test_angles_are_all_ordered_twos_at_an_atom():
    structure = STRUCTURES[2]
    first, second, cells = neighbours.pairs(structure, CUTOFF)
    vectors = structure.positions[second] + cells @ structure.cell.array - structure.positions[first]
    near = np.linalg.norm(vectors, axis=1) < 3.2
    found = list(zip(*map(np.ndarray.tolist, neighbours.angles(first, near)), strict=True))
    chosen = np.flatnonzero(near).tolist()
    assert found == [(a, b) for a in chosen for b in chosen if a != b and first[a] == first[b]]
    assert len(found) > 100
    assert neighbours.size(structure, CUTOFF, 3.2) == len(structure) + len(first) + len(found)
    assert neighbours.size(structure, CUTOFF) == len(structure) + len(first)


def test_no_pairs():
    lone = Atoms("Fe", cell=[30.0, 30.0, 30.0], pbc=True)
    first, second, cells = neighbours.pairs(lone, CUTOFF)
    assert (first.shape, second.shape, cells.shape) == ((0,), (0,), (0, 3))
    one, other = neighbours.angles(first, np.zeros(0, dtype=bool))
    assert len(one) == len(other) == 0
    assert neighbours.size(lone, CUTOFF, 3.0) == 1


def test_a_collapsed_cell_is_refused_before_it_fills_the_memory():
    collapsed = Atoms("Fe10", positions=np.random.default_rng(0).random((10, 3)), cell=[1e-2, 1e-2, 1e-2], pbc=True)
    with pytest.raises(CalculationError, match="collapsed: about 5e.10 pairs"):
        neighbours.pairs(collapsed, CUTOFF)
    assert neighbours.size(collapsed, CUTOFF) > neighbours.MOST_PAIRS


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_size_of_what_is_no_geometry(value):
    broken = random_cell(7, 0.0)
    broken.cell[2] = value
    assert neighbours.size(broken, CUTOFF) == 7
