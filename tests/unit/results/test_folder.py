import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from results_making import DATA, Made, individuals, write_matlab, write_python

from uspex_bridge.base.errors import InputError
from uspex_bridge.call import record_file
from uspex_bridge.results.reading.folder import open_all, open_results, results_folders
from uspex_bridge.results.reading.poscars import PoscarFile, parse_plain
from uspex_bridge.vasp.structure import parse_poscar


def made_search() -> list[Made]:
    ca, ni = bulk("Ca", "fcc", 5.58), bulk("Ni", "fcc", 3.52)
    cani = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3.3] * 3, pbc=True)
    return [
        Made(1, ca, -1.9, 0, "SymRandom", steps=(-1.7, -1.9), group=225),
        Made(2, ni, -5.5, 0, "SymRandom", steps=(-5.4, -5.5), group=225),
        Made(3, cani, -7.6, 0, "TopRandom", steps=(-7.0,), group=0),
        Made(4, cani * (2, 1, 1), -15.4, 1, "Heredity", (1, 2), (-15.0, -15.4), 221),
    ]


def test_real_variable_composition():
    results = open_results(DATA / "301", "run")
    assert (results.line, results.settings.species) == ("matlab", ("Ca", "Ni"))
    assert results.notes == []
    assert len(results.entries) == 21
    entry = results.by_id[7]
    assert entry.name == "run:EA7"
    assert entry.composition == (("Ca", 7), ("Ni", 1))
    assert (entry.generation, entry.origin, entry.parents) == (2, "Heredity", (1, 2))
    assert entry.steps == (48.396, 47.138, 47.138)
    assert entry.space_group == 25
    assert entry.enthalpy_per_atom == pytest.approx(47.138 / 8)
    assert (entry.fitness, entry.density, entry.average_order) == (0.415, 3.052, 3.656)
    assert results.generations == (1, 2, 3)
    assert results.best == {1: [2, 5, 1], 2: [14, 13], 3: [20, 18]}
    assert results.convex_hulls[1] == [
        ((("Ca", 7),), 8.5581),
        ((("Ni", 5),), -1.2385),
        ((("Ca", 7), ("Ni", 1)), 5.7792),
    ]
    assert [line.id for line in results.ranked] == [5, 14, 21, 1, 4, 6, 7]
    assert results.ranked[2].fitness == 0.1596


def test_every_structure_of_the_real_searches_has_the_volume_that_individuals_prints():
    for name in ("300", "301"):
        results = open_results(DATA / name)
        read = dict(results.structures())
        assert len(read) == len(results.entries)
        for entry, structure in read.items():
            assert structure.volume == pytest.approx(entry.volume, abs=6e-4)
            assert len(structure) == entry.natoms
        assert len(list(results.unrelaxed())) == len(results.entries)


def test_fixed_composition_ranks_good_structures_per_cell():
    results = open_results(DATA / "300")
    assert [line.id for line in results.ranked] == [9, 5, 6]
    assert results.by_id[10].parents == (2,)
    assert results.by_id[1].formula == "Si8"


def test_both_lines_give_the_same_entries(tmp_path):
    search = made_search()
    matlab = open_results(write_matlab(tmp_path / "a" / "results1", search, ("Ca", "Ni"), 50.0))
    python = open_results(write_python(tmp_path / "b" / "results1", search, ("Ca", "Ni"), 50.0))
    assert (matlab.line, python.line) == ("matlab", "python")
    for one, other, given in zip(matlab.entries, python.entries, search, strict=True):
        assert one.composition == other.composition
        assert one.pressure_gpa == other.pressure_gpa == 50.0
        assert one.generation == other.generation == given.generation
        assert one.parents == other.parents == given.parents
        assert one.enthalpy == other.enthalpy == given.enthalpy
        assert one.volume == pytest.approx(other.volume, abs=6e-4)
    assert replace(matlab.settings, calculation="") == python.settings
    assert python.settings.blocks == ((1, 0), (0, 1))
    assert python.by_id[4].symbol == "P1"


