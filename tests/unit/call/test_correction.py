"""Files of configurations that free energies are corrected from."""

import numpy as np
import pytest
from ase.build import bulk
from vibrating import structure_of

from uspex_bridge.base.errors import InputError
from uspex_bridge.call.correction import Drawn
from uspex_bridge.call.free_energy import spectrum
from uspex_bridge.vibrations.constants import Crystal


@pytest.fixture
def file(tmp_path):
    lattice = Crystal.prepare(structure_of(bulk("Ni", a=3.5)), (2, 2, 2)).lattice
    drawn = {"displacements": np.random.default_rng(0).normal(size=(8, 8, 3)), "energies": np.zeros(8)}
    np.savez_compressed(tmp_path / "drawn.npz", **spectrum(np.eye(24), lattice), **drawn)
    return tmp_path / "drawn.npz"


def test_the_first_pairs_are_taken(file):
    drawn = Drawn.read(file, 300.0)
    assert drawn.some(4) == [0, 1, 4, 5]
    assert drawn.some(100) == list(range(8))
    assert len(drawn.atoms([0, 4])[1]) == 8


def test_a_damaged_file_is_named(file):
    whole = file.read_bytes()
    at = whole.index(b"displacements.npy") + 100
    for damage in (whole[:0], whole[:at], whole[:at] + bytes(200) + whole[at + 200 :], b"no archive"):
        file.write_bytes(damage)
        with pytest.raises(InputError, match=r"drawn\.npz: no configurations can be read"):
            Drawn.read(file, 300.0)
