from __future__ import annotations

import numpy as np
import pytest

from uspex_bridge.base.data import Frame, Structure
from uspex_bridge.base.errors import InputError
from uspex_bridge.call.structures import read_structures
from uspex_bridge.vasp.structure import (
    element_of,
    format_contcar,
    format_vasp4,
    parse_poscar,
    parse_poscars,
    read_poscar,
    read_potcar_symbols,
)

MATLAB = """EA0     4.200  4.300  4.400 90.00 90.00 90.00 Sym.group:    0
1.0000
    4.200000     0.000000     0.000000
    0.000000     4.300000     0.000000
    0.000000     0.000000     4.400000
   2    1    1
Direct
    0.000000     0.000000     0.000000
    0.500000     0.500000     0.000000
    0.500000     0.000000     0.500000
    0.000000     0.500000     0.500000
"""
PYTHON = MATLAB.replace("   2    1    1\n", "  Ca  Fe  Ni\n   2   1   1\n").replace(MATLAB.split("\n")[0], "EA137")
SYMBOLS = ("Ca", "Ca", "Fe", "Ni")


def edited(line: int, text: str) -> str:
    """PYTHON with one of its lines, counted from 1, replaced."""
    lines = PYTHON.splitlines()
    lines[line - 1] = text
    return "\n".join(lines) + "\n"


def test_matlab_line():
    """Item 21: VASP-4 layout, elements from POTCAR."""
    got = parse_poscar(MATLAB, "POSCAR", ["Ca", "Fe", "Ni"])
    assert got.symbols == SYMBOLS
    assert got.comment == MATLAB.splitlines()[0]
    np.testing.assert_array_equal(got.cell, np.diag([4.2, 4.3, 4.4]))
    np.testing.assert_array_equal(got.scaled[3], [0, 0.5, 0.5])
    assert got.free is None


@pytest.mark.parametrize("potcar", [None, ["Ca", "Fe", "Ni"]])
def test_python_line(potcar):
    """Item 35."""
    got = parse_poscar(PYTHON, "POSCAR", potcar)
    assert got.symbols == SYMBOLS
    assert got.comment == "EA137"


def test_potcar_that_does_not_match():
    """Item 21: a clean failure."""
    with pytest.raises(InputError, match=r"POSCAR, line 6: POTCAR has 2 elements for 3 numbers of atoms"):
        parse_poscar(MATLAB, "POSCAR", ["Ca", "Fe"])
    with pytest.raises(InputError, match=r"elements Ca Fe Ni here, but Fe Ca Ni in POTCAR"):
        parse_poscar(PYTHON, "POSCAR", ["Fe", "Ca", "Ni"])
    with pytest.raises(InputError, match="no POTCAR to name the elements"):
        parse_poscar(MATLAB)


def test_counts_of_zero():
    """USPEX's surface writer gives a count for every species, POTCAR only the ones that are there, or all."""
    surface = MATLAB.replace("   2    1    1\n", "   3    0    1\n")
    for potcar in (["Ca", "Ni"], ["Ca", "Fe", "Ni"]):
        assert parse_poscar(surface, "POSCAR", potcar).symbols == ("Ca", "Ca", "Ca", "Ni")


def test_selective_dynamics():
    """Item 28."""
    lines = PYTHON.splitlines()
    flags = ["  T  T  T", "  F  F  F", " .TRUE. .FALSE. t", " T F T  Ni"]
    rows = [row + flag for row, flag in zip(lines[8:], flags, strict=True)]
    got = parse_poscar("\n".join([*lines[:7], "Selective dynamics", *lines[7:8], *rows]))
    np.testing.assert_array_equal(got.free, [[1, 1, 1], [0, 0, 0], [1, 0, 1], [1, 0, 1]])
    with pytest.raises(InputError, match="line 10: selective dynamics needs three flags"):
        parse_poscar("\n".join([*lines[:7], "S", *lines[7:]]))


def test_scales():
    cell = np.diag([4.2, 4.3, 4.4])
    np.testing.assert_allclose(parse_poscar(edited(2, " 2.0 ! twice")).cell, 2 * cell)
    by_volume = parse_poscar(edited(2, "-1000"))
    assert by_volume.volume == pytest.approx(1000)
    np.testing.assert_allclose(by_volume.cell / by_volume.cell[0, 0], cell / 4.2)
    np.testing.assert_allclose(parse_poscar(edited(2, "1 2 3")).cell, cell @ np.diag([1, 2, 3]))


