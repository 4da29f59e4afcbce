"""Every structure that a user hands over is read as it is meant, or refused in one line that names what is not."""

import bz2
import gzip
import json
import lzma
import os
import threading

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixedLine, FixedPlane, FixScaled
from pymatgen.core import Lattice
from pymatgen.core import Structure as PymatgenStructure

from uspex_bridge.base.atoms import right_handed, to_atoms
from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text, split_lines
from uspex_bridge.call.structures import (
    from_ase,
    from_pymatgen,
    read_images,
    read_structures,
    unconstrained,
    wrong_label,
)
from uspex_bridge.learn.choose.candidates import read_frames_of
from uspex_bridge.learn.data.exports import write_deepmd, write_extxyz
from uspex_bridge.learn.data.labels import read_frames
from uspex_bridge.results.hulls.seeds import format_poscar
from uspex_bridge.results.reading.convert import to_pymatgen
from uspex_bridge.results.reading.sources import read_reference

CIF = """data_x
_cell_length_a 3.6
_cell_length_b 3.6
_cell_length_c 3.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_occupancy
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""
POSCAR = "a title\n1.0\n4 0 0\n0 4 0\n0 0 4\nFe Ni\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize(
    ("sites", "named"),
    [
        ("Fe1 Fe 0.5 0 0 0\nNi1 Ni 0.5 0 0 0\n", r"\[0.0, 0.0, 0.0\] is disordered: Fe 0.5, Ni 0.5"),
        ("Fe1 Fe 1.0 0 0 0\nFe2 Fe 0.75 0.5 0.5 0\n", r"\[0.5, 0.5, 0.0\] is disordered: Fe 0.75"),
        ("O1 O 0.5 0.1 0 0\nO2 O 0.5 0.2 0 0\n", r"disordered: O 0.5"),
    ],
)
@pytest.mark.parametrize("reader", [read_structures, read_images, read_reference, read_frames_of])
def test_a_disordered_site_is_refused_by_every_reader_with_its_place(tmp_path, reader, sites, named):
    path = tmp_path / "x.cif"
    path.write_text(CIF + sites)
    with pytest.raises(InputError, match=named):
        reader(path)


@pytest.mark.parametrize("other", ["0 0 0", "1.0 0 0", "0.0005 0 0"])
def test_two_elements_on_one_site_need_no_occupancies_to_be_disorder(tmp_path, other):
    """ASE keeps the first of them, with a warning."""
    text = CIF.replace("_atom_site_occupancy\n", "")
    (tmp_path / "x.cif").write_text(text + f"Fe1 Fe 0 0 0\nNi1 Ni {other}\nNi2 Ni 0.5 0.5 0\n")
    for reader in (read_structures, read_reference, read_frames_of):
        with pytest.raises(InputError, match="structure 1: the site at .* holds Ni and another element"):
            reader(tmp_path / "x.cif")


def test_a_site_that_a_file_gives_twice_is_one_atom(tmp_path):
    (tmp_path / "x.cif").write_text(
        CIF.replace("_atom_site_occupancy\n", "") + "Fe1 Fe 0 0 0\nFe2 Fe 1 0 0\nNi1 Ni .5 .5 0\n"
    )
    assert read_structures(tmp_path / "x.cif")[0].formula == "FeNi"


def test_unknown_occupancies_are_full_sites(tmp_path):
    (tmp_path / "x.cif").write_text(CIF + "Fe1 Fe ? 0 0 0\nNi1 Ni . 0.5 0.5 0.5\n")
    assert read_structures(tmp_path / "x.cif")[0].formula == "FeNi"


def test_pymatgen_s_structures_keep_what_is_fixed_and_are_periodic():
    sites = (["Fe3+", "O2-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    fixed = [[False, False, True], [True, True, True]]
    read = from_pymatgen(
        PymatgenStructure(Lattice.cubic(3), *sites, site_properties={"selective_dynamics": fixed}), "x"
    )
    assert read.symbols == ("Fe", "O")
    assert read.free.tolist() == fixed
    assert from_pymatgen(PymatgenStructure(Lattice.cubic(3), *sites), "x").free is None
    with pytest.raises(InputError, match="pbc = T T F"):
        from_pymatgen(PymatgenStructure(Lattice(np.eye(3) * 3, pbc=(True, True, False)), *sites), "x")


def test_an_ordered_file_that_states_its_occupancies_is_read(tmp_path):
    (tmp_path / "x.cif").write_text(CIF + "Fe1 Fe 1.0 0 0 0\nNi1 Ni 1.0 0.5 0.5 0.5\n")
    assert read_structures(tmp_path / "x.cif")[0].formula == "FeNi"
    disordered = crystal()
    disordered.set_array("occupancy", np.array([1.0, 1.0, 0.5, 1.0]))
    with pytest.raises(InputError, match="disordered: Cu 0.5"):
        from_ase(disordered, "x")


@pytest.mark.parametrize(
    ("constraint", "free"),
    [
        (FixAtoms([0, 2]), [(0, 0, 0), (1, 1, 1), (0, 0, 0), (1, 1, 1)]),
        (FixCartesian(0, (True, True, True)), [(0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)]),
        (FixCartesian([0, 1], (False, False, True)), [(1, 1, 0), (1, 1, 0), (1, 1, 1), (1, 1, 1)]),
        (FixScaled([0, 1], (True, False, True)), [(0, 1, 0), (0, 1, 0), (1, 1, 1), (1, 1, 1)]),
    ],
)
@pytest.mark.parametrize("ending", [None, "extxyz", "traj", "json"])
def test_fixed_atoms_stay_fixed(tmp_path, constraint, free, ending):
    """From memory, and from every file format of ASE's that keeps the constraint."""
    atoms = crystal()
    atoms.set_constraint(constraint)
    if ending is None:
        structure = from_ase(atoms, "x")
    else:
        if ending == "extxyz" and isinstance(constraint, FixScaled):
            pytest.skip("extxyz has no such constraint")
        ase.io.write(tmp_path / f"x.{ending}", atoms)
        (structure,) = read_structures(tmp_path / f"x.{ending}")
    assert structure.free.astype(int).tolist() == [list(row) for row in free]
    again = to_atoms(structure)
    assert from_ase(again, "x").free.tolist() == structure.free.tolist()


