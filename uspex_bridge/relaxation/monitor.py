"""The calculator that an optimizer sees: a model behind the guards, which counts and remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from uspex_bridge.base.data import Frame
from uspex_bridge.base.errors import BridgeError, CalculationError, Interrupted, OutOfMemoryError
from uspex_bridge.relaxation.guards import check_geometry, check_values
from uspex_bridge.relaxation.protocol import Guards


class Potential(Protocol):
    """What the loop needs of a loaded calculator (:class:`uspex_bridge.models.backends.Backend` is one)."""

    calculator: Any
    identity: dict[str, Any]
    energy_zero: str

    def check_elements(self, symbols: Any) -> None:
        """Raise InputError for elements the model does not know."""


Why = Literal["time", "signal", "file"]


class Halt(Exception):
    """The run was told to stop with what it has reached, by the time limit or a file."""

    def __init__(self, why: Literal["time", "file"]) -> None:
        super().__init__(why)
        self.why = why


class Monitor(Calculator):
    """Evaluates a model with the guards before and after, and keeps what the last evaluation gave."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, model: Potential, guards: Guards, start_volume: float, halt: Callable[[], Why | None]) -> None:
        super().__init__()
        self.model = model
        self.guards = guards
        self.start_volume = start_volume
        self.halt = halt
        self.evaluations = 0
        self.magmoms: np.ndarray | None = None

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = tuple(all_changes)
    ) -> None:
        """Evaluate energy, forces and stress in one call of the model.

        Raises:
            Halt: time is up, or a file says so.
            Interrupted: a signal came.
            Rejected: a guard refused the geometry or the values.
            CalculationError: the model raised.
        """
        super().calculate(atoms, properties, system_changes)
        if why := self.halt():
            if why == "signal":
                raise Interrupted("stopped by a signal before the relaxation reached its targets; nothing was written")
            raise Halt(why)
        assert self.atoms is not None
        check_geometry(self.atoms, self.guards, self.start_volume)
        energy, forces, stress = self._evaluate(self.atoms)
        if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(stress).all()):
            energy, forces, stress = self._evaluate(self.atoms)  # a device may fail once; what stays is the model's
        check_values(self.atoms, energy, forces, stress, self.guards, self.model.energy_zero)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces, "stress": stress}

    def _evaluate(self, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
        self.evaluations += 1
        calculator = self.model.calculator
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        try:
            calculator.calculate(bare, ["energy", "forces", "stress"], all_changes)
            results = calculator.results
            energy = float(np.asarray(results["energy"]).item())
            forces = np.array(results["forces"], dtype=float)
            stress = np.array(results["stress"], dtype=float)
        except BridgeError:
            raise
        except Exception as error:  # a model may raise anything; none of it may end a search
            kind = self.model.identity.get("kind", type(calculator).__name__)
            raise CalculationError(f"{kind} failed on this structure: {type(error).__name__}: {error}") from error
        magmoms = results.get("magmoms")
        self.magmoms = None if magmoms is None else np.array(magmoms, dtype=float)
        return energy, forces, stress

    def evaluate_many(self, structures: Sequence[Atoms]) -> list[Any]:
        """Return what the bare model says of structures, in one batch where it can: results, or the error of each."""
        self.evaluations += len(structures)
        together = getattr(self.model, "evaluate_many", None)
        if together is not None:
            try:
                return list(together(structures))
            except OutOfMemoryError:
                if len(structures) > 1:
                    return [self._alone(atoms) for atoms in structures]
                raise
        return [self._alone(atoms) for atoms in structures]

    def _alone(self, atoms: Atoms) -> Any:
        try:
            self.model.calculator.calculate(atoms, ["energy", "forces", "stress"], all_changes)
            return dict(self.model.calculator.results)
        except Exception as error:  # noqa: BLE001 (a model may raise anything)
            return error if isinstance(error, CalculationError) else CalculationError(str(error))

    def frame(self, atoms: Atoms, stage: int) -> Frame:
        """Return the ionic step at ``atoms``, evaluating only if the geometry is not the last one.

        Raises:
            Halt, Rejected, CalculationError: see :meth:`calculate`.
        """
        energy = float(self.get_property("energy", atoms))
        return Frame(
            cell=atoms.cell.array.copy(),
            scaled=atoms.cell.scaled_positions(atoms.positions),
            energy=energy,
            forces=self.results["forces"].copy(),
            stress=self.results["stress"].copy(),
            magmoms=self.magmoms,
            stage=stage,
        )
