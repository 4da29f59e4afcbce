"""What XtalOpt, AIRSS, CALYPSO, and MAGUS read of a run: their rules as their public sources and pages give them."""

from __future__ import annotations

import numpy as np
import pytest
from ase.io import read

from uspex_bridge.base.units import gpa_to_kbar, pv_energy


def lines(case, *words: str, file: str = "OUTCAR") -> list[str]:
    """The lines of a file that hold all words, as grep finds them."""
    return [line for line in (case.folder / file).read_text().splitlines() if all(word in line for word in words)]


def field(line: str, number: int) -> float:
    """A field as awk numbers it, from 1."""
    return float(line.split()[number - 1])


def test_xtalopt(case):
    """E is the fifth field of the last TOTEN line, H of the last enthalpy line, both found from the end of the file.

    The structure is CONTCAR with its element line; a run is over when the file ends with the times it took.
    """
    energy = field(lines(case, "free  energy   TOTEN")[-1], 5)
    enthalpy = field(lines(case, "enthalpy is  TOTEN")[-1], 5)
    assert energy == pytest.approx(case.final.energy, abs=1e-7)
    assert enthalpy == pytest.approx(case.final.enthalpy(case.pressure), abs=1e-7)
    assert lines(case, "General timing and accounting informations for this job:")
    assert lines(case, "Total CPU time used (sec):")
    contcar = (case.folder / "CONTCAR").read_text().splitlines()
    assert contcar[5].split() == [symbol for symbol, _ in case.run.structure.groups]
    assert sum(map(int, contcar[6].split())) == len(case.run.structure)


def test_airss4vasp(case):
    """A .res file's title takes pressure, volume, enthalpy and number of atoms from fields of OUTCAR.

    The enthalpy is the fifth field of the last line with TOTEN, whichever line that is; what did not reach the
    required accuracy is thrown away.
    """
    assert field(lines(case, "PSTRESS")[-1], 2) == pytest.approx(gpa_to_kbar(case.pressure), abs=0.1)
    assert field(lines(case, "volume of cell")[-1], 5) == pytest.approx(case.final.volume, abs=1e-5)
    assert field(lines(case, "TOTEN")[-1], 5) == pytest.approx(case.final.enthalpy(case.pressure), abs=1e-7)
    assert int(lines(case, "NIONS")[-1].split()[-1]) == len(case.run.structure)
    reached = case.run.converged and not case.run.intent.static
    assert bool(lines(case, "reached required accuracy")) == reached


def test_calypso(case):
    """H is on the last enthalpy line; E and the volume give the same with PV; the structure is CONTCAR."""
    enthalpy = field(lines(case, "enthalpy is")[-1], 5)
    energy = field(lines(case, "energy  without entropy=")[-1], 7)
    volume = field(lines(case, "volume of cell")[-1], 5)
    assert enthalpy == pytest.approx(energy + pv_energy(case.pressure, volume), abs=1e-5)
    np.testing.assert_allclose(read(case.folder / "CONTCAR").positions, case.final.positions, atol=1e-8)


def test_magus(case):
    """E is that of the last step of OUTCAR as ASE reads it; MAGUS adds PV with the volume of that step."""
    atoms = read(case.folder / "OUTCAR", format="vasp-out")
    enthalpy = atoms.get_potential_energy() + pv_energy(case.pressure, atoms.get_volume())
    assert enthalpy == pytest.approx(case.final.enthalpy(case.pressure), abs=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), case.final.stress, atol=1e-8)
    assert len(read(case.folder / "OUTCAR", format="vasp-out", index=":")) == len(case.run.frames)
