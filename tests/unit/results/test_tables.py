"""What tables, documents, reports and figures say of phases: the same numbers, doubts and space groups."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from phase_families import FAMILIES, copied
from results_making import DATA, Made, write_matlab

from uspex_bridge.figures import diagram, hull, volume
from uspex_bridge.learn.choose.hulls import points_of
from uspex_bridge.results.hulls.compare import compare
from uspex_bridge.results.hulls.converged import history
from uspex_bridge.results.hulls.groups import phase_groups
from uspex_bridge.results.hulls.hull import build_hull
from uspex_bridge.results.hulls.seeds import choose, format_seeds
from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.hulls.tables import document, phase_rows, phase_table, report
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.model import NAN, Pool, Recorded

CA, NI = bulk("Ca", "fcc", 5.0), bulk("Ni", "fcc", 3.3)
CANI = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.9] * 3, pbc=True)
B1 = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=bulk("NaCl", "rocksalt", 4.7).cell, pbc=True)


def pool_of(tmp_path, made, species=("Ca", "Ni"), flags=None, name="results1"):
    """A search whose record would give the structures these flags."""
    results = open_results(write_matlab(tmp_path / name, made, species, 50.0))
    record = Recorded("converged", (), (), NAN, NAN, NAN, 10, NAN, 0)
    entries = [
        replace(e, record=replace(record, flags=flags[e.id]), level="x") if flags and e.id in flags else e
        for e in results.entries
    ]
    return Pool([replace(results, entries=tuple(replace(e, level="x") for e in entries))])


SMALL = [Made(1, CA, -2.0), Made(2, NI, -5.0), Made(3, CANI, -8.0), Made(4, B1, -9.0)]


def test_holes_stay_off_the_hull_unless_they_are_asked_for(tmp_path):
    """EA4 is 0.5 eV/atom deeper than all that is real."""
    pool = pool_of(tmp_path, SMALL, flags={4: ("elongated", "hole")})
    answer = assess(pool, Question())
    assert [point.entry.id for point in answer.hull.vertices] == [1, 3, 2]
    assert "1 structure in holes of the model left out (EA4); --with-holes includes them" in answer.warnings
    asked = assess(pool, Question(with_holes=True))
    assert [point.entry.id for point in asked.hull.vertices] == [1, 4, 2]
    assert asked.warnings == ()
    assert any(line.split()[:5] == ["EA4", "CaNi", "Fm-3m", "(225)", "stable"] for line in report(asked).splitlines())
    assert "elongated hole" in report(asked)
    assert phase_rows(asked)[0]["doubtful"] == "hole"
    assert not any("EA4" in seed.title for seed in choose([answer], None))
    assert "EA4" not in {point.entry.name.rpartition(":")[2] for point in points_of(pool)[0].values()}
    results = next(iter(pool.sources.values()))
    assert [point.entry.id for point in history(results, [], Question()).final.vertices] == [1, 3, 2]
    assert [point.entry.id for point in history(results, [], Question(with_holes=True)).final.vertices] == [1, 4, 2]
    both = compare(pool, pool, Question(within=0.05))
    assert [pair.first.entry.id for pair in both.of("common")] == [3, 1, 2]


@pytest.mark.parametrize(("edge", "hole"), [(2.9, False), (2.75, False), (2.3, True), (1.9, True)])
def test_what_is_denser_than_its_elements_is_a_hole_whoever_relaxed_it(tmp_path, edge, hole):
    """No record is needed: a search of another code, or before the guards, has holes too."""
    dense = Atoms("CaNi", scaled_positions=CANI.get_scaled_positions(), cell=[edge] * 3, pbc=True)
    made = [Made(1, CA, -2.0), Made(2, NI, -5.0), Made(3, dense, -9.0)]
    pool = Pool([open_results(write_matlab(tmp_path / "results1", made, ("Ca", "Ni"), 50.0))])
    answer = assess(pool, Question())
    assert ("EA3" in " ".join(answer.warnings)) == hole
    assert [point.entry.id for point in answer.hull.vertices] == ([1, 2] if hole else [1, 3, 2])
    assert pool.entries[2].marks == (("hole",) if hole else ())
    points = assess(pool, Question(with_holes=True)).hull.vertices
    assert [point.entry.id for point in points] == [1, 3, 2]


def test_an_element_of_which_only_holes_are_known_takes_part_with_a_warning(tmp_path):
    """Else there is no hull; the mark stays."""
    made = [Made(1, bulk("Ca", "fcc", 3.67), -2.0), Made(2, NI, -5.0), Made(3, CANI, -8.0)]
    pool = Pool([open_results(write_matlab(tmp_path / "results1", made, ("Ca", "Ni"), 50.0))])
    answer = assess(pool, Question())
    assert [(point.entry.id, point.entry.marks) for point in answer.hull.vertices] == [(1, ("hole",)), (3, ()), (2, ())]
    assert answer.warnings == (
        "all structures of Ca are in holes of the model and are included: the enthalpies are unreliable",
    )


def test_an_enthalpy_that_no_compound_has_is_said(tmp_path):
    made = [Made(1, CA, -2.0), Made(2, NI, -5.0), Made(3, CANI, -80.0)]
    pool = Pool([open_results(write_matlab(tmp_path / "results1", made, ("Ca", "Ni"), 50.0))])
    assert any("results1:EA3: an enthalpy of formation of -36.5" in line for line in assess(pool, Question()).warnings)


@pytest.mark.parametrize("mark", ["saddle", "unprobed", "off-pressure"])
def test_doubtful_structures_are_marked_wherever_they_stand(tmp_path, mark):
    answer = assess(pool_of(tmp_path, SMALL, flags={3: (mark,), 4: (mark,)}), Question())
    assert [point.entry.id for point in answer.hull.vertices] == [1, 4, 2]
    (line,) = [line for line in phase_table(answer).splitlines() if line.startswith("EA4")]
    assert line.endswith(mark)
    rows = {row["id"]: row["doubtful"] for row in phase_rows(answer)}
    assert rows == {4: mark, 1: None, 2: None}
    drawn = diagram.make_diagram({"": answer})
    shown = hull.document(drawn)
    named = {one["name"].rpartition(":")[2]: one["doubtful"] for one in shown["labelled"]}
    assert named == {"EA1": None, "EA2": None, "EA4": mark}
    figure = hull.draw(drawn)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sum(f"({mark})" in text for text in texts) == 1
    seeds = choose([answer], None)
    assert [f"({mark})" in seed.title for seed in seeds] == [True, False, False]
    assert f"({mark})" in format_seeds(seeds)


def test_merged_members_of_another_space_group_are_shown(tmp_path):
    """A copy with noise stands for the phase, since it is lower by a digit; the clean copy is the most symmetric."""
    rng = np.random.default_rng(4)
    clean = FAMILIES["SiC"]["4H"]
    noisy = [copied(clean, rng, noise=0.03, most=1) for _ in range(2)]
    made = [Made(1, noisy[0], -8 * 7.0002), Made(2, clean, -8 * 7.0001), Made(3, noisy[1], -8 * 7.0)]
    pool = pool_of(tmp_path, made, ("C", "Si"))
    for symprec, own, others in ((0.02, "P1 (1)", {"P6_3mc (186)": 1}), (0.3, "P6_3mc (186)", {})):
        answer = assess(
            pool, replace(Question(), symprec=symprec, tolerances=replace(Question().tolerances, distance=0.05))
        )
        assert [[e.id for e in phase.members] for phase in answer.phases] == [[1, 2, 3]]
        (row,) = phase_rows(answer)
        assert f"{row['space_group_symbol']} ({row['space_group']})" == own
        assert row["copies_space_groups"] == others
        assert row["highest_space_group"] == "P6_3mc (186)"
        text = report(answer)
        assert own in text
        assert f"space groups within {symprec:g} Å" in " ".join(text.split())
        assert ("EA1: joined: P6_3mc (186) in 1 copy; highest symmetry P6_3mc (186)" in text) == bool(others)


def test_a_distorted_crystal_is_not_called_by_its_parent_alone(tmp_path):
    """CaNi P-1 with atoms 0.04 Å from their places in a hexagonal cell: within 0.3 Å spglib calls it so."""
    from phase_families import SLIGHT

    pool = pool_of(tmp_path, [Made(1, SLIGHT["CaNi"]["triclinic"], -10.0)])
    answer = assess(pool, Question(symprec=0.3))
    (phase,) = answer.phases
    groups = phase_groups(answer, [phase])[phase.entry.name]
    assert groups.name == "P6_3/mmc (194)"
    assert groups.remarks() == ["P-1 (2) within 0.02 Å"]
    assert "EA1: P-1 (2) within 0.02 Å" in phase_table(answer)
    assert phase_rows(answer)[0]["clean_space_group"] == "P-1 (2)"


def test_the_table_always_has_its_stable_row(tmp_path):
    """A structure that USPEX kept has the last digit of its enthalpy lower than its original: the phase is stable."""
    made = [Made(1, CANI, -8.0), Made(2, CANI, -8.001, 2, "keptBest", (1,)), Made(3, CANI, -8.0005, 2)]
    answer = assess(pool_of(tmp_path, made), Question())
    assert [(phase.entry.id, answer.point(phase).vertex) for phase in answer.phases] == [(2, True)]
    assert " stable " in report(answer, most=1)


def big_search(tmp_path):
    """60 structures of Ca-Ni; one is collapsed, one of a generation failed."""
    rng = np.random.default_rng(1)
    made = [Made(1, CA, -2.0), Made(2, NI, -5.0)]
    for k in range(3, 60):
        a, b = (int(n) for n in rng.integers(1, 5, 2))
        size = (31.0 * a + 9.0 * b) * rng.normal(1.0, 0.01)
        cell = np.diag([size ** (1 / 3)] * 3) * (0.93 if k == 40 else 1.0)
        atoms = Atoms(f"Ca{a}Ni{b}", scaled_positions=rng.random((a + b, 3)), cell=cell, pbc=True)
        h = -2.0 * a - 5.0 * b - 0.3 * a * b / (a + b) + rng.gamma(2, 0.02) * (a + b)
        made.append(Made(k, atoms, 1e5 if k == 41 else h, 1 + k // 20, fitness=0.0))
    return made


def test_every_command_gives_one_number_for_one_thing(tmp_path):
    """Stable phases, ties, outliers, failures: hull, its document, convergence and the figures agree."""
    pool = pool_of(tmp_path, big_search(tmp_path))
    results = next(iter(pool.sources.values()))
    answer = assess(pool, Question(within=0.05))
    said = document(answer, [])
    found = history(results, [], Question(within=0.05))
    drawn = diagram.make_diagram({"": answer})
    shown = hull.document(drawn)
    stable = {point.entry.name for point in build_hull(results.entries).vertices}
    assert said["stable"] == len(stable) == found.generations[-1].stable == len(found.final.vertices)
    assert {one["name"] for one in shown["labelled"] if not one["tie"]} == stable
    assert said["ties"] == sum(one["tie"] for one in shown["labelled"])
    assert sum(g.new for g in found.generations) == len(answer.phases)
    assert sum(g.failed for g in found.generations) == sum(not e.valid for e in results.entries) == 1
    outliers = volume.document(volume.gather(drawn))["outliers"]
    assert said["outliers"] == outliers
    assert any(text.startswith(f"{results.label}:EA40 ") for text in outliers)
    assert "outlier" in report(answer)
    json.dumps(said)


@pytest.mark.parametrize("name", ["300", "301", "bridge/results1"])
@pytest.mark.parametrize("most", [None, 3])
def test_tables_fit_a_terminal(name, most):
    results = open_results(DATA / name, "results1")
    answer = assess(Pool([results]), Question(within=0.5))
    text = report(answer, {}, most)
    assert max(map(len, text.splitlines())) <= 80
    assert "known as" in text


def test_pictures_of_extrapolated_enthalpies_say_so(tmp_path):
    """Structures relaxed at 50 GPa on a hull at 100 GPa: E + PV at their old cells."""
    pool = pool_of(tmp_path, SMALL)
    there, elsewhere = (assess(pool, Question(pressure_gpa=p)) for p in (50.0, 100.0))
    assert there.extrapolated == ""
    assert elsewhere.extrapolated == "4 of 4 enthalpies extrapolated from 50 GPa, cells unrelaxed"
    for answer in (there, elsewhere):
        drawn = diagram.make_diagram({"": answer})
        for figure in (hull.draw(drawn), volume.draw(volume.gather(drawn))):
            said = figure.get_supxlabel()
            assert said == answer.extrapolated
        assert hull.document(drawn)["note"] == (answer.extrapolated or None)
