"""Both USPEX lines read what was written. Numbers in the docstrings are those of the checklist in the protocol."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from roundtrip import uspex_readers as uspex

from uspex_bridge.base.units import gpa_to_kbar, stress_to_vasp

needs_perl = pytest.mark.skipif(not shutil.which("perl"), reason="perl, which USPEX itself needs, is not here")
needs_awk = pytest.mark.skipif(not shutil.which("awk"), reason="awk, which USPEX itself needs, is not here")


def text(case, name):
    return (case.folder / name).read_text()


def test_contcar_layout(case):
    """Item 7: bare numbers, scale 1.0, 16 decimals, POSCAR's comment and counts, a newline at the end."""
    lines = text(case, "CONTCAR").splitlines()
    assert text(case, "CONTCAR").endswith("\n")
    assert lines[0] == (case.run.structure.comment or case.run.structure.formula)
    assert float(lines[1]) == 1.0
    assert [int(word) for word in lines[6].split()] == [count for _, count in case.run.structure.groups]
    free = case.run.structure.free
    head = ["Direct"] if free is None else ["Selective dynamics", "Direct"]
    assert lines[7 : 7 + len(head)] == head
    rows = lines[7 + len(head) :]
    assert len(rows) == len(case.run.structure)
    number = r" +-?\d+\.\d{16}"
    assert all(re.fullmatch(number * 3 + (r"( +[TF]){3}" if free is not None else ""), row) for row in rows)


def test_contcar_as_matlab_reads_it(case):
    """Items 24, 28: coordinates in [0, 1) and cell, in POSCAR's order."""
    coordinates, cell = uspex.structure(case.folder)
    np.testing.assert_allclose(cell, case.final.cell, atol=1e-15)
    np.testing.assert_allclose(coordinates, case.final.scaled - np.floor(case.final.scaled), atol=1e-15)


def test_oszicar_layout(case):
    """Items 8, 32, 40: DAV line in column 1 before each F line, which begins with a blank beyond 999 steps too."""
    lines = text(case, "OSZICAR").splitlines()[1:]
    assert len(lines) == 2 * len(case.run.frames)
    for number, (before, line) in enumerate(zip(lines[::2], lines[1::2], strict=True), 1):
        assert re.match(r"DAV:\s+1\s", before)
        assert re.match(r"^ +\d+ F= +\S+ E0= +\S+  d E =\S+", line)
        assert int(line.split()[0]) == number
        assert re.search(r"F= -?(0?)\.\d{10}E[+-]\d\d ", line)


def test_nothing_unreadable_anywhere(case):
    """Item 22: no NaN, inf or asterisks in any file."""
    for name in ("OSZICAR", "CONTCAR", "XDATCAR"):
        assert not re.search(r"\*|\bnan\b|\binf", text(case, name), re.IGNORECASE)
    body = text(case, "OUTCAR").split("Iteration", 1)[1]
    assert not re.search(r"\*|\bnan\b|\binf\b", body, re.IGNORECASE)


def test_accepted_by_both_lines(case):
    """Items 9, 10, 23, 24, 40: SCF steps below the one NELM of OUTCAR."""
    assert uspex.accepted(case.folder)
    assert uspex.python_converged(case.folder)
    assert uspex.column(case.folder / "OUTCAR", " NELM ", 4) == [f"{case.run.intent.nelm};"]
    nelm = [line for line in text(case, "OUTCAR").splitlines() if " NELM " in line]
    assert nelm[0].startswith("   NELM   =     60;   NELMIN=  2; NELMDL= -5     # of ELM steps")


def test_enthalpy_of_both_lines(case):
    """Items 11, 12, 22, 24, 42: F = E + PV; the Python line makes the same of OUTCAR's E and cell."""
    expected = [frame.enthalpy(case.pressure) for frame in case.run.frames]
    np.testing.assert_allclose(uspex.enthalpies(case.folder), expected, atol=1e-6)
    atoms, enthalpy = uspex.python_result(case.folder, case.pressure)
    assert enthalpy == pytest.approx(expected[-1], abs=1e-6)
    assert atoms.get_chemical_symbols() == list(case.run.structure.symbols)


