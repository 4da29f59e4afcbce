"""One evaluation of one model, the same for every kind: float64 arrays of fixed shape, one kind of error."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from uspex_bridge.errors import BridgeError, CalculationError
from uspex_bridge.records import Array

#: What is asked of every model.
PROPERTIES = ("energy", "forces", "stress")
Results = dict[str, Any]


def evaluate(calculator: Any, atoms: Atoms, kind: str) -> Results:
    """Evaluate an ASE calculator on a periodic structure.

    Returns:
        energy and free_energy (eV), forces (N, 3) (eV/Å), stress (6,) (eV/Å³, ASE's sign and order), and magmoms
        (N,) (Bohr magnetons) where the model gives them; float64. Values may be NaN or infinite.

    Raises:
        CalculationError: the model raised, or its answer lacks one of them or has another shape.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calculator.calculate(atoms, list(PROPERTIES), list(all_changes))
        return _uniform(calculator.results, len(atoms))
    except BridgeError:
        raise
    except Exception as error:  # a model may raise anything; none of it may end a search
        reason = " ".join(str(error).split()) or "no message"
        raise CalculationError(f"{kind} failed on this structure: {type(error).__name__}: {reason[:500]}") from error


def _uniform(raw: Results, atoms: int) -> Results:
    energy = float(np.asarray(raw["energy"], dtype=float).item())
    stress = _array(raw["stress"])
    if stress.shape == (3, 3):
        stress = full_3x3_to_voigt_6_stress(stress)
    results: Results = {
        "energy": energy,
        "free_energy": float(np.asarray(raw.get("free_energy", energy), dtype=float).item()),
        "forces": _array(raw["forces"]),
        "stress": stress,
    }
    shapes: dict[str, tuple[int, ...]] = {"forces": (atoms, 3), "stress": (6,)}
    if raw.get("magmoms") is not None:
        results["magmoms"] = _array(raw["magmoms"])
        shapes["magmoms"] = (atoms,)
    for name, shape in shapes.items():
        if results[name].shape != shape:
            raise ValueError(f"{name} has shape {results[name].shape} instead of {shape}")
    return results


def _array(values: Any) -> Array:
    return np.array(values, dtype=np.float64)


class Evaluator(Calculator):
    """The face that every model shows to ASE, whether it lives in this process or in a worker."""

    implemented_properties = ["energy", "free_energy", "forces", "stress", "magmoms"]

    def __init__(self, function: Callable[[Atoms], Results]) -> None:
        super().__init__()
        self.function = function

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = tuple(all_changes)) -> None:
        """Evaluate everything the model gives in one call.

        Raises:
            CalculationError: see :func:`evaluate`.
        """
        self.results = {}
        super().calculate(atoms, properties, system_changes)
        self.results = self.function(self.atoms)
