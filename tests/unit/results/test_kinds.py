"""Results folders that are no ordinary search for crystals, and files that contradict each other."""

import gzip
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from results_making import Made, poscar, write_matlab, write_python

from uspex_bridge.base.errors import InputError
from uspex_bridge.results.hulls.converged import history
from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.model import Pool
from uspex_bridge.results.reading.sources import read_reference, read_relaxed

CA, NI = bulk("Ca", "fcc", 5.0), bulk("Ni", "fcc", 3.3)
CANI = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.9] * 3, pbc=True)
MADE = [Made(1, CA, -2.0), Made(2, NI, -5.0), Made(3, CANI, -8.0), Made(4, CANI, -7.9)]


def say_kind(folder: Path, calculation: str, method: str = "USPEX") -> None:
    path = folder / "Parameters.txt"
    text = path.read_text().replace("301 : calculationType", f"{calculation} : calculationType")
    path.write_text(f"{method} : calculationMethod\n{text}")


@pytest.mark.parametrize("calculation", ["200", "201", "s200", "S201"])
def test_surfaces_have_no_hull_per_atom(tmp_path, calculation):
    folder = write_matlab(tmp_path / "results1", MADE, ("Ca", "Ni"), 0.0)
    say_kind(folder, calculation)
    results = open_results(folder)
    assert results.settings.describe() == "surfaces"
    assert results.by_id[3].row()["enthalpy_per_atom"] is None
    assert results.by_id[3].row()["enthalpy"] == -8.0
    for ask in (lambda: assess(Pool([results]), Question()), lambda: history(results, [], Question())):
        with pytest.raises(InputError, match=f"surfaces .calculationType {calculation[-3:]}.*substrate"):
            ask()


def test_clusters_of_several_compositions_have_no_hull_per_atom(tmp_path):
    folder = write_matlab(tmp_path / "results1", MADE, ("Ca", "Ni"), 0.0)
    say_kind(folder, "001")
    with pytest.raises(InputError, match="clusters .calculationType 001"):
        assess(Pool([open_results(folder)]), Question())


@pytest.mark.parametrize("method", ["VCNEB", "MINHOP", "TPS"])
def test_paths_have_no_hull(tmp_path, method):
    folder = write_matlab(tmp_path / "results1", MADE, ("Ca", "Ni"), 0.0)
    say_kind(folder, "300", method)
    with pytest.raises(InputError, match=method):
        assess(Pool([open_results(folder)]), Question())


def test_output_tells_the_kind_where_the_input_does_not(tmp_path):
    folder = write_matlab(tmp_path / "results1", MADE, ("Ca", "Ni"), 0.0)
    (folder / "Parameters.txt").unlink()
    (folder / "OUTPUT.txt").write_text(
        "                        Dimensionality  :   2\n                        Molecular       :   0 (1:Yes, 0,No)\n"
        "                   Variable Composition :   1 (1:Yes, 0,No)\n"
        "    There are 2 types of atoms in the system:    Ca   Ni\n"
    )
    assert open_results(folder).settings.calculation == "201"


@pytest.mark.parametrize("counts", ["[     4     ]", "[     4 16  ]"])
def test_molecules_may_be_counted_instead_of_atoms(tmp_path, counts):
    """Composition is that of the atoms in gatheredPOSCARS, and nothing is contradicted by it."""
    rng = np.random.default_rng(0)
    crystals = [Atoms("C4H16", scaled_positions=rng.random((20, 3)), cell=[5.0, 5.1, 5.2], pbc=True) for _ in range(2)]
    made = [Made(k, atoms, -80.0 - k, fitness=-80.0 - k) for k, atoms in enumerate(crystals, 1)]
    folder = write_matlab(tmp_path / "results1", made, ("C", "H"), 20.0)
    say_kind(folder, "310")
    path = folder / "Individuals"
    path.write_text(path.read_text().replace("[     4 16  ]", counts))
    results = open_results(folder)
    assert results.notes == []
    assert results.settings.describe() == "molecular crystals"
    answer = assess(Pool([results]), Question())
    assert answer.hull.names == ("CH4",)
    assert [p.entry.id for p in answer.phases] == [2, 1]
    assert answer.phases[0].entry.enthalpy_per_atom == pytest.approx(-4.1)