def test_enthalpy_line_and_pv(case):
    """Items 11, 12: F(OSZICAR) = TOTEN(OUTCAR) + PSTRESS V / 1602.1766 with the last cell's volume, within 1e-5 eV."""
    outcar = text(case, "OUTCAR")
    toten = float(re.findall(r"free  energy   TOTEN  = +(\S+) eV", outcar)[-1])
    volume = float(re.findall(r"volume of cell : +(\S+)", outcar)[-1])
    pstress = float(re.findall(r"Pullay stress = +(\S+) kB", outcar)[-1])
    total, pv = re.findall(r"enthalpy is  TOTEN    = +(\S+) eV   P V= +(\S+)", outcar)[-1]
    last = uspex.enthalpies(case.folder)[-1]
    assert toten == pytest.approx(case.final.energy, abs=1e-7)
    assert pstress == pytest.approx(gpa_to_kbar(case.pressure))
    assert last == pytest.approx(toten + pstress * volume / 1602.1766208, abs=1e-5)
    assert float(total) == pytest.approx(last, abs=1e-6)
    assert float(total) - float(pv) == pytest.approx(toten, abs=1e-7)


def test_pressure_lines(case):
    """Item 18: external pressure is the mean of the cell's own pressure less PSTRESS, Pullay stress is PSTRESS."""
    outcar = text(case, "OUTCAR")
    for words, frame in zip(re.findall(r"external pressure =(.*)kB  Pullay", outcar), case.run.frames, strict=True):
        expected = stress_to_vasp(frame.stress)[:3].mean() - gpa_to_kbar(case.pressure)
        assert float(words) == pytest.approx(expected, abs=0.006)
    assert ("reached required accuracy" in outcar) is (case.run.converged and not case.run.intent.static)


@needs_awk
def test_blocks_by_awk(case):
    """Items 18, 30, 31: pressure tensor, forces and path, as many as F lines, in POSCAR's order."""
    frames, atoms = case.run.frames, len(case.run.structure)
    stress = uspex.awk("stress", case.folder / "OUTCAR", atoms)
    np.testing.assert_allclose(stress, [stress_to_vasp(frame.stress) for frame in frames], atol=6e-6)
    forces = uspex.awk("forces", case.folder / "OUTCAR", atoms)
    np.testing.assert_allclose(forces, np.vstack([frame.forces for frame in frames]), atol=1e-9)
    path = uspex.awk("path", case.folder / "XDATCAR", atoms)
    np.testing.assert_allclose(path, np.vstack([frame.scaled for frame in frames]), atol=1e-9)
    assert len(stress) == len(uspex.enthalpies(case.folder))


@needs_awk
def test_moments(case):
    """Item 29: the cell's moment in field 11 of OSZICAR, the atoms' in OUTCAR's last table; neither without moments."""
    moments = case.final.magmoms
    assert uspex.moment(case.folder) == pytest.approx(0.0 if moments is None else moments.sum(), abs=1e-4)
    assert ("mag" in text(case, "OSZICAR")) is (moments is not None)
    rows = uspex.awk("moments", case.folder / "OUTCAR", len(case.run.structure))
    if moments is None:
        assert rows.size == 0
    else:
        rows = rows[-len(moments) :]
        np.testing.assert_array_equal(rows[:, 0], np.arange(1, len(moments) + 1))
        np.testing.assert_allclose(rows[:, -1], moments, atol=1e-4)


@needs_perl
def test_columns_by_perl(case):
    """Items 22, 23: perl finds the same fields as the tests above."""
    for name, pattern, number in (("OSZICAR", " F= ", 4), ("OUTCAR", " NELM ", 4), ("OSZICAR", "mag", 11)):
        path = case.folder / name
        assert uspex.perl_column(path, pattern, number) == uspex.column(path, pattern, number)


def test_header_of_outcar(case):
    """Items 37, 38: each species' POTCAR line twice, counts, no NKPTS, and an honest first line."""
    head, *_ = text(case, "OUTCAR").split("Iteration", 1)
    names = [line.split()[2] for line in head.splitlines() if "POTCAR:" in line]
    species = [symbol for symbol, _ in case.run.structure.groups]
    assert names == species * 2
    assert "NKPTS" not in head
    assert head.startswith(" vasp.5.4.4 layout, but not VASP: uspex_bridge ")
    counts = next(line for line in head.splitlines() if "ions per type" in line).split("=")[1]
    assert [int(word) for word in counts.split()] == [count for _, count in case.run.structure.groups]
    assert "Voluntary" in text(case, "OUTCAR")


def test_numbers_stay_apart(case):
    """Item 31: every number in OUTCAR's tables is a word of its own."""
    for line in text(case, "OUTCAR").split("Iteration", 1)[1].splitlines():
        assert not re.search(r"\d-\d|\.\d*\.", line)