@pytest.mark.parametrize("mode", ["Cartesian", "c", "Kartesian"])
@pytest.mark.parametrize("scale", ["1.0", "2.0", "-1000", "1 2 3"])
def test_cartesian_coordinates_take_the_scale_too(mode, scale):
    fractions = parse_poscar(PYTHON).scaled
    lines = PYTHON.splitlines()
    cell = np.array([[4.2, 0.3, 0.1], [0, 4.3, 0.2], [0.4, 0, 4.4]])
    lines[1] = scale
    lines[2:5] = [" ".join(map(str, row)) for row in cell]
    lines[7:] = [mode] + [" ".join(map(str, row)) for row in fractions @ cell]
    np.testing.assert_allclose(parse_poscar("\n".join(lines)).scaled, fractions, atol=1e-12)


def test_left_handed_cell_is_kept():
    got = parse_poscar(edited(5, "0 0 -4.4"))
    assert np.linalg.det(got.cell) < 0
    assert got.volume == pytest.approx(4.2 * 4.3 * 4.4)


def test_velocities_and_labels_are_not_read():
    got = parse_poscar(PYTHON.replace("0.500000\n", "0.500000 Ca\n") + "\n  1.0 2.0 3.0\n junk\n")
    assert len(got) == 4


def test_symbols_with_suffixes_and_over_several_lines():
    assert parse_poscar(edited(6, "Ca_sv/6a2f546d  Fe_pv Ni/79d9")).symbols == SYMBOLS
    long = edited(6, "Ca Fe\n Ni").replace("   2   1   1", "   2   1\n 1")
    assert parse_poscar(long).symbols == SYMBOLS
    assert parse_poscar(edited(7, " 2 1 1 ! counts")).symbols == SYMBOLS


def test_fortran_exponents_and_crlf():
    got = parse_poscar(edited(3, " 4.2D0 0.0d+00 0").replace("\n", "\r\n"))
    np.testing.assert_array_equal(got.cell[0], [4.2, 0, 0])
    assert got.comment == "EA137"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "POSCAR: empty"),
        ("\n \n", "POSCAR: empty"),
        ("EA1\n", "line 2: the file ends where the scale"),
        (edited(2, "0.0"), "line 2: the scale"),
        (edited(2, "one"), "line 2: the scale"),
        (edited(2, "1 2"), "line 2: the scale"),
        (edited(2, "1 -2 3"), "line 2: the scale"),
        (edited(3, "4.2 0.0"), "line 3: a lattice vector needs 3 numbers, not 2"),
        (edited(3, "4.2 zero 0.0"), "line 3: a lattice vector: 'zero' is not a number"),
        (edited(3, "NaN 0.0 0.0"), "line 3: a lattice vector: 'NaN' is not a number"),
        (edited(3, "inf 0.0 0.0"), "line 3"),
        (edited(3, "1e999 0.0 0.0"), "line 3: a lattice vector: '1e999' is too large"),
        (edited(3, "0 4.3 0"), "line 5: the cell has no volume"),
        (edited(3, "0 0 0"), "line 5: the cell has no volume"),
        (edited(6, "Ca Xx Ni"), "'Xx' is not an element symbol"),
        (edited(6, "Ca Fe"), "2 element symbols for 3 numbers of atoms"),
        (edited(6, ""), "line 6: expected element symbols or numbers of atoms"),
        (edited(7, "2 1.5 1"), "not the numbers of atoms"),
        (edited(7, "2 -1 1"), "line 7: .*must not be negative"),
        (edited(7, "0 0 0"), "line 7: .*not all 0"),
        (edited(8, "0.0 0.0 0.0"), "line 8: expected Direct or Cartesian"),
        (edited(9, "0.0 nan 0.0"), "line 9: one of 4 positions: 'nan' is not a number"),
        (edited(9, "0.0-0.1 0.0"), "line 9: one of 4 positions needs 3 numbers"),
        (edited(10, "0.5 ***** 0.0"), r"line 10: .*'\*\*\*\*\*' is not a number"),
        (PYTHON.rsplit("\n", 2)[0], "line 12: the file ends where one of 4 positions is needed"),
    ],
)
def test_unusable(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_poscar(text)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


def test_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "POSCAR", tmp_path):
        with pytest.raises(InputError, match=str(tmp_path)):
            read_poscar(path)
    (tmp_path / "POSCAR").write_bytes(b"\xff\xfe" + PYTHON.encode())
    assert read_poscar(tmp_path / "POSCAR").symbols == SYMBOLS