@pytest.mark.parametrize(
    "constraint", [FixedPlane(0, (0, 0, 1)), FixedLine(1, (0, 0, 1)), FixBondLength(0, 1), FixCartesian(0, (1, 0, 0))]
)
def test_a_constraint_that_cannot_be_kept_is_named(constraint):
    atoms = bulk("Cu") * (2, 1, 1)  # no lattice vector lies along an axis
    atoms.set_constraint(constraint)
    with pytest.raises(InputError, match=f"the constraint {type(constraint).__name__}.* is not kept"):
        from_ase(atoms, "x")
    atoms.set_constraint()
    assert from_ase(atoms, "x").free is None


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)])
def test_what_is_not_periodic_in_three_dimensions_is_refused(tmp_path, pbc):
    atoms = crystal()
    atoms.pbc = pbc
    ase.io.write(tmp_path / "x.extxyz", atoms)
    shown = " ".join("FT"[axis] for axis in pbc)
    for reader in (read_structures, read_reference, read_frames_of):
        with pytest.raises(InputError, match=rf"pbc = {shown}\); .*ISIF = 2"):
            reader(tmp_path / "x.extxyz")
    with pytest.raises(InputError, match="no atoms or no cell"):
        from_ase(molecule("H2O"), "x")


@pytest.mark.parametrize("name", ["POSCAR.gz", "x.vasp.gz", "gatheredPOSCARS", "x.extxyz.gz", "x.cif.gz"])
def test_compressed_files_are_read(tmp_path, name):
    if "POSCAR" in name or "vasp" in name:
        text = POSCAR
    else:
        plain = tmp_path / name.removesuffix(".gz")
        ase.io.write(plain, crystal())
        text = plain.read_text()
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    (structure,) = read_structures(tmp_path / name)
    assert len(structure) in (2, 4)
    ase.io.write(tmp_path / "plain.xsf", crystal())
    (tmp_path / "hidden.xsf").write_bytes(gzip.compress((tmp_path / "plain.xsf").read_bytes()))
    with pytest.raises(InputError, match=r"compressed by gzip; its name must end in \.gz"):
        read_structures(tmp_path / "hidden.xsf")
    (tmp_path / "POSCAR").write_bytes(gzip.compress(POSCAR.encode())[:-12])
    with pytest.raises(InputError, match="looks compressed"):
        read_structures(tmp_path / "POSCAR")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["POSCAR", "x.vasp", "x.cif", "x.extxyz"])
