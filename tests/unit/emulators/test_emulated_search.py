"""The emulated search itself: children keep its limits, it goes on where it was, its results folders are read back."""

import json
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from emulators import results
from emulators.candidates import candidate
from emulators.independent import calculator
from emulators.operators import OPERATORS, Limits, mutate_softly, permute, spring_matrix, vary
from emulators.records import Candidate, Report, StepResult
from emulators.search import Search, above_hull, run, take_seeds

from uspex_bridge.results.hulls.hull import build_hull
from uspex_bridge.results.reading.folder import open_results

LIMITS = Limits(("Ca", "Fe", "Ni"), (2, 6), 50.0)


class OneShot:
    """A line that relaxes nothing: enthalpies of the structures as they are, in two steps; it drops every n-th."""

    def __init__(self, drop=0):
        self.drop = drop

    def run(self, candidates: list[Candidate]) -> list[Report]:
        return [self.relax(one) for one in candidates]

    def relax(self, one: Candidate) -> Report:
        report = Report(one)
        if self.drop and one.index % self.drop == 0:
            report.drop("distance constraint")
            return report
        atoms = one.atoms.copy()
        atoms.calc = calculator("toy")
        enthalpy = atoms.get_potential_energy() + 50.0 * atoms.get_volume() / 160.21766208
        report.steps = [StepResult(n, enthalpy + 1.0 * (n == 1), one.atoms, "", "") for n in (1, 2)]
        report.status = "done"
        return report


def searched(folder, generations=3, line=None, seed=0):
    search = Search(folder / "search.jsonl", LIMITS, 6, seed)
    run(search, generations, lambda _: line or OneShot(), folder, lambda _: None)
    return search


def test_children_keep_the_limits():
    pool = [candidate(k, 50.0, atoms=(2, 6)).atoms for k in range(1, 9)]
    rng = np.random.default_rng(0)
    made = [child for child in (vary(rng, pool, LIMITS) for _ in range(150)) if child is not None]
    assert {name for _, name, _ in made} == set(OPERATORS)
    for atoms, name, places in made:
        assert LIMITS.accept(atoms)
        assert len(places) == OPERATORS[name][1]
        parent = pool[places[0]]
        if name in ("Permutate", "LatMutate", "softmutate"):
            assert sorted(atoms.symbols) == sorted(parent.symbols)
            assert atoms.get_volume() == pytest.approx(parent.get_volume())
        if name == "TransMutate":
            assert len(atoms) == len(parent)
            assert sorted(atoms.symbols) != sorted(parent.symbols)


def test_an_element_has_no_permutation_and_one_atom_no_soft_mode():
    rng = np.random.default_rng(0)
    assert permute(rng, [bulk("Ca", "hcp", 3.9, 6.4)], LIMITS) is None
    assert mutate_softly(rng, [bulk("Ca", "fcc", 4.4)], LIMITS) is None


def test_the_spring_matrix_leaves_translations_at_rest():
    atoms = candidate(3, 50.0, atoms=(4, 6)).atoms
    matrix = spring_matrix(atoms, LIMITS)
    assert matrix == pytest.approx(matrix.T)
    shift = np.repeat(np.sqrt(atoms.get_masses())[:, None], 3, axis=1) * [1.0, 2.0, 3.0]
    assert matrix @ shift.ravel() == pytest.approx(np.zeros(3 * len(atoms)), abs=1e-9)
    assert np.linalg.eigvalsh(matrix).min() > -1e-9


def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(tmp_path):
    for name in ("whole", "broken", "other"):
        (tmp_path / name).mkdir()
    whole = searched(tmp_path / "whole", 3)
    searched(tmp_path / "broken", 1)
    searched(tmp_path / "broken", 3)
    assert (tmp_path / "broken" / "search.jsonl").read_text() == (tmp_path / "whole" / "search.jsonl").read_text()
    assert len(whole.individuals) == 18
    assert {one.origin for one in whole.individuals} > {"Random"}
    other = searched(tmp_path / "other", 1, seed=1)
    assert other.individuals[3].enthalpy != whole.individuals[3].enthalpy
    with pytest.raises(ValueError, match="other settings"):
        Search(tmp_path / "whole" / "search.jsonl", LIMITS, 7, 0).load()


