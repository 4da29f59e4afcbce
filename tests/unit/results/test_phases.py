"""What the same phase is: families of known crystals told apart, copies of one crystal joined."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from phase_families import FAMILIES, SLIGHT, copied, structure
from results_making import DATA, Made, write_matlab

from uspex_bridge.results.phases.definition import METHODS, Tolerances, find_phases, same_phase
from uspex_bridge.results.phases.matching import Catalogue
from uspex_bridge.results.phases.surroundings import Surroundings
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.model import Pool

LIMIT = Tolerances().distance


def pairs(family: dict[str, Atoms], noise: float, copies: int) -> Iterator[tuple[bool, Surroundings, Surroundings]]:
    """Yield whether two crystals are the same phase, and the two: all pairs of a family and copies of each."""
    rng = np.random.default_rng(5)
    held = list(family.items())
    held += [(name, copied(atoms, rng, noise)) for name, atoms in family.items() for _ in range(copies)]
    described = [(name, Surroundings(structure(atoms))) for name, atoms in held]
    for (name, one), (other, two) in combinations(described, 2):
        yield name == other, one, two


@pytest.mark.parametrize("limit", [LIMIT, Tolerances().across().distance])
@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01])
@pytest.mark.parametrize("family", FAMILIES)
def test_polymorphs_stay_apart_and_copies_are_joined(family, noise, limit):
    """Without the help of enthalpies: no polymorph is taken for another, and no copy for another phase."""
    wrong = [same for same, one, two in pairs(FAMILIES[family], noise, 3) if same_phase(one, two, limit) != same]
    assert wrong == []


def test_copies_with_much_noise_are_joined_where_their_enthalpies_are_the_same():
    """0.02 Å in every coordinate of both crystals: at most 2 % of the copies are taken for another phase."""
    same = [
        same_phase(one, two, LIMIT, tie=True)
        for f in FAMILIES.values()
        for alike, one, two in pairs(f, 0.02, 4)
        if alike
    ]
    assert len(same) > 300
    assert same.count(False) <= 0.02 * len(same)


@pytest.mark.parametrize("family", SLIGHT)
def test_distortions_of_a_few_hundredths_of_an_angstrom_are_told_apart_by_symmetry(family):
    wrong = [same for same, one, two in pairs(SLIGHT[family], 1e-4, 2) if same_phase(one, two, LIMIT, tie=True) != same]
    assert wrong == []


def test_distances_around_atoms_do_not_depend_on_how_a_crystal_is_written():
    rng = np.random.default_rng(1)
    for family in FAMILIES.values():
        for atoms in family.values():
            one = Surroundings(structure(atoms))
            copy = copied(atoms, rng, noise=0.0, volume=0.2)
            mirrored = Atoms(
                copy.symbols, scaled_positions=copy.get_scaled_positions(), cell=-copy.cell.array, pbc=True
            )
            for other in (copy, mirrored):
                assert one.distance(Surroundings(structure(other))) < 1e-5


def test_the_lower_bound_holds_and_the_distance_is_where_pairs_begin_to_fit():
    rng = np.random.default_rng(2)
    for family in FAMILIES.values():
        described = [Surroundings(structure(copied(atoms, rng, 0.03))) for atoms in family.values()]
        for one, two in combinations(described, 2):
            distance = one.distance(two)
            assert float(one.at_least(two.means[None])[0]) <= distance + 1e-6
            assert one.within(two, distance + 1e-6)


def test_neighbours_are_the_nearest_ones():
    """The distances of one atom against a sum over images written out."""
    atoms = Atoms(
        "CaNi2", scaled_positions=[[0, 0, 0], [0.5, 0.45, 0.5], [0.1, 0.5, 0.8]], cell=[3.1, 4.0, 5.2], pbc=True
    )
    found = Surroundings(structure(atoms), neighbours=60)
    away = []
    for shift in np.ndindex(11, 11, 11):
        image = (np.array(shift) - 5) @ atoms.cell.array
        away += [(k > 0, np.linalg.norm(atoms.positions[k] + image)) for k in range(3)]
    spacing = (atoms.get_volume() / 3) ** (1 / 3)
    expected = [sorted(r for other, r in away if other is kind and r > 0) for kind in (False, True)]
    np.testing.assert_allclose(found.rows[0] * spacing, [*expected[0][:20], *expected[1][:40]], rtol=1e-5)


def search(tmp_path: Path, structures: list[tuple[Atoms, float]], species=("Ca", "Ni")) -> Pool:
    made = [Made(k, atoms, energy) for k, (atoms, energy) in enumerate(structures, 1)]
    return Pool([open_results(write_matlab(tmp_path / "results1", made, species))])


def grouped(pool: Pool, method="phase", **tolerances) -> list[list[int]]:
    phases = find_phases(pool, method=method, tolerances=Tolerances(**tolerances))
    return [[phase.entry.id, *sorted(e.id for e in phase.duplicates)] for phase in phases]


def test_the_same_phase_in_other_cells_is_one_phase(tmp_path):
    fcc, hcp = bulk("Ni", "fcc", 3.52), bulk("Ni", "hcp", 2.49, 4.07)
    made = [(hcp, -10.9), (fcc, -5.5), (fcc * (2, 1, 1), -11.001), (bulk("Ni", "fcc", 3.52, cubic=True), -21.99)]
    pool = search(tmp_path, [*made, (hcp, -10.91)])
    for method in ("phase", "uspex"):
        assert grouped(pool, method) == [[3, 2, 4], [5, 1]]
    assert grouped(pool, "none") == [[3], [2], [4], [5], [1]]


def test_energy_and_volume_keep_phases_apart(tmp_path):
    fcc, dense = bulk("Ni", "fcc", 3.52), bulk("Ni", "fcc", 3.32)
    pool = search(tmp_path, [(fcc, -5.5), (fcc, -5.52), (dense, -5.519)])
    assert grouped(pool) == [[2], [3], [1]]
    assert grouped(pool, energy=0.03) == [[2, 1], [3]]
    assert grouped(pool, energy=None, volume=None) == [[2, 1, 3]]
    assert grouped(pool, "uspex", energy=None, volume=None) == [[2, 1], [3]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_has_as_many_phases_as_there_are(tmp_path, family):
    """Polymorphs 3 meV/atom apart, copies that lie up to 0.5 meV/atom above the best of each."""
    rng = np.random.default_rng(7)
    species = sorted(set(next(iter(FAMILIES[family].values())).get_chemical_symbols()))
    made, number = [], 0
    for rank, atoms in enumerate(FAMILIES[family].values()):
        for _ in range(4):
            copy, number = copied(atoms, rng), number + 1
            made.append(Made(number, copy, len(copy) * (-5 + 0.003 * rank + rng.uniform(0, 5e-4))))
    rng.shuffle(made)
    pool = Pool([open_results(write_matlab(tmp_path / "results1", sorted(made, key=lambda m: m.id), species))])
    groups = [{(number - 1) // 4 for number in group} for group in grouped(pool)]
    assert sorted(groups, key=min) == [{rank} for rank in range(len(FAMILIES[family]))]


def test_the_nearest_known_phase_is_named():
    catalogue = Catalogue()
    for name, atoms in FAMILIES["SiC"].items():
        catalogue.add(name, structure(atoms))
    rng = np.random.default_rng(3)
    for name, atoms in FAMILIES["SiC"].items():
        assert catalogue.find(structure(copied(atoms, rng, noise=0.015, volume=0.15))) == name
    assert catalogue.find(structure(bulk("ZnS", "zincblende", 5.4))) is None


def test_real_search_has_the_unique_structures_that_uspex_found():
    results = open_results(DATA / "300")
    for method in ("phase", "uspex"):
        phases = find_phases(Pool([results]), method=method)
        assert len(phases) == len(results.ranked) == 3
        assert sorted(len(phase.duplicates) for phase in phases) == [0, 0, 13]


def test_a_structure_that_cannot_be_read_stays(tmp_path):
    pool = search(tmp_path, [(bulk("Ni", "fcc", 3.52), -5.5), (bulk("Ni", "fcc", 3.52), -5.5)])
    path = tmp_path / "results1" / "gatheredPOSCARS"
    path.write_text(path.read_text().replace("EA2", "EA7"))
    pool = Pool([open_results(tmp_path / "results1")])
    assert grouped(pool) == [[1], [2]]


def test_the_thresholds_are_said():
    for method in METHODS:
        text = Tolerances().describe(method)
        assert ("0.008" in text) == (method == "uspex")
        assert ("0.022" in text) == (method == "phase")
        assert ("0.015 eV/atom" in text) == (method != "none")