def test_a_packed_text_needs_no_name_that_says_so(tmp_path, pack, name):
    ase.io.write(tmp_path / "plain", crystal(), format={"x.cif": "cif", "x.extxyz": "extxyz"}.get(name, "vasp"))
    (tmp_path / name).write_bytes(pack((tmp_path / "plain").read_bytes()))
    assert read_structures(tmp_path / name)[0].formula == "Cu4"


@pytest.mark.parametrize(("mark", "kind"), [(b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "zstd")])
def test_other_packages_are_named(tmp_path, mark, kind):
    for name in ("POSCAR", "x.cif", "x.extxyz"):
        (tmp_path / name).write_bytes(mark + bytes(range(40)))
        with pytest.raises(InputError, match=f"{name}: is compressed by {kind}; decompress it first"):
            read_structures(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_extxyz_and_poscar_in_any_encoding_and_with_any_line_end(tmp_path, encoding, ending):
    ase.io.write(tmp_path / "plain.extxyz", crystal())
    for name, text in (("x.extxyz", (tmp_path / "plain.extxyz").read_text()), ("POSCAR", POSCAR)):
        (tmp_path / name).write_bytes(text.replace("\n", ending).encode(encoding))
        assert len(read_structures(tmp_path / name)) == 1


DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 4
0 4
0 4
ITEM: ATOMS id type{named} x y z
1 1{one} 0 0 0
2 2{other} 2 2 2
"""
SHELX = (
    "TITL x\nCELL 1 3.6 3.6 3.6 90 90 90\nLATT {lattice}\n{more}SFAC Fe Ni\nFe 1 0 0 0 {share}\nNi 2 .5 .5 .5 1\nEND\n"
)
PDB = (
    "CRYST1    3.600    3.600    3.600  90.00  90.00  90.00 {group}\n"
    "ATOM      1 FE   MOL     1       0.000   0.000   0.000  1.00  0.00          FE\nEND\n"
)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.lammpstrj", DUMP.format(named="", one="", other=""), "LAMMPS atom types and no elements"),
        ("x.lammpstrj", DUMP.format(named=" element", one=" Fe", other=" Ni"), ""),
        ("x.res", SHELX.format(lattice=-1, more="", share="1.0"), ""),
        ("x.res", SHELX.format(lattice=-1, more="", share="10.5"), "the site Fe is disordered: occupancy 0.5"),
        ("x.res", SHELX.format(lattice=1, more="", share="1.0"), r"SHELX file \(LATT 1\) is not read"),
        ("x.res", SHELX.format(lattice=-1, more="SYMM -X,-Y,Z\n", share="1.0"), r"\(SYMM -X,-Y,Z\) is not read"),
        ("x.pdb", PDB.format(group="P 1"), ""),
        ("x.pdb", PDB.format(group="F m -3 m"), r"PDB file \(F m -3 m\) is not read"),
    ],
)
def test_what_ase_passes_over_in_other_programs_files_is_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    if said:
        with pytest.raises(InputError, match=f"{name}: .*{said}"):
            read_structures(tmp_path / name)
    else:
        assert read_structures(tmp_path / name)[0].symbols[0] == "Fe"


def test_two_elements_on_one_site_are_disorder_in_every_format(tmp_path):
    atoms = Atoms("FeNiCo", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), (1, 0, 0.001)], cell=[4, 4, 4], pbc=True)
    ase.io.write(tmp_path / "x.traj", atoms)
    for reader in (read_structures, read_reference, read_frames_of):
        with pytest.raises(InputError, match="structure 1: the site at .* holds Co and another element"):
            reader(tmp_path / "x.traj")


@pytest.mark.parametrize("column", ["occ", "occupancy", "Occupation", "site_occupancy"])
def test_occupancies_are_known_under_many_names(column):
    atoms = crystal()
    atoms.set_array(column, np.array([1, 1, 0.5, 1]))
    with pytest.raises(InputError, match="disordered: Cu 0.5"):
        from_ase(atoms, "x")


@pytest.mark.parametrize("column", ["fixed", "Move_mask", "selective_dynamics", "frozen_atoms"])
def test_a_column_of_constraints_under_another_name_is_not_passed_over(column):
    atoms = crystal()
    atoms.set_array(column, np.ones(4, dtype=bool))
    assert from_ase(atoms, "x").free is None
    atoms.arrays[column][1] = False
    with pytest.raises(InputError, match=f"the column {column} is not read; call it move_mask"):
        from_ase(atoms, "x")
    assert from_ase(unconstrained(atoms), "x").free is None


def test_what_is_no_atom_or_no_place_is_refused():
    atoms = crystal()
    atoms.symbols[0] = "X"
    with pytest.raises(InputError, match="X is not an element"):
        from_ase(atoms, "x")
    atoms = crystal()
    atoms.positions[1, 2] = np.nan
    with pytest.raises(InputError, match="not finite"):
        from_ase(atoms, "x")


@pytest.mark.parametrize("selective", [False, True])
def test_labels_behind_the_coordinates_that_contradict_the_element_line_are_said(tmp_path, selective):
    flags = " T T T" if selective else ""
    text = POSCAR.replace("Direct", "Selective\nDirect") if selective else POSCAR
    for labels, said in ((("Fe", "Ni"), ""), (("site", "1"), ""), (("Fe", "Fe"), "is labelled Fe, but the atom is Ni")):
        written = text.replace("0 0 0\n0.5", f"0 0 0{flags} {labels[0]}\n0.5").removesuffix("\n")
        written = written.replace("4 0 0 T T T Fe", "4 0 0")
        (tmp_path / "POSCAR").write_text(f"{written}{flags} {labels[1]}\n")
        (structure,) = read_structures(tmp_path / "POSCAR")
        assert said in wrong_label("x", structure)
        assert bool(said) == bool(wrong_label("x", structure))


@pytest.mark.parametrize("name", ["POSCAR", "x.cif", "x.extxyz", "x.json"])
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path, name):
    """Whoever opens a pipe that nobody writes to waits for ever."""
    os.mkfifo(tmp_path / name)
    (tmp_path / f"folder-{name}").mkdir()
    (tmp_path / f"device-{name}").symlink_to("/dev/zero")
    outcome = []

    def read() -> None:
        for reader in (read_structures, read_reference, read_text):
            for path in (tmp_path / name, tmp_path / f"folder-{name}", tmp_path / f"device-{name}"):
                try:
                    reader(path)
                except InputError as error:
                    outcome.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert len(outcome) == 9
    assert sum("a pipe or a device" in line for line in outcome) >= 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_text_is_read_in_any_encoding_of_unicode(tmp_path, encoding):
    (tmp_path / "x").write_text("ISIF = 3\nSYSTEM = Ångström\n", encoding=encoding)
    assert read_text(tmp_path / "x") == "ISIF = 3\nSYSTEM = Ångström\n"


def test_a_nul_byte_is_refused_by_its_line(tmp_path):
    for at, line in ((0, 1), (1, 1), (6, 2), (-1, 3)):
        damaged = bytearray(b"NaCl\n1.0\n2 0 0\n")
        damaged[at] = 0
        (tmp_path / "x").write_bytes(damaged)
        with pytest.raises(InputError, match=f"x, line {line}: contains a NUL byte"):
            read_text(tmp_path / "x")


def test_only_a_newline_ends_a_line():
    odd = "".join(map(chr, (0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029)))
    assert split_lines(f"a{odd}b\r\nc\n") == [f"a{odd}b", "c"]
    assert split_lines("") == []
    assert split_lines("a\n\n") == ["a", ""]


def left_handed() -> Atoms:
    """A structure without any mirror in a left-handed cell, with results."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = bulk("Cu", cubic=True)
    atoms.symbols = "CuNiPdPt"
    atoms.rattle(0.3, seed=1)
    atoms.set_cell([[0, 3.9, 0.1], [3.6, 0, 0.3], [0.2, 0.1, 3.7]])
    assert np.linalg.det(atoms.cell.array) < 0
    forces = np.arange(12.0).reshape(4, 3)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces, stress=np.arange(6.0) / 100)
    return atoms


