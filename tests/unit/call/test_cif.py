"""A CIF is an ordered crystal with all atoms of its cell, or it is refused by what is wrong with it."""

import re

import pytest
from crystals import known

from uspex_bridge.base.errors import InputError
from uspex_bridge.call.cif import read_cif
from uspex_bridge.call.structures import read_structures, wrong_label
from uspex_bridge.results.reading.sources import read_reference

P1 = "_symmetry_space_group_name_H-M 'P 1'\n"
SITES = "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
ROCK_SALT = f"{SITES}Na1 Na 0 0 0\nCl1 Cl .5 .5 .5\n"
CENTRES = "'x,y,z'\n'x,y+1/2,z+1/2'\n'x+1/2,y,z+1/2'\n'x+1/2,y+1/2,z'\n"


def cif(body: str, a: float = 5.6, angle: float = 90) -> str:
    lengths = "".join(f"_cell_length_{axis} {a}\n" for axis in "abc")
    return f"data_x\n{lengths}" + "".join(f"_cell_angle_{n} {angle}\n" for n in ("alpha", "beta", "gamma")) + body


def formula(text: str) -> str:
    (atoms,) = read_cif(text, "x.cif")
    return atoms.get_chemical_formula(empirical=False)


@pytest.mark.parametrize(
    "symmetry",
    [
        f"loop_\n_space_group_symop_operation_xyz\n{CENTRES}",
        f"loop_\n_space_group_symop.operation_xyz\n{CENTRES}",
        f"loop_\n_symmetry_equiv_pos_as_xyz\n{CENTRES}",
        "_space_group_IT_number 225\n",
        "_space_group.IT_number 225\n",
        "_space_group_name_Hall '-F 4 2 3'\n",
        "_space_group_name_H-M_alt 'F m -3 m'\n",
        "_symmetry_space_group_name_H-M Fm3m\n",
    ],
)
def test_the_symmetry_is_read_under_every_name(symmetry):
    assert formula(cif(symmetry + ROCK_SALT)) == "Cl4Na4"


def test_tags_of_the_newer_dictionaries_have_dots():
    text = cif(P1 + ROCK_SALT)
    for tag in ("_cell_length_", "_cell_angle_", "_atom_site_"):
        text = text.replace(tag, {"_atom_site_": "_atom_site."}.get(tag, tag.replace("_cell_", "_cell.")))
    assert "_atom_site.fract_x" in text
    assert formula(text) == "ClNa"


def test_a_magnetic_cif_has_all_its_atoms():
    """Its operations have tags of their own; a reader that does not know them sees P 1."""
    magnetic = (
        '_space_group_magn.name_BNS "P_Inna"\nloop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n-x,-y,-z,+1\n'
        "loop_\n_space_group_symop_magn_centering.xyz\nx,y,z,+1\nx+1/2,y+1/2,z,-1\n"
    )
    assert formula(cif(f"{magnetic}{SITES}Mn1 Mn .1 .2 .3\nO1 O 0 0 .5\n")) == "Mn4O2"
    with pytest.raises(InputError, match="structure 1: a magnetic space group without"):
        read_cif(cif('_space_group_magn.name_BNS "P_Inna"\n' + ROCK_SALT), "x")


BISMUTH = f"{SITES}Bi1 Bi .4 .4 .4\nTe1 Te 0 0 0\nTe2 Te .21 .21 .21\n"


def test_the_cell_decides_between_the_axes_of_a_rhombohedral_group():
    assert formula(cif("_symmetry_space_group_name_H-M 'R -3 m'\n" + BISMUTH, 10.4, 24)) == "Bi2Te3"
    with pytest.raises(InputError, match="its cell does not have the symmetry"):
        read_cif(cif("_symmetry_space_group_name_H-M 'R -3 m :H'\n" + BISMUTH, 10.4, 24), "x")


@pytest.mark.parametrize("symbol", ["F d -3 m :2", "F d -3 m Z", "Fd-3m:2"])
def test_the_origin_is_that_of_the_symbol_or_of_the_formula(symbol):
    diamond = f"{SITES}C1 C .125 .125 .125\n"
    assert formula(cif(f"_symmetry_space_group_name_H-M '{symbol}'\n{diamond}")) == "C8"
    number = "_symmetry_Int_Tables_number 227\n"
    assert formula(cif(f"{number}_chemical_formula_sum C\n_cell_formula_units_Z 8\n{diamond}")) == "C8"
    with pytest.raises(InputError, match="several origins or settings"):
        read_cif(cif(number + diamond), "x")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (P1 + SITES.replace("_z\n", "_z\n_ATOM_SITE_OCCUPANCY\n") + "Ti1 Ti 0 0 0 0.5(1)\n", "disordered: Ti 0.5"),
        (P1 + SITES + "_atom_site_disorder_group\nO1 O 0 0 0 1\nO2 O .1 0 0 2\n", "_atom_site_disorder_group names 1"),
        (P1 + SITES + "M1 Ti/V 0 0 0\n", "'Ti/V' is not one element"),
        (P1 + SITES + "M1 Ti0.5V0.5 0 0 0\n", "'Ti0.5V0.5' is not one element"),
        (P1 + SITES + "Wa1 Wa 0 0 0\n", "'Wa' is not one element"),
        (P1 + SITES + "O1 O 0 0 ?\n", "the site O1 has no coordinates"),
        (P1 + SITES + "_atom_site_attached_hydrogens\nO1 O 0 0 0 2\n", "hydrogen atoms without coordinates"),
        (P1 + "_cell_modulation_dimension 1\n" + ROCK_SALT, "a modulated crystal"),
        ("_symmetry_space_group_name_H-M 'P 63/m m c'\n" + ROCK_SALT, "its cell does not have the symmetry"),
        ("_symmetry_Int_Tables_number 225\n" + P1 + ROCK_SALT, "no space group is called P 1, number 225"),
        ("_symmetry_space_group_name_H-M 'F m -3 m x'\n" + ROCK_SALT, "no space group is called F m -3 m x"),
        (P1 + SITES.replace("_atom_site_type_symbol\n", "") + "CL1 0 0 0\n", "the label CL1 may be C or Cl"),
    ],
)
def test_what_is_no_ordered_crystal_is_refused_by_name(tmp_path, body, said):
    (tmp_path / "x.cif").write_text(cif(body))
    for reader in (read_structures, read_reference):
        with pytest.raises(InputError, match=rf"x\.cif: structure 1: .*{re.escape(said)}"):
            reader(tmp_path / "x.cif")


