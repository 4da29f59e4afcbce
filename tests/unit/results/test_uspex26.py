"""Results folders of USPEX 25 and 26."""

import random
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from results_making import COLUMNS_OF_26, Made, poscar, table_of_26, write_26

from uspex_bridge.base.errors import InputError
from uspex_bridge.results.reading.folder import open_results

NAN = float("nan")
SPECIES = ("Ti", "O", "H")


def cell(formula: str, edge: float) -> Atoms:
    """Atoms on a line in a cube."""
    atoms = Atoms(formula, pbc=True, cell=[edge] * 3)
    atoms.set_scaled_positions(np.linspace(0, 1, len(atoms), endpoint=False)[:, None] * [[0.9, 0.7, 0.5]])
    return atoms


def made_search() -> list[Made]:
    return [
        Made(1, bulk("Ti", "bcc", 3.2), -3.2, 1, "RandSym", group=229, symbol="Im-3m"),
        Made(2, cell("H2", 2.6), -2.2, 1, "RandSym", group=225, symbol="Fm-3m", fitness=0.01),
        Made(3, cell("TiH", 2.9), -5.6, 1, "RandTop", group=221, symbol="Pm-3m"),
        Made(4, cell("Ti2H2", 3.8), -10.0, 2, "Heredity", (1, 3), group=62, symbol="Pnma", fitness=0.3),
        Made(5, cell("TiH3", 3.4), NAN, 2, "Heredity", (2, 3)),
        Made(7, cell("Ti2OH", 3.9), -12.5, 2, "softmutation", (4,), group=0, symbol="P1", fitness=None),
    ]


def test_everything_that_a_row_says(tmp_path):
    results = open_results(write_26(tmp_path / "results1", made_search(), SPECIES), "run")
    assert results.notes == []
    assert results.line == "uspex26"
    assert results.settings.species == SPECIES
    assert [entry.formula for entry in results.entries] == ["Ti", "H2", "TiH", "Ti2H2", "TiH3", "Ti2HO"]
    entry = results.by_id[4]
    assert (entry.name, entry.generation, entry.origin, entry.parents) == ("run:EA4", 2, "Heredity", (1, 3))
    assert (entry.enthalpy, entry.space_group, entry.symbol) == (-10.0, 62, "Pnma")
    assert entry.enthalpy_per_atom == -2.5
    assert entry.volume == pytest.approx(3.8**3, abs=1e-4)
    assert results.fitness_per_atom(entry) == 0.3, "eV/atom already"
    assert (entry.quasi_entropy, entry.average_order, entry.structure_order) == (0.1, 0.1, 0.1)
    assert results.by_id[7].space_group is None
    read = dict(results.structures())
    assert [e.id for e in read] == [1, 2, 3, 4, 7]
    assert read[results.by_id[7]].symbols == ("Ti", "Ti", "O", "H")


def test_a_failed_relaxation_is_kept_as_failed(tmp_path):
    results = open_results(write_26(tmp_path / "results1", made_search(), SPECIES))
    failed = results.by_id[5]
    assert not failed.valid
    assert failed.enthalpy != failed.enthalpy
    assert failed.row()["enthalpy"] is None
    assert failed.formula == "TiH3"


@pytest.mark.parametrize(("factor", "valid"), [(1.003, True), (1.03, True), (1.08, False)])
def test_volumes_that_are_not_quite_the_structures_are_noted_and_count(tmp_path, factor, valid):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    individuals = folder / "Individuals"
    volume = f"{2.9**3:.4f}"
    assert individuals.read_text().count(volume) == 1
    individuals.write_text(individuals.read_text().replace(volume, f"{factor * 2.9**3:.4f}"))
    results = open_results(folder)
    assert results.by_id[3].valid is valid
    assert len(results.notes) == (factor > 1.01)
    assert all("EA3" in note for note in results.notes)