def test_the_hull_is_that_of_pymatgen(tmp_path):
    search = searched(tmp_path)
    results.write(tmp_path / "results1", search, "python", finished=True)
    hull = build_hull(open_results(tmp_path / "results1").entries)
    above = above_hull(search.good, LIMITS.species)
    for one, distance in zip(search.good, above, strict=True):
        assert distance == pytest.approx(hull.by_name[f"{tmp_path}/results1:EA{one.number}"].above, abs=2e-5)


@pytest.mark.parametrize("line", ["matlab", "python"])
def test_results_folders_of_both_lines_are_read_back(tmp_path, line):
    search = searched(tmp_path, 3, OneShot(drop=5))
    results.write(tmp_path / "results1", search, line, finished=False)
    assert open_results(tmp_path / "results1").state == "unfinished"
    results.write(tmp_path / "results1", search, line, finished=True)
    read = open_results(tmp_path / "results1")
    assert (read.line, read.state, read.settings.pressure_gpa) == (line, "finished", 50.0)
    assert read.settings.species == LIMITS.species
    valid = [entry for entry in read.entries if entry.valid and entry.origin != "convexHull"]
    for entry, one in zip(valid, search.good, strict=True):
        assert entry.enthalpy == pytest.approx(one.enthalpies[-1], abs=6e-4)
        assert entry.steps == pytest.approx(one.enthalpies, abs=6e-4)
        assert entry.origin == one.origin
        assert entry.generation == one.generation - (line == "python")
        made_from = [read.by_id[parent].enthalpy for parent in entry.parents]
        parents = [search.individuals[number - 1].enthalpies[-1] for number in one.parents]
        assert made_from == pytest.approx(parents, abs=6e-4)
    structures = dict(read.structures())
    assert all(structures[entry].volume == pytest.approx(entry.volume, abs=6e-4) for entry in valid)
    assert [ranked.id for ranked in read.ranked]
    assert read.convex_hulls[max(read.convex_hulls)]
    if line == "matlab":
        assert read.notes == []
        final = [entry for entry in read.entries if entry.generation == 3]
        hull = build_hull(read.entries)
        for entry in final:
            assert read.fitness_per_atom(entry) == pytest.approx(hull.by_name[entry.name].above, abs=1e-3)
    else:
        assert (tmp_path / "results1" / "goodStructures" / "1_0_0").is_file()
        bad = [entry for entry in read.entries if not entry.valid]
        assert [math.isnan(entry.enthalpy) for entry in bad] == [True] * (len(search.individuals) - len(search.good))


def test_seeds_join_the_next_generation(tmp_path):
    (tmp_path / "Seeds").mkdir()
    seeds = [bulk("Ni", "fcc", 3.3), Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.9] * 3)]
    for seed in seeds:
        write(tmp_path / "one", seed, format="vasp", direct=True)
        with (tmp_path / "Seeds" / "POSCARS").open("a") as stream:
            stream.write((tmp_path / "one").read_text())
    search = searched(tmp_path, 2)
    assert [one.origin for one in search.individuals[:3]] == ["Seeds", "Seeds", "Random"]
    assert [one.start.get_chemical_formula() for one in search.individuals[:2]] == ["Ni", "CaNi"]
    assert [path.name for path in (tmp_path / "Seeds").iterdir()] == ["POSCARS_1"]
    assert take_seeds(tmp_path, 2) == []
    assert len(json.loads((tmp_path / "search.jsonl").read_text().splitlines()[1])["start"]["symbols"]) == 1