def metadynamics(folder: Path, *, relaxed: bool, supercells: bool) -> Path:
    """Files of USPEX's metadynamics: no origins, enthalpies and volumes per atom; the relaxed ones beside."""
    folder.mkdir(parents=True)
    (folder / "Parameters.txt").write_text("META : calculationMethod\n301 : calculationType\n20 : ExternalPressure\n")
    name = "SuperCell   " if supercells else "Composition "
    head = f"Gen   ID   {name} Enthalpy(eV/atom)  Volume(A^3/atom)  KPOINTS  SYMMETRY\n"
    mgo = bulk("MgO", "rocksalt", 4.26, cubic=True)
    strained, big = mgo.copy(), mgo * (2, 1, 1)
    strained.set_cell(mgo.cell.array * [1.02, 1, 1], scale_atoms=True)
    for ending, rows in {
        "": [(mgo, -20.40), (strained, -20.35), (big, -20.37)],
        "_relaxed": [(mgo, -20.43), (big, -20.4312)],
    }.items():
        if ending and not relaxed:
            continue
        text, gathered = head, ""
        for k, (atoms, h) in zip((1, 2, 3) if not ending else (1, 3), rows, strict=True):
            cell = "[   2  1  1 ]" if len(atoms) > 8 else "[   1  1  1 ]"
            counts = cell if supercells else f"[{atoms.symbols.count('Mg'):6d} {atoms.symbols.count('O'):2d}  ]"
            text += (
                f"{k // 2:3d} {k:4d}  {counts} {h:14.4f}  {atoms.get_volume() / len(atoms):14.4f}     [ 1  1  1]  225\n"
            )
            gathered += poscar(atoms, ("Mg", "O"), f"EA{k} Sym.group: 225")
        (folder / f"Individuals{ending}").write_text(text)
        (folder / f"gatheredPOSCARS{ending}").write_text(gathered)
    (folder / "enthalpies_complete.dat").write_text("-20.000 -20.400\n" * 3)
    return folder


@pytest.mark.parametrize("supercells", [False, True])
def test_metadynamics_is_read_where_it_relaxed(tmp_path, supercells):
    results = open_results(metadynamics(tmp_path / "results1", relaxed=True, supercells=supercells))
    assert results.notes == []
    assert results.settings.describe() == "metadynamics"
    assert [(e.id, e.formula, e.generation) for e in results.entries] == [(1, "Mg4O4", 0), (3, "Mg8O8", 1)]
    assert [e.enthalpy_per_atom for e in results.entries] == pytest.approx([-20.43, -20.4312])
    assert [e.enthalpy for e in results.entries] == pytest.approx([-20.43 * 8, -20.4312 * 16])
    answer = assess(Pool([results]), Question())
    assert [[e.id for e in phase.members] for phase in answer.phases] == [[3, 1]]


def test_metadynamics_without_relaxed_structures_says_so(tmp_path):
    results = open_results(metadynamics(tmp_path / "results1", relaxed=False, supercells=False))
    assert len(results.entries) == 3
    assert len(results.notes) == 1
    assert "cells are strained" in results.notes[0]


@pytest.mark.parametrize("number", [999.0, 1000.0, 9999.0, 10000.0, 99999.0, 100000.0])
@pytest.mark.parametrize("writer", [write_matlab, write_python])
def test_numbers_that_stand_for_a_failure_are_no_enthalpies(tmp_path, writer, number):
    made = [*MADE, Made(5, CANI * (2, 1, 1), number)]
    results = open_results(writer(tmp_path / "results1", made, ("Ca", "Ni"), 50.0))
    assert [entry.valid for entry in results.entries] == [True] * 4 + [False]
    assert 5 not in {point.entry.id for point in assess(Pool([results]), Question()).hull.points}
    near = [*MADE, Made(5, CANI, number + 0.123 if number < 9e4 else 89000.0)]
    assert open_results(writer(tmp_path / "results2", near, ("Ca", "Ni"), 50.0)).by_id[5].valid


