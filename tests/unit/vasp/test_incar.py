from __future__ import annotations

import pytest

from uspex_bridge.base.errors import InputError
from uspex_bridge.vasp.incar import intent_from_incar, parse_incar

MANUAL_STEPS = {  # USPEX's manual: constant volume first, then full relaxation, then a single point
    "1": ("PREC=LOW\nEDIFF = 1e-2\nIBRION=2\nISIF=4\nNSW=65\nISMEAR = 1 ; SIGMA = 0.10\nEDIFFG=1e-1\n", 4, 65, 0.1),
    "3": ("PREC=NORMAL\nIBRION=2 ; ISIF=3 ; NSW=65\nEDIFFG=1.0D-02\n", 3, 65, 0.01),
    "5": ("PREC=HIGH\nISIF=2\nIBRION=-1\nNSW=0\nLWAVE=.FALSE.\n", 2, 0, None),
}


def intent(text):
    return intent_from_incar(text, "CalcFold1/INCAR")


@pytest.mark.parametrize("step", MANUAL_STEPS)
def test_steps_of_the_manual(step):
    text, isif, nsw, ediffg = MANUAL_STEPS[step]
    got = intent(text + "PSTRESS=1000\n")
    assert (got.isif, got.nsw, got.ediffg) == (isif, nsw, ediffg)
    assert got.pressure_gpa == pytest.approx(100.0)
    assert got.static is (nsw == 0)
    assert got.notes == ()


@pytest.mark.parametrize(
    ("line", "gpa"),
    [
        ("PSTRESS=125", 12.5),
        ("PSTRESS=  0.001000", 0.0001),
        ("  pstress = 0", 0.0),
        ("\tPStress\t=\t-50 ! tension", -5.0),
        ("PSTRESS = 1.25D+02", 12.5),
        ("PSTRESS = 1.25e2 kB", 12.5),
        ("NSW=10 ; PSTRESS = 500", 50.0),
        ("PSTRESS = \\\n  500", 50.0),
        ("PSTRESS = 500\nISIF=3\nPSTRESS=125", 12.5),
        ("! PSTRESS = 3", 0.0),
        ("", 0.0),
        ("PSTRESS=125\r\nNSW=3\r\n", 12.5),
    ],
)
def test_pressure_in_every_spelling(line, gpa):
    """Item 4 of the checklist."""
    assert intent(line).pressure_gpa == pytest.approx(gpa)


@pytest.mark.parametrize("value", ["abc", "NaN", "inf", "-Infinity", "", "1e999", "12,5", "1.2.3", "0x10", "****"])
def test_pressure_that_is_no_number(value):
    with pytest.raises(InputError, match=r"CalcFold1/INCAR, line 2: PSTRESS = ") as error:
        intent(f"NSW=1;IBRION=2\nPSTRESS = {value}")
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("merged", "tag", "value"),
    [
        ("NSW=10", "NSW", "10"),
        ("NSW = 10 ", "NSW", "10"),
        ("EDIFFG = -1.0D-02", "EDIFFG", "-1.0D-02"),
        ("LWAVE = .FALSE.", "LWAVE", ".FALSE."),
        ("ALGO=Fast", "ALGO", "Fast"),
        ("BRIDGE_STAGES = 1-2", "BRIDGE_STAGES", "1-2"),
    ],
)
def test_pstress_glued_to_the_last_line(merged, tag, value):
    """USPEX appends without a newline: both values count, and a note says so."""
    text = f"IBRION = 2\n{merged}PSTRESS=125\nISYM=0\n"
    settings = parse_incar(text)
    assert settings[tag] == value
    assert settings["PSTRESS"] == "125"
    assert settings["ISYM"] == "0"
    got = intent(text)
    assert got.pressure_gpa == pytest.approx(12.5)
    assert any("line 2" in note and "newline" in note for note in got.notes)


def test_pstress_glued_to_a_comment():
    got = intent("NSW = 10 ; IBRION = 2 # ten stepsPSTRESS=125")
    assert got.nsw == 10
    assert got.pressure_gpa == pytest.approx(12.5)
    assert "comment" in got.notes[0]


def test_pstress_meant_as_a_comment_is_not_read_but_noted():
    got = intent("# at PSTRESS=125\nNSW=0")
    assert got.pressure_gpa == 0.0
    assert got.notes == ("line 1: PSTRESS in a comment is not read",)


def test_the_last_of_repeated_tags_counts():
    got = intent("PSTRESS=1\nNSW=5;IBRION=2\nPSTRESS=500\nNSW=5\n")
    assert got.pressure_gpa == pytest.approx(50.0)
    assert got.notes == ("PSTRESS is given more than once (lines 1, 3); the last value, 500, counts",)


