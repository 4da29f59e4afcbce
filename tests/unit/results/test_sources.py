import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from results_making import Made, write_matlab

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.call import record_file
from uspex_bridge.results.reading.convert import to_ase, to_pymatgen_entry
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.model import Pool
from uspex_bridge.results.reading.sources import open_sources, read_reference


def with_energy(atoms: Atoms, energy: float, **info) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    atoms.info |= info
    return atoms


NI, CA = bulk("Ni", "fcc", 3.5), bulk("Ca", "fcc", 5.5)


def test_extxyz_energies_are_e_and_enthalpies_h(tmp_path):
    path = tmp_path / "refs.extxyz"
    ase.io.write(
        path,
        [
            with_energy(NI, -5.5, material_id="mp-23", level="PBE"),
            with_energy(NI, -5.5, pressure_gpa=50.0),
            with_energy(NI, -5.5, pressure_GPa=50.0, enthalpy=-2.0),
            NI,
        ],
    )
    refs = read_reference(path)
    first, second, third, bare = refs.entries
    assert (first.enthalpy, first.pressure_gpa, first.level) == (-5.5, 0.0, "PBE")
    assert refs.names[1] == "mp-23"
    assert second.enthalpy == pytest.approx(-5.5 + pv_energy(50.0, NI.get_volume()))
    assert (third.enthalpy, third.pressure_gpa) == (-2.0, 50.0)
    assert not bare.valid
    assert "1 of 4 structures have no energy" in refs.notes[0]
    assert len(list(refs.structures(refs.entries))) == 4


def test_a_table_of_cifs(tmp_path):
    ase.io.write(tmp_path / "ni.cif", NI)
    ase.io.write(tmp_path / "ca.vasp", CA)
    table = tmp_path / "refs.csv"
    table.write_text("file,energy,pressure_gpa,level,name\nni.cif,-5.5,50,PBE,nickel\nca.vasp,-2.0,,,\n")
    refs = read_reference(table)
    assert refs.names == {1: "nickel", 2: "ca"}
    assert refs.entries[0].enthalpy == pytest.approx(-5.5 + pv_energy(50, NI.get_volume()), abs=1e-4)
    assert (refs.entries[1].enthalpy, refs.entries[1].pressure_gpa) == (-2.0, 0.0)
    table.write_text("file,energy\nni.cif,low\n")
    with pytest.raises(InputError, match=r"refs.csv, line 2: energy = 'low' is not a number"):
        read_reference(table)
    table.write_text("name,energy\nni.cif,1\n")
    with pytest.raises(InputError, match="needs the columns file and energy"):
        read_reference(table)


def optimade(number: int, atoms: Atoms, **more) -> dict:
    return {
        "id": f"agm{number}",
        "type": "structures",
        "attributes": {
            "lattice_vectors": atoms.cell.tolist(),
            "cartesian_site_positions": atoms.positions.tolist(),
            "species_at_sites": atoms.get_chemical_symbols(),
            "species": [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in set(atoms.symbols)],
            **more,
        },
    }


def test_optimade(tmp_path):
    cani = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.4, 0.5]], cell=[3, 3.1, 4], pbc=True)
    disordered = optimade(3, NI)
    disordered["attributes"]["species"] = [
        {"name": "Ni", "chemical_symbols": ["Ni", "Fe"], "concentration": [0.5, 0.5]}
    ]
    path = tmp_path / "refs.json"
    documents = [
        optimade(1, cani, _alexandria_energy=-8.0, _alexandria_energy_corrected=-9.0, _alexandria_hull_distance=0.0),
        optimade(2, cani, _mcloud_energy_per_atom=-4.0),
        disordered,
        optimade(4, NI),
    ]
    path.write_text(json.dumps({"data": documents, "meta": {}}))
    refs = read_reference(path)
    assert [entry.enthalpy for entry in refs.entries[:2]] == [-8.0, -8.0]
    assert [entry.level for entry in refs.entries] == ["alexandria", "mcloud", ""]
    assert refs.names[1] == "agm1"
    np.testing.assert_allclose(refs.held[1].scaled, cani.get_scaled_positions(), atol=1e-12)
    assert "document 3 is left out" in refs.notes[0]
    assert "disordered" in refs.notes[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"species": [{"name": "Ni", "chemical_symbols": ["Ni"], "concentration": [0.5]}]}, "site Ni is disordered"),
        (
            {"species": [{"name": "Ni", "chemical_symbols": ["Ni"], "concentration": [1.0], "attached": ["H"]}]},
            "without",
        ),
        ({"nperiodic_dimensions": 2}, "not periodic in three dimensions"),
        ({"dimension_types": [1, 1, 0]}, "not periodic in three dimensions"),
    ],
)
def test_an_optimade_structure_that_is_no_ordered_crystal_is_left_out(tmp_path, change, said):
    document = optimade(1, NI)
    document["attributes"] |= change
    (tmp_path / "x.json").write_text(json.dumps({"data": [document]}))
    with pytest.raises(InputError, match=said):
        read_reference(tmp_path / "x.json")