def test_one_atom():
    assert parse_poscar("x\n1\n2 0 0\n0 2 0\n0 0 2\nFe\n1\nDirect\n0 0 0\n").symbols == ("Fe",)


REAL = "  PAW_PBE {0} 06Sep2000\n 10.0\n parameters from PSCTR are:\n   VRHFIN ={1}: 3d8\n   LEXCH  = PE\n"
REAL += "   TITEL  = PAW_PBE {0} 06Sep2000\n   LULTRA =        F\n PAW radial sets\n  1.0 2.0\n End of Dataset\n"


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        (REAL.format("Ca_sv", "Ca") + REAL.format("Fe", "Fe") + REAL.format("Ni_pv", "Ni"), ["Ca", "Fe", "Ni"]),
        (REAL.format("Xe", "X") + REAL.format("Zr_sv", "r"), ["Xe", "Zr"]),
        (REAL.format("H1.25", "H") + REAL.format("C_h_nr", "C"), ["H", "C"]),
        (REAL.format("Fe", "Fe") * 2, ["Fe", "Fe"]),
        ("TITEL = PAW_PBE Ca_sv 06Sep2000\nTITEL = PAW_PBE Ni 06Sep2000\n", ["Ca", "Ni"]),
        ("   VRHFIN =Ca: 3s3p4s\n   VRHFIN =Ni: d9\n", ["Ca", "Ni"]),
        ("   VRHFIN = Ca\n   VRHFIN = Ca\n", ["Ca", "Ca"]),
        (" PAW_PBE Ca_sv 06Sep2000\n PAW_PBE Ni 02Aug2007\n", ["Ca", "Ni"]),
        ("TITEL = PAW_PBE Ca\nVRHFIN =Ca:\nTITEL = PAW_PBE Fe\nVRHFIN =Fe:\n", ["Ca", "Fe"]),
        ("VRHFIN =Ca:\nTITEL = PAW_PBE Ca\nVRHFIN =Fe:\nTITEL = PAW_PBE Fe\n", ["Ca", "Fe"]),
        ("PAW_PBE Ca 06Sep2000\nVRHFIN =Ca:\nPAW_PBE Fe 06Sep2000\nVRHFIN =Fe:\n", ["Ca", "Fe"]),
        ("VRHFIN =Ca:\nTITEL = PAW_PBE Fe\n", ["Ca", "Fe"]),
        ("TITEL = PAW_PBE Ca 06Sep2000TITEL = PAW_PBE Fe 06Sep2000", ["Ca", "Fe"]),
        ("TITEL = MLIP Ca uspex_bridge", ["Ca"]),
        ("TITEL = Ca", ["Ca"]),
    ],
)
def test_potcar(tmp_path, text, symbols):
    """One element per data set, whatever a stub holds, and none counted twice."""
    (tmp_path / "POTCAR").write_text(text)
    assert read_potcar_symbols(tmp_path / "POTCAR") == symbols


@pytest.mark.parametrize("text", ["", "TITEL = PAW_PBE Qq\n", "rubbish\n"])
def test_potcar_without_elements(tmp_path, text):
    (tmp_path / "POTCAR").write_text(text)
    with pytest.raises(InputError, match="no element"):
        read_potcar_symbols(tmp_path / "POTCAR")
    with pytest.raises(InputError, match="No such file"):
        read_potcar_symbols(tmp_path / "POTCAR_Ca")


def test_potcar_with_one_data_set_of_no_element(tmp_path):
    (tmp_path / "POTCAR").write_text("TITEL = PAW_PBE Ca\nEnd of Dataset\nTITEL = PAW_PBE Qq\nEnd of Dataset\n")
    with pytest.raises(InputError, match="'TITEL = PAW_PBE Qq' names no element"):
        read_potcar_symbols(tmp_path / "POTCAR")


def test_a_poscar_without_elements_is_read_with_the_potcar_beside_it(tmp_path):
    poscar = tmp_path / "POSCAR"
    poscar.write_text("EA0\n1.0\n3 0 0\n0 3 0\n0 0 3\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n")
    with pytest.raises(InputError, match="no POTCAR"):
        read_structures(poscar)
    (tmp_path / "POTCAR").write_text("TITEL = PAW_PBE Fe\nEnd of Dataset\nTITEL = PAW_PBE Ni\nEnd of Dataset\n")
    assert [s.symbols for s in read_structures(poscar)] == [("Fe", "Ni")]
    with pytest.raises(InputError, match="a folder, not a file"):
        read_structures(tmp_path)