def test_python_line_gathers_only_what_finished(tmp_path):
    results = open_results(write_python(tmp_path / "results1", made_search(), ("Ca", "Ni")))
    assert [entry.id for entry, _ in results.structures()] == [1, 2, 4]
    assert [entry.id for entry, _ in results.unrelaxed()] == [1, 2, 3, 4]
    assert results.best == {0: [2], 1: [2]}
    assert results.convex_hulls == {0: [((("Ni", 1),), -5.5)], 1: [((("Ni", 1),), -5.5)]}
    assert [line.id for line in results.ranked] == [2, 4, 1]
    assert [line.enthalpy for line in results.ranked] == [-5.5, -15.4 / 4, -1.9]
    assert results.ranked[1].volume == pytest.approx(3.3**3 / 2, abs=1e-4)
    assert len(results.notes) == 2  # EA3 is not gathered, and its last step is missing
    assert "1 of 4 structures" in results.notes[1]


def test_a_search_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path):
    folder = write_matlab(tmp_path / "results1", made_search(), ("Ca", "Ni"))
    text = (folder / "Individuals").read_text()
    (folder / "Individuals").write_text(text[: text.rindex("-15.400") + 3])
    text = (folder / "gatheredPOSCARS").read_text()
    (folder / "gatheredPOSCARS").write_text(text[: text.rindex("0.5")] + "\n")
    results = open_results(folder)
    assert [entry.id for entry in results.entries] == [1, 2, 3]
    assert results.notes[0] == f"{folder}/Individuals, line 6: incomplete, or not a line of USPEX; it is left out"
    assert len(list(results.structures())) == 3
    cut = PoscarFile.open(folder / "gatheredPOSCARS")
    assert [number for number, _ in cut.read([2, 4])] == [2]
    last = len((folder / "gatheredPOSCARS").read_text().splitlines())
    assert f"line {last}: one of 4 positions needs 3 numbers, not 2 (EA4 is left out)" in cut.notes[0]
    (folder / "gatheredPOSCARS").write_text(text[:-4])  # a last number that lost some digits
    cut = PoscarFile.open(folder / "gatheredPOSCARS")
    assert list(cut.blocks) == [1, 2, 3]
    assert cut.notes == [f"{folder}/gatheredPOSCARS, line {last}: the file ends within a line; EA4 is left out"]


def test_a_running_generation_has_no_fitness_yet(tmp_path):
    search = made_search()
    for made in search:
        made.fitness = None
    folder = write_matlab(tmp_path / "results1", search, ("Ca", "Ni"))
    (tmp_path / "still_running").touch()
    results = open_results(folder)
    assert results.state == "running"
    assert math.isnan(results.entries[0].fitness)
    assert all(entry.valid for entry in results.entries)
    (tmp_path / "USPEX_IS_DONE").touch()
    assert open_results(folder).state == "finished"


def test_nan_and_100000_are_no_results_and_are_named(tmp_path):
    search = made_search()
    search[1].enthalpy, search[2].enthalpy = math.nan, 100000.0
    folder = write_matlab(tmp_path / "results1", search, ("Ca", "Ni"))
    results = open_results(folder)
    assert [entry.valid for entry in results.entries] == [True, False, False, True]
    assert f"{folder}/Individuals, line 4: the enthalpy of EA2 is not a number" in results.notes
    assert results.by_id[2].row()["enthalpy"] is None


def test_a_structure_with_nan_coordinates_is_left_out_with_its_line(tmp_path):
    folder = write_matlab(tmp_path / "results1", made_search(), ("Ca", "Ni"))
    path = folder / "gatheredPOSCARS"
    lines = path.read_text().splitlines()
    broken = next(k for k, line in enumerate(lines) if line.startswith("EA2")) + 8
    lines[broken] = "   NaN   0.0  0.0"
    path.write_text("\n".join(lines) + "\n")
    results = open_results(folder)
    assert [entry.id for entry, _ in results.structures()] == [1, 3, 4]
    assert f"{path}, line {broken + 1}: " in results.notes[-1]
    assert "'NaN' is not a number" in results.notes[-1]


