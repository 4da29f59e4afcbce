"""What the model itself says of a result, through its own package's ASE calculator and none of the bridge's code."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from emulators.records import Report, StepResult

#: GPa·Å³ per eV (CODATA 2014), written out here so that a wrong constant in the bridge cannot hide.
GPA_A3_PER_EV = 160.21766208


@dataclass(frozen=True)
class Check:
    """A result against the model's own word.

    Attributes:
        enthalpy_error: USPEX's enthalpy minus E + PV of the CONTCAR, eV per cell.
        pressure_error: pressure of the CONTCAR minus the one asked for, GPa.
        shear: largest deviation of a stress component from the hydrostatic target, GPa.
        fmax: largest force on an atom, eV/Å.
    """

    enthalpy_error: float
    pressure_error: float
    shear: float
    fmax: float


def calculator(kind: str, weights: Path | None = None) -> Any:
    """Return the ASE calculator of the package itself (CPU), for the default weights of CHGNet or those of a file.

    The toy potential has no package of its own: there only the path from files to numbers is independent.
    """
    if kind == "toy":
        from uspex_bridge.calculators import toy
        from uspex_bridge.models.cards import BuildRequest

        return toy.build(BuildRequest(model=None, path=None, device="cpu", dtype="float64"))
    if kind == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu")
    if kind == "mattersim":
        from mattersim.forcefield import MatterSimCalculator

        return MatterSimCalculator(load_path=str(weights), device="cpu")
    if kind == "mace":
        from mace.calculators import MACECalculator

        return MACECalculator(model_paths=str(weights), device="cpu")
    raise ValueError(f"no reference for {kind!r}")


def read_contcar(text: str) -> Atoms:
    """Read the text of a CONTCAR (with an element line) through ASE."""
    atoms = read(io.StringIO(text), format="vasp")
    assert isinstance(atoms, Atoms)
    return atoms


def check(step: StepResult, pressure: float, reference: Any) -> Check:
    """Evaluate the CONTCAR of an accepted step with ``reference`` at ``pressure`` GPa."""
    atoms = read_contcar(step.contcar)
    atoms.calc = reference
    enthalpy = atoms.get_potential_energy() + pressure * atoms.get_volume() / GPA_A3_PER_EV
    stress = -atoms.get_stress(voigt=False) * GPA_A3_PER_EV
    return Check(
        enthalpy_error=float(step.enthalpy - enthalpy),
        pressure_error=float(np.trace(stress) / 3.0 - pressure),
        shear=float(np.abs(stress - pressure * np.eye(3)).max()),
        fmax=float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
    )


def assert_sound(report: Report, pressure: float, reference: Any, *, fmax: float = 0.0105) -> None:
    """Everything that USPEX took is what the model says of CONTCAR, and the last step is relaxed."""
    assert report.done, f"{report.candidate.origin}: {report.reason}: {report.calls[-1]}"
    for call in report.calls:
        assert not call.changed
        assert not call.strays
    for step in report.steps:
        found = check(step, pressure, reference)
        assert abs(found.enthalpy_error) < 1e-5, f"step {step.step}"
        contcar = read_contcar(step.contcar)
        assert contcar.symbols.formula.count() == report.candidate.atoms.symbols.formula.count()
        assert abs(contcar.get_volume() / step.atoms.get_volume() - 1) < 1e-6
    assert abs(found.pressure_error) < 0.5
    assert found.fmax < fmax
    assert np.isfinite(report.enthalpies).all()