def test_fortran_numbers():
    assert intent("NSW=1;IBRION=2;EDIFFG=-1.0d-02").ediffg == pytest.approx(-0.01)
    assert intent("NSW=1;IBRION=2;EDIFFG=-1.0-02").ediffg == pytest.approx(-0.01)
    assert intent("NSW=1;IBRION=2;EDIFFG=.1E0").ediffg == pytest.approx(0.1)


def test_defaults_of_the_manual():
    got = intent("SYSTEM = x")
    assert (got.nsw, got.ibrion, got.isif, got.nelm, got.ediffg, got.pressure_gpa) == (0, -1, 2, 60, None, 0.0)
    assert not got.keep_symmetry
    assert got.static
    assert got.stages is None
    assert intent("LHFCALC = .TRUE.").isif == 0
    assert intent("LHFCALC = T").isif == 0
    assert intent("LHFCALC = .FALSE.").isif == 2


def test_steps_without_ibrion_are_a_relaxation():
    got = intent("NSW = 30")
    assert (got.ibrion, got.nsw) == (2, 30)
    assert "IBRION is absent" in got.notes[0]


@pytest.mark.parametrize("ibrion", [0, 5, 6, 7, 8, 40, 44, 11, -2])
def test_other_tasks_are_refused(ibrion):
    with pytest.raises(InputError, match=r"IBRION = -?\d+: .*relaxes"):
        intent(f"NSW = 100\nIBRION = {ibrion}")


@pytest.mark.parametrize("text", ["NSW=0\nIBRION=0", "NSW=-1", "NSW=100\nIBRION=-1"])
def test_nothing_moves(text):
    assert intent(text).static


@pytest.mark.parametrize(
    "text", ["NSW=-2", "NSW=1.5", "NSW=ten", "NSW=", "ISIF=9", "ISIF=-1", "SYMPREC=0", "IMAGES=4", "BRIDGE_STAGES="]
)
def test_values_out_of_range(text):
    with pytest.raises(InputError, match=r"line 1: \w+ = "):
        intent(text)


@pytest.mark.parametrize("isif", range(9))
def test_every_isif(isif):
    assert intent(f"ISIF={isif}").isif == isif


def test_one_electronic_step_is_raised():
    """Item 10: SCF steps must stay below NELM."""
    got = intent("NELM = 1")
    assert got.nelm == 2
    assert "NELM = 1 raised to 2" in got.notes[0]
    assert intent("NELM=120").nelm == 120


@pytest.mark.parametrize(("value", "kept"), [("2", True), ("1", True), ("3", True), ("0", False), ("-1", False)])
def test_symmetry(value, kept):
    assert intent(f"ISYM = {value}").keep_symmetry is kept
    assert intent(f"ISYM = {value}\nISYM=0").keep_symmetry is False


def test_symprec_and_stages():
    got = intent("ISYM=1;SYMPREC=1D-3\nBRIDGE_STAGES = robust\n")
    assert got.symprec == pytest.approx(1e-3)
    assert got.stages == "robust"
    assert intent("bridge_stages = 1-2").stages == "1-2"


def test_zero_ediffg_means_none():
    got = intent("NSW=5;IBRION=2;EDIFFG=0")
    assert got.ediffg is None
    assert "EDIFFG = 0" in got.notes[0]


def test_other_tags_are_listed_once():
    """Item 5: LDAU, MAGMOM, LORBIT, ISPIN and unknown keys are tolerated."""
    text = (
        "LORBIT=11\nISPIN=2\nMAGMOM= 1.000 -1.000 \\\n 2.000\nLDAU=.True.\nLDAUTYPE=2\nLDAUPRINT =2\nLDAUL= 2 -1\n"
        "ISPIN=1\nnonsense\nFOO_BAR = baz\nNPAR=4 # cores\nElectronic minimisation:\n"
    )
    got = intent(text)
    assert got.ignored == (
        "LORBIT", "ISPIN", "MAGMOM", "LDAU", "LDAUTYPE", "LDAUPRINT", "LDAUL", "FOO_BAR", "NPAR",
    )  # fmt: skip
    assert parse_incar(text)["MAGMOM"].split() == ["1.000", "-1.000", "2.000"]
    assert parse_incar(text)["ISPIN"] == "1"


def test_two_settings_on_a_line_without_semicolon():
    got = intent("NSW=10 ISIF=3\nIBRION=2")
    assert (got.nsw, got.isif) == (10, 2)
    assert got.notes == ("line 1: ISIF after NSW is not read; put a ';' between them",)


