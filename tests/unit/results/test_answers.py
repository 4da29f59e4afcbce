"""What is made of results: known phases, convergence, comparison, seeds, crystals, exports."""

import csv
import importlib.util
import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import ase.db
import ase.db.sqlite
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from results_making import Made, write_matlab, write_python

from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import CalculationError, ConfigError, InputError, OutputError
from uspex_bridge.base.units import gpa_to_ev_a3
from uspex_bridge.call.structures import read_structures
from uspex_bridge.results.hulls.compare import compare
from uspex_bridge.results.hulls.converged import history
from uspex_bridge.results.hulls.export import FORMATS, export, format_of, hull_of
from uspex_bridge.results.hulls.hull import parse_formula
from uspex_bridge.results.hulls.rescore import Again, compare_rankings, rank_correlation
from uspex_bridge.results.hulls.seeds import at_new_pressure, choose, fit_for, format_seeds, write_seeds
from uspex_bridge.results.hulls.stability import Question, assess, assess_per_level, stable_phases
from uspex_bridge.results.phases.crystal import describe
from uspex_bridge.results.phases.matching import recognise
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.model import Pool
from uspex_bridge.results.reading.settings import settings_of_input
from uspex_bridge.results.reading.sources import read_reference

CA, NI = bulk("Ca", "fcc", 5.5), bulk("Ni", "fcc", 3.5)
B2 = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3.1] * 3, pbc=True)
B1 = bulk("CaNi", "rocksalt", 5.0)
WURTZ = bulk("CaNi", "wurtzite", 4.0, c=6.5, u=0.375)


def as_structure(atoms: Atoms) -> Structure:
    return Structure(tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions())


def scaled(atoms: Atoms, factor: float) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(copy.cell.array * factor, scale_atoms=True)
    return copy


def search(tmp_path: Path, structures: list[Made], name: str = "results1", pressure: float = 50.0):
    return open_results(write_matlab(tmp_path / name, structures, ("Ca", "Ni"), pressure))


def small_search(tmp_path: Path, name: str = "results1", pressure: float = 50.0):
    made = [
        Made(1, CA, -2.0),
        Made(2, NI, -5.0),
        Made(3, B2, -8.0),
        Made(4, B1, -7.94, 2, "Heredity", (3, 1)),
        Made(5, B2 * (1, 1, 2), -16.0, 2, "keptBest", (3,)),
        Made(6, WURTZ, -14.0, 2),
    ]
    return search(tmp_path, made, name, pressure)


def test_assess(tmp_path):
    answer = assess(Pool([small_search(tmp_path)]), Question(within=0.05))
    assert answer.pressure_gpa == 50.0
    assert [phase.entry.id for phase in answer.phases] == [3, 1, 2, 4]
    assert [[e.id for e in phase.duplicates] for phase in answer.phases] == [[5], [], [], []]
    assert [phase.entry.id for phase in stable_phases(answer)] == [3, 1, 2]
    assert answer.point(answer.phases[3]).above == pytest.approx(0.03)
    assert [answer.space_group(phase) for phase in answer.phases] == [
        "Pm-3m (221)",
        "Fm-3m (225)",
        "Fm-3m (225)",
        "Fm-3m (225)",
    ]
    assert answer.warnings == ()


def test_what_the_components_asked_for_leave_out_is_no_surprise(tmp_path):
    pool = Pool([small_search(tmp_path)])
    answer = assess(pool, Question(components=("Ca",), method="none"))
    assert len(answer.hull.outside) > 0
    assert not answer.warnings


def test_one_hull_per_level(tmp_path):
    (tmp_path / "a").mkdir()
    refs = tmp_path / "refs.extxyz"
    ase.io.write(refs, [CA, NI])
    text = refs.read_text().replace('pbc="T T T"', 'energy=-1.0 level=PBE pressure_gpa=50 pbc="T T T"')
    refs.write_text(text)
    pool = Pool([small_search(tmp_path), read_reference(refs)])
    with pytest.raises(ConfigError, match="PBE"):
        assess(pool, Question())
    answers = assess_per_level(pool, Question())
    assert {level: len(answer.hull.points) for level, answer in answers.items()} == {"not stated": 6, "PBE": 2}


