"""uspex-bridge-external for abinitioCode 20: input.xyz in, output.xyz out, every atom in its place."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from calling import TOY, call

from uspex_bridge.base import jsonl

#: Nothing is in order here: neither elements nor places, and one atom lies outside the cell.
SYMBOLS = ["Ni", "Ca", "Fe", "Ca", "Ni", "Fe"]


def crystal() -> Atoms:
    places = [[0.02, 0, 0], [0.5, 0.5, 0.02], [-0.48, 0, 0.33], [0, 0.48, 0.35], [0.02, 0, 0.67], [0.5, 1.5, 0.66]]
    cell = [[4.3, 0.1, 0], [0, 4.4, 0.2], [0.1, 0, 6.1]]
    return Atoms(SYMBOLS, scaled_positions=places, cell=cell, pbc=True)


def make(tmp_path, atoms=None, *, text=None, settings="", name="Calculation/Calcfold_7_1"):
    fold = tmp_path / name
    fold.mkdir(parents=True)
    if text is not None:
        (fold / "input.xyz").write_text(text)
    elif atoms is not None:
        write(fold / "input.xyz", atoms, format="extxyz")
    (tmp_path / "bridge.toml").write_text('protocol = "single"\n' + TOY + settings)
    return fold


def run(fold, *args):
    return call(fold, *args, executable="uspex-bridge-external")


def outcome(tmp_path):
    return list(jsonl.read(tmp_path / "bridge.record"))


def test_order_energy_and_record(tmp_path):
    start = crystal()
    fold = make(tmp_path, start)
    (fold / "output.xyz").write_text("stale")
    done = run(fold, "--pressure", "50")
    assert done.returncode == 0, done.stderr
    atoms = read(fold / "output.xyz")
    (entry,) = outcome(tmp_path)
    assert atoms.get_chemical_symbols() == SYMBOLS
    assert atoms.pbc.all()
    assert atoms.get_potential_energy() == pytest.approx(entry["enthalpy"], abs=1e-8)
    assert entry["enthalpy"] - entry["energy"] == pytest.approx(50 * atoms.get_volume() / 160.21766208, abs=1e-6)
    assert atoms.get_forces().shape == (6, 3)
    assert -atoms.get_stress()[:3].mean() * 160.21766208 == pytest.approx(50, abs=1)
    assert (entry["id"], entry["step"], entry["slot"]) == (7, "1", "Calcfold_7_1")
    assert (entry["pressure_gpa"], entry["isif"]) == (50, 3)
    assert sorted(path.name for path in fold.iterdir()) == [".bridge.lock", "bridge.log", "input.xyz", "output.xyz"]


def test_atoms_stay_where_they_are_so_that_molecules_stay_whole(tmp_path):
    """No atom is wrapped to the other side of the cell: it moves by less than half of it."""
    start = crystal()
    fold = make(tmp_path, start, settings='[external]\ntags = ["ISIF = 2"]\n')
    assert run(fold).returncode == 0
    moved = read(fold / "output.xyz").positions - start.positions
    assert np.linalg.norm(moved, axis=1).max() < 2.0
    outside = read(fold / "output.xyz").get_scaled_positions(wrap=False)
    assert outside[2, 0] < 0
    assert outside[5, 1] > 1


def test_energy_is_a_setting(tmp_path):
    fold = make(tmp_path, crystal(), settings='[external]\nenergy = "energy"\npressure = 20.0\n')
    assert run(fold).returncode == 0
    atoms, (entry,) = read(fold / "output.xyz"), outcome(tmp_path)
    assert atoms.get_potential_energy() == pytest.approx(entry["energy"], abs=1e-8)
    assert atoms.info["enthalpy"] == pytest.approx(entry["enthalpy"], abs=1e-8)
    assert atoms.info["pressure_gpa"] == 20


def test_tags_go_by_the_step(tmp_path):
    tags = '[external]\ntags = ["ISIF = 4 ; NSW = 3", "ISIF = 2 ; NSW = 0"]\npressure = 10\n'
    for step, isif, nsw in ((1, 4, 3), (2, 2, 0), (3, 2, 0)):
        fold = make(tmp_path / str(step), crystal(), settings=tags, name=f"Calculation/Calcfold_1_{step}")
        assert run(fold).returncode == 0
        (entry,) = outcome(tmp_path / str(step))
        assert (entry["isif"], entry["nsw"], entry["step"]) == (isif, nsw, str(step))


def test_a_vector_without_periodicity_keeps_the_cell(tmp_path):
    slab = crystal()
    slab.pbc = (True, True, False)
    fold = make(tmp_path, slab)
    done = run(fold)
    assert done.returncode == 0, done.stderr
    assert "ISIF 2" in done.stderr
    atoms = read(fold / "output.xyz")
    assert atoms.pbc.tolist() == [True, True, False]
    assert np.allclose(atoms.cell, slab.cell, atol=1e-7)


def test_a_refused_structure_fails_or_gets_a_penalty(tmp_path):
    """USPEX 26 takes any exit code but 0 for a failed task."""
    flat = crystal()
    flat.set_cell(flat.cell * [[1], [1], [0.02]], scale_atoms=True)
    fold = make(tmp_path, flat)
    assert run(fold).returncode == 6
    assert not (fold / "output.xyz").exists()
    done = run(fold, "--on-reject", "penalty", "--pressure", "50")
    assert done.returncode == 0
    atoms = read(fold / "output.xyz")
    assert atoms.get_potential_energy() == pytest.approx(600.0)
    assert atoms.get_chemical_symbols() == SYMBOLS


XYZ = '2\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 pbc="T T T"\nFe 0 0 0\nNi 1.5 1.5 1.5\n'


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "neither input.xyz"),
        ("", "0 structures"),
        ("2\nno cell\nFe 0 0 0\nNi 1.5 1.5 1.5\n", "no cell"),
        (XYZ.replace("0 0 0 3 0", "0 0 6 0 0"), "no cell"),
        (XYZ.replace("Fe 0", "Qq 0"), "Qq"),
        (XYZ.replace("Fe 0", "X 0"), "X"),
        (XYZ.replace("1.5 1.5 1.5", "1.5 1.5 nan"), "not finite"),
        (XYZ.replace("Ni 1.5", "Ni 1.5x"), "not extended XYZ"),
        (XYZ[:-25], "not extended XYZ"),
        (XYZ + XYZ, "2 structures"),
    ],
)
def test_bad_input_ends_in_one_clear_line(tmp_path, text, word):
    fold = make(tmp_path, text=text)
    (fold / "output.xyz").write_text("stale")
    done = run(fold)
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert word in line
    assert not (fold / "output.xyz").exists()


def test_two_kinds_of_input_in_one_folder(tmp_path):
    fold = make(tmp_path, crystal())
    write(fold / "geom.in", crystal(), format="vasp", sort=True)
    done = run(fold)
    assert done.returncode == 3
    assert "--code" in done.stderr
    assert run(fold, "--code", "99").returncode == 0
    assert not (fold / "output.xyz").exists()
    assert run(fold, "--code", "20").returncode == 0
    assert not (fold / "energy.txt").exists()
