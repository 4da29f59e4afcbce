"""How a structure and a model's answer cross to another process: JSON whose numbers come back as the same float64.

Shared by the pipe to one worker (:mod:`uspex_bridge.models.worker`) and by the service's batcher
(:mod:`uspex_bridge.service`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uspex_bridge.base import errors

#: Version of the messages; both sides must have the same.
PROTOCOL = 2
#: What may cross as it is; another error arrives as a CalculationError.
_KNOWN = (
    errors.InputError,
    errors.ConfigError,
    errors.ModelError,
    errors.CalculationError,
    errors.OutOfMemoryError,
)


def question(atoms: Any) -> dict[str, Any]:
    """Return the request to evaluate ASE atoms."""
    return {
        "do": "evaluate",
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def atoms_of(request: dict[str, Any]) -> Any:
    """Return the ASE atoms of a request to evaluate."""
    from ase import Atoms

    return Atoms(request["numbers"], positions=request["positions"], cell=request["cell"], pbc=request["pbc"])


def answer(results: dict[str, Any]) -> dict[str, Any]:
    """Return the answer with a calculator's results."""
    return {name: getattr(value, "tolist", lambda v=value: v)() for name, value in results.items()}


def question_of_many(structures: Sequence[Any]) -> dict[str, Any]:
    """Return the request to evaluate structures together."""
    return {"do": "evaluate many", "structures": [question(atoms) for atoms in structures]}


def answer_to_many(found: Sequence[dict[str, Any] | Exception]) -> dict[str, Any]:
    """Return the answer with the results of each structure, or the error that it alone caused."""
    return {"answers": [failure(one) if isinstance(one, Exception) else answer(one) for one in found]}


def results_of_many(received: dict[str, Any]) -> list[dict[str, Any] | errors.CalculationError]:
    """Return the results of each structure, or the error that it alone caused."""
    found: list[dict[str, Any] | errors.CalculationError] = []
    for one in received["answers"]:
        try:
            found.append(results_of(checked(one)))
        except errors.CalculationError as error:
            found.append(error)
    return found


def failure(error: Exception) -> dict[str, Any]:
    """Return the answer that an error makes."""
    if isinstance(error, errors.BridgeError):
        return {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, ImportError):
        return {"error": "ModelError", "message": f"{error}; this Python needs ase, numpy and the model's package"}
    return {"error": "CalculationError", "message": f"{type(error).__name__}: {error}"}


def checked(received: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is none of an error.

    Raises:
        InputError, ConfigError, ModelError, CalculationError: what it says.
    """
    if "error" in received:
        kind = getattr(errors, str(received["error"]), None)
        raise (kind if kind in _KNOWN else errors.CalculationError)(str(received.get("message", "")))
    return received


def results_of(received: dict[str, Any]) -> dict[str, Any]:
    """Return a calculator's results: arrays of float64, numbers as they are."""
    import numpy as np

    return {key: np.array(value) if isinstance(value, list) else value for key, value in received.items()}
