"""Perturbed copies: sizes, seeds, families, and no atoms on top of each other."""

import numpy as np
import pytest
from ase.build import bulk

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.learn.choose.augment import Perturbation, augment
from uspex_bridge.learn.data.labels import identity_of
from uspex_bridge.relaxation.guards import closest_pair


@pytest.fixture
def crystal():
    atoms = bulk("CaNi", "cesiumchloride", a=3.2) * (2, 2, 1)
    atoms.info |= {"name": "EA7", "pressure_gpa": 50.0, "enthalpy": -3.0}
    return atoms


def strain_of(copy, atoms):
    return np.linalg.solve(atoms.cell.array, copy.cell.array) - np.eye(3)


def moved(copy, atoms):
    """Displacements after the strain is taken out."""
    difference = copy.positions - atoms.get_scaled_positions(wrap=False) @ copy.cell.array
    return np.linalg.norm(difference, axis=1)


def test_displacements_and_strains_are_within_what_was_asked(crystal):
    copies = [made.atoms for made in augment(crystal, Perturbation(copies=40))]
    assert len(copies) == 40
    strains = np.array([strain_of(copy, crystal) for copy in copies])
    assert np.abs(strains).max() <= 0.05
    assert np.abs(strains).max() > 0.045
    assert strains == pytest.approx(strains.transpose(0, 2, 1))
    away = np.array([moved(copy, crystal) for copy in copies])
    assert away.max() <= 0.1
    assert away.max() > 0.09
    assert np.median(away) == pytest.approx(0.1 * 0.5 ** (1 / 3), abs=0.01)  # uniform in a ball
    gaussian = [m.atoms for m in augment(crystal, Perturbation(copies=40, shape="gaussian", displace=0.03))]
    spread = np.sqrt(np.mean([moved(copy, crystal) ** 2 for copy in gaussian]) / 3)
    assert spread == pytest.approx(0.03, rel=0.1)


def test_the_seed_decides(crystal):
    def copies(**options):
        return [made.atoms.positions for made in augment(crystal, Perturbation(**options))]

    assert np.array_equal(copies(), copies())
    assert np.array_equal(copies(copies=7)[:5], copies())
    assert not np.allclose(copies(seed=1), copies())
    assert len({tuple(c.ravel().round(6)) for c in copies()}) == 5


def test_where_copies_come_from(crystal):
    copies = [made.atoms for made in augment(crystal, Perturbation(copies=2, volumes=(0.8,)))]
    assert [copy.info["name"] for copy in copies] == ["EA7-p1", "EA7-p2", "EA7-v0.8"]
    assert {copy.info["family"] for copy in copies} == {identity_of(crystal)}
    assert all(copy.info["id"] == identity_of(copy) != identity_of(crystal) for copy in copies)
    assert all(copy.info["pressure_gpa"] == 50 and "enthalpy" not in copy.info for copy in copies)
    grandchild = next(augment(copies[0], Perturbation())).atoms
    assert grandchild.info["family"] == identity_of(crystal)
    assert grandchild.info["parent"] == copies[0].info["id"]


def test_a_series_of_volumes(crystal):
    copies = [made.atoms for made in augment(crystal, Perturbation(copies=0, volumes=(1.1, 0.9, 0.5)))]
    volumes = [copy.get_volume() / crystal.get_volume() for copy in copies]
    assert volumes == pytest.approx([1.1, 0.9, 0.5])
    assert copies[2].get_scaled_positions() == pytest.approx(crystal.get_scaled_positions())


def test_no_copy_has_overlapping_atoms(crystal):
    how = Perturbation(copies=30, displace=0.9, ratio=0.7)
    made = list(augment(crystal, how))
    good = [one.atoms for one in made if one.atoms is not None]
    assert good
    assert all(closest_pair(copy, 0.7) is None for copy in good)
    hopeless = list(augment(crystal, Perturbation(copies=3, displace=8.0, ratio=0.8)))
    assert all(one.atoms is None and "too close" in one.problem for one in hopeless)


def test_a_dense_structure_has_copies_too(crystal):
    crystal.set_cell(0.55 * crystal.cell.array, scale_atoms=True)
    assert closest_pair(crystal, 0.6) is not None
    assert all(made.atoms is not None for made in augment(crystal, Perturbation(displace=0.02, strain=0.01)))


def test_impossible_requests():
    for wrong in ({"copies": -1}, {"strain": 0.9}, {"volumes": (0.0,)}, {"displace": -0.1}):
        with pytest.raises(ConfigError):
            Perturbation(**wrong)