def test_enthalpies_per_step_that_do_not_belong_are_not_used(tmp_path):
    folder = write_matlab(tmp_path / "results1", made_search(), ("Ca", "Ni"))
    lines = (folder / "enthalpies_complete.dat").read_text().splitlines()
    (folder / "enthalpies_complete.dat").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    results = open_results(folder)
    assert [bool(entry.steps) for entry in results.entries] == [True, False, False, False]
    assert "3 lines for 4 structures" in results.notes[0]
    assert "line 2: -7.0 is not EA2's enthalpy" in results.notes[1]


def test_older_files_have_fewer_columns(tmp_path):
    folder = tmp_path / "results1"
    folder.mkdir()
    (folder / "Individuals").write_text(
        "Gen   ID   Origin      Composition  Enthalpy(eV)  Volume(A^3)  KPOINTS  SYMM Q_entropy A_order S_order\n"
        "  1    1   random     [     4     ]    -955.675   1800.05142  [2  2  1]   N/A  0.100   0.0000   5.2199\n"
    )
    (entry,) = open_results(folder).entries
    assert (entry.enthalpy, entry.volume, entry.space_group) == (-955.675, 1800.05142, None)
    assert entry.composition == (("?1", 4),)
    assert math.isnan(entry.fitness)


def test_individuals_without_kpoints(tmp_path):
    folder = tmp_path / "results1"
    folder.mkdir()
    text = individuals(made_search(), ("Ca", "Ni")).replace("[ 2  2  2]", "  N/A     ")
    (folder / "Individuals").write_text(text)
    results = open_results(folder)
    assert [entry.space_group for entry in results.entries] == [225, 225, None, 221]
    assert results.entries[3].structure_order == 1.5


def test_a_search_that_has_just_begun(tmp_path):
    folder = tmp_path / "results1"
    folder.mkdir()
    (folder / "Individuals").write_text("")
    results = open_results(folder)
    assert results.entries == ()
    assert results.generations == ()
    assert "no such file" in results.notes[0]


def test_results_folders_by_number(tmp_path):
    for number in (1, 2, 10):
        write_matlab(tmp_path / f"results{number}", made_search(), ("Ca", "Ni"), float(number))
    assert [path.name for path in results_folders(tmp_path)] == ["results1", "results2", "results10"]
    opened = open_all([tmp_path])
    assert [results.settings.pressure_gpa for results in opened] == [1.0, 2.0, 10.0]
    assert len({entry.name for results in opened for entry in results.entries}) == 12
    with pytest.raises(InputError, match="no such file or folder"):
        results_folders(tmp_path / "nothing")
    with pytest.raises(InputError, match="neither a results folder"):
        results_folders(tmp_path / "results1" / ".." / ".." / tmp_path.name / "..")


def test_plain_poscars_are_read_as_by_the_full_reader():
    for name in ("300", "301"):
        text = (DATA / name / "gatheredPOSCARS").read_text()
        for block in text.replace("EA", "\nEA").strip().split("\n\n"):
            plain, full = parse_plain(block), parse_poscar(block)
            assert plain is not None
            assert plain.symbols == full.symbols
            assert plain.comment == full.comment
            np.testing.assert_array_equal(plain.scaled, full.scaled)
            np.testing.assert_allclose(plain.cell, full.cell)
    for change in (("1.0000", "-84.0"), ("Direct", "Cartesian"), ("Direct", "Selective dynamics\nDirect")):
        assert parse_plain(block.replace(*change, 1)) is None