def test_known_phases_are_recognised_at_another_volume(tmp_path):
    ase.io.write(
        tmp_path / "known.extxyz", [scaled(B2 * (2, 1, 1), 0.93), Atoms("LiF", B1.positions, cell=B1.cell, pbc=True)]
    )
    known = recognise(
        [("one", as_structure(B2)), ("two", as_structure(B1)), ("three", as_structure(WURTZ))],
        [read_reference(tmp_path / "known.extxyz")],
    )
    assert str(known["one"]) == "known-1"
    assert str(known["two"]) == "new, as known-2 (LiF)"
    assert "three" not in known


def settling_search(tmp_path, last: int, *, writer=write_matlab):
    """B2 is found in generation 2, B1 near the hull in 4, nothing after."""
    made = [Made(1, CA, -2.0, 1, "Seeds"), Made(2, NI, -5.0, 1, "Seeds"), Made(3, WURTZ, -14.0, 1)]
    made += [Made(4, B2, -8.0, 2, "Heredity", (1, 2))]
    for generation in range(3, last + 1):
        number = made[-1].id + 1
        made.append(Made(number, B2, -8.0 + 1e-4 * generation, generation, "softmutate", (4,)))
        if generation == 4:
            made.append(Made(number + 1, B1, -7.94, 4, "TransMutate", (4,)))
    return open_results(writer(tmp_path / "results1", made, ("Ca", "Ni")))


@pytest.mark.parametrize("writer", [write_matlab, write_python])
def test_convergence(tmp_path, writer):
    results = settling_search(tmp_path, 9, writer=writer)
    result = history(results, [], Question(within=0.05), needed=5)
    assert [g.new for g in result.generations] == [2, 1, 0, 1, 0, 0, 0, 0, 0]
    assert [g.stable for g in result.generations] == [2, 3, 3, 3, 3, 3, 3, 3, 3]
    assert result.generations[0].lowered is None
    assert result.generations[1].lowered == pytest.approx(0.5)
    assert result.generations[3].origins == ("TransMutate",)
    assert (result.settled, result.converged) == (5, True)
    assert not history(results, [], Question(within=0.05), needed=6).converged
    assert history(results, [], Question(within=0.02), needed=6).settled == 7


def test_convergence_of_a_running_search_leaves_the_last_generation_out(tmp_path):
    results = settling_search(tmp_path, 9)
    text = (results.path / "Individuals").read_text()
    rows = text.splitlines()
    rows = [row.replace(f"{0:10.3f} [", "       N/A [") if row.startswith("  9") else row for row in rows]
    (results.path / "Individuals").write_text("\n".join(rows) + "\n")
    result = history(open_results(results.path), [], Question(within=0.05))
    assert result.running == 9
    assert [g.number for g in result.generations] == list(range(1, 9))
    assert result.settled == 4


def test_the_last_generation_of_an_unfinished_python_search_may_be_incomplete(tmp_path):
    results = settling_search(tmp_path, 9, writer=write_python)
    path = results.path / "OUTPUT.txt"
    path.write_text(path.read_text().replace("Calculation results\n", ""))
    result = history(open_results(results.path), [], Question(within=0.05))
    assert (result.running, result.settled) == (9, 4)


def test_convergence_of_one_composition_follows_the_lowest_enthalpy(tmp_path):
    made = [Made(1, B1, -7.5, 1), Made(2, B2, -8.0, 2), Made(3, WURTZ, -15.0, 3)]
    result = history(search(tmp_path, made), [], Question(within=0.1))
    assert [g.lowest for g in result.generations] == [-3.75, -4.0, -4.0]
    assert [g.lowered for g in result.generations] == [None, pytest.approx(0.25), 0.0]
    assert result.settled == 1


def test_convergence_needs_generations(tmp_path):
    folder = write_python(tmp_path / "results1", [Made(1, B1, -7.5, 1)], ("Ca", "Ni"))
    (folder / "OUTPUT.txt").unlink()
    with pytest.raises(InputError, match="generations of the structures are unknown"):
        history(open_results(folder), [], Question())