def test_remarks_above_the_header_and_parents_that_are_none(tmp_path):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    individuals = folder / "Individuals"
    text = individuals.read_text()
    assert text.count(" [] ") == 3
    individuals.write_text("# USPEX 26.5\n\n" + text.replace(" [] ", " None ", 1).replace(" [] ", " 0 ", 1))
    results = open_results(folder)
    assert results.line == "uspex26"
    assert results.notes == []
    assert [results.by_id[number].parents for number in (1, 2, 3, 4)] == [(), (), (), (1, 3)]


def test_columns_are_found_by_name_in_any_order_and_case(tmp_path):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    columns = [*COLUMNS_OF_26, "hardness"]
    random.Random(3).shuffle(columns)
    text = table_of_26(made_search(), SPECIES, columns, comma=" ")
    head, *rows = text.splitlines(keepends=True)
    (folder / "Individuals").write_text("\n" + head.title() + "# a remark\n" + rows[0] + head + "".join(rows[1:]))
    results = open_results(folder)
    assert results.notes == []
    assert len(results.entries) == 6
    entry = results.by_id[4]
    assert (entry.enthalpy, entry.space_group, entry.symbol, entry.parents) == (-10.0, 62, "Pnma", (1, 3))
    assert entry.row()["hardness"] == 12.5


def test_an_id_that_occurs_more_than_once_keeps_its_lowest_energy_and_that_structure(tmp_path):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    again = [
        Made(4, cell("Ti2H2", 3.7), -11.0, 3, "Heredity"),
        Made(4, cell("Ti2H2", 3.6), -9.0, 3, "Heredity"),
        Made(5, cell("TiH3", 3.3), -8.0, 3, "Heredity"),
    ]
    with (folder / "Individuals").open("a") as stream:
        stream.write("".join(table_of_26(again, SPECIES).splitlines(keepends=True)[1:]))
    with (folder / "gatheredPOSCARS").open("a") as stream:
        stream.write("".join(poscar(made.atoms, SPECIES, f"number={made.id}") for made in again))
    results = open_results(folder)
    assert (results.by_id[4].enthalpy, results.by_id[4].generation) == (-11.0, 3)
    assert results.by_id[5].enthalpy == -8.0
    volumes = {entry.id: structure.volume for entry, structure in results.structures()}
    assert volumes[4] == pytest.approx(3.7**3)
    assert any("3 rows more than IDs" in note for note in results.notes)


def test_the_order_of_the_elements_comes_from_the_structures(tmp_path):
    """Blocks order their elements as they like and leave out those that they lack."""
    structures = made_search()
    folder = write_26(tmp_path / "results1", structures, ("H", "Ti", "O"))
    orders = 3 * [SPECIES, ("O", "H", "Ti")]
    blocks = [poscar(m.atoms, order, f"number={m.id}") for m, order in zip(structures, orders, strict=True)]
    (folder / "gatheredPOSCARS").write_text("".join(blocks))
    results = open_results(folder)
    assert results.settings.species == ("H", "Ti", "O")
    assert results.by_id[5].formula == "TiH3"


@pytest.mark.parametrize("name", ["Parameters.txt", "parameters", "parameter", "../INPUT.txt"])
def test_the_order_of_the_elements_comes_from_the_search_s_input_where_there_is_one(tmp_path, name):
    folder = write_26(tmp_path / "results1", made_search()[:1], SPECIES)
    (folder / name).write_text("% atomType\nTi O H\n% EndAtomType\n50 : ExternalPressure\n")
    results = open_results(folder)
    assert results.settings.species == SPECIES
    assert results.by_id[1].pressure_gpa == 50
    (folder / name).unlink()
    assert open_results(folder).settings.species == ("Ti", "?2", "?3")


def test_a_fixed_composition_has_no_hull(tmp_path):
    columns = [name for name in COLUMNS_OF_26 if name != "e_above_hull"]
    results = open_results(write_26(tmp_path / "results1", made_search(), SPECIES, columns))
    assert results.notes == []
    assert results.ranked == []
    assert all(entry.fitness != entry.fitness for entry in results.entries)


