"""CIFs of crystals, read back by others: the same crystal, with the space group that the tables print."""

import io

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure as PymatgenStructure

from uspex_bridge.base.data import Structure
from uspex_bridge.base.symmetry import find_group
from uspex_bridge.results.hulls.export import cif_text
from uspex_bridge.results.reading.convert import to_pymatgen

RUTILE = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90])
MONOCLINIC = crystal(["Ca", "Ni"], [(0.1, 0, 0.3), (0.37, 0.0, 0.8)], spacegroup=12, cellpar=[8, 3, 6, 90, 108, 90])
NEARLY_CUBIC = bulk("Ca", "bct", a=3.9, c=5.4)  # I4/mmm, and F m -3 m for who allows 5 degrees
TRICLINIC = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.3, 0.6, 0.41]], cell=[3, 4, 5, 80, 95, 101], pbc=True)


@pytest.mark.parametrize(
    "atoms", [bulk("Mg", "hcp", 3.2, c=5.2), RUTILE, MONOCLINIC, NEARLY_CUBIC, TRICLINIC, bulk("NaCl", "rocksalt", 5.6)]
)
def test_a_cif_is_the_crystal_with_the_symmetry_that_is_printed(atoms):
    noise = np.random.default_rng(1).normal(0, 0.002, (len(atoms), 3))
    structure = Structure(tuple(atoms.symbols), atoms.cell.array, atoms.get_scaled_positions() + noise / 5)
    text = cif_text(structure, "EA1", 0.1)
    mine = to_pymatgen(structure)
    for read in (
        ase.io.read(io.StringIO(text), format="cif"),
        PymatgenStructure.from_str(text, fmt="cif", primitive=False).to_ase_atoms(),
    ):
        assert read.get_volume() / len(read) == pytest.approx(structure.volume / len(structure.symbols), rel=1e-4)
        again = Structure(tuple(read.symbols), read.cell.array, read.get_scaled_positions())
        assert StructureMatcher(primitive_cell=True, scale=False).fit(to_pymatgen(again), mine)
        assert find_group(again, 1e-3).number == find_group(structure, 0.1).number
    plain = ase.io.read(io.StringIO(cif_text(structure, "EA1", 0.0)), format="cif")
    assert plain.info["spacegroup"].no == 1
    assert len(plain) == len(atoms)