@pytest.mark.parametrize("writer", [write_matlab, write_python])
def test_a_composition_that_the_structure_contradicts(tmp_path, writer):
    folder = writer(tmp_path / "results1", MADE, ("Ca", "Ni"), 50.0)
    path = folder / "gatheredPOSCARS"
    blocks = path.read_text().split("EA")
    more = Atoms("CaNi3", [*CANI.positions.tolist(), [1, 0, 0], [0, 1, 0]], cell=CANI.cell)
    blocks[3] = poscar(more, ("Ca", "Ni"), "3")
    path.write_text("EA".join(blocks))
    results = open_results(folder)
    assert results.notes == [f"{path}: EA3 is CaNi in Individuals and CaNi3 there; it is left out"]
    answer = assess(Pool([results]), Question())
    assert [point.entry.id for point in answer.hull.vertices] == [1, 4, 2]


def test_a_volume_that_the_structure_contradicts(tmp_path):
    """The structures of another run."""
    folder = write_matlab(tmp_path / "results1", MADE, ("Ca", "Ni"), 50.0)
    path = folder / "gatheredPOSCARS"
    path.write_text(path.read_text().replace(f"{CANI.cell[0, 0]:13.8f}", f"{3.2:13.8f}"))
    results = open_results(folder)
    assert [note.split(": ")[1].split(";")[0] for note in results.notes] == [
        "EA3 is of 24.389 Å³ in Individuals and of 32.768 Å³ there",
        "EA4 is of 24.389 Å³ in Individuals and of 32.768 Å³ there",
    ]
    assert [entry.valid for entry in results.entries] == [True, True, False, False]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("CaNi", ""),
        ("Ca2Ni2 B2", ""),
        ("CaNi5-CaCu5", "CaNi5"),
        ("CaNi-CaCu5 relaxed", ""),
        ("Ca3Ni5", "Ca3Ni5"),
        ("mp-1234 Ca3Ni5", "Ca3Ni5"),
        ("MgO", "MgO"),
        ("a crystal like MgO", ""),
        ("HCP", ""),
        ("POSCAR from USPEX", ""),
    ],
)
def test_a_label_that_the_atoms_contradict_is_noted(tmp_path, label, said):
    path = tmp_path / "known.extxyz"
    atoms = CANI.copy()
    atoms.info["name"] = label
    ase.io.write(path, atoms)
    notes = [note for note in read_reference(path).notes if "it is called" in note]
    assert notes == ([f"{path}, structure 1: it is called {said} and its atoms are CaNi"] if said else [])
    symbols, scaled = CANI.get_chemical_symbols(), CANI.get_scaled_positions().tolist()
    output = {"symbols": symbols, "cell": CANI.cell.tolist(), "scaled": scaled}
    line = {"label": label, "status": "converged", "enthalpy": -8.0, "volume": 24.4, "output": output}
    (tmp_path / "bridge.record").write_text(json.dumps(line) + "\n")
    assert len(read_relaxed(tmp_path).notes) == bool(said)


@pytest.mark.parametrize(("method", "hull"), [("uspex", True), ("Pso", True), ("vcneb", False), ("Minhop", False)])
def test_the_method_is_known_in_any_case(tmp_path, method, hull):
    folder = write_matlab(tmp_path / "results1", MADE, ("Ca", "Ni"), 0.0)
    say_kind(folder, "301", method)
    assert bool(open_results(folder).settings.no_hull) != hull


@pytest.mark.parametrize("spoil", [gzip.compress, lambda data: data.decode().encode("utf-16")])
def test_a_table_that_is_no_text_is_said_to_be_none(tmp_path, spoil):
    folder = write_matlab(tmp_path / "results1", MADE, ("Ca", "Ni"), 0.0)
    (folder / "Individuals").write_bytes(spoil((folder / "Individuals").read_bytes()))
    with pytest.raises(InputError, match="Individuals: not a text in UTF-8; it may be compressed"):
        open_results(folder)