def test_comparison(tmp_path):
    first = small_search(tmp_path, "results1")
    second = search(
        tmp_path,
        [
            Made(1, scaled(CA, 0.9), -1.0),
            Made(2, scaled(NI, 0.9), -4.0),
            Made(3, scaled(B2, 0.9), -5.6),
            Made(4, scaled(WURTZ, 0.9), -11.99),
        ],
        "results2",
        100.0,
    )
    result = compare(Pool([first]), Pool([second]), Question(within=0.05), search=0.7)
    names = {
        status: [(p.first and p.first.entry.id, p.second and p.second.entry.id) for p in result.of(status)]
        for status in ("common", "lost", "new")
    }
    assert names == {"common": [(1, 1), (2, 2)], "lost": [(3, 3), (4, None)], "new": [(6, 4)]}
    lost = result.of("lost")
    assert lost[0].above == (0.0, pytest.approx(0.1975))
    assert lost[1].above == (pytest.approx(0.03), None)
    assert (result.first.pressure_gpa, result.second.pressure_gpa) == (50.0, 100.0)


def test_seeds_are_the_nearest_and_every_corner_of_every_hull(tmp_path):
    low = assess(Pool([small_search(tmp_path, "results1")]), Question(within=0.1))
    made = [
        Made(1, scaled(CA, 0.95), -1.0),
        Made(2, NI, -4.0),
        Made(3, scaled(B1, 0.95), -6.0),
        Made(4, scaled(B2, 0.95), -5.9),
    ]
    high = assess(Pool([search(tmp_path, made, "results2", 100.0)]), Question(within=0.1))
    seeds = choose([low, high], None)
    assert [(Path(s.entry.run).name, s.entry.id) for s in seeds] == [
        ("results1", 3),
        ("results1", 1),
        ("results1", 2),
        ("results2", 3),
        ("results2", 1),
        ("results2", 2),
    ]
    assert len(choose([low, high], 2)) == 2
    text = format_seeds(seeds, ("Ni", "Ca"))
    path = tmp_path / "Seeds" / "POSCARS"
    write_seeds(path, text)
    read = read_structures(path)
    assert [s.formula for s in read] == ["CaNi", "Ca", "Ni", "CaNi", "Ca", "Ni"]
    np.testing.assert_allclose(read[0].cell, B2.cell.array, atol=1e-8)
    assert read[0].comment.startswith("EA3 CaNi 0.0000 eV/atom above the hull at 50 GPa")
    for block in text.split("EA")[1:]:  # what USPEX's own reader needs
        lines = block.splitlines()
        assert lines[1] == "1.0000"
        assert lines[5].split()[0].isalpha()
        assert lines[7] == "Direct"
        assert all(len(line.split()) == 3 for line in lines[8:])
    with pytest.raises(InputError, match="--force"):
        write_seeds(path, "other")
    write_seeds(path, "other", force=True)
    assert path.read_text() == "other"


def test_seeds_that_do_not_fit_are_left_out(tmp_path):
    seeds = choose([assess(Pool([small_search(tmp_path)]), Question(within=0.1))], None)
    fitting, notes = fit_for(seeds, ("Ca",), ())
    assert [s.entry.id for s in fitting] == [1]
    assert notes == ["3 left out: they have elements other than Ca"]
    fitting, notes = fit_for(seeds, ("Ca", "Ni"), [parse_formula("CaNi"), parse_formula("Ca2")])
    assert [s.entry.id for s in fitting] == [3, 4]
    assert notes == ["2 left out: not made of whole blocks of the search"]


def test_the_search_that_gets_the_seeds_says_its_elements(tmp_path):
    assert settings_of_input(tmp_path).species == ()
    (tmp_path / "INPUT.txt").write_text("% atomType\nCa Fe\n% EndAtomType\n% numSpecies\n1 0\n0 1\n% EndNumSpecies\n")
    found = settings_of_input(tmp_path)
    assert (found.species, found.blocks) == (("Ca", "Fe"), ((1, 0), (0, 1)))
    (tmp_path / "INPUT.txt").unlink()
    (tmp_path / "input.uspex").write_text(
        "{optimizer: {target: {conditions: {externalPressure: 20}\n"
        "compositionSpace: {symbols: [Ca Fe] blocks: [[1 1]]}}}}\n"
    )
    found = settings_of_input(tmp_path)
    assert (found.species, found.blocks, found.pressure_gpa) == (("Ca", "Fe"), ((1, 1),), 20.0)