def test_extended_convex_hull_holds_energies_per_cell(tmp_path):
    results = open_results(write_26(tmp_path / "results1", made_search(), SPECIES))
    ranked = {line.id: line for line in results.ranked}
    assert results.notes == []
    assert ranked[4].enthalpy == -2.5
    assert ranked[4].fitness == 0.3
    assert ranked[4].volume == pytest.approx(3.8**3 / 4, abs=1e-4)


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_running_search_whose_last_row_is_half_written(tmp_path, cut):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    text = (folder / "Individuals").read_text()
    (folder / "Individuals").write_text(text[:-cut])
    results = open_results(folder)
    assert [entry.id for entry in results.entries] == [1, 2, 3, 4, 5]
    assert sum("line 7: incomplete" in note for note in results.notes) == 1


def test_a_bracket_that_is_never_closed_costs_one_row(tmp_path):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    text = (folder / "Individuals").read_text().replace("[1, 3]", "[1, 3")
    (folder / "Individuals").write_text(text)
    assert [entry.id for entry in open_results(folder).entries] == [1, 2, 3, 5, 7]


def test_two_layouts_in_one_file(tmp_path):
    """Lines of USPEX 10 below a header of USPEX 26 are no rows; a file of nothing else is an error."""
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    old = "  1    8   Random    [  1  0  1 ]    -6.000   20.000   3.041    -3.000 [ 5  4  3]  63  0.001  2.749  2.753\n"
    with (folder / "Individuals").open("a") as stream:
        stream.write(old)
    results = open_results(folder)
    assert len(results.entries) == 6
    assert any("line 8" in note for note in results.notes)
    head = (folder / "Individuals").read_text().splitlines()[0]
    (folder / "Individuals").write_text(f"{head}\n{old}")
    with pytest.raises(InputError, match="line 2"):
        open_results(folder)


def test_a_search_that_has_just_begun(tmp_path):
    folder = write_26(tmp_path / "results1", [], SPECIES)
    assert open_results(folder).entries == ()


def test_what_is_no_number_counts_as_not_computed(tmp_path):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    individuals = folder / "Individuals"
    text = individuals.read_text()
    assert text.count(" nan  None  nan ") == 1
    individuals.write_text(text.replace(" nan  None  nan ", " null  None  nan ").replace("1  1  [", "1.0  1.0  ["))
    results = open_results(folder)
    assert len(results.entries) == 6
    assert not results.by_id[5].valid
    assert results.notes == [f"{individuals}, line 6: energy null is not a number"]


def test_parents_may_be_nothing_at_all_and_a_file_may_begin_with_a_mark_of_its_encoding(tmp_path):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    text = (folder / "Individuals").read_text()
    (folder / "Individuals").write_text("\ufeff" + text.replace("[]", ""))
    results = open_results(folder)
    assert results.notes == []
    assert [entry.parents for entry in results.entries] == [(), (), (), (1, 3), (2, 3), (4,)]
    assert results.by_id[3].quasi_entropy == 0.1


def test_a_table_without_energies_and_a_file_of_no_known_kind_are_refused(tmp_path):
    columns = [name for name in COLUMNS_OF_26 if name != "energy"]
    folder = write_26(tmp_path / "results1", made_search(), SPECIES, columns)
    with pytest.raises(InputError, match="line 2: the table has no column energy"):
        open_results(folder)
    (folder / "Individuals").write_text("energies of last night\n")
    with pytest.raises(InputError, match="not a table of a known version of USPEX"):
        open_results(folder)


