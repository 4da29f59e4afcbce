"""Dispersion on top of a model: DFT-D3 with Becke-Johnson damping, by simple-dftd3."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, Hartree

from uspex_bridge.base.errors import CalculationError, ConfigError, ModelError
from uspex_bridge.models.cards import KnownModel
from uspex_bridge.models.corrections import Correction
from uspex_bridge.models.evaluate import Results

PACKAGE = "dftd3==1.7.0"
#: simple-dftd3 has parameters up to lawrencium, and gives heavier atoms no dispersion without a word.
_HEAVIEST = 103


def dispersion(name: str, setting: str, known: KnownModel | None) -> Correction:
    """Return D3(BJ) for a calculator.

    Args:
        name: of the calculator, for messages.
        known: its weights, where they go by a name.
        setting: ``d3``, for the functional of the model's data, or ``d3:FUNCTIONAL``.

    Raises:
        ConfigError: no such correction or functional, none can be told from the model, or its data hold dispersion.
        ModelError: simple-dftd3 is not installed.
    """
    kind, _, functional = setting.lower().partition(":")
    if kind != "d3":
        raise ConfigError(f"[calculators.{name}]: dispersion = '{setting}' is neither d3 nor d3:FUNCTIONAL")
    if known is not None and known.dispersion:
        raise ConfigError(f"[calculators.{name}]: the data of {known.name} hold dispersion; remove dispersion")
    functional = functional or (known.functional if known else "")
    if not functional:
        model = known.name if known else "a model of one's own"
        raise ConfigError(
            f"[calculators.{name}]: dispersion = 'd3' needs the functional of the model's data, which is not known of "
            f"{model}; write it as dispersion = 'd3:pbe'"
        )
    if importlib.util.find_spec("dftd3") is None:
        raise ModelError(f"dispersion = '{setting}' needs simple-dftd3; install it with: pip install {PACKAGE}")
    from dftd3.interface import RationalDampingParam

    try:
        damping = RationalDampingParam(method=functional)
    except (RuntimeError, TypeError, ValueError):
        raise ConfigError(f"[calculators.{name}]: simple-dftd3 has no D3(BJ) parameters for '{functional}'") from None
    return Correction(
        identity={"dispersion": f"D3(BJ) {functional}"},
        elements=frozenset(chemical_symbols[1 : _HEAVIEST + 1]),
        evaluate=partial(_evaluate, damping),
        absolute=True,
    )


def _evaluate(damping: Any, atoms: Atoms) -> Results:
    """Evaluate with all of the lattice sum: a sum cut off in real space would jump as a cell changes."""
    from dftd3.interface import DispersionModel

    if atoms.numbers.max() > _HEAVIEST:
        raise CalculationError(f"D3 has no parameters for {chemical_symbols[atoms.numbers.max()]}")
    try:
        model = DispersionModel(atoms.numbers, atoms.positions / Bohr, atoms.cell.array / Bohr, atoms.pbc)
        if atoms.pbc.all():
            model.set_ewald_summation()
        found = model.get_dispersion(damping, grad=True)
    except RuntimeError as error:
        raise CalculationError(f"D3 failed on this structure: {' '.join(str(error).split())}") from None
    return {
        "energy": float(found["energy"]) * Hartree,
        "forces": -np.asarray(found["gradient"]) * Hartree / Bohr,
        "stress": full_3x3_to_voigt_6_stress(np.asarray(found["virial"])) * Hartree / atoms.get_volume(),
    }