@pytest.mark.parametrize(
    ("label", "element"), [("Ca_sv", "Ca"), ("Fe", "Fe"), ("H.5", "H"), ("Og", "Og"), ("ca", None), ("", None)]
)
def test_element_of(label, element):
    assert element_of(label) == element


def frame_of(structure: Structure) -> Frame:
    count = len(structure)
    return Frame(structure.cell, structure.scaled, 0.0, np.zeros((count, 3)), np.zeros(6))


def test_contcar_is_poscar_where_nothing_moved():
    """Items 7, 16: the same numbers, bit for bit, unwrapped, in the same order."""
    rng = np.random.default_rng(3)
    free = rng.random((4, 3)) > 0.5
    structure = Structure(SYMBOLS, rng.normal(size=(3, 3)) * 5, rng.normal(size=(4, 3)) * 3, "EA12  x", free)
    text = format_contcar(structure, frame_of(structure))
    back = parse_poscar(text)
    np.testing.assert_allclose(back.cell, structure.cell, rtol=0, atol=1e-15)
    np.testing.assert_allclose(back.scaled, structure.scaled, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(back.free, free)
    assert (back.symbols, back.comment) == (SYMBOLS, "EA12  x")
    assert text.endswith("\n")


def test_vasp4_layout():
    """Without the element line, and otherwise the same."""
    structure = parse_poscar(PYTHON)
    lines = format_contcar(structure, frame_of(structure)).splitlines()
    assert lines[5].split() == ["Ca", "Fe", "Ni"]
    assert format_vasp4(structure, frame_of(structure)).splitlines() == lines[:5] + lines[6:]


def test_many_poscars_in_one_text():
    one = "EA7 first\n1.0\n3 0 0\n0 3 0\n0 0 3\nFe\n1\nDirect\n0 0 0\n"
    with_velocities = one.replace("EA7 first", "EA9") + "\n  0.00000000E+00  0.00000000E+00  0.1E-02\n"
    found = parse_poscars(with_velocities + one + "\n\n")
    assert [s.comment for s in found] == ["EA9", "EA7 first"]
    with pytest.raises(InputError, match="GATHERED, line 13"):
        parse_poscars(one + one.replace("0 3 0", "0 x 0"), "GATHERED")
    with pytest.raises(InputError, match="empty"):
        parse_poscars("\n", "GATHERED")


MD = """two atoms
1.0
3 0 0
0 3 0
0 0 3
Fe Ni
1 1
Direct
0.01 0 0
0.5 0.51 0.5
"""
VELOCITIES = "\n 0.1E-03 -0.2E-03 0.3E-03\n -0.1E-03 0.2E-03 -0.3E-03\n"
THERMOSTAT = "\n           1\n   1.0\n  0.1E+01  0.0E+00  0.0E+00  0.0E+00\n" + "  0.1E-05  0.1E-05  0.1E-05\n" * 6
LATTICE = "Lattice velocities and vectors\n  1\n 0 0 0\n 0 0 0\n 0 0 0\n 3 0 0\n 0 3 0\n 0 0 3\n"


@pytest.mark.parametrize(
    "rest", ["", VELOCITIES, VELOCITIES + THERMOSTAT, LATTICE, LATTICE + VELOCITIES, LATTICE + VELOCITIES + THERMOSTAT]
)
def test_what_dynamics_leave_after_the_coordinates_is_not_read(rest):
    (structure,) = parse_poscars(MD + rest)
    assert structure.symbols == ("Fe", "Ni")
    assert np.array_equal(structure.scaled, parse_poscar(MD + rest).scaled)


def test_gathered_structures_are_all_read_and_a_broken_one_among_them_is_no_end():
    assert len(parse_poscars(MD + VELOCITIES + MD + "\n" + MD)) == 3
    with pytest.raises(InputError, match="line 12"):
        parse_poscars(MD + MD.replace("1.0\n", "one\n"))


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_a_title_keeps_its_odd_separators(odd):
    structure = parse_poscar(MD.replace("two atoms", f"made{odd}by prog"))
    assert structure.comment == f"made{odd}by prog"
    assert len(structure) == 2