def same_crystal(one: Atoms, other: Atoms) -> bool:
    """Tell whether the atoms lie at the same places of space but for lattice translations."""
    shift = np.linalg.solve(one.cell.array.T, (other.positions - one.positions).T)
    return bool(np.abs(shift - np.round(shift)).max() < 1e-6) and list(one.symbols) == list(other.symbols)


def test_no_left_handed_cell_is_written(tmp_path):
    """VASP refuses them, and a CIF of one would be the mirror image."""
    atoms = left_handed()
    structure = from_ase(atoms, "x")
    turned = right_handed(atoms)
    assert np.linalg.det(turned.cell.array) > 0
    assert same_crystal(atoms, turned)
    assert turned.get_forces().tolist() == atoms.get_forces().tolist()
    assert right_handed(turned) is turned
    (tmp_path / "POSCAR").write_text(format_poscar(structure, "x"))
    write_extxyz([atoms], tmp_path / "ase.extxyz")
    write_extxyz([atoms], tmp_path / "mace.extxyz", "mace")
    write_deepmd([atoms], tmp_path / "deepmd")
    written = [
        ase.io.read(tmp_path / "POSCAR"),
        ase.io.read(tmp_path / "ase.extxyz"),
        ase.io.read(tmp_path / "mace.extxyz"),
        to_pymatgen(structure).to_ase_atoms(),
    ]
    for other in written:
        assert np.linalg.det(other.cell.array) > 0
        assert same_crystal(atoms, other)
    boxes = np.load(next((tmp_path / "deepmd").rglob("box.npy"))).reshape(-1, 3, 3)
    assert (np.linalg.det(boxes) > 0).all()