def test_symbols_are_elements():
    charged = f"{P1}{SITES}Fe1 Fe3+ 0 0 0\nO1 O2- .5 .5 .5\nD1 D .5 0 0\nX1 O .5 .5 0\n"
    assert formula(cif(charged)) == "HFeO2"
    labels = SITES.replace("_atom_site_type_symbol\n", "")
    assert formula(cif(f"{P1}{labels}Co1 0 0 0\nOw1 .5 .5 .5\n")) == "CoO"
    assert formula(cif(f"{P1}_chemical_formula_sum 'Cl Na'\n{labels}NA1 0 0 0\nCL1 .5 .5 .5\n")) == "ClNa"


def test_a_dummy_site_is_no_atom():
    assert formula(cif(f"{P1}{SITES}_atom_site_calc_flag\nTi1 Ti 0 0 0 d\nO1 O .5 .5 .5 dum\n")) == "Ti"


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("_chemical_formula_sum 'Cl Na'\n", ""),
        ("_chemical_formula_sum 'Cl4 Na4'\n_cell_formula_units_Z 4\n", ""),
        ("_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z 4\n", ""),
        ("_chemical_formula_sum 'Cl Na2'\n", "the file states Cl Na2, but the atoms are Na4Cl4"),
        ("_chemical_formula_sum 'Cl H2 Na O'\n", "the file states Cl H2 Na O, but the atoms are Na4Cl4"),
        ("_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z 2\n", "the file states Cl Na, Z = 2, but the"),
    ],
)
def test_a_formula_that_the_atoms_contradict_is_said(tmp_path, stated, said):
    (tmp_path / "x.cif").write_text(cif(f"_space_group_IT_number 225\n{stated}{ROCK_SALT}"))
    (structure,) = read_structures(tmp_path / "x.cif")
    assert wrong_label("x", structure).startswith(said)
    assert bool(wrong_label("x", structure)) == bool(said)
    assert any(said and said in note for note in read_reference(tmp_path / "x.cif").notes) == bool(said)


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["x.cif", "x.mcif"])
def test_encodings_and_line_ends(tmp_path, ending, encoding, name):
    (tmp_path / name).write_bytes(cif(P1 + ROCK_SALT).replace("\n", ending).encode(encoding))
    (structure,) = read_structures(tmp_path / name)
    assert structure.formula == "NaCl"


@pytest.mark.parametrize("text", ["", "data_x\n", cif(P1), "no CIF\n"])
def test_a_file_without_a_structure_is_refused(tmp_path, text):
    (tmp_path / "x.cif").write_text(text)
    with pytest.raises(InputError, match="x.cif: (no structures in it|it is not a CIF)"):
        read_structures(tmp_path / "x.cif")


def test_real_crystals_come_back_from_pymatgen_s_files():
    """By symmetry operations, and by the name of the group and the formula alone."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.cif import CifWriter
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    every = [one for one in known() if one.name in ("MgAl2O4", "Bi2Te3", "SiO2 quartz", "TiO2 anatase", "LaH10", "Sm")]
    assert len(every) == 6
    for one in every:
        structure = AseAtomsAdaptor.get_structure(one.atoms)
        refined = SpacegroupAnalyzer(structure, 0.01).get_refined_structure()
        text = str(CifWriter(structure, symprec=0.01))
        named = re.sub(r"loop_\n _symmetry_equiv_pos_site_id.*?(?=loop_)", "", text, flags=re.DOTALL)
        assert named != text
        for each in (text, named):
            (atoms,) = read_cif(each, one.name)
            assert atoms.get_chemical_formula() == AseAtomsAdaptor.get_atoms(refined).get_chemical_formula()
            distances = atoms.get_all_distances(mic=True).round(3)
            again = AseAtomsAdaptor.get_atoms(refined).get_all_distances(mic=True).round(3)
            assert sorted(distances.ravel()) == pytest.approx(sorted(again.ravel()), abs=5e-3)
