"""Evaluating a model, the same for every kind: one structure or many, float64 arrays, one kind of error."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from uspex_bridge.base.atoms import right_handed
from uspex_bridge.base.data import Array
from uspex_bridge.base.errors import BridgeError, CalculationError, OutOfMemoryError, out_of_memory
from uspex_bridge.models.cards import Batch

#: What is asked of every model.
PROPERTIES = ("energy", "forces", "stress")
Results = dict[str, Any]
Answer = Results | CalculationError


class Evaluation:
    """The function of a loaded model: structures in, answers out.

    Attributes:
        kind: of the calculator, for messages.
        calculator: the package's own ASE calculator; it evaluates what ``batch`` does not.
        batch: how the model evaluates structures together, None where it cannot.
    """

    def __init__(self, kind: str, calculator: Any, batch: Batch | None) -> None:
        self.kind, self.calculator, self.batch = kind, calculator, batch

    def one(self, atoms: Atoms) -> Results:
        """Evaluate a periodic structure.

        Returns:
            energy and free_energy (eV), forces (N, 3) (eV/Å), stress (6,) (eV/Å³, ASE's sign and order), and magmoms
            (N,) (Bohr magnetons) where the model gives them; float64. Values may be NaN or infinite.

        Raises:
            OutOfMemoryError: the structure does not fit the memory.
            CalculationError: the model raised, or its answer lacks one of them or has another shape.
        """
        (answer,) = self.many([atoms])
        if isinstance(answer, CalculationError):
            raise answer
        return answer

    def many(self, structures: Sequence[Atoms]) -> list[Answer]:
        """Evaluate structures together where the model can, else one after the other.

        Returns:
            for each structure, in their order, its results as of :meth:`one` or the error that it alone caused.

        Raises:
            OutOfMemoryError: they do not fit the memory together; fewer may.
        """
        answers: list[Answer | None] = [self._refused(atoms) for atoms in structures]
        sound = [index for index, answer in enumerate(answers) if answer is None]
        fit = [right_handed(structures[index]) for index in sound]
        if self.batch is None or not all(atoms.pbc.all() for atoms in fit):
            found = [self._alone(atoms) for atoms in fit]
        else:
            found = self._together(fit) if fit else []
        for index, answer in zip(sound, found, strict=True):
            answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def _together(self, structures: Sequence[Atoms]) -> list[Answer]:
        assert self.batch is not None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                raw = self.batch.evaluate(structures)
            answers: list[Answer] = [_uniform(r, len(atoms)) for r, atoms in zip(raw, structures, strict=True)]
            if len(structures) == 1 or all(np.isfinite(v).all() for r in raw for v in (r["energy"], r["forces"])):
                return answers
            found = CalculationError(f"{self.kind}: not finite")  # in some networks one structure's NaN reaches all
        except Exception as error:  # noqa: BLE001 (a model may raise anything; none of it may end a search)
            found = self._error(error)
        if isinstance(found, OutOfMemoryError):
            raise found  # here, where the traceback of the first error no longer holds the memory
        if len(structures) == 1:
            return [found]
        return [self._together([atoms])[0] for atoms in structures]

    def _alone(self, atoms: Atoms) -> Answer:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.calculator.calculate(atoms, list(PROPERTIES), list(all_changes))
            return _uniform(self.calculator.results, len(atoms))
        except Exception as error:  # noqa: BLE001 (as above)
            found = self._error(error)
        if isinstance(found, OutOfMemoryError):
            raise found
        return found

    def _refused(self, atoms: Atoms) -> CalculationError | None:
        """Return an error for a geometry that neighbour lists cannot take, which may crash on it."""
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            return CalculationError(f"{self.kind} failed on this structure: a position or the cell is not finite")
        if atoms.pbc.all() and np.linalg.det(atoms.cell.array) == 0:
            return CalculationError(f"{self.kind} failed on this structure: the cell has no volume")
        return None

    def _error(self, error: Exception) -> CalculationError:
        reason = " ".join(str(error).split()) or "no message"
        if _out_of_memory(error):
            return OutOfMemoryError(f"{self.kind} ran out of memory: {reason[:300]}")
        if isinstance(error, BridgeError):
            if not isinstance(error, CalculationError):
                raise error
            return error
        return CalculationError(f"{self.kind} failed on this structure: {type(error).__name__}: {reason[:500]}")


def _out_of_memory(error: Exception) -> bool:
    """Tell whether an error is PyTorch's for a GPU, which is a class of its own, or means the same on the CPU."""
    torch = sys.modules.get("torch")
    return out_of_memory(error) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


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
            CalculationError: see :meth:`Evaluation.one`.
        """
        self.results = {}
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self.results = self.function(self.atoms)