def test_selective_dynamics_turn_with_the_cell():
    atoms = left_handed()
    atoms.calc = None
    atoms.set_constraint(FixScaled(0, (True, False, False)))
    structure = from_ase(atoms, "x")
    assert structure.free[0].tolist() == [False, True, True]
    assert structure.right_handed.free[0].tolist() == [True, False, True]
    turned = structure.right_handed
    assert turned.right_handed is turned


def test_labels_under_the_names_that_mace_reads_are_read_back(tmp_path):
    atoms = right_handed(left_handed())
    write_extxyz([atoms], tmp_path / "mace.extxyz", "mace")
    (again,) = read_frames(tmp_path / "mace.extxyz")
    assert again.get_potential_energy() == -1.0
    assert again.get_forces() == pytest.approx(atoms.get_forces())
    assert again.get_stress() == pytest.approx(atoms.get_stress())
    text = (tmp_path / "mace.extxyz").read_text()
    virial = " ".join(str(v) for v in (-atoms.get_volume() * atoms.get_stress(voigt=False)).ravel())
    start = text.index("REF_stress=")
    end = text.index('"', text.index('"', start) + 1) + 1
    (tmp_path / "virials.extxyz").write_text(text.replace(text[start:end], f'REF_virials="{virial}"'))
    assert read_frames(tmp_path / "virials.extxyz")[0].get_stress() == pytest.approx(atoms.get_stress())


def test_at_signs_in_names_are_no_index(tmp_path):
    ase.io.write(tmp_path / "x@1.extxyz", crystal())
    (tmp_path / "x.json").write_text(json.dumps([]))
    assert len(read_structures(tmp_path / "x@1.extxyz")) == 1