def test_a_document_whose_formula_its_atoms_contradict_is_noted(tmp_path):
    document = optimade(1, NI)
    document["attributes"]["chemical_formula_reduced"] = "NiO"
    (tmp_path / "x.json").write_text(json.dumps({"data": [document]}))
    assert any("it is called NiO and its atoms are Ni" in note for note in read_reference(tmp_path / "x.json").notes)


def test_materials_project_documents(tmp_path):
    from pymatgen.core import Structure
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    structure = Structure(NI.cell.array, ["Ni"], [[0, 0, 0]])
    entry = ComputedStructureEntry(
        structure, -5.7, correction=-0.3, entry_id="mp-23-GGA", parameters={"run_type": "GGA"}
    )
    documents = [
        entry.as_dict(),
        {
            "material_id": "mp-23",
            "structure": structure.as_dict(),
            "energy_per_atom": -9,
            "uncorrected_energy_per_atom": -5.7,
        },
        {"material_id": "mp-24", "structure": structure.as_dict()},
        {"material_id": "mp-25"},
    ]
    path = tmp_path / "mp.json"
    path.write_text(json.dumps(documents))
    refs = read_reference(path)
    assert [e.enthalpy for e in refs.entries[:2]] == [-5.7, -5.7]
    assert [e.level for e in refs.entries] == ["Materials Project GGA", "Materials Project", "Materials Project"]
    assert not refs.entries[2].valid
    assert "document 4 is left out: KeyError: 'structure'" in refs.notes[0]


def test_files_that_are_no_references(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_reference(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_reference(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('[{"id": 1}]')
    with pytest.raises(InputError, match="no structure in it can be used"):
        read_reference(tmp_path / "b.json")
    (tmp_path / "c.xyz").write_text("1\nno cell\nNi 0 0 0\n")
    with pytest.raises(InputError, match="no cell in three dimensions"):
        read_reference(tmp_path / "c.xyz")


def test_levels_are_given_to_what_states_none(tmp_path):
    folder = write_matlab(tmp_path / "results1", [Made(1, NI, -5.5)], ("Ca", "Ni"))
    refs = tmp_path / "refs.extxyz"
    ase.io.write(refs, [with_energy(NI, -5.5, level="PBE"), with_energy(CA, -2.0)])
    places = [str(folder), str(refs)]
    assert [e.level for e in open_sources(places).entries] == ["", "PBE", ""]
    assert [e.level for e in open_sources(places, ["mace"]).entries] == ["mace", "PBE", "mace"]
    assert [e.level for e in open_sources(places, ["mace", f"{refs}=r2SCAN"]).entries] == ["mace", "r2SCAN", "r2SCAN"]
    with pytest.raises(ConfigError, match="not one of the places"):
        open_sources(places, ["elsewhere=PBE"])
    with pytest.raises(InputError, match="given twice"):
        open_sources([str(folder), str(folder)])


def test_a_relaxed_folder_is_its_record(tmp_path):
    atoms = NI
    fields = {
        "index": 4,
        "label": "EA12 whatever",
        "enthalpy": -4.0,
        "energy": -5.0,
        "pressure_gpa": 20.0,
        "status": "converged",
        "stages": [{"calculator": "toy"}],
        "models": {"toy": {"kind": "toy"}},
        "output": {"symbols": ["Ni"], "cell": atoms.cell.tolist(), "scaled": [[0, 0, 0]]},
    }
    (tmp_path / record_file.FILENAME).write_text(json.dumps({"status": "failed"}) + "\n" + json.dumps(fields) + "\n")
    pool = open_sources([str(tmp_path)])
    (entry,) = pool.entries
    assert (entry.id, entry.enthalpy, entry.energy, entry.pressure_gpa, entry.level) == (12, -4.0, -5.0, 20.0, "toy")
    assert pool.sources[str(tmp_path)].names == {12: "EA12"}
    assert pool.structure(entry).volume == pytest.approx(atoms.get_volume())


def test_ase_and_pymatgen(tmp_path):
    cell = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.4, 0.5]], cell=[3, 3.1, 4], pbc=True)
    folder = write_matlab(tmp_path / "results1", [Made(1, cell, -7.5), Made(2, cell, -7.4)], ("Ca", "Ni"), 50.0)
    forces = [[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]]
    line = {
        "enthalpy": -7.5,
        "energy": -19.1,
        "volume": cell.get_volume(),
        "pressure_gpa": 50.0,
        "status": "converged",
        "stages": [{"calculator": "toy"}],
        "models": {"toy": {"kind": "toy"}},
        "output": {
            "symbols": ["Ca", "Ni"],
            "cell": cell.cell.tolist(),
            "scaled": cell.get_scaled_positions().tolist(),
            "forces": forces,
            "stress": [0.1] * 6,
        },
    }
    (tmp_path / record_file.FILENAME).write_text(json.dumps(line) + "\n")
    results = open_results(folder, "run")
    pool = Pool([results])
    first, second = results.entries
    structure = pool.structure(first)
    atoms = to_ase(first, structure, jsonl.read_at(results.record, first.record.offset))
    assert atoms.get_potential_energy() == pytest.approx(-19.1)
    np.testing.assert_allclose(atoms.get_forces(), forces)
    assert atoms.info["enthalpy"] == -7.5
    assert atoms.info["name"] == "run:EA1"
    turned = dict(line, output=dict(line["output"], scaled=[[0.5, 0, 0], [0, 0.4, 0.5]]))
    assert "forces" not in to_ase(first, structure, turned).calc.results
    plain = to_ase(second, structure)
    assert plain.get_potential_energy() == pytest.approx(-7.4 - pv_energy(50.0, cell.get_volume()), abs=1e-3)
    made = to_pymatgen_entry(first, structure)
    assert (made.energy, made.entry_id, made.composition.reduced_formula) == (-7.5, "run:EA1", "CaNi")
    assert to_pymatgen_entry(second, structure).entry_id != made.entry_id