@pytest.mark.parametrize("given", ["Ti O H", "Mg Al", "22 1 8"])
def test_structures_that_all_fit_another_order_than_atomtype_decide(tmp_path, given):
    folder = write_26(tmp_path / "results1", made_search(), ("H", "Ti", "O"))
    (folder / "Parameters.txt").write_text(f"% atomType\n{given}\n% EndAtomType\n")
    results = open_results(folder)
    assert results.settings.species == ("H", "Ti", "O")
    assert all(entry.valid for entry in results.entries if entry.id != 5)
    assert ["fit H Ti O as the order" in note for note in results.notes] == [True]


@pytest.mark.parametrize("given", ["Ti O H", "22 8 1", "titanium Oxygen H"])
def test_a_pair_that_contradicts_atomtype_is_refused(tmp_path, given):
    structures = made_search()
    folder = write_26(tmp_path / "results1", structures, SPECIES)
    (folder / "Parameters.txt").write_text(f"% atomType\n{given}\n% EndAtomType\n")
    text = (folder / "Individuals").read_text()
    (folder / "Individuals").write_text(text.replace("1  3  [1, 0, 1]", "1  3  [1, 1, 0]"))
    results = open_results(folder)
    assert results.settings.species == SPECIES
    assert [entry.id for entry in results.entries if not entry.valid] == [3, 5]
    assert ["EA3 is TiO in Individuals and TiH there" in note for note in results.notes] == [True]


def test_an_order_that_no_structure_decides_is_not_guessed(tmp_path):
    """TiH and Ti2H2 fit both orders; TiH3, whose structure is not there, would be Ti3H in the other."""
    structures = [made for made in made_search() if made.id in (3, 4)]
    folder = write_26(tmp_path / "results1", structures, ("Ti", "H"))
    assert open_results(folder).settings.species == ("Ti", "H")
    more = table_of_26([Made(6, cell("TiH3", 3.4), -9.0, 2, "Heredity")], ("Ti", "H"))
    with (folder / "Individuals").open("a") as stream:
        stream.write(more.splitlines(keepends=True)[1])
    results = open_results(folder)
    assert results.settings.species == ("?1", "?2")
    assert [entry.formula for entry in results.entries][:2] == ["TiH", "Ti2H2"]


def test_ids_of_two_searches_in_one_file_are_told(tmp_path):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    with (folder / "Individuals").open("a") as stream:
        stream.write(table_of_26([Made(3, cell("TiO", 2.9), -7.0)], SPECIES))
    with (folder / "gatheredPOSCARS").open("a") as stream:
        stream.write(poscar(cell("TiO", 2.8), SPECIES, "number = 3"))
    results = open_results(folder)
    assert ["1 row more than IDs" in note and "two searches?" in note for note in results.notes][:1] == [True]
    assert not any("the last one is used" in note for note in results.notes)


@pytest.mark.parametrize("change", [(r"\[(.*?)\]", r"(\1)"), (r"(\d), ", r"\1. "), (r"\[\]", "-")])
def test_lists_in_other_words(tmp_path, change):
    folder = write_26(tmp_path / "results1", made_search(), SPECIES)
    text, count = re.subn(*change, (folder / "Individuals").read_text())
    assert count >= 3
    (folder / "Individuals").write_text(text)
    results = open_results(folder)
    assert results.notes == []
    assert [entry.formula for entry in results.entries] == ["Ti", "H2", "TiH", "Ti2H2", "TiH3", "Ti2HO"]
    assert (results.by_id[4].parents, results.by_id[4].quasi_entropy) == ((1, 3), 0.1)


def test_structures_that_contradict_the_table_give_no_order_of_the_elements(tmp_path):
    """The IDs of the structures are one too high: any order that is found would be a wrong one."""
    folder = write_26(tmp_path / "results1", made_search()[:4], SPECIES)
    path = folder / "gatheredPOSCARS"
    path.write_text(re.sub(r"(?m)^number=(\d+)", lambda m: f"number={int(m[1]) + 1}", path.read_text()))
    results = open_results(folder)
    assert set(results.settings.species) == {"?1", "?2", "?3"}
    assert any("most of its structures contradict Individuals" in note for note in results.notes)