def murnaghan(bulk_modulus: float, volume: float):
    """A model whose pressure is Murnaghan's, K' = 4."""

    def stress(structure: Structure) -> np.ndarray:
        pressure = bulk_modulus / 4 * ((volume / structure.volume) ** 4 - 1)
        return np.array([-gpa_to_ev_a3(pressure)] * 3 + [0.0] * 3)

    return stress


@pytest.mark.parametrize("bulk_modulus", [20.0, 200.0, 450.0])
@pytest.mark.parametrize("pressure", [0.0, 100.0, 400.0])
def test_scaling_to_a_pressure(bulk_modulus, pressure):
    start = as_structure(B2)
    found = at_new_pressure(start, murnaghan(bulk_modulus, start.volume * 1.1), pressure)
    expected = start.volume * 1.1 * (1 + 4 * pressure / bulk_modulus) ** -0.25
    assert found.volume == pytest.approx(expected, rel=0.012)
    np.testing.assert_array_equal(found.scaled, start.scaled)


def test_scaling_that_finds_no_volume():
    with pytest.raises(CalculationError, match="no volume for 100 GPa"):
        at_new_pressure(as_structure(B2), lambda structure: np.zeros(6), 100.0)
    with pytest.raises(CalculationError):
        at_new_pressure(as_structure(B2), lambda structure: np.full(6, np.nan), 100.0)


def test_crystals():
    found = describe(as_structure(WURTZ))
    assert (found.symbol, found.number, found.system) == ("P6_3mc", 186, "hexagonal")
    assert found.lattice == pytest.approx((4.0, 4.0, 6.5, 90, 90, 120))
    assert [(site.element, site.wyckoff) for site in found.sites] == [("Ca", "2b"), ("Ni", "2b")]
    primitive = describe(as_structure(B1))
    assert (primitive.atoms, primitive.system, primitive.lattice[0]) == (8, "cubic", pytest.approx(5.0))
    assert sorted(site.wyckoff for site in primitive.sites) == ["4a", "4b"]
    assert describe(as_structure(Atoms("Ca", cell=[3, 3.1, 3.2], pbc=True))).system == "orthorhombic"


def test_a_database_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def full(*about, **more):
        raise sqlite3.OperationalError("database or disk is full")

    results = small_search(tmp_path)
    (tmp_path / "out.db").write_text("old")
    monkeypatch.setattr(ase.db.sqlite.SQLite3Database, "_write", full)
    with pytest.raises(OutputError, match=r"out.db: cannot be written: database or disk is full"):
        export(Pool([results]), list(results.entries), tmp_path / "out.db", "db")
    assert (tmp_path / "out.db").read_text() == "old"
    assert not list(tmp_path.glob(".new*"))