def test_every_structure_of_gathered_poscars_is_read(tmp_path):
    path = tmp_path / "gatheredPOSCARS"
    poscar = "{}\n1.0\n{a} 0 0\n0 {a} 0\n0 0 {a}\n{symbol}\n1\ndirect\n0 0 0\n"
    path.write_text(poscar.format("EA1 Ni", a=2.5, symbol="Ni") + poscar.format("EA2 Ca", a=3.5, symbol="Ca"))
    refs = read_reference(path)
    assert [refs.names[entry.id] for entry in refs.entries] == ["EA1", "EA2"]
    assert [structure.formula for _, structure in refs.structures(refs.entries)] == ["Ni", "Ca"]
    assert not any(entry.valid for entry in refs.entries)


def test_a_dataset_of_labels_is_ranked_by_e0_and_not_by_f(tmp_path):
    from uspex_bridge.learn.data.dataset import Dataset
    from uspex_bridge.learn.data.labels import Level

    frames = []
    for k, (symbol, pressure) in enumerate([("Fe", 50.0), ("Ni", None), ("Ca", 0.0)]):
        atoms = Atoms(f"{symbol}2", [[0, 0, 0], [1.4, 1.4, 1.4]], cell=np.eye(3) * (2.8 + 0.1 * k), pbc=True)
        results = {"energy": -3.0 - k, "free_energy": -3.4 - k, "forces": np.zeros((2, 3)), "stress": np.zeros(6)}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info = {"origin": f"EA{k}", **({} if pressure is None else {"pressure_gpa": pressure})}
        frames.append(atoms)
    dataset = Dataset.create(tmp_path / "d")
    dataset.add(frames[:2], generation=0, level=Level("vasp", "PBE", "abc"))
    dataset.add(frames[2:], generation=1, level=Level("vasp", "PBE", "abc"))
    pool = open_sources([str(tmp_path / "d")])
    first, second, third = pool.entries
    volume = frames[0].get_volume()
    assert first.enthalpy == pytest.approx(-3.0 + pv_energy(50.0, volume))
    assert (first.energy, first.pressure_gpa, first.level) == (pytest.approx(-3.0), 50.0, "vasp PBE abc")
    assert (second.enthalpy, second.pressure_gpa) == (pytest.approx(-4.0), 0.0)
    assert third.generation == 1
    assert [structure.formula for _, structure in pool.structures()] == ["Fe2", "Ni2", "Ca2"]
    next((tmp_path / "d").glob("generation-001*.extxyz")).unlink()
    with pytest.raises(InputError, match="generation-001"):
        open_sources([str(tmp_path / "d")])