def test_files_without_element_lines_take_the_searchs_species(tmp_path):
    text = (DATA / "300" / "goodStructures_POSCARS").read_text().replace("  Si\n", "").replace("EA", "Structure_")
    (tmp_path / "goodStructures_POSCARS").write_text(text)
    read = dict(PoscarFile.open(tmp_path / "goodStructures_POSCARS", ("Si",)).read([9, 5]))
    assert {number: structure.formula for number, structure in read.items()} == {9: "Si8", 5: "Si8"}


def test_a_file_that_is_rewritten_meanwhile_is_noticed(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(DATA / "301", folder)
    results = open_results(folder)
    text = (folder / "gatheredPOSCARS").read_text()
    (folder / "gatheredPOSCARS").write_text("a line more\n" + text)
    with pytest.raises(InputError, match="changed while it was read"):
        list(results.structures())


def test_fitness_per_atom_needs_the_blocks(tmp_path):
    results = open_results(DATA / "301")
    with pytest.raises(InputError, match="blocks of the compositions are unknown"):
        results.fitness_per_atom(results.entries[0])
    folder = tmp_path / "results1"
    shutil.copytree(DATA / "301", folder)
    (folder / "Parameters.txt").write_text(
        "% atomType\nCa Ni\n% EndAtomType\n% numSpecies\n1 1\n0 2\n% EndNumSpecies\n"
    )
    results = open_results(folder)
    assert results.settings.pressure_gpa == 0.0
    # Ca2Ni5 = 2 CaNi + 1.5 Ni2: 3.5 blocks in 7 atoms
    assert results.fitness_per_atom(results.by_id[3]) == pytest.approx(1.378 * 3.5 / 7)


def test_real_search_through_the_bridge_with_seeds():
    results = open_results(DATA / "bridge" / "results1", "run")
    assert results.notes == []
    assert (results.state, results.settings.species, results.settings.pressure_gpa) == (
        "finished",
        ("Ca", "Fe", "Ni"),
        50,
    )
    seed, kept = results.by_id[3], results.by_id[15]
    assert (seed.origin, seed.parents, kept.origin, kept.parents) == ("Seeds", (), "convexHull", (3,))
    assert {entry.level for entry in results.entries} == {"chgnet 0.3.0 d14ab7c0"}
    assert all(entry.record is not None and entry.record.status == "converged" for entry in results.entries)
    assert kept.record == seed.record
    # the single point that ends every structure leaves no stress; what counts is the relaxation before it
    assert all(entry.record.stress_left_gpa > 0 for entry in results.entries)


def test_rows_of_a_real_generation_that_is_not_over():
    """USPEX names a column for magnetic moments there that has nothing in it."""
    results = open_results(DATA / "running" / "results1")
    assert results.notes == []
    assert len(results.entries) == 21
    entry = results.by_id[2]
    assert (entry.enthalpy, entry.volume, entry.space_group, entry.structure_order) == (45.14, 243.264, 2, 1.911)
    assert math.isnan(entry.fitness)
    assert len(entry.steps) == 4


def test_a_penalty_is_no_enthalpy(tmp_path):
    folder = write_matlab(tmp_path / "results1", made_search(), ("Ca", "Ni"), 50.0)
    line = {"status": "penalty", "code": "overlap", "steps": ["1", "2"], "pressure_gpa": 50.0}
    line |= {"input": {"symbols": ["Ca", "Ni"]}, "enthalpy": -7.6, "volume": 3.3**3}
    record_file.append(tmp_path / record_file.FILENAME, line)
    results = open_results(folder)
    assert [entry.valid for entry in results.entries] == [True, True, False, True]
    assert results.by_id[3].record.status == "penalty"


def test_a_search_that_uspex_gave_up(tmp_path):
    folder = write_matlab(tmp_path / "results1", [], ("Ca", "Ni"))
    (folder / "OUTPUT.txt").write_text(
        "Too many structures have errors or failed the constraints after optimization.\n"
    )
    (tmp_path / "still_running").touch()
    assert open_results(folder).state == "given up"
