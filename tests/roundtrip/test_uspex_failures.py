"""The readers of ``uspex_readers`` fail where USPEX does: good files, broken in each way that the protocol lists."""

from __future__ import annotations

import pytest
from roundtrip import uspex_readers as uspex
from roundtrip.vasp_runs import CAFENI, relaxed

from uspex_bridge.vasp import commit


@pytest.fixture
def folder(tmp_path):
    commit.publish(tmp_path, relaxed(CAFENI, 50.0, steps=2))
    assert uspex.accepted(tmp_path)
    assert uspex.python_converged(tmp_path)
    return tmp_path


def edit(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("OSZICAR", " F= ", " F="),
        ("OSZICAR", "DAV:   1", "DAV:  60"),
        ("OSZICAR", "DAV:   1", " 1"),
        ("OUTCAR", "   NELM   =     60;", "   NELM   =      1;"),
        ("OUTCAR", "   NELM   =     60;", "   NELMX  =     60;"),
        ("OUTCAR", " Ionic relaxation", "   NELM = 1\n"),
    ],
)
def test_matlab_line_tries_again(folder, name, old, new):
    """Items 9, 10, 27: F= glued, SCF steps not below every NELM, no SCF line, no NELM line."""
    edit(folder, name, old, new)
    assert not uspex.accepted(folder)


@pytest.mark.parametrize("name", ["OSZICAR", "OUTCAR"])
def test_matlab_line_tries_again_without_a_file(folder, name):
    (folder / name).unlink()
    assert not uspex.accepted(folder)
    assert not uspex.python_converged(folder)


@pytest.mark.parametrize(("old", "new"), [("   1 F= ", "1 F= "), ("F= ", "F= NAN "), ("F= ", "F= **** ")])
def test_matlab_line_dies_of_an_energy(folder, old, new):
    """Items 22, 32: no blank before the step, or no number after F=."""
    edit(folder, "OSZICAR", old, new)
    with pytest.raises(uspex.MatlabDies):
        uspex.enthalpies(folder)


def test_matlab_line_dies_of_contcar(folder):
    """Items 7, 14: missing, empty, or with a label behind the coordinates."""
    path = folder / "CONTCAR"
    text = path.read_text()
    rows = text.splitlines()
    for broken in ("", "\n".join(rows[:8]), "\n".join([*rows[:8], *(f"{row} Ca" for row in rows[8:])])):
        path.write_text(broken)
        with pytest.raises(uspex.MatlabDies):
            uspex.structure(folder)
    path.unlink()
    with pytest.raises(uspex.MatlabDies):
        uspex.structure(folder)
    assert not uspex.python_converged(folder)
