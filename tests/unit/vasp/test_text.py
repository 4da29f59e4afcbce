from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from uspex_bridge.base.data import Frame, Intent, Structure, VaspRun
from uspex_bridge.base.errors import CalculationError
from uspex_bridge.vasp.oszicar import format_oszicar
from uspex_bridge.vasp.outcar import format_outcar
from uspex_bridge.vasp.text import exponent, fortran_number, plain, table
from uspex_bridge.vasp.vasprun import format_vasprun
from uspex_bridge.vasp.xdatcar import format_xdatcar

WRITERS = [format_oszicar, format_outcar, format_vasprun, format_xdatcar]


def run_of(**changes) -> VaspRun:
    frame = Frame(np.eye(3) * 3, np.zeros((1, 3)), -1.0, np.zeros((1, 3)), np.zeros(6))
    frame = replace(frame, **changes)
    structure = Structure(("Fe",), frame.cell, frame.scaled, "EA1")
    return VaspRun(structure, (frame,), Intent(), True, "toy")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-68.22806755, "-.6822806755E+02"),
        (0.02231930, "0.2231930000E-01"),
        (0.0, "0.0000000000E+00"),
        (-0.0, "0.0000000000E+00"),
        (0.99999999999, "0.1000000000E+01"),
        (-1.0, "-.1000000000E+01"),
        (3.5e6, "0.3500000000E+07"),
        (1e-120, "0.1000000000E-119"),
    ],
)
def test_exponent(value, text):
    assert exponent(value) == text
    assert float(text) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("word", "value"), [("1.0D-02", 0.01), ("-1.d3", -1000), (".5", 0.5), ("1-2", 0.01), ("+7", 7)]
)
def test_fortran_number(word, value):
    assert fortran_number(word) == pytest.approx(value)


@pytest.mark.parametrize("word", ["nan", "inf", "1e", "--1", "1_0", "1e400", "", "1.0f0", "\u0661"])
def test_not_a_number(word):
    with pytest.raises(ValueError):
        fortran_number(word)


def test_large_numbers_widen_their_column():
    """Never glued, never asterisks."""
    rows = table(np.array([[-123456789.5, -1e12, 1e15]]), " %8.3f")
    assert [float(word) for word in rows.split()] == [-123456789.5, -1e12, 1e15]


def test_plain():
    assert plain("mace MACE-MP-0b3 medium 12ab") == "mace MACE-MP-0b3 medium 12ab"
    assert plain("a=b; (c)\n\td \u00e9") == "a b c d"
    for word in ("Iteration", "NELM", "running", "in kB", "TITEL"):
        assert word not in plain(f"x {word} y")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "changes",
    [
        {"energy": float("nan")},
        {"energy": float("-inf")},
        {"forces": np.full((1, 3), np.nan)},
        {"stress": np.array([0, 0, np.inf, 0, 0, 0])},
        {"scaled": np.full((1, 3), np.nan)},
        {"cell": np.diag([3.0, 3.0, np.inf])},
        {"cell": np.diag([3.0, 3.0, 0.0])},
        {"magmoms": np.array([np.nan])},
    ],
)
def test_nothing_that_is_not_finite_is_written(writer, changes):
    """Items 13, 22."""
    with pytest.raises(CalculationError, match="nothing is written"):
        writer(run_of(**changes))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_run_without_steps_is_refused(writer):
    with pytest.raises(CalculationError, match="without an ionic step"):
        writer(replace(run_of(), frames=()))


@pytest.mark.parametrize("writer", WRITERS)
def test_writers_are_pure(writer):
    assert writer(run_of()) == writer(run_of())


def test_absurd_but_finite_numbers_stay_readable():
    run = run_of(energy=3.5e12, stress=np.full(6, -1e9), forces=np.array([[-1e8, 1e9, -1e10]]))
    line = format_oszicar(run).splitlines()[-1]
    assert line == "   1 F= 0.3500000000E+13 E0= 0.3500000000E+13  d E =0.000000E+00"
    for row in format_outcar(run).splitlines():
        if "in kB" in row:
            assert len(row.split()) == 8