def test_exports(tmp_path):
    results = small_search(tmp_path)
    pool = Pool([results])
    entries = [results.by_id[3], results.by_id[1]]
    count = export(pool, entries, tmp_path / "out.extxyz", "extxyz")
    images = ase.io.read(tmp_path / "out.extxyz", ":")
    assert count == len(images) == 2
    assert images[0].info["enthalpy"] == -8.0
    assert images[0].get_potential_energy() == pytest.approx(results.by_id[3].energy, abs=1e-6)
    export(pool, entries, tmp_path / "out.db", "db")
    rows = list(ase.db.connect(tmp_path / "out.db").select(origin="Random"))
    assert [row.uspex_id for row in rows] == [3, 1]
    assert rows[0].toatoms().get_volume() == pytest.approx(B2.get_volume(), abs=1e-4)
    export(pool, entries, tmp_path / "POSCARS", "poscar")
    assert [s.formula for s in read_structures(tmp_path / "POSCARS")] == ["CaNi", "Ca"]
    export(pool, entries, tmp_path / "out.cif", "cif", symprec=0.01)
    cifs = ase.io.read(tmp_path / "out.cif", ":")
    assert [atoms.info["spacegroup"].no for atoms in cifs] == [221, 225]
    assert [atoms.get_chemical_formula() for atoms in cifs] == ["CaNi", "Ca4"]
    export(pool, entries, tmp_path / "out.csv", "csv")
    with (tmp_path / "out.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["id"], row["formula"], row["enthalpy"]) for row in table] == [
        ("3", "CaNi", "-8.0"),
        ("1", "Ca", "-2.0"),
    ]
    assert [(row["space_group"], row["space_group_symbol"]) for row in table] == [("221", "Pm-3m"), ("225", "Fm-3m")]
    assert "above_hull" not in table[0]
    hull, why = hull_of(pool, Question(within=0.0, method="none"))
    assert not why
    export(pool, entries, tmp_path / "out.csv", "csv", hull=hull, symprec=0.0)
    with (tmp_path / "out.csv").open() as stream:
        table = list(csv.DictReader(stream))
    for row, entry in zip(table, entries, strict=True):
        assert float(row["above_hull"]) == pytest.approx(hull.by_name[entry.name].above, abs=1e-6)
        assert float(row["formation_enthalpy"]) == pytest.approx(hull.by_name[entry.name].formation, abs=1e-6)
    alone = pool.only([results.by_id[3]])
    none, why = hull_of(alone, Question(components=("Ca", "Ni")))
    assert (none, "no entry of pure Ca" in why) == (None, True)
    (tmp_path / "many").mkdir()
    assert export(pool, entries, tmp_path / "many", "cif") == 2
    assert {path.name for path in (tmp_path / "many").iterdir()} == {"EA3_CaNi_Pm-3m.cif", "EA1_Ca_Fm-3m.cif"}
    assert ase.io.read(tmp_path / "many" / "EA3_CaNi_Pm-3m.cif").info["spacegroup"].no == 221
    with pytest.raises(ConfigError, match=r"EA3_CaNi_Pm-3m.cif and 1 more: exists; --force overwrites"):
        export(pool, entries, tmp_path / "many", "cif", overwrite=False)
    export(pool, entries, tmp_path / "many", "poscar", symprec=0.0)
    assert (tmp_path / "many" / "EA3_CaNi_P1.vasp").is_file()
    export(pool, entries, tmp_path / "raw.extxyz", "extxyz", unrelaxed=True)
    raw = ase.io.read(tmp_path / "raw.extxyz", ":")
    assert raw[0].calc is None
    assert "enthalpy" not in raw[0].info


def test_parquet_says_what_it_needs(tmp_path):
    results = small_search(tmp_path)
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(ModuleNotFoundError):
            export(Pool([results]), results.entries, tmp_path / "out.parquet", "parquet")
        assert list(tmp_path.glob("*out*")) == []
    else:
        import pyarrow.parquet

        export(Pool([results]), results.entries, tmp_path / "out.parquet", "parquet")
        rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
        assert [row["name"] for row in rows] == [entry.name for entry in results.entries]
        assert [row["enthalpy"] for row in rows] == [entry.enthalpy for entry in results.entries]


def test_formats_by_name():
    assert format_of(Path("a.extxyz")) == "extxyz"
    assert format_of(Path("Seeds/POSCARS")) == "poscar"
    assert format_of(Path("x.dat"), "cif") == "cif"
    assert set(FORMATS) == {"extxyz", "db", "cif", "poscar", "csv", "parquet"}
    with pytest.raises(ConfigError, match="unknown format"):
        format_of(Path("x.dat"))


def test_ranks_that_are_all_the_same_have_no_correlation():
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)
    assert math.isnan(rank_correlation([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]))
    assert math.isnan(rank_correlation([1.0, 2.0], [1.0, 2.0]))


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_hole_of_either_model_has_no_part_in_the_comparison_of_two(tmp_path, side):
    """It would be a corner of its hull, and everything else would be measured from it."""
    results = small_search(tmp_path)
    hole = replace(results.by_id[3], enthalpy=-30.0, dense=True)
    before = [hole if entry.id == 3 and side == "before" else entry for entry in results.entries]
    after = [hole if entry.id == 3 and side == "after" else entry for entry in results.entries]
    again = [Again(old, new) for old, new in zip(before, after, strict=True)]
    verdict = compare_rankings(Pool([results]), again, Question())
    assert hole.name not in {change.entry.name for change in verdict.changes}
    assert all(hole.name not in hull.by_name for hull in verdict.hulls)
    assert max(abs(change.shift) for change in verdict.changes) < 1e-9
    (said,) = verdict.warnings
    assert said.startswith(("first" if side == "before" else "new") + " model: 1 structure in holes of the model")
    taken = compare_rankings(Pool([results]), again, Question(with_holes=True))
    assert hole.name in {change.entry.name for change in taken.changes}
    assert not taken.warnings