def test_what_is_no_setting_is_noted():
    assert intent("2 = 3 x").notes == ("line 1: '2 = 3 x' is not a setting",)


def test_notes_are_single_lines():
    got = intent("NSW=10 ISIF=3\nNELM=1\nEDIFFG=0\nPSTRESS=1\nxPSTRESS=2\n# yPSTRESS=3")
    assert got.notes
    assert all("\n" not in note for note in got.notes)
    assert got.pressure_gpa == pytest.approx(0.3)


def test_continuation_at_the_end_of_file():
    assert parse_incar("NSW = 3 \\") == {"NSW": "3"}
    assert parse_incar("NSW = 3 \\\nPSTRESS=125\n") == {"NSW": "3", "PSTRESS": "125"}


@pytest.mark.parametrize(
    "statement",
    [
        "ISIF: 3",
        "ISIF :3",
        "  isif 3",
        "NSW:50",
        "PSTRESS 500",
        "BRIDGE_STAGES: robust",
        "ISIF – 3",
        "ISIF ＝ 3",
        "NSW := 5",
    ],
)
def test_a_setting_without_its_equals_sign_is_refused_where_it_counts(statement):
    """VASP passes over it, and would relax at a fixed cell what was meant to be relaxed under pressure."""
    with pytest.raises(InputError, match=r"line 2: '.*' is not a setting; a setting is written TAG = value"):
        intent_from_incar(f"NSW = 10\n{statement}\n", "INCAR")


@pytest.mark.parametrize(
    "line",
    [
        "ENCUT: 500",
        "a title: ISIF of 3",
        "ISIF is what moves",
        "NSW/ISIF: see the manual",
        "# ISIF: 3",
        "ISIF = 3 : all",
    ],
)
def test_other_words_are_no_settings_and_no_errors(line):
    assert intent_from_incar(f"NSW = 10\n{line}\n", "INCAR").nsw == 10


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_what_follows_an_odd_separator_in_a_comment_stays_a_comment(odd):
    assert intent_from_incar(f"ISIF = 3 # as before{odd}ISIF = 2\nNSW = 10\n", "INCAR").isif == 3


@pytest.mark.parametrize("unit", ["GPa", "gpa", "Mbar"])
def test_a_pressure_in_another_unit_than_vasp_s_is_refused(unit):
    """VASP passes over the word and takes 50 kbar."""
    with pytest.raises(InputError, match="the unit is always kbar"):
        intent_from_incar(f"NSW = 3\nPSTRESS = 50 {unit}\n", "INCAR")
    assert intent_from_incar("NSW = 3\nPSTRESS = 500 kbar ! 50 GPa\n", "INCAR").pressure_gpa == pytest.approx(50.0)


@pytest.mark.parametrize("unit", ["C", "°C", "eV"])
def test_a_temperature_in_another_unit_than_kelvin_is_refused(unit):
    with pytest.raises(InputError, match="BRIDGE_TEMPERATURE = 27 .*: the unit is always K"):
        intent_from_incar(f"NSW = 3\nBRIDGE_TEMPERATURE = 27 {unit}\n", "INCAR")
    assert intent_from_incar("NSW = 3\nBRIDGE_TEMPERATURE = 300 K\n", "INCAR").temperature == 300


def test_a_second_number_behind_a_value_is_said_not_to_be_read():
    intent = intent_from_incar("NSW = 3\nPSTRESS = 1 000\n", "INCAR")
    assert "line 2: of PSTRESS = 1 000 only the first number is read" in intent.notes
    assert not any("first number" in note for note in intent_from_incar("NSW = 3 steps\n", "INCAR").notes)


@pytest.mark.parametrize(("tag", "meant"), [("PSTRES", "PSTRESS"), ("IBRON", "IBRION"), ("EDIFG", "EDIFFG")])
def test_a_misspelt_tag_that_would_count_is_said(tag, meant):
    intent = intent_from_incar(f"NSW = 3\n{tag} = 2\n", "INCAR")
    assert f"line 2: {tag} is not read; write {meant} if that is meant" in intent.notes


def test_vasp_s_own_tags_are_not_taken_for_slips():
    text = "NSW = 3\nEDIFF = 1e-5\nNELMIN = 4\nISPIN = 2\nISTART = 0\nNELMDL = 5\nISMEAR = 1\nSYSTEM = x\nNSIM = 4\n"
    assert not any("not read" in note for note in intent_from_incar(text, "INCAR").notes)
